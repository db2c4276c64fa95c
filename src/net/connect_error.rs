//! Why there is no connection to a host: the fault of each address that was tried.

use std::{borrow::Cow, fmt, io, net::SocketAddr};

use super::{file_limit::OutOfFiles, name_error::NameError};
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// Why there is no connection to a host. Prints as one line: the evidence and, if known, the
/// remedy.
#[derive(Debug)]
pub enum ConnectError {
    /// The name does not resolve, or has no address.
    Name {
        /// The name.
        host: String,
        /// The resolver's error.
        source: NameError,
    },
    /// None of the addresses accepts a connection.
    Addresses(Attempts),
    /// The unix socket does not accept a connection.
    Socket {
        /// The socket, as the configuration writes it.
        socket: String,
        /// The reason.
        fault: SocketFault,
    },
    /// None of several targets accepts a connection: the error of each that was tried.
    Targets(Vec<ConnectError>),
    /// There is no free file descriptor.
    OutOfFiles(OutOfFiles),
}

/// Why a unix socket does not accept a connection.
#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    /// No program listens there any more.
    #[error("refused")]
    Refused,
    /// No program has created it.
    #[error("there is no such file")]
    Missing,
    /// Another file is there.
    #[error("it is not a socket")]
    NotASocket,
    /// The mode or the owner of the socket, or of a folder, excludes this process.
    #[error("permission denied")]
    Denied,
    /// The program that listens there accepts no more connections.
    #[error("no answer")]
    NoAnswer,
    /// The system reports another error.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for SocketFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => SocketFault::Refused,
            io::ErrorKind::NotFound => SocketFault::Missing,
            io::ErrorKind::PermissionDenied => SocketFault::Denied,
            io::ErrorKind::TimedOut => SocketFault::NoAnswer,
            _ => SocketFault::Other(error),
        }
    }
}

impl SocketFault {
    fn code(&self) -> DiagnosisCode {
        match self {
            SocketFault::Refused | SocketFault::Missing => DiagnosisCode::ServiceRefused,
            SocketFault::NoAnswer => DiagnosisCode::ServiceTimeout,
            SocketFault::NotASocket | SocketFault::Denied | SocketFault::Other(_) => {
                DiagnosisCode::ServiceUnreachable
            }
        }
    }

    /// Returns the likely cause and the remedy.
    fn advice(&self) -> (&'static str, &'static str) {
        match self {
            SocketFault::Refused | SocketFault::Missing => (
                "no program listens there",
                "start the service, or correct the port's `local_address`",
            ),
            SocketFault::NotASocket => (
                "the path leads to another file",
                "correct the port's `local_address`",
            ),
            SocketFault::Denied => (
                "the mode of the socket or of a folder above it excludes the user of rePort",
                "give the user of rePort the right to write the socket, for example through its group",
            ),
            SocketFault::NoAnswer => (
                "the service is overloaded or stopped, and its backlog is full",
                "check the service",
            ),
            SocketFault::Other(_) => (
                "the socket does not accept streams",
                "correct the port's `local_address`",
            ),
        }
    }
}

/// The addresses that were tried, with the fault of each.
pub type Attempts = Vec<(SocketAddr, ConnectFault)>;

/// Why one address does not accept a connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFault {
    /// No program listens there, or a firewall refuses.
    #[error("refused")]
    Refused,
    /// There was no answer in time.
    #[error("no answer")]
    NoAnswer,
    /// The socket could not be bound to the configured local end.
    #[error("cannot bind to {from}: {error}")]
    Bind {
        /// The configured address or interface.
        from: String,
        /// The system's error.
        error: io::Error,
    },
    /// There is no free file descriptor.
    #[error("{error}")]
    OutOfFiles {
        /// The exhausted limit.
        out: OutOfFiles,
        /// The system's error.
        error: io::Error,
    },
    /// The system reports another error.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for ConnectFault {
    fn from(error: io::Error) -> Self {
        if let Some(out) = OutOfFiles::of(&error) {
            return ConnectFault::OutOfFiles { out, error };
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFault::Refused,
            io::ErrorKind::TimedOut => ConnectFault::NoAnswer,
            _ => ConnectFault::Other(error),
        }
    }
}

impl ConnectFault {
    /// Returns the exhausted limit, if that is the fault.
    #[must_use]
    pub fn out_of_files(&self) -> Option<OutOfFiles> {
        match self {
            ConnectFault::OutOfFiles { out, .. } => Some(*out),
            _ => None,
        }
    }

    /// Returns the likely cause.
    #[must_use]
    pub fn cause(&self) -> Cow<'static, str> {
        match self {
            ConnectFault::Refused => "no program listens there".into(),
            ConnectFault::Bind { .. } => {
                "this machine has no such address or interface, or rePort may not use it".into()
            }
            ConnectFault::OutOfFiles { out, .. } => out.to_string().into(),
            ConnectFault::NoAnswer | ConnectFault::Other(_) => {
                "the machine is down, or a firewall drops its packets".into()
            }
        }
    }

    /// Returns the remedy of a fault on this machine, or `None` for one of the path or the peer.
    #[must_use]
    pub fn local_remedy(&self) -> Option<&'static str> {
        match self {
            ConnectFault::Bind { .. } => Some("correct `bind_address`"),
            ConnectFault::OutOfFiles { out, .. } => Some(out.remedy()),
            ConnectFault::Refused | ConnectFault::NoAnswer | ConnectFault::Other(_) => None,
        }
    }

    /// Returns the code for dialling a master or a proxy.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            ConnectFault::Refused => DiagnosisCode::TcpRefused,
            ConnectFault::NoAnswer => DiagnosisCode::TcpTimeout,
            ConnectFault::Bind { .. } => DiagnosisCode::BindFailed,
            ConnectFault::OutOfFiles { .. } => DiagnosisCode::OutOfFiles,
            ConnectFault::Other(_) => DiagnosisCode::TcpUnreachable,
        }
    }
}

impl ConnectError {
    /// Returns the code of the most telling fault. A refusal ranks above a timeout, and a timeout
    /// above a local obstacle such as missing IPv6.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            ConnectError::OutOfFiles(_) => DiagnosisCode::OutOfFiles,
            ConnectError::Name { .. } => DiagnosisCode::ServiceNameFailed,
            ConnectError::Socket { fault, .. } => fault.code(),
            ConnectError::Addresses(attempts) => {
                most_telling(attempts.iter().map(|(_, fault)| match fault {
                    ConnectFault::Refused => DiagnosisCode::ServiceRefused,
                    ConnectFault::NoAnswer => DiagnosisCode::ServiceTimeout,
                    ConnectFault::Bind { .. }
                    | ConnectFault::OutOfFiles { .. }
                    | ConnectFault::Other(_) => DiagnosisCode::ServiceUnreachable,
                }))
            }
            ConnectError::Targets(errors) => most_telling(errors.iter().map(ConnectError::code)),
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let code = self.code();
        if let ConnectError::OutOfFiles(out) = self {
            return Diagnosis::new(code, out.to_string(), "", out.remedy());
        }
        if let ConnectError::Socket { fault, .. } = self {
            let (cause, remedy) = fault.advice();
            return Diagnosis::new(code, self.to_string(), cause, remedy);
        }
        let cause = match code {
            DiagnosisCode::ServiceNameFailed => {
                "the name is wrong, or the DNS server does not know it or is unreachable"
            }
            DiagnosisCode::ServiceRefused => "no program listens there",
            DiagnosisCode::ServiceTimeout => "its host is down, or a firewall drops the packets",
            _ => "there is no route to it",
        };
        let remedy = match self {
            ConnectError::Targets(_) => "start the service, or correct the port's `targets`",
            _ => "start the service, or correct the port's `local_address`",
        };
        Diagnosis::new(code, self.to_string(), cause, remedy)
    }
}

/// Returns the code that says most about a service.
fn most_telling(codes: impl Iterator<Item = DiagnosisCode>) -> DiagnosisCode {
    let rank = |code: &DiagnosisCode| match code {
        DiagnosisCode::ServiceRefused => 0,
        DiagnosisCode::ServiceTimeout => 1,
        DiagnosisCode::ServiceNameFailed => 2,
        _ => 3,
    };
    let first = codes.min_by_key(rank);
    first.unwrap_or(DiagnosisCode::ServiceUnreachable)
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Name {
                host,
                source: NameError::TimedOut,
            } => {
                write!(
                    formatter,
                    "`{host}` was not resolved in time; check the DNS server"
                )
            }
            ConnectError::Name { host, source } => {
                write!(formatter, "`{host}` does not resolve ({source})")
            }
            ConnectError::Addresses(attempts) => {
                write!(formatter, "no connection to {}", list_attempts(attempts))
            }
            ConnectError::Socket { socket, fault } => {
                write!(formatter, "no connection to {socket} ({fault})")
            }
            ConnectError::Targets(errors) if errors.is_empty() => {
                formatter.write_str("the port has no such address")
            }
            ConnectError::Targets(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                formatter.write_str(&errors.join("; "))
            }
            ConnectError::OutOfFiles(out) => write!(formatter, "{out}; {}", out.remedy()),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Lists the addresses that were tried, with the fault of each.
pub(super) fn list_attempts(attempts: &[(SocketAddr, ConnectFault)]) -> String {
    let described: Vec<String> = attempts
        .iter()
        .map(|(address, fault)| format!("{address} ({fault})"))
        .collect();
    described.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_obstacle_ranks_last() {
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let of = |kinds: &[io::ErrorKind]| {
            let fault = |kind: &io::ErrorKind| ConnectFault::from(io::Error::from(*kind));
            ConnectError::Addresses(kinds.iter().map(|kind| (address, fault(kind))).collect())
                .code()
        };
        use io::ErrorKind::{ConnectionRefused, NetworkUnreachable, TimedOut};
        assert_eq!(
            of(&[NetworkUnreachable, TimedOut]),
            DiagnosisCode::ServiceTimeout
        );
        assert_eq!(
            of(&[NetworkUnreachable, TimedOut, ConnectionRefused]),
            DiagnosisCode::ServiceRefused
        );
        assert_eq!(of(&[NetworkUnreachable]), DiagnosisCode::ServiceUnreachable);
    }

    #[test]
    fn the_error_of_several_targets_lists_all_and_has_the_most_telling_code() {
        let refused = |port| {
            let address = SocketAddr::from(([192, 0, 2, 1], port));
            ConnectError::Addresses(vec![(address, ConnectFault::Refused)])
        };
        let missing = || ConnectError::Name {
            host: "nas.lan".to_owned(),
            source: NameError::TimedOut,
        };
        let error = ConnectError::Targets(vec![missing(), refused(80), refused(81)]);
        assert_eq!(
            error.to_string(),
            "`nas.lan` was not resolved in time; check the DNS server; no connection to \
             192.0.2.1:80 (refused); no connection to 192.0.2.1:81 (refused)"
        );
        assert_eq!(error.code(), DiagnosisCode::ServiceRefused);
        assert!(error.diagnosis().remedy.contains("`targets`"));
        let error = ConnectError::Targets(vec![missing()]);
        assert_eq!(error.code(), DiagnosisCode::ServiceNameFailed);
        let none = ConnectError::Targets(Vec::new());
        assert_eq!(none.code(), DiagnosisCode::ServiceUnreachable);
        assert_eq!(none.to_string(), "the port has no such address");
    }
}
