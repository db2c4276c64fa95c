//! The checks of the local services of a server: whether they accept connections.

use std::time::Duration;

use tokio::time::Instant;

use super::{DoctorReport, DoctorStep, SubjectPort};
use crate::{
    server::connect_target,
    tunnel::{PortParameters, ServiceProtocol},
};

/// Returns why no connection can show whether the service of a port works, if that is so.
pub(super) fn unchecked_because(port: &PortParameters) -> Option<&'static str> {
    match port.protocol {
        ServiceProtocol::Tcp | ServiceProtocol::Both => None,
        ServiceProtocol::Udp => {
            Some("not checked: a service that receives datagrams accepts no connections")
        }
        ServiceProtocol::Socks5 => Some("not checked: the applications name the destinations"),
    }
}

/// Connects to the local services of a port, like the server does for each stream. One of several
/// that refuses is a warning, because the server uses another.
pub(super) async fn run(
    SubjectPort { port, services }: &SubjectPort,
    limit: Duration,
    report: &mut DoctorReport<'_>,
) {
    let mark = port.mark.to_string();
    if let Some(why) = unchecked_because(port) {
        return report.record(DoctorStep::skipped("service", mark, why));
    }
    let place = match port.range {
        0 | 1 => String::new(),
        range => format!(" (the first of {range} ports)"),
    };
    let mut failures = Vec::new();
    for target in services {
        let started = Instant::now();
        let dialled = connect_target(target, limit).await;
        let took = started.elapsed();
        match dialled {
            Ok(_) => {
                let evidence = format!("{target} accepts connections{place}");
                report.record(DoctorStep::ok("service", &mark, took, evidence));
            }
            Err(error) => {
                let diagnosis = error.diagnosis();
                let evidence = format!("{}{place}", diagnosis.evidence);
                failures.push((took, diagnosis.with_evidence(evidence)));
            }
        }
    }
    let all_failed = failures.len() == services.len();
    for (took, diagnosis) in failures {
        report.record(if all_failed {
            DoctorStep::failed("service", &mark, took, diagnosis)
        } else {
            DoctorStep::warning("service", &mark, took, diagnosis)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::{
        config::{LocalAddress, Target},
        diagnosis::DiagnosisCode,
        doctor::StepOutcome,
        tunnel::tests::plain_port,
    };

    const LIMIT: Duration = Duration::from_secs(10);

    /// Returns the steps of a port with these services.
    async fn steps(port: PortParameters, services: Vec<Target>) -> Vec<DoctorStep> {
        let mut report = DoctorReport::new(|_| {}, |_| {});
        run(&SubjectPort { port, services }, LIMIT, &mut report).await;
        report.steps().to_vec()
    }

    fn target(address: SocketAddr) -> Target {
        address.to_string().parse().expect("an address")
    }

    /// An address that refuses connections while the socket lives.
    fn refusing() -> (TcpSocket, Target) {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("bound");
        let address = socket.local_addr().expect("its address");
        (socket, target(address))
    }

    #[tokio::test]
    async fn one_of_several_targets_that_refuses_is_a_warning() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let up = target(listener.local_addr().expect("its address"));
        let (_socket, down) = refusing();
        let found = steps(plain_port(), vec![down.clone(), up.clone()]).await;
        let outcomes: Vec<_> = found.iter().map(|step| (step.outcome, step.code)).collect();
        assert_eq!(
            outcomes,
            [
                (StepOutcome::Ok, None),
                (StepOutcome::Warning, Some(DiagnosisCode::ServiceRefused)),
            ]
        );
        assert_eq!(found[0].evidence, format!("{up} accepts connections"));
        assert!(found[1].evidence.contains(&down.to_string()), "{found:?}");
        let found = steps(plain_port(), vec![down]).await;
        assert_eq!(found[0].outcome, StepOutcome::Failed, "{found:?}");
    }

    #[tokio::test]
    async fn the_first_port_of_a_range_is_checked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let up = target(listener.local_addr().expect("its address"));
        let port = PortParameters {
            range: 11,
            ..plain_port()
        };
        let (_socket, down) = refusing();
        for (service, outcome) in [(up, StepOutcome::Ok), (down, StepOutcome::Failed)] {
            let found = steps(port.clone(), vec![service]).await;
            assert_eq!(found[0].outcome, outcome, "{found:?}");
            assert!(
                found[0].evidence.ends_with("(the first of 11 ports)"),
                "{found:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_service_without_connections_is_not_dialled() {
        let address: LocalAddress = "127.0.0.1:1".parse().expect("an address");
        for (protocol, says) in [
            (ServiceProtocol::Udp, "datagrams"),
            (ServiceProtocol::Socks5, "applications"),
        ] {
            let port = PortParameters {
                protocol,
                ..plain_port()
            };
            let services = address.at(0).into_iter().collect();
            let found = steps(port, services).await;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].outcome, StepOutcome::Skipped);
            assert!(found[0].evidence.contains(says), "{found:?}");
        }
    }
}
