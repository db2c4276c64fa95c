//! Dial errors: the layer that failed, the evidence, the likely cause and the remedy.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    request::{HeadersFileError, HeadersFileProblem},
    step::{DialPeer, DialStep},
    tls_problem::TlsProblem,
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        address::MasterAddress,
        connect_error::{ConnectFault, list_attempts},
        proxy::{ProxyAddress, ProxyError, environment::EnvironmentError},
        resolve::NameError,
        tls::TlsError,
        upgrade::UpgradeError,
    },
};

/// Why a dial failed. Prints as one line: the layer, the evidence, the likely cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.context(), self.diagnosis())]
pub enum DialError {
    /// The host name does not resolve.
    Name {
        /// The owner of the name.
        peer: DialPeer,
        /// The name.
        host: String,
        /// The reason.
        source: NameError,
    },
    /// None of the host's addresses accepts a connection.
    Connect {
        /// The peer that was dialled.
        peer: DialPeer,
        /// The addresses that were tried, with the fault of each.
        attempts: Vec<(SocketAddr, ConnectFault)>,
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
        problem: HeadersFileProblem,
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
        /// The step that had not finished.
        step: DialStep,
        /// The peer of that step.
        peer: DialPeer,
        /// The address of that peer.
        peer_address: String,
        /// The deadline of the whole dial.
        after: Duration,
    },
}

impl From<HeadersFileError> for DialError {
    fn from(HeadersFileError { path, problem }: HeadersFileError) -> Self {
        DialError::HeadersFile { path, problem }
    }
}

impl DialError {
    /// Returns the peer and the step that failed.
    #[must_use]
    pub fn step(&self) -> (DialPeer, DialStep) {
        match self {
            DialError::Name { peer, .. } => (*peer, DialStep::Name),
            DialError::Connect { peer, .. } => (*peer, DialStep::Tcp),
            DialError::Environment(_) | DialError::Proxy { .. } => {
                (DialPeer::Proxy, DialStep::Proxy)
            }
            DialError::Authorities(_) => (DialPeer::Proxy, DialStep::Tls),
            DialError::HeadersFile { .. } | DialError::Upgrade { .. } => {
                (DialPeer::Master, DialStep::Http)
            }
            DialError::Tls { peer, .. } => (*peer, DialStep::Tls),
            DialError::Deadline { peer, step, .. } => (*peer, *step),
        }
    }

    /// Returns how long the master, or a gateway or proxy on the path, asks to wait before the next
    /// attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            DialError::Upgrade {
                source: UpgradeError::Refused(refusal),
                ..
            } => refusal.retry_after,
            DialError::Proxy {
                source: ProxyError::Refused { retry_after, .. },
                ..
            } => *retry_after,
            _ => None,
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            DialError::Name { peer, host, source } => name_diagnosis(*peer, host, source),
            DialError::Connect { peer, attempts } => connect_diagnosis(*peer, attempts),
            DialError::Environment(error) => Diagnosis::new(
                DiagnosisCode::ProxyEnvironmentInvalid,
                error.to_string(),
                "",
                "correct it, or set `proxy` in the configuration",
            ),
            DialError::Proxy { source, .. } => source.diagnosis(),
            DialError::Authorities(error) => {
                error.diagnosis("set `tls.ca` to a PEM file with authorities")
            }
            DialError::HeadersFile { path, problem } => Diagnosis::new(
                DiagnosisCode::HeadersFileUnusable,
                format!("the headers file {} {problem}", path.display()),
                "",
                "correct the file that `headers_file` names",
            ),
            DialError::Tls { peer, problem, .. } => problem.diagnosis(*peer),
            DialError::Upgrade { source, .. } => source.diagnosis(),
            DialError::Deadline {
                step,
                peer_address,
                after,
                ..
            } => deadline_diagnosis(*step, peer_address, *after),
        }
    }

    /// Returns the part of the message that precedes the diagnosis.
    fn context(&self) -> String {
        let (peer, step) = self.step();
        match self {
            DialError::Connect { .. } => format!("{}TCP: no connection to ", peer.prefix()),
            DialError::Environment(_) => "proxy: ".to_owned(),
            DialError::Proxy { proxy, .. } => format!("proxy {proxy}: "),
            // The error's own text begins with "TLS".
            DialError::Authorities(_) => "proxy's ".to_owned(),
            DialError::Tls { host, .. } => format!("{}TLS with `{host}`: ", peer.prefix()),
            DialError::Upgrade { address, .. } => format!("HTTP with {address}: "),
            DialError::Deadline {
                step: DialStep::Proxy,
                ..
            } => "proxy: ".to_owned(),
            DialError::Name { .. } | DialError::HeadersFile { .. } | DialError::Deadline { .. } => {
                format!("{}{step}: ", peer.prefix())
            }
        }
    }
}

fn name_diagnosis(peer: DialPeer, host: &str, source: &NameError) -> Diagnosis {
    if let NameError::OutOfFiles { out, .. } = source {
        return Diagnosis::new(
            source.code(),
            format!("`{host}` cannot be looked up ({source})"),
            out.to_string(),
            out.remedy(),
        );
    }
    Diagnosis::new(
        source.code(),
        format!("`{host}` does not resolve ({source})"),
        "the name is wrong, or this network's DNS server does not know it or is unreachable",
        format!("check the host in `{}` and the DNS server", peer.field()),
    )
}

/// Diagnoses the most telling fault. A fault on this machine ranks above a refusal, and a refusal
/// above a timeout.
fn connect_diagnosis(peer: DialPeer, attempts: &[(SocketAddr, ConnectFault)]) -> Diagnosis {
    let tried = list_attempts(attempts);
    let mut faults = attempts.iter().map(|(_, fault)| fault);
    let local = |fault: &ConnectFault| {
        let remedy = fault.local_remedy()?;
        Some((fault.code(), fault.cause(), remedy))
    };
    if let Some((code, cause, remedy)) = faults.clone().find_map(local) {
        return Diagnosis::new(code, tried, cause, remedy);
    }
    // 0.0.0.0 is the address of no host: a filter of names answers with it.
    let is_refused = |(address, fault): &(SocketAddr, ConnectFault)| {
        matches!(fault, ConnectFault::Refused)
            && !matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    if attempts.iter().any(is_refused) {
        let remedy = match peer {
            DialPeer::Master => "check that the master is running, and the port in `master`",
            DialPeer::Proxy => "check the port in `proxy`",
        };
        let fault = ConnectFault::Refused;
        return Diagnosis::new(fault.code(), tried, fault.cause(), remedy);
    }
    let code = if faults.any(|fault| matches!(fault, ConnectFault::NoAnswer)) {
        DiagnosisCode::TcpTimeout
    } else {
        DiagnosisCode::TcpUnreachable
    };
    Diagnosis::new(
        code,
        tried,
        ConnectFault::NoAnswer.cause(),
        "check that the host is reachable and that no firewall blocks the port",
    )
}

fn deadline_diagnosis(step: DialStep, peer_address: &str, after: Duration) -> Diagnosis {
    let (code, remedy) = match step {
        DialStep::Name => (DiagnosisCode::NameTimeout, "check the DNS server"),
        DialStep::Tcp => (
            DiagnosisCode::TcpTimeout,
            "check that the host is reachable and that no firewall blocks the port",
        ),
        DialStep::Tls => (DiagnosisCode::TlsTimeout, "check that the port speaks TLS"),
        DialStep::Proxy => (
            DiagnosisCode::ProxyTimeout,
            "check the scheme in `proxy`, and that the proxy can reach the master",
        ),
        DialStep::Http => (
            DiagnosisCode::HttpTimeout,
            "check that the port speaks HTTP, without TLS if `master` begins with ws://",
        ),
    };
    Diagnosis::new(
        code,
        format!(
            "{peer_address} did not answer within {} s",
            after.as_secs_f32()
        ),
        "the host is down or far away, or a firewall drops its traffic",
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::net::file_limit::OutOfFiles;

    #[test]
    fn deadline_names_its_step() {
        for (step, code) in [
            (DialStep::Name, DiagnosisCode::NameTimeout),
            (DialStep::Tcp, DiagnosisCode::TcpTimeout),
            (DialStep::Proxy, DiagnosisCode::ProxyTimeout),
            (DialStep::Tls, DiagnosisCode::TlsTimeout),
            (DialStep::Http, DiagnosisCode::HttpTimeout),
        ] {
            let error = DialError::Deadline {
                step,
                peer: DialPeer::Master,
                peer_address: "a:1".to_owned(),
                after: Duration::from_secs(15),
            };
            assert_eq!(error.diagnosis().code, code, "{error}");
            assert_eq!(error.step(), (DialPeer::Master, step));
        }
    }

    #[test]
    fn the_most_telling_fault_is_diagnosed() {
        use ConnectFault::{NoAnswer, Other, Refused};
        let unreachable = || Other(io::ErrorKind::NetworkUnreachable.into());
        let bind = || ConnectFault::Bind {
            from: "192.0.2.1".to_owned(),
            error: io::ErrorKind::AddrNotAvailable.into(),
        };
        let host = SocketAddr::from(([192, 0, 2, 1], 443));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 443));
        for (attempts, code) in [
            (
                vec![(host, NoAnswer), (host, Refused)],
                DiagnosisCode::TcpRefused,
            ),
            (
                vec![(host, unreachable()), (host, NoAnswer)],
                DiagnosisCode::TcpTimeout,
            ),
            (vec![(host, unreachable())], DiagnosisCode::TcpUnreachable),
            (vec![(nowhere, Refused)], DiagnosisCode::TcpUnreachable),
            (
                vec![(host, Refused), (host, bind())],
                DiagnosisCode::BindFailed,
            ),
        ] {
            let peer = DialPeer::Master;
            let error = DialError::Connect { peer, attempts };
            assert_eq!(error.diagnosis().code, code, "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn descriptor_shortage_does_not_blame_the_network() {
        let error = || io::Error::from(rustix::io::Errno::MFILE);
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let failures = [
            DialError::Connect {
                peer: DialPeer::Master,
                attempts: vec![(address, error().into())],
            },
            DialError::Name {
                peer: DialPeer::Master,
                host: "a".to_owned(),
                source: NameError::OutOfFiles {
                    out: OutOfFiles::of(&error()).unwrap(),
                    error: error(),
                },
            },
        ];
        for failure in failures {
            assert_eq!(failure.diagnosis().code, DiagnosisCode::OutOfFiles);
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
