//! Why a master could not be reached: which layer, on what evidence, and what can be done.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{MasterAddress, reach::NoSuchPlace, stage::Layer, tls_problem::TlsProblem};
use crate::link::{
    Reason,
    connect::list,
    files::OutOfFiles,
    proxy::{ProxyAddress, ProxyError, environment::EnvironmentError},
    tls::TlsError,
    upgrade::UpgradeError,
};

/// Whom a layer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The master, or what stands before it.
    Master,
    /// The proxy on this side.
    Proxy,
}

impl Peer {
    /// The field that says where it is.
    pub(super) fn field(self) -> &'static str {
        match self {
            Peer::Master => "master",
            Peer::Proxy => "proxy",
        }
    }

    /// Before the name of a layer.
    fn prefix(self) -> &'static str {
        match self {
            Peer::Master => "",
            Peer::Proxy => "proxy's ",
        }
    }
}

/// Why a master could not be reached. Prints as one line: the layer, what was seen, what is likely behind it, what can be done.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.place(), self.reason())]
pub enum DialError {
    /// The name does not resolve.
    Name {
        /// Whose.
        peer: Peer,
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
        /// There was no descriptor for the look-up.
        out_of_files: Option<OutOfFiles>,
    },
    /// No address of the host takes a connection.
    Connect {
        /// To whom.
        peer: Peer,
        /// The addresses, and what each said.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The environment names a proxy that cannot be used.
    Environment(#[from] EnvironmentError),
    /// The proxy gives no way.
    Proxy {
        /// Which one.
        proxy: Box<ProxyAddress>,
        /// Why.
        source: ProxyError,
    },
    /// The authorities for TLS with a proxy cannot be read.
    Authorities(#[from] TlsError),
    /// The file with headers cannot be used.
    HeadersFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS could not be established.
    Tls {
        /// With whom.
        peer: Peer,
        /// The name that the certificate must be for.
        host: String,
        /// What went wrong.
        problem: TlsProblem,
    },
    /// The connection did not become a WebSocket.
    Upgrade {
        /// Where the request went.
        address: Box<MasterAddress>,
        /// What went wrong.
        source: UpgradeError,
    },
    /// It all took too long.
    Deadline {
        /// What was waited for.
        layer: Layer,
        /// Of whom.
        peer: Peer,
        /// Where that is.
        whom: String,
        /// The whole time that there was.
        after: Duration,
    },
}

impl DialError {
    /// To whom, and at which layer it failed.
    #[must_use]
    pub fn layer(&self) -> (Peer, Layer) {
        match self {
            DialError::Name { peer, .. } => (*peer, Layer::Name),
            DialError::Connect { peer, .. } => (*peer, Layer::Tcp),
            DialError::Environment(_) | DialError::Proxy { .. } => (Peer::Proxy, Layer::Proxy),
            DialError::Authorities(_) => (Peer::Proxy, Layer::Tls),
            DialError::HeadersFile { .. } | DialError::Upgrade { .. } => {
                (Peer::Master, Layer::Http)
            }
            DialError::Tls { peer, .. } => (*peer, Layer::Tls),
            DialError::Deadline { peer, layer, .. } => (*peer, *layer),
        }
    }

    /// What was seen, what is likely behind it, and what can be done.
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
                "the name is wrong, or this network's DNS server does not know it or is not reached",
                format!("check the host in `{}` and the DNS server", peer.field()),
            ),
            DialError::Connect { peer, attempts } => connect_reason(*peer, attempts),
            DialError::Environment(error) => Reason::new(
                error.to_string(),
                "",
                "correct it, or set `proxy` in the configuration",
            ),
            DialError::Proxy { source, .. } => Reason::of_sentence(
                &source.to_string(),
                "look into the proxy's log, and check `proxy`",
            ),
            DialError::Authorities(error) => Reason::of_sentence(
                &error.to_string(),
                "name a PEM file with authorities with `tls.ca`",
            ),
            DialError::HeadersFile { path, problem } => Reason::new(
                format!("the file of `headers_file`, {}, {problem}", path.display()),
                "",
                "correct the file",
            ),
            DialError::Tls { peer, problem, .. } => problem.reason(*peer),
            DialError::Upgrade { source, .. } => source.reason(),
            DialError::Deadline {
                layer,
                peer,
                whom,
                after,
            } => Reason::new(
                format!("{whom} gave no answer within {} s", after.as_secs_f32()),
                "what should answer is down or far away, or a firewall drops what is sent to it",
                layer.remedy(*peer),
            ),
        }
    }

    /// What stands before the reason.
    fn place(&self) -> String {
        let (peer, layer) = self.layer();
        match self {
            DialError::Connect { .. } => format!("{}TCP: no connection to ", peer.prefix()),
            DialError::Environment(_) => "proxy: ".to_owned(),
            DialError::Proxy { proxy, .. } => format!("proxy {proxy}: "),
            // It says so itself.
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

fn connect_reason(peer: Peer, attempts: &[(SocketAddr, io::Error)]) -> Reason {
    let said = list(attempts);
    if let Some(out) = attempts.iter().find_map(|(_, error)| OutOfFiles::of(error)) {
        return Reason::new(said, out.to_string(), out.remedy());
    }
    let refused = |(address, error): &(SocketAddr, io::Error)| {
        error.kind() == io::ErrorKind::ConnectionRefused
            && !matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    let from_nowhere = |(_, error): &(SocketAddr, io::Error)| {
        error
            .get_ref()
            .is_some_and(|inner| inner.is::<NoSuchPlace>())
    };
    if attempts.iter().any(from_nowhere) {
        let cause = "this machine has no such address or interface, or rePort may not use it";
        return Reason::new(said, cause, "correct `bind_address`");
    }
    let (cause, remedy) = match (attempts.iter().any(refused), peer) {
        (true, Peer::Master) => (
            "nobody listens there",
            "is the master running, and is the port right?",
        ),
        (true, Peer::Proxy) => (
            "nobody listens there",
            "is that the proxy's port in `proxy`?",
        ),
        (false, _) => (
            "the machine is down, or a firewall drops what is sent to it",
            "is the machine reachable, and does a firewall let the port through?",
        ),
    };
    Reason::new(said, cause, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_lack_of_descriptors_is_no_fault_of_the_path_or_the_name() {
        let error = || io::Error::from(rustix::io::Errno::MFILE);
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let failures = [
            DialError::Connect {
                peer: Peer::Master,
                attempts: vec![(address, error())],
            },
            DialError::Name {
                peer: Peer::Master,
                host: "a".to_owned(),
                reason: error().to_string(),
                out_of_files: OutOfFiles::of(&error()),
            },
        ];
        for failure in failures {
            let said = failure.to_string();
            assert!(
                said.contains("this process has as many open files as its limit of ")
                    && said.contains("`ulimit -n`"),
                "{said}"
            );
            assert!(
                !said.contains("firewall") && !said.contains("DNS"),
                "{said}"
            );
        }
    }
}
