//! The invitation to a service: one text that holds what a client needs to reach it.
//!
//! ```text
//! report+wss://HOST[:PORT]/PATH?mark=SSH&encrypt=aes-128-gcm&compress=null#PORT_KEY
//! ```
//!
//! Its values are percent-encoded (RFC 3986). The key is the fragment, which programs that handle
//! URLs do not send anywhere. Errors never contain it.

use std::{borrow::Cow, fmt::Write as _, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{
    Deserialize,
    de::value::{Error as ValueError, StrDeserializer},
};
use zeroize::Zeroizing;

use super::{
    LinkConfig, PortConfig, RANGE_MAX, Secret,
    error::InvalidValue,
    values::CertificatePin,
    word::{self, Word},
};
use crate::{
    net::address::{MasterAddress, MasterAddressError},
    text::without_password,
    tunnel::ServiceProtocol,
};
use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

/// The start of an invitation, before the URL of its master.
const PREFIX: &str = "report+";

/// The characters that are written as `%XX`: all but the unreserved ones.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The names of the parameters.
mod names {
    /// The query of the master's URL.
    pub(super) const QUERY: &str = "query";
    /// A further master. Repeatable.
    pub(super) const MASTER: &str = "master";
    /// The SHA-256 of the master's certificate. Repeatable.
    pub(super) const PIN: &str = "pin";
    pub(super) const MARK: &str = "mark";
    pub(super) const ENCRYPT: &str = "encrypt";
    pub(super) const COMPRESS: &str = "compress";
    pub(super) const PROTOCOL: &str = "protocol";
    /// The number of ports in the range.
    pub(super) const PORTS: &str = "ports";

    pub(super) const ALL: [&str; 8] =
        [QUERY, MASTER, PIN, MARK, ENCRYPT, COMPRESS, PROTOCOL, PORTS];
}

/// The service of an invitation, and its masters. `Debug` hides the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The masters, at least one.
    pub masters: Vec<MasterAddress>,
    /// The certificates of the masters, or none to verify them otherwise.
    pub pins: Vec<CertificatePin>,
    /// The name of the service in logs.
    pub mark: String,
    /// The encryption method.
    pub encrypt: EncryptMethod,
    /// The compression method.
    pub compress: CompressMethod,
    /// The traffic that the port carries.
    pub protocol: ServiceProtocol,
    /// The number of addresses of the port.
    pub range: u16,
    /// The key of the port.
    pub port_key: Secret,
}

/// Why a text is not an invitation. It never contains the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// The start is missing.
    #[error(
        "the invitation does not begin with report+wss:// or report+ws://: copy all of it, or write a new one with `report invite`"
    )]
    NoStart,
    /// The key is missing.
    #[error(
        "the invitation has no key after a \"#\": copy all of it, and put it between single quotes in a shell"
    )]
    NoKey,
    /// The address of a master is invalid.
    #[error("the invitation names no valid master: {0}")]
    Master(#[from] MasterAddressError),
    /// A parameter is unknown.
    #[error(
        "the invitation has the unknown parameter \"{0}\": copy it again, or upgrade rePort if a newer version wrote it"
    )]
    UnknownParameter(String),
    /// A parameter is given twice.
    #[error("the invitation has the parameter \"{0}\" twice: copy it again")]
    Duplicate(&'static str),
    /// A value is not percent-encoded text.
    #[error("the {0} of the invitation is not percent-encoded UTF-8: copy it again")]
    Encoding(&'static str),
    /// A value is invalid.
    #[error("the parameter \"{name}\" of the invitation {problem}")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// The problem.
        problem: InvalidValue,
    },
}

impl Invite {
    /// Creates the invitation to a port of a server or client.
    #[must_use]
    pub fn new(link: &LinkConfig, port: &PortConfig) -> Self {
        let pins = link.tls.pin_sha256.as_ref();
        Self {
            masters: link.masters.to_vec(),
            pins: pins.map(|pins| pins.to_vec()).unwrap_or_default(),
            mark: port.mark.clone(),
            encrypt: port.encrypt_method,
            compress: port.compress_method,
            protocol: port.protocol,
            range: port.range(),
            port_key: Secret::new(port.port_key.expose().to_owned()),
        }
    }

    /// Returns whether the text begins like an invitation.
    #[must_use]
    pub fn is_start_of(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }

    /// Returns the text. It contains the key.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut masters = self.masters.iter().map(ToString::to_string);
        let first = masters.next().unwrap_or_default();
        let (address, query) = match first.split_once('?') {
            Some((address, query)) => (address, Some(query.to_owned())),
            None => (first.as_str(), None),
        };
        let pins = self.pins.iter().map(|pin| (names::PIN, pin.to_string()));
        let further = masters.map(|master| (names::MASTER, master));
        let protocol = Some(self.protocol).filter(|protocol| !word::is_default(protocol));
        let range = Some(self.range).filter(|range| *range > 1);
        let parameters = [
            (names::MARK, self.mark.clone()),
            (names::ENCRYPT, self.encrypt.word().to_owned()),
            (names::COMPRESS, self.compress.word().to_owned()),
        ];
        let parameters = (query.map(|query| (names::QUERY, query)).into_iter())
            .chain(parameters)
            .chain(protocol.map(|protocol| (names::PROTOCOL, protocol.word().to_owned())))
            .chain(range.map(|range| (names::PORTS, range.to_string())))
            .chain(pins)
            .chain(further);
        let mut text = Zeroizing::new(format!("{PREFIX}{address}"));
        for (index, (name, value)) in parameters.enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            let value = utf8_percent_encode(&value, ENCODED);
            // Cannot fail: the text grows.
            let _ = write!(text, "{separator}{name}={value}");
        }
        let key = utf8_percent_encode(self.port_key.expose(), ENCODED);
        let _ = write!(text, "#{key}");
        text
    }

    /// Parses the masters: that of the URL, then those of the parameters.
    fn masters(address: &str, parameters: &Parameters) -> Result<Vec<MasterAddress>, InviteError> {
        let first = match parameters.single(names::QUERY)? {
            Some(query) => Cow::Owned(format!("{address}?{query}")),
            None => Cow::Borrowed(address),
        };
        let further = parameters.all(names::MASTER).map(Cow::Borrowed);
        let masters = [first].into_iter().chain(further);
        let masters = masters
            .map(|master| master.parse::<MasterAddress>())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(masters)
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let rest = text
            .trim()
            .strip_prefix(PREFIX)
            .filter(|rest| rest.starts_with("ws://") || rest.starts_with("wss://"))
            .ok_or(InviteError::NoStart)?;
        let (url, key) = rest
            .split_once('#')
            .filter(|(_, key)| !key.is_empty())
            .ok_or(InviteError::NoKey)?;
        let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
        let parameters = Parameters::parse(parameters)?;
        let pins = parameters.all(names::PIN).map(pin);
        Ok(Self {
            masters: Self::masters(address, &parameters)?,
            pins: pins.collect::<Result<_, _>>()?,
            mark: parameters
                .single(names::MARK)?
                .unwrap_or_default()
                .to_owned(),
            encrypt: parameters.word(names::ENCRYPT)?,
            compress: parameters.word(names::COMPRESS)?,
            protocol: parameters.word(names::PROTOCOL)?,
            range: parameters.range()?,
            port_key: Secret::new(decode(key, "key")?),
        })
    }
}

/// The decoded parameters in their order.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn parse(text: &str) -> Result<Self, InviteError> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(parameter).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(decoded))
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter that is given at most once.
    fn single(&self, name: &'static str) -> Result<Option<&str>, InviteError> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(InviteError::Duplicate(name)),
        }
    }

    /// Returns a value that a word names, or its default.
    fn word<T: Word>(&self, name: &'static str) -> Result<T, InviteError> {
        match self.single(name)? {
            None => Ok(word::default()),
            Some(text) => {
                word::parse(text).map_err(|problem| InviteError::Invalid { name, problem })
            }
        }
    }

    fn range(&self) -> Result<u16, InviteError> {
        let Some(text) = self.single(names::PORTS)? else {
            return Ok(1);
        };
        let count = text.parse::<u16>().ok();
        count
            .filter(|count| (1..=RANGE_MAX).contains(count))
            .ok_or_else(|| InviteError::Invalid {
                name: names::PORTS,
                problem: InvalidValue::new(
                    format!("is \"{}\"", text.escape_debug()),
                    format!("a range has 1 to {RANGE_MAX} ports; copy the invitation again"),
                ),
            })
    }
}

/// Parses a parameter as `NAME=VALUE`.
fn parameter(text: &str) -> Result<(&'static str, String), InviteError> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let known = names::ALL.into_iter().find(|known| *known == name);
    let known = known.ok_or_else(|| {
        let shown = without_password(name).escape_debug().to_string();
        InviteError::UnknownParameter(shown)
    })?;
    Ok((known, decode(value, known)?))
}

/// Decodes a value. `what` names it in an error.
fn decode(text: &str, what: &'static str) -> Result<String, InviteError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| InviteError::Encoding(what))?;
    Ok(decoded.into_owned())
}

fn pin(text: &str) -> Result<CertificatePin, InviteError> {
    let reader = StrDeserializer::<ValueError>::new(text);
    CertificatePin::deserialize(reader).map_err(|error| InviteError::Invalid {
        name: names::PIN,
        problem: InvalidValue::from_error(&error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RoleConfig, parse};

    const KEY: &str = "T6wj#oGQ/aq fD&%键";

    /// Returns the invitation to the first port of a client with these fields.
    fn invite(fields: &str, port: &str) -> Invite {
        let text = format!(
            r#"{{"mode": "client", {fields}, "ports": [{{"local_address": "127.0.0.1:1", "port_key": "{KEY}", {port}}}]}}"#
        );
        let loaded = parse(&text, std::path::Path::new("c.json"), &|_| None).expect(&text);
        let RoleConfig::Client(client) = loaded.config.role else {
            panic!("no client")
        };
        Invite::new(&client.link, &client.ports[0])
    }

    fn error(text: &str) -> String {
        let error = text.parse::<Invite>().expect_err(text).to_string();
        assert!(!error.contains("hush"), "{error}");
        error
    }

    #[test]
    fn invitations_round_trip() {
        let pin = "ab".repeat(32);
        for (fields, port) in [
            (r#""master": "host:1""#.to_owned(), r#""mark": "SSH""#),
            (
                format!(
                    r#""master": ["wss://a.example/path?x=1&y=2", "[::1]:7"], "tls": {{"pin_sha256": ["{pin}", "{}"]}}"#,
                    "0".repeat(64)
                ),
                r#""mark": "远程 桌面&#", "encrypt_method": "plain", "compress_method": "zstd", "protocol": "socks5""#,
            ),
        ] {
            let invite = invite(&fields, port);
            let text = invite.to_text();
            let parsed: Invite = text.parse().expect("an invitation");
            assert_eq!(parsed, invite, "{}", *text);
            assert_eq!(parsed.port_key.expose(), KEY);
            assert!(
                text.bytes().all(|byte| byte.is_ascii_graphic()),
                "{}",
                *text
            );
        }
    }

    #[test]
    fn an_invitation_reads_as_documented() {
        let fields = r#""master": "wss://host/tunnel""#;
        let mut known = invite(fields, r#""mark": "SSH""#);
        known.port_key = Secret::new("a_key".to_owned());
        assert_eq!(
            *known.to_text(),
            "report+wss://host/tunnel?mark=SSH&encrypt=aes-128-gcm&compress=null#a_key"
        );
        let short = " report+wss://host/tunnel?mark=SSH#a_key\n";
        assert_eq!(short.parse::<Invite>(), Ok(known));
        let range: Invite = "report+ws://host:1/?ports=11&protocol=both#k"
            .parse()
            .expect("an invitation");
        assert_eq!((range.range, range.protocol), (11, ServiceProtocol::Both));
        assert_eq!(range.masters[0].to_string(), "ws://host:1/");
    }

    #[test]
    fn invalid_invitations_are_explained_without_the_key() {
        for (text, part) in [
            ("", "begin with report+wss://"),
            ("wss://host/#hush", "begin with report+wss://"),
            ("report+https://host/#hush", "begin with report+wss://"),
            ("report+wss://host/?mark=SSH", "no key after a \"#\""),
            ("report+wss://host/?mark=SSH#", "no key after a \"#\""),
            ("report+wss://#hush", "no valid master"),
            ("report+wss://host:0/#hush", "no valid master"),
            ("report+wss://host/?master=x#hush", "no valid master"),
            (
                "report+wss://host/?marc=SSH#hush",
                "unknown parameter \"marc\"",
            ),
            ("report+wss://host/?mark=a&mark=b#hush", "\"mark\" twice"),
            (
                "report+wss://host/?mark=%ff#hush",
                "the mark of the invitation",
            ),
            ("report+wss://host/#hush%ff", "the key of the invitation"),
            (
                "report+wss://host/?encrypt=aes#hush",
                "\"encrypt\" of the invitation is \"aes\"",
            ),
            (
                "report+wss://host/?protocol=icmp#hush",
                "\"protocol\" of the",
            ),
            ("report+wss://host/?ports=0#hush", "1 to 1024"),
            ("report+wss://host/?ports=many#hush", "1 to 1024"),
            ("report+wss://host/?pin=12#hush", "64 digits"),
        ] {
            let error = error(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let signs = format!("report+wss://host/?pin={}#hush", "+a".repeat(32));
        assert!(error(&signs).contains("64 digits"));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let invite: Invite = "report+wss://host/#hush".parse().expect("an invitation");
        assert!(!format!("{invite:?}").contains("hush"));
    }
}
