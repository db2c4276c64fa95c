//! The types of single fields: paths, addresses, networks, header fields, pins. Each type validates
//! itself when it is read.

use std::{fmt, ops::Deref, str::FromStr};

use http::{HeaderValue, uri::PathAndQuery};
use ipnet::IpNet;

use super::{
    address::{HostPort, HostPortError},
    error::InvalidValue,
};
use crate::{
    net::{
        congestion_control::{CongestionControl, InvalidAlgorithm},
        dial::{Bind, MasterAddress},
    },
    text::without_password,
};

/// Implements `Visitor::expecting` with a text.
macro_rules! visitor_expects {
    ($text:expr) => {
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str($text)
        }
    };
}
pub(super) use visitor_expects;

/// Implements serde and the schema for a type with a text form. `$parse` returns what is wrong with
/// an invalid text.
macro_rules! text_value {
    ($type:ty, $kind:literal, $parse:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Result<Self, InvalidValue> = $parse;
                parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $kind.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "x-type": $kind})
            }
        }
    };
}

/// Implements `Deref` to the only field of a struct.
macro_rules! deref_to {
    ($type:ty, $target:ty) => {
        impl Deref for $type {
            type Target = $target;

            fn deref(&self) -> &$target {
                &self.0
            }
        }
    };
}

pub(super) use deref_to;
pub(super) use text_value;

/// Whether the value is the default, so that it need not be written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The default of a field that is on unless it is turned off.
pub(super) fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(super) fn is_yes(value: &bool) -> bool {
    *value
}

/// Returns the fault of an invalid address.
pub(super) fn address_fault(found: &str, reason: &HostPortError) -> InvalidValue {
    let problem = format!("(\"{}\") {reason:#}", without_password(found));
    InvalidValue::new(problem, reason.remedy())
}

text_value!(HostPort, "address", |text| {
    text.parse().map_err(|reason| address_fault(text, &reason))
});

text_value!(MasterAddress, "address or URL", |text| {
    MasterAddress::from_str(text).map_err(|error| InvalidValue::from_error(&error))
});

text_value!(Bind, "IP address or interface", |text| {
    if let Ok(address) = text.parse() {
        return Ok(Bind::Address(address));
    }
    // IFNAMSIZ, and the characters that Linux allows in a name.
    let is_name = (1..16).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_name {
        return Ok(Bind::Interface(text.to_owned()));
    }
    Err(InvalidValue::new(
        format!("is \"{}\"", without_password(text)),
        "write an IP address of this machine without a port, or an interface such as \"eth0\"",
    ))
});

text_value!(CongestionControl, "text", |text| {
    text.parse().map_err(|error: InvalidAlgorithm| {
        InvalidValue::new(error.to_string(), InvalidAlgorithm::REMEDY)
    })
});

/// An address that can be dialled: its port is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialableAddress(HostPort);

deref_to!(DialableAddress, HostPort);

impl fmt::Display for DialableAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

text_value!(DialableAddress, "address", |text| {
    let address = text.parse().and_then(HostPort::dialable);
    address
        .map(Self)
        .map_err(|reason| address_fault(text, &reason))
});

/// The address of a web server without TLS, as in `http://127.0.0.1:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebServerAddress(pub HostPort);

impl fmt::Display for WebServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}", self.0)
    }
}

text_value!(WebServerAddress, "URL", |text| {
    let invalid = |cause: &str| {
        InvalidValue::new(
            format!("is \"{}\", {cause}", without_password(text)),
            "write \"http://HOST:PORT\", the address of a web server without TLS",
        )
    };
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(|| invalid("not an http:// URL"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(invalid("more than an address"));
    }
    let with_port = if authority.contains(':') && !authority.ends_with(']') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let address = with_port.parse().and_then(HostPort::dialable);
    address
        .map(Self)
        .map_err(|reason| address_fault(authority, &reason))
});

/// A network of trusted proxies, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedNetwork(pub IpNet);

impl fmt::Display for TrustedNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

text_value!(TrustedNetwork, "network or address", |text| {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map(Self).map_err(|_| {
        InvalidValue::new(
            format!("is \"{text}\""),
            "write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or an address",
        )
    })
});

/// The path of the WebSocket upgrade. It starts with `/` and has no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradePath(String);

deref_to!(UpgradePath, String);

impl Default for UpgradePath {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl fmt::Display for UpgradePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_value!(UpgradePath, "text", |path| {
    let is_valid = path.starts_with('/')
        && path.is_ascii()
        && !path.contains(['?', '#'])
        && path.parse::<PathAndQuery>().is_ok();
    if is_valid {
        return Ok(Self(path.to_owned()));
    }
    Err(InvalidValue::new(
        format!("is \"{}\"", path.escape_debug()),
        "write a path that starts with \"/\", of visible ASCII without ? and #, with <, > and ` as %XX",
    ))
});

/// The host of a header field, or a TLS server name: visible ASCII without spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

deref_to!(HostName, String);

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_value!(HostName, "text", |text| {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Self(text.to_owned()));
    }
    Err(InvalidValue::new(
        format!("is \"{}\"", without_password(text).escape_debug()),
        "write a host name without spaces",
    ))
});

/// The value of a header field: visible ASCII and spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderText(HeaderValue);

deref_to!(HeaderText, HeaderValue);

impl fmt::Display for HeaderText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(self.0.as_bytes()))
    }
}

text_value!(HeaderText, "text", |text| {
    HeaderValue::from_str(text).map(Self).map_err(|_| {
        InvalidValue::new(
            format!("is \"{}\"", text.escape_debug()),
            "write visible ASCII and spaces",
        )
    })
});

/// The SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificatePin(pub [u8; 32]);

impl fmt::Display for CertificatePin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

text_value!(CertificatePin, "text", |text| {
    pin(text).map(Self).ok_or_else(|| {
        InvalidValue::new(
            format!("is \"{text}\""),
            "write the 64 digits that `openssl x509 -noout -fingerprint -sha256` prints",
        )
    })
});

/// Parses a fingerprint with or without colons.
fn pin(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    // `from_str_radix` also accepts a plus sign.
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut pin = [0; 32];
    for (index, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(pin)
}
