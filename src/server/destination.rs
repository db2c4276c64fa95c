//! Connects to destinations that applications name, under the rules of the port. A name is resolved
//! once: the server dials only addresses that it has checked.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::allow_list::{AllowList, DestinationDenied};
use crate::{
    diagnosis::DiagnosisCode,
    net::{
        authority::with_port,
        connect::{ConnectError, connect_to, look_up},
        local_stream::LocalStream,
        resolve::NameError,
    },
    tunnel::{ResetCode, details::NamedTarget},
};

/// Why there is no connection to a destination.
#[derive(Debug, thiserror::Error)]
#[error("{destination}: {fault}")]
pub(super) struct DestinationError {
    /// The destination, printable.
    destination: String,
    pub(super) fault: DestinationFault,
}

/// A fault of a destination.
#[derive(Debug, thiserror::Error)]
pub(super) enum DestinationFault {
    /// The rules do not allow it.
    #[error(transparent)]
    Denied(#[from] DestinationDenied),
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl DestinationError {
    fn new(target: &NamedTarget, fault: impl Into<DestinationFault>) -> Self {
        let host = target.host.escape_debug().to_string();
        Self {
            destination: with_port(&host, target.port),
            fault: fault.into(),
        }
    }

    /// Returns the error of a client that named no destination.
    pub(super) fn unnamed() -> Self {
        Self {
            destination: "no destination".to_owned(),
            fault: DestinationDenied::Unnamed.into(),
        }
    }

    /// Returns the code of the failure.
    pub(super) fn code(&self) -> DiagnosisCode {
        match &self.fault {
            DestinationFault::Denied(_) => DiagnosisCode::DestinationDenied,
            DestinationFault::Connect(error) => error.code(),
        }
    }

    /// Returns the code with which the client's stream is reset.
    pub(super) fn wire_code(&self) -> ResetCode {
        match &self.fault {
            DestinationFault::Denied(_) => ResetCode::Denied,
            DestinationFault::Connect(ConnectError::Name { source, .. }) => match source {
                NameError::TimedOut => ResetCode::Timeout,
                _ => ResetCode::NotFound,
            },
            DestinationFault::Connect(error) => match error.code() {
                DiagnosisCode::ServiceTimeout => ResetCode::Timeout,
                DiagnosisCode::ServiceRefused => ResetCode::Refused,
                _ => ResetCode::Unreachable,
            },
        }
    }
}

/// Returns the addresses of a destination that the rules allow, at least one. Resolves a name before
/// the deadline.
///
/// # Errors
/// If no address is allowed, or the name has none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn allowed_addresses(
    rules: &AllowList,
    target: &NamedTarget,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, DestinationError> {
    let failed = |fault: DestinationFault| DestinationError::new(target, fault);
    let denied = |denied: DestinationDenied| failed(DestinationFault::Denied(denied));
    let known = rules.admit(target).map_err(denied)?;
    let addresses = match known.address {
        Some(address) => vec![SocketAddr::new(address, target.port)],
        None => look_up(&target.host, target.port, deadline)
            .await
            .map_err(|error| failed(error.into()))?,
    };
    rules.allowed(known, &addresses).map_err(denied)
}

/// Connects to a destination within `limit`, if the rules allow it.
///
/// # Errors
/// If the destination is not allowed, or there is no connection.
///
/// # Cancel safety
/// Dropping the future closes the connections made so far.
pub(super) async fn connect_named(
    rules: &AllowList,
    target: &NamedTarget,
    limit: Duration,
) -> Result<LocalStream, DestinationError> {
    let deadline = Instant::now() + limit;
    let addresses = allowed_addresses(rules, target, deadline).await?;
    let connected = connect_to(addresses, deadline).await;
    connected
        .map(LocalStream::Tcp)
        .map_err(|error| DestinationError::new(target, error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn rules(rules: &[&str]) -> AllowList {
        let rules = rules.iter().map(|rule| rule.parse().expect(rule));
        AllowList::new(rules.collect())
    }

    fn target(host: &str, port: u16) -> NamedTarget {
        NamedTarget {
            host: host.to_owned(),
            port,
        }
    }

    #[tokio::test]
    async fn a_name_and_an_address_that_are_allowed_are_reached() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        let rules = rules(&["localhost:*", "127.0.0.0/8:*"]);
        for host in ["127.0.0.1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"] {
            let connected = connect_named(&rules, &target(host, port), LONG).await;
            let mut stream = connected.unwrap_or_else(|error| panic!("{host}: {error}"));
            let (accepted, _) = service.accept().await.unwrap();
            drop(accepted);
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{host}");
        }
    }

    #[tokio::test]
    async fn a_destination_that_is_not_allowed_is_not_dialled() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        for (allowed, host) in [
            ("*:*", "127.0.0.1"),
            ("*:*", "localhost"),
            ("localhost:*", "localhost"),
            ("*:*", "127.1"),
            ("127.0.0.0/8:1", "127.0.0.1"),
        ] {
            let error = connect_named(&rules(&[allowed]), &target(host, port), LONG)
                .await
                .expect_err(host);
            assert_eq!(error.wire_code(), ResetCode::Denied, "{error}");
            assert_eq!(error.code(), DiagnosisCode::DestinationDenied);
            assert!(error.to_string().contains(host), "{error}");
        }
        let accepted = tokio::time::timeout(Duration::ZERO, service.accept()).await;
        assert!(accepted.is_err(), "no connection reached the service");
    }

    #[tokio::test]
    async fn an_unknown_name_and_a_refusal_have_codes_of_their_own() {
        let rules = rules(&["*:*", "127.0.0.1:*"]);
        let unknown = target("no-such-host.invalid", 80);
        let error = connect_named(&rules, &unknown, LONG).await.unwrap_err();
        assert_eq!(error.wire_code(), ResetCode::NotFound, "{error}");
        // Bound, and without a listener.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let refusing = target("127.0.0.1", port);
        let error = connect_named(&rules, &refusing, LONG).await.unwrap_err();
        assert_eq!(error.wire_code(), ResetCode::Refused, "{error}");
    }

    #[test]
    fn every_failure_has_its_code_on_the_wire() {
        let name = |source| {
            let host = "nas.lan".to_owned();
            DestinationError::new(&target("nas.lan", 80), ConnectError::Name { host, source })
        };
        assert_eq!(name(NameError::TimedOut).wire_code(), ResetCode::Timeout);
        assert_eq!(name(NameError::NoAddress).wire_code(), ResetCode::NotFound);
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        for (kind, code) in [
            (io::ErrorKind::TimedOut, ResetCode::Timeout),
            (io::ErrorKind::NetworkUnreachable, ResetCode::Unreachable),
        ] {
            let fault = io::Error::from(kind).into();
            let error = ConnectError::Addresses(vec![(address, fault)]);
            let error = DestinationError::new(&target("192.0.2.1", 80), error);
            assert_eq!(error.wire_code(), code, "{error}");
        }
        assert_eq!(DestinationError::unnamed().wire_code(), ResetCode::Denied);
    }

    #[test]
    fn errors_show_the_host_in_printable_form() {
        let error =
            DestinationError::new(&target("a\u{202e}b", 80), DestinationDenied::InvalidHost);
        let shown = error.to_string();
        assert!(shown.starts_with("a\\u{202e}b:80: its host"), "{shown}");
        let v6 = DestinationError::new(&target("2001:db8::1", 80), DestinationDenied::NotListed);
        assert!(v6.to_string().starts_with("[2001:db8::1]:80: no rule"));
    }
}
