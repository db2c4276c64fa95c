//! The access rights of a client's unix socket, and the user of a client's SOCKS5 proxy.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::{
    Secret,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
    values::text_value,
};

/// The mode of the file of a unix socket: `0000` to `0777`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    /// Returns the permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_octal =
            matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
        bits.filter(|bits| *bits <= 0o777).map(Self).ok_or_else(|| {
            InvalidValue::new(
                format!("is \"{}\"", text.escape_debug()),
                "write an octal mode from \"0000\" to \"0777\", as \"0660\"",
            )
        })
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

text_value!(SocketMode, "octal mode", SocketMode::parse);

/// The owner of the file of a unix socket: a user, a group or both, as names or numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user, if it changes.
    pub user: Option<String>,
    /// The group, if it changes.
    pub group: Option<String>,
}

impl SocketOwner {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|letter| letter.is_alphanumeric() || "-_.@$\\".contains(letter))
        };
        let (user, group) = match text.split_once(':') {
            Some(("", group)) => (None, Some(group)),
            Some((user, group)) => (Some(user), Some(group)),
            None => (Some(text), None),
        };
        if user.into_iter().chain(group).all(is_name) {
            let [user, group] = [user, group].map(|name| name.map(str::to_owned));
            return Ok(Self { user, group });
        }
        Err(InvalidValue::new(
            format!("is \"{}\"", text.escape_debug()),
            "write \"USER\", \"USER:GROUP\" or \":GROUP\", with names or numbers",
        ))
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(formatter, ":{group}"),
            None => Ok(()),
        }
    }
}

text_value!(SocketOwner, "user and group", SocketOwner::parse);

/// The longest name or password of SOCKS5, in bytes (RFC 1929).
const SOCKS_TEXT_MAX: usize = 255;

/// The user that an application of a SOCKS5 proxy must authenticate as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, {\"name\": \"NAME\", \"password\": …}"
)]
pub struct SocksUser {
    /// The name, 1 to 255 bytes.
    pub name: String,
    /// The password, at most 255 bytes. Like a key, it may come from a file or a variable.
    pub password: Secret,
}

impl SocksUser {
    /// Checks the lengths, which the protocol limits.
    pub(super) fn check(&self, path: &FieldPath, checks: &mut RoleChecks<'_>) {
        let fields = [
            ("name", self.name.len()),
            ("password", self.password.expose().len()),
        ];
        for (field, length) in fields {
            if !(1..=SOCKS_TEXT_MAX).contains(&length) {
                let invalid = InvalidValue::new(
                    format!("has {length} bytes"),
                    format!("SOCKS5 allows 1 to {SOCKS_TEXT_MAX}"),
                );
                checks.invalid(&path.field(field), invalid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, bits) in [
            ("0660", 0o660),
            ("600", 0o600),
            ("0000", 0),
            ("0777", 0o777),
        ] {
            let mode = SocketMode::parse(text).expect(text);
            assert_eq!(mode.bits(), bits);
            assert_eq!(SocketMode::parse(&mode.to_string()), Ok(mode));
        }
        for text in ["", "66", "1777", "0888", "+660", "06600", "rw-r--r--"] {
            let error = SocketMode::parse(text).expect_err(text).to_string();
            assert!(error.contains("octal mode"), "{error}");
        }
    }

    #[test]
    fn owners_round_trip() {
        for text in [
            "report",
            "report:www-data",
            ":docker",
            "1000:1000",
            "AD\\user",
        ] {
            let owner = SocketOwner::parse(text).expect(text);
            assert_eq!(owner.to_string(), text);
        }
        let group = SocketOwner::parse(":docker").expect("a group");
        assert_eq!((group.user, group.group.as_deref()), (None, Some("docker")));
        for text in ["", ":", "report:", "a:b:c", "a b", "a\nb"] {
            let error = SocketOwner::parse(text).expect_err(text).to_string();
            assert!(error.contains("USER:GROUP"), "{error}");
        }
    }
}
