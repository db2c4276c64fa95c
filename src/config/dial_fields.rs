//! The fields of a role's file that define how it dials its masters: proxies, addresses, headers
//! and trust.

use std::path::PathBuf;

use http::{HeaderMap, HeaderValue};

use super::{
    HostPort, Warning,
    error::{Fault, FieldPath},
    raw::{OneOrMore, RawRoleTls},
    reader::FieldReader,
    validate::{DialFields, root},
};
use crate::{
    net::dial::{
        Bind, DialParameters, ProxyChoice, RequestParameters, TlsParameters, parse_header,
    },
    text::without_password,
};

/// The hexadecimal digits of a SHA-256.
const PIN_DIGITS: usize = 64;

impl FieldReader<'_> {
    /// Reads all dial parameters except TLS and the deadline.
    pub(super) fn dial_parameters(&mut self, fields: &DialFields<'_>) -> Option<DialParameters> {
        let proxy = self.proxy(fields);
        let connect_to = self.connect_to(fields.connect_to);
        let bind = optional(fields.bind_address.map(|text| self.bind(text)));
        let request = self.request(fields);
        Some(DialParameters {
            proxy: proxy?,
            connect_to: connect_to?,
            bind: bind?,
            request: request?,
            ..DialParameters::default()
        })
    }

    fn proxy(&mut self, fields: &DialFields<'_>) -> Option<ProxyChoice> {
        let path = root("proxy");
        let Some(raw) = fields.proxy else {
            return Some(ProxyChoice::Environment);
        };
        let text = self.secret(&path, Some(raw), "")?;
        if text.expose().trim() == "none" {
            return Some(ProxyChoice::Direct);
        }
        match text.expose().parse() {
            Ok(proxy) => Some(ProxyChoice::Fixed(Box::new(proxy))),
            Err(error) => self.reject(&path, format!("{error}")),
        }
    }

    fn connect_to(&mut self, text: Option<&str>) -> Option<Option<(String, u16)>> {
        let Some(text) = text else { return Some(None) };
        match text.parse::<HostPort>().and_then(HostPort::dialable) {
            Ok(HostPort { host, port }) => Some(Some((host, port))),
            Err(reason) => {
                self.document.add_problem(
                    &root("connect_to"),
                    Fault::Address {
                        found: text.to_owned(),
                        reason,
                    },
                );
                None
            }
        }
    }

    fn bind(&mut self, text: &str) -> Option<Bind> {
        if let Ok(address) = text.parse() {
            return Some(Bind::Address(address));
        }
        // IFNAMSIZ, and the characters that Linux allows in a name.
        let is_name = (1..16).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if is_name {
            return Some(Bind::Interface(text.to_owned()));
        }
        let message = format!(
            "is \"{}\": write an IP address of this machine without a port, or an interface such as \"eth0\"",
            without_password(text)
        );
        self.reject(&root("bind_address"), message)
    }

    fn request(&mut self, fields: &DialFields<'_>) -> Option<RequestParameters> {
        let host = fields.host.map(|host| self.visible(&root("host"), host));
        let user_agent = fields.user_agent.map(|text| {
            let message = || {
                format!(
                    "is \"{}\": write visible ASCII and spaces",
                    text.escape_debug()
                )
            };
            HeaderValue::from_str(text)
                .ok()
                .or_else(|| self.reject(&root("user_agent"), message()))
        });
        let mut headers = Some(HeaderMap::new());
        for (name, value) in fields.headers.into_iter().flatten() {
            match (parse_header(name, value), &mut headers) {
                (Ok((name, value)), Some(headers)) => drop(headers.insert(name, value)),
                // An earlier header was invalid. Continue to report all of them.
                (Ok(_), None) => {}
                (Err(error), headers) => {
                    *headers = self.reject(&root("headers"), error.to_string())
                }
            }
        }
        let headers_file = fields
            .headers_file
            .map(|file| self.sources.folder.join(file));
        Some(RequestParameters {
            host: optional(host)?,
            user_agent: optional(user_agent)?,
            headers: headers?,
            headers_file,
        })
    }

    /// Reads the text of a header field or a TLS server name.
    fn visible(&mut self, path: &FieldPath, text: &str) -> Option<String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(text.to_owned());
        }
        self.reject(
            path,
            format!(
                "is \"{}\": write a host name without spaces",
                without_password(text).escape_debug()
            ),
        )
    }

    /// Reads how the role verifies the master's certificate.
    pub(super) fn role_tls(
        &mut self,
        raw: Option<&RawRoleTls>,
        is_secure: bool,
    ) -> Option<TlsParameters> {
        let Some(raw) = raw else {
            return Some(TlsParameters::default());
        };
        let at = |name: &str| root("tls").field(name);
        let in_folder = |file: &PathBuf| self.sources.folder.join(file);
        let (ca, cert, key) = (
            raw.ca.as_ref().map(in_folder),
            raw.client_cert.as_ref().map(in_folder),
            raw.client_key.as_ref().map(in_folder),
        );
        if !is_secure {
            let written = [
                ("ca", ca.is_some()),
                ("client_cert", cert.is_some()),
                ("pin_sha256", raw.pin_sha256.is_some()),
            ];
            for (name, _) in written.into_iter().filter(|(_, is_written)| *is_written) {
                let message = "has no effect: no master address starts with wss://".to_owned();
                self.warnings.push(Warning {
                    field: at(name),
                    message,
                });
            }
        }
        let pins = self.pins(&at("pin_sha256"), raw.pin_sha256.as_ref());
        let client = self.client_certificate(cert, key);
        let server_name = optional(
            raw.server_name
                .as_deref()
                .map(|name| self.visible(&at("server_name"), name)),
        );
        let insecure_skip_verify = raw.insecure_skip_verify == Some(true);
        if insecure_skip_verify {
            let message = "is set: ANY machine on the path can impersonate the master; set its authority with `ca` or its certificate with `pin_sha256` instead";
            self.warnings.push(Warning {
                field: at("insecure_skip_verify"),
                message: message.to_owned(),
            });
        }
        Some(TlsParameters {
            ca,
            system_ca: raw.system_ca == Some(true),
            pins: pins?,
            client: client?,
            server_name: server_name?,
            insecure_skip_verify,
        })
    }

    fn pins(&mut self, path: &FieldPath, raw: Option<&OneOrMore>) -> Option<Vec<[u8; 32]>> {
        let Some(raw) = raw else {
            return Some(Vec::new());
        };
        let mut pins = Vec::new();
        for text in raw.texts() {
            let Some(pin) = pin(text) else {
                let message = format!(
                    "is \"{text}\": write the 64 digits that `openssl x509 -noout -fingerprint -sha256` prints"
                );
                return self.reject(path, message);
            };
            pins.push(pin);
        }
        Some(pins)
    }

    fn client_certificate(
        &mut self,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Option<Option<(PathBuf, PathBuf)>> {
        let missing = |document: &mut super::document::ConfigDocument<'_>, name, what| {
            document.add_problem(&root("tls").field(name), Fault::Missing(what));
            None
        };
        match (cert, key) {
            (Some(cert), Some(key)) => Some(Some((cert, key))),
            (None, None) => Some(None),
            (Some(_), None) => missing(
                &mut self.document,
                "client_key",
                "name the private key's PEM file, or remove `client_cert`",
            ),
            (None, Some(_)) => missing(
                &mut self.document,
                "client_cert",
                "name the certificate's PEM file, or remove `client_key`",
            ),
        }
    }

    pub(super) fn reject<T>(&mut self, path: &FieldPath, message: String) -> Option<T> {
        self.document.add_problem(path, Fault::Other(message));
        None
    }
}

/// Converts an optional field. An absent field is `Some(None)`, an invalid one `None`.
fn optional<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(read) => read.map(Some),
        None => Some(None),
    }
}

/// Parses a fingerprint with or without colons.
fn pin(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    if digits.len() != PIN_DIGITS || !digits.is_ascii() {
        return None;
    }
    let mut pin = [0; 32];
    for (index, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(pin)
}
