//! A service and the methods of its traffic.

use std::{fmt::Display, net::SocketAddr};

use serde_json::{Value, json};

use super::testbed::with;
use crate::support::{bytes, ports};

/// The encryption and compression of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Methods {
    pub encrypt: &'static str,
    pub compress: &'static str,
}

impl Methods {
    /// The methods of tests that are not about methods.
    pub(crate) const DEFAULT: Methods = Methods {
        encrypt: "aes-128-gcm",
        compress: "null",
    };
    /// Two pairs without a common method.
    pub(crate) const TWO: [Methods; 2] = [
        Methods {
            encrypt: "aes-128-cfb",
            compress: "zstd",
        },
        Methods {
            encrypt: "chacha20-poly1305",
            compress: "s2",
        },
    ];

    /// Every combination.
    pub(crate) fn all() -> Vec<Methods> {
        let encrypt = ["plain", "aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];
        let pairs = |encrypt| ["null", "s2", "zstd"].map(|compress| Methods { encrypt, compress });
        encrypt.into_iter().flat_map(pairs).collect()
    }
}

impl Display for Methods {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}+{}", self.encrypt, self.compress)
    }
}

/// A service at the server, and the client's address that leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub mark: String,
    pub service: String,
    pub local: SocketAddr,
    pub key: String,
    pub methods: Methods,
    /// Fields of the port that only the server's configuration has.
    pub at_server: Value,
    /// Fields of the port in both configurations.
    pub at_both: Value,
}

impl Port {
    /// A port with a new key and an unused local address.
    pub(crate) fn new(mark: impl Display, service: impl Display, methods: Methods) -> Port {
        let key = bytes::hexadecimal(&bytes::random(fastrand::u64(..), 20));
        Port {
            mark: mark.to_string(),
            service: service.to_string(),
            local: ports::free(),
            key,
            methods,
            at_server: Value::Null,
            at_both: Value::Null,
        }
    }

    /// A port for datagrams.
    pub(crate) fn udp(mark: impl Display, service: impl Display) -> Port {
        Port {
            at_both: json!({"protocol": "udp"}),
            ..Port::new(mark, service, Methods::DEFAULT)
        }
    }

    /// One port for each pair of methods, all for the same service.
    pub(crate) fn for_each(methods: &[Methods], service: impl Display) -> Vec<Port> {
        methods
            .iter()
            .map(|&methods| Port::new(methods, &service, methods))
            .collect()
    }

    /// The same port at another client.
    pub(crate) fn at_another_address(&self) -> Port {
        Port {
            local: ports::free(),
            ..self.clone()
        }
    }

    /// Whether a client listens for everything that the port carries.
    pub(super) fn has_listener(&self) -> bool {
        let (streams, datagrams) = match self.at_both["protocol"].as_str() {
            Some("udp") => (false, true),
            Some("both") => (true, true),
            _ => (true, false),
        };
        (!streams || ports::has_listener_at(self.local))
            && (!datagrams || ports::has_udp_socket_at(self.local))
    }

    /// The port's entry in a configuration file.
    pub(super) fn json(&self, local_address: &str) -> Value {
        let Methods { encrypt, compress } = self.methods;
        let port = json!({
            "mark": self.mark, "local_address": local_address, "port_key": self.key,
            "encrypt_method": encrypt, "compress_method": compress,
        });
        with(port, self.at_both.clone())
    }
}
