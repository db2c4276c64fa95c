//! Dial errors: the layer that failed, the evidence, the likely cause and the remedy.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{MasterAddress, tcp_connector::BindError, tls_problem::TlsProblem, trace::Layer};
use crate::net::{
    Reason,
    connect::list_attempts,
    file_limit::OutOfFiles,
    proxy::{ProxyAddress, ProxyError, environment::EnvironmentError},
    tls::TlsError,
    upgrade::UpgradeError,
};

/// The host that a layer talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialPeer {
    /// The master, or a gateway in front of it.
    Master,
    /// The proxy on this side.
    Proxy,
}

impl DialPeer {
    /// Returns the configuration field that holds the peer's address.
    pub(super) fn field(self) -> &'static str {
        match self {
            DialPeer::Master => "master",
            DialPeer::Proxy => "proxy",
        }
    }

    /// Returns the prefix of a layer's name in messages.
    fn prefix(self) -> &'static str {
        match self {
            DialPeer::Master => "",
            DialPeer::Proxy => "proxy's ",
        }
    }
}

/// Why a dial failed. Prints as one line: the layer, the evidence, the likely cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.context(), self.reason())]
pub enum DialError {
    /// The host name does not resolve.
    Name {
        /// The owner of the name.
        peer: DialPeer,
        /// The name.
        host: String,
        /// The resolver's error.
        reason: String,
        /// Set when the look-up failed for want of a file descriptor.
        out_of_files: Option<OutOfFiles>,
    },
    /// None of the host's addresses accepts a connection.
    Connect {
        /// The peer that was dialled.
        peer: DialPeer,
        /// The addresses that were tried, with the error of each.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The environment names an unusable proxy.
    Environment(#[from] EnvironmentError),
    /// The proxy did not open a tunnel to the master.
    Proxy {
        /// The proxy.
        proxy: Box<ProxyAddress>,
        /// The proxy's error.
        source: ProxyError,
    },
    /// The certificate authorities for TLS with a proxy cannot be read.
    Authorities(#[from] TlsError),
    /// The headers file cannot be used.
    HeadersFile {
        /// The path of the file.
        path: PathBuf,
        /// The problem with its contents.
        problem: String,
    },
    /// The TLS handshake failed.
    Tls {
        /// The peer of the handshake.
        peer: DialPeer,
        /// The name that the certificate must match.
        host: String,
        /// The reason.
        problem: TlsProblem,
    },
    /// The connection did not become a WebSocket.
    Upgrade {
        /// The address that was dialled.
        address: Box<MasterAddress>,
        /// The reason.
        source: UpgradeError,
    },
    /// The dial exceeded its deadline.
    Deadline {
        /// The layer that had not finished.
        layer: Layer,
        /// The peer of that layer.
        peer: DialPeer,
        /// The address of that peer.
        peer_address: String,
        /// The deadline of the whole dial.
        after: Duration,
    },
}

impl DialError {
    /// Returns the peer and the layer that failed.
    #[must_use]
    pub fn layer(&self) -> (DialPeer, Layer) {
        match self {
            DialError::Name { peer, .. } => (*peer, Layer::Name),
            DialError::Connect { peer, .. } => (*peer, Layer::Tcp),
            DialError::Environment(_) | DialError::Proxy { .. } => (DialPeer::Proxy, Layer::Proxy),
            DialError::Authorities(_) => (DialPeer::Proxy, Layer::Tls),
            DialError::HeadersFile { .. } | DialError::Upgrade { .. } => {
                (DialPeer::Master, Layer::Http)
            }
            DialError::Tls { peer, .. } => (*peer, Layer::Tls),
            DialError::Deadline { peer, layer, .. } => (*peer, *layer),
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            DialError::Name {
                host,
                reason,
                out_of_files: Some(out),
                ..
            } => Reason::new(
                format!("`{host}` cannot be looked up ({reason})"),
                out.to_string(),
                out.remedy(),
            ),
            DialError::Name {
                peer,
                host,
                reason,
                out_of_files: None,
            } => Reason::new(
                format!("`{host}` does not resolve ({reason})"),
                "the name is wrong, or this network's DNS server does not know it or is unreachable",
                format!("check the host in `{}` and the DNS server", peer.field()),
            ),
            DialError::Connect { peer, attempts } => connect_reason(*peer, attempts),
            DialError::Environment(error) => Reason::new(
                error.to_string(),
                "",
                "correct it, or set `proxy` in the configuration",
            ),
            DialError::Proxy { source, .. } => {
                Reason::from_sentence(&source.to_string(), "check `proxy` and the proxy's log")
            }
            DialError::Authorities(error) => Reason::from_sentence(
                &error.to_string(),
                "set `tls.ca` to a PEM file with authorities",
            ),
            DialError::HeadersFile { path, problem } => Reason::new(
                format!("the headers file {} {problem}", path.display()),
                "",
                "correct the file that `headers_file` names",
            ),
            DialError::Tls { peer, problem, .. } => problem.reason(*peer),
            DialError::Upgrade { source, .. } => source.reason(),
            DialError::Deadline {
                layer,
                peer,
                peer_address,
                after,
            } => Reason::new(
                format!(
                    "{peer_address} did not answer within {} s",
                    after.as_secs_f32()
                ),
                "the host is down or far away, or a firewall drops its traffic",
                layer.remedy(*peer),
            ),
        }
    }

    /// Returns the part of the message that precedes the reason.
    fn context(&self) -> String {
        let (peer, layer) = self.layer();
        match self {
            DialError::Connect { .. } => format!("{}TCP: no connection to ", peer.prefix()),
            DialError::Environment(_) => "proxy: ".to_owned(),
            DialError::Proxy { proxy, .. } => format!("proxy {proxy}: "),
            // The error's own text begins with "TLS".
            DialError::Authorities(_) => "proxy's ".to_owned(),
            DialError::Tls { host, .. } => format!("{}TLS with `{host}`: ", peer.prefix()),
            DialError::Upgrade { address, .. } => format!("HTTP with {address}: "),
            DialError::Deadline {
                layer: Layer::Proxy,
                ..
            } => "proxy: ".to_owned(),
            DialError::Name { .. } | DialError::HeadersFile { .. } | DialError::Deadline { .. } => {
                format!("{}{layer}: ", peer.prefix())
            }
        }
    }
}

fn connect_reason(peer: DialPeer, attempts: &[(SocketAddr, io::Error)]) -> Reason {
    let tried = list_attempts(attempts);
    if let Some(out) = attempts.iter().find_map(|(_, error)| OutOfFiles::of(error)) {
        return Reason::new(tried, out.to_string(), out.remedy());
    }
    let refused = |(address, error): &(SocketAddr, io::Error)| {
        error.kind() == io::ErrorKind::ConnectionRefused
            && !matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    let is_bind_error = |(_, error): &(SocketAddr, io::Error)| {
        error.get_ref().is_some_and(|inner| inner.is::<BindError>())
    };
    if attempts.iter().any(is_bind_error) {
        let cause = "this machine has no such address or interface, or rePort may not use it";
        return Reason::new(tried, cause, "correct `bind_address`");
    }
    let (cause, remedy) = match (attempts.iter().any(refused), peer) {
        (true, DialPeer::Master) => (
            "no program listens there",
            "check that the master is running, and the port in `master`",
        ),
        (true, DialPeer::Proxy) => ("no program listens there", "check the port in `proxy`"),
        (false, _) => (
            "the machine is down, or a firewall drops its packets",
            "check that the host is reachable and that no firewall blocks the port",
        ),
    };
    Reason::new(tried, cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn descriptor_shortage_does_not_blame_the_network() {
        let error = || io::Error::from(rustix::io::Errno::MFILE);
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let failures = [
            DialError::Connect {
                peer: DialPeer::Master,
                attempts: vec![(address, error())],
            },
            DialError::Name {
                peer: DialPeer::Master,
                host: "a".to_owned(),
                reason: error().to_string(),
                out_of_files: OutOfFiles::of(&error()),
            },
        ];
        for failure in failures {
            let message = failure.to_string();
            assert!(
                message.contains("this process has as many open files as its limit of ")
                    && message.contains("`ulimit -n`"),
                "{message}"
            );
            assert!(
                !message.contains("firewall") && !message.contains("DNS"),
                "{message}"
            );
        }
    }
}
