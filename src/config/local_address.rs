//! The address of a service or a listener: a host and a port, a range of ports, or a unix socket.
//! This module resolves no names and opens no sockets.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};
#[cfg(unix)]
use std::{io, os::unix::net::SocketAddr};

use super::{
    HostPort,
    error::InvalidValue,
    values::{address_fault, text_value},
};
use crate::{net::authority::parse_port, text::without_password};

/// The text before a unix socket.
const UNIX: &str = "unix:";

/// The maximum number of ports in a range. A client opens a listener for each of them.
pub const RANGE_MAX: u16 = 1_024;

/// The longest address of a unix socket, in bytes. A final zero byte, or the first one of an
/// abstract address, also needs room in `sun_path`: 108 bytes on Linux, 104 elsewhere.
pub const UNIX_ADDRESS_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};

/// The remedy for an invalid range.
const RANGE_FORM: &str = "write \"HOST:FIRST-LAST\", as \"127.0.0.1:13000-13010\"";

/// The remedy for an invalid unix socket.
const UNIX_FORMS: &str =
    "write \"unix:/run/app.sock\" with your path, or on Linux \"unix:@NAME\" for an abstract name";

/// Where a port listens, or what it dials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// A host and a port, of TCP, UDP or both.
    Tcp(HostPort),
    /// A host and several ports.
    Range(PortRange),
    /// A unix socket.
    Unix(UnixAddress),
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A host and a port, of TCP, UDP or both.
    Tcp(HostPort),
    /// A unix socket.
    Unix(UnixAddress),
}

/// The ports from `first` to `last` of a host. A parsed range is not empty, does not contain port 0,
/// and has at most [`RANGE_MAX`] ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// An IP address or a lower-case name. IPv6 addresses have no brackets.
    pub host: String,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// The address of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// A path. In a configuration file it starts at the folder of that file.
    Path(PathBuf),
    /// A name without a file, on Linux. The address begins with a zero byte instead of the `@`.
    Abstract(String),
}

impl LocalAddress {
    /// Returns the number of addresses: that of the ports in a range, otherwise 1.
    #[must_use]
    pub fn count(&self) -> u16 {
        match self {
            Self::Range(range) => range.count(),
            Self::Tcp(_) | Self::Unix(_) => 1,
        }
    }

    /// Returns the address at a position, from 0. Returns `None` beyond [`LocalAddress::count`].
    #[must_use]
    pub fn at(&self, offset: u16) -> Option<Target> {
        match self {
            Self::Range(range) => range.address(offset).map(Target::Tcp),
            Self::Tcp(address) if offset == 0 => Some(Target::Tcp(address.clone())),
            Self::Unix(address) if offset == 0 => Some(Target::Unix(address.clone())),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether two listeners on these addresses conflict. Port 0 never conflicts.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.ports(), other.ports()) {
            (Some(one), Some(two)) => one.overlaps(&two),
            (None, None) => self == other,
            _ => false,
        }
    }

    /// Returns the ports of an address that has a host.
    fn ports(&self) -> Option<PortRange> {
        match self {
            Self::Tcp(HostPort { host, port }) => Some(PortRange {
                host: host.clone(),
                first: *port,
                last: *port,
            }),
            Self::Range(range) => Some(range.clone()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the unix socket, if it is one.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Self::Unix(address) => Some(address),
            Self::Tcp(_) | Self::Range(_) => None,
        }
    }

    /// Returns whether the address is a unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.unix().is_some()
    }

    /// Makes a relative path start at `folder`.
    pub(super) fn start_at(&mut self, folder: &Path) {
        if let Self::Unix(address) = self {
            address.start_at(folder);
        }
    }
}

impl Target {
    /// Makes a relative path start at `folder`.
    pub(super) fn start_at(&mut self, folder: &Path) {
        if let Self::Unix(address) = self {
            address.start_at(folder);
        }
    }
}

impl PortRange {
    /// Returns the number of ports.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Returns the address at a position, from 0. Returns `None` beyond the last port.
    #[must_use]
    pub fn address(&self, offset: u16) -> Option<HostPort> {
        let port = self.first.checked_add(offset)?;
        (port <= self.last).then(|| self.with_port(port))
    }

    /// Returns all addresses in their order.
    pub fn addresses(&self) -> impl Iterator<Item = HostPort> + '_ {
        (self.first..=self.last).map(|port| self.with_port(port))
    }

    fn with_port(&self, port: u16) -> HostPort {
        HostPort {
            host: self.host.clone(),
            port,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let common = self.first.max(other.first);
        common <= self.last.min(other.last)
            && self.with_port(common).overlaps(&other.with_port(common))
    }

    /// Parses the parts of `text`.
    fn parse(text: &str, host: &str, first: &str, last: &str) -> Result<Self, InvalidValue> {
        let invalid = |problem: &str| {
            let shown = without_password(text);
            InvalidValue::new(format!("(\"{shown}\") {problem}"), RANGE_FORM)
        };
        let start: HostPort = format!("{host}:{first}")
            .parse()
            .map_err(|reason| address_fault(text, &reason))?;
        let last = parse_port(last).ok_or_else(|| invalid("has an invalid last port"))?;
        if start.port == 0 {
            return Err(invalid("starts at port 0, which the system chooses"));
        }
        if last < start.port {
            return Err(invalid("ends before it starts"));
        }
        let range = Self {
            host: start.host,
            first: start.port,
            last,
        };
        if range.count() > RANGE_MAX {
            return Err(invalid(&format!(
                "has {} ports, more than {RANGE_MAX}",
                range.count()
            )));
        }
        Ok(range)
    }
}

impl UnixAddress {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
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

    fn start_at(&mut self, folder: &Path) {
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
    pub(super) fn unusable(&self) -> Option<InvalidValue> {
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

impl From<HostPort> for LocalAddress {
    fn from(address: HostPort) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Range(range) => range.fmt(formatter),
            Self::Unix(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.with_port(self.first), self.last)
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

/// Splits the text of a range into its host and its ports.
fn split_range(text: &str) -> Option<(&str, &str, &str)> {
    let (host, ports) = text.rsplit_once(':')?;
    let (first, last) = ports.split_once('-')?;
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (is_port(first) && is_port(last)).then_some((host, first, last))
}

impl FromStr for LocalAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(address) = text.strip_prefix(UNIX) {
            return UnixAddress::parse(address).map(Self::Unix);
        }
        if let Some((host, first, last)) = split_range(text) {
            return PortRange::parse(text, host, first, last).map(Self::Range);
        }
        let address: Result<HostPort, _> = text.parse();
        address
            .map(Self::Tcp)
            .map_err(|reason| address_fault(text, &reason))
    }
}

impl FromStr for Target {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<LocalAddress>()? {
            LocalAddress::Tcp(address) => address
                .dialable()
                .map(Self::Tcp)
                .map_err(|reason| address_fault(text, &reason)),
            LocalAddress::Unix(address) => Ok(Self::Unix(address)),
            LocalAddress::Range(range) => Err(InvalidValue::new(
                format!("(\"{range}\") is a range"),
                "write one target for each port, or use the range as `local_address`",
            )),
        }
    }
}

text_value!(
    LocalAddress,
    "address, range or unix socket",
    LocalAddress::from_str
);

text_value!(Target, "address or unix socket", Target::from_str);
