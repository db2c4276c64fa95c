//! The address of a unix socket.

use std::{
    fmt,
    path::{Path, PathBuf},
};
#[cfg(unix)]
use std::{io, os::unix::net::SocketAddr};

use super::super::error::InvalidValue;

/// The text before a unix socket.
pub(super) const UNIX: &str = "unix:";

/// The longest address of a unix socket, in bytes. A final zero byte, or the first one of an
/// abstract address, also needs room in `sun_path`: 108 bytes on Linux, 104 elsewhere.
pub const UNIX_ADDRESS_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};

/// The remedy for an invalid unix socket.
const UNIX_FORMS: &str =
    "write \"unix:/run/app.sock\" with your path, or on Linux \"unix:@NAME\" for an abstract name";

/// The address of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// A path. In a configuration file it starts at the folder of that file.
    Path(PathBuf),
    /// A name without a file, on Linux. The address begins with a zero byte instead of the `@`.
    Abstract(String),
}

impl UnixAddress {
    /// Parses the text after [`UNIX`].
    pub(super) fn parse(text: &str) -> Result<Self, InvalidValue> {
        let invalid = |problem: &str| {
            let shown = text.escape_debug();
            InvalidValue::new(format!("is \"{UNIX}{shown}\", {problem}"), UNIX_FORMS)
        };
        if text.contains('\0') {
            return Err(invalid("which contains a zero byte"));
        }
        match text.strip_prefix('@') {
            Some("") => Err(invalid("without a name")),
            Some(name) => Ok(Self::Abstract(name.to_owned())),
            None if text.is_empty() => Err(invalid("without a path")),
            None if text.ends_with('/') => Err(invalid("a folder instead of a socket")),
            None => Ok(Self::Path(text.into())),
        }
    }

    /// Makes a relative path start at `folder`.
    pub(super) fn start_at(&mut self, folder: &Path) {
        if let Self::Path(path) = self {
            *path = folder.join(&*path);
        }
    }

    /// Returns the address as the system takes it.
    ///
    /// # Errors
    /// When the path or the name is too long, or the system has no abstract names.
    #[cfg(unix)]
    pub fn to_socket_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            #[cfg(target_os = "linux")]
            Self::Abstract(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                SocketAddr::from_abstract_name(name)
            }
            #[cfg(not(target_os = "linux"))]
            Self::Abstract(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "only Linux has abstract names",
            )),
        }
    }

    /// Returns why this system cannot use the address.
    pub(in crate::config) fn unusable(&self) -> Option<InvalidValue> {
        if !cfg!(unix) {
            let problem = format!("is \"{self}\", and this system has no unix sockets");
            return Some(InvalidValue::new(problem, "write \"HOST:PORT\""));
        }
        let (kind, length) = match self {
            Self::Path(path) => ("path", path.as_os_str().len()),
            Self::Abstract(name) => ("name", name.len()),
        };
        if matches!(self, Self::Abstract(_)) && !cfg!(target_os = "linux") {
            let problem = format!("is \"{self}\", and only Linux has abstract names");
            return Some(InvalidValue::new(problem, "write the path of a socket"));
        }
        (length > UNIX_ADDRESS_MAX).then(|| {
            InvalidValue::new(
                format!("is \"{self}\", a {kind} of {length} bytes"),
                format!("write a {kind} of at most {UNIX_ADDRESS_MAX} bytes"),
            )
        })
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "{UNIX}{}", path.display()),
            Self::Abstract(name) => write!(formatter, "{UNIX}@{name}"),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_unix_socket_is_limited() {
        for (prefix, kind) in [("", "path"), ("@", "name")] {
            let of_length = |length| {
                let text = format!("{prefix}{}", "x".repeat(length));
                let address = UnixAddress::parse(&text).expect("an address");
                address.unusable().map(|invalid| invalid.to_string())
            };
            assert_eq!(of_length(UNIX_ADDRESS_MAX), None);
            let error = of_length(UNIX_ADDRESS_MAX + 1).expect("too long");
            assert!(
                error.contains(&format!("a {kind} of 108 bytes")) && error.contains("at most 107"),
                "{error}"
            );
        }
    }
}
