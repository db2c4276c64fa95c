//! Tests of connections to the addresses of a service, over real sockets.

use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::{config::PortRange, diagnosis::DiagnosisCode, tunnel::tests::plain_port};

/// Far longer than any of these tests takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The backlog of a listener.
const BACKLOG: u32 = 1024;

fn target(address: SocketAddr) -> Target {
    address.to_string().parse().unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns an address that refuses connections until the socket listens.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn any_of<const N: usize>(addresses: [SocketAddr; N], choice: TargetChoice) -> ServiceTargets {
    ServiceTargets::any_of(addresses.map(target).to_vec(), choice, None)
}

/// Connects, and returns the address that was reached.
async fn reached(service: &ServiceTargets, offset: u16) -> Result<SocketAddr, ConnectError> {
    let stream = service.connect(offset, LIMIT).await?;
    Ok(stream.tcp().unwrap().peer_addr().unwrap())
}

#[tokio::test]
async fn a_target_that_refuses_datagrams_is_the_last_choice_until_it_answers() {
    let addresses = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
    let service = any_of(addresses, TargetChoice::Ordered);
    let [first, second] = addresses.map(target);
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    service.on_refused(&first, addresses[0], refused);
    assert_eq!(service.candidates(0), [second.clone(), first.clone()]);
    let reports = service.reports();
    assert_eq!((reports[0].is_healthy, reports[0].failures), (false, 1));
    assert!(reports[1].is_healthy);
    service.on_answered(&first);
    assert_eq!(service.candidates(0), [first, second]);
    assert!(service.reports().iter().all(|report| report.is_healthy));
}

#[tokio::test]
async fn a_connection_goes_to_the_next_target_if_one_refuses_it() {
    let (_socket, down) = refusing();
    let (_listener, up) = listen().await;
    let service = any_of([down, up], TargetChoice::Ordered);
    for _ in 0..3 {
        assert_eq!(reached(&service, 0).await.unwrap(), up);
    }
    let report = |address: SocketAddr, is_healthy, failures| TargetReport {
        target: address.to_string(),
        is_healthy,
        failures,
    };
    // The later connections did not try the first target.
    assert_eq!(
        service.reports(),
        [report(down, false, 1), report(up, true, 0)]
    );
    assert_eq!(service.to_string(), format!("{down}, {up}"));
}

#[tokio::test]
async fn spread_connections_go_to_the_targets_in_turn() {
    let (_first, one) = listen().await;
    let (_second, two) = listen().await;
    let service = any_of([one, two], TargetChoice::Spread);
    for expected in [one, two, one, two] {
        assert_eq!(reached(&service, 0).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn the_error_names_each_target_that_refused() {
    let ((_first, one), (_second, two)) = (refusing(), refusing());
    let service = any_of([one, two], TargetChoice::Ordered);
    // Targets that are avoided are tried if there are no others.
    for _ in 0..2 {
        let error = reached(&service, 0).await.unwrap_err();
        assert_eq!(error.code(), DiagnosisCode::ServiceRefused);
        let text = error.to_string();
        assert!(
            text.contains(&one.to_string()) && text.contains(&two.to_string()),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_target_that_listens_again_is_used_when_all_others_refuse() {
    let ((socket, one), (_second, two)) = (refusing(), refusing());
    let service = any_of([one, two], TargetChoice::Ordered);
    reached(&service, 0).await.unwrap_err();
    let _listener = socket.listen(BACKLOG).unwrap();
    assert_eq!(reached(&service, 0).await.unwrap(), one);
    assert!(service.reports()[0].is_healthy);
}

#[tokio::test]
async fn all_addresses_of_a_target_are_dialled() {
    let (_listener, address) = listen().await;
    // The name usually has an IPv6 address too, at which no program listens.
    let name: Target = format!("localhost:{}", address.port()).parse().unwrap();
    let service = ServiceTargets::any_of(vec![name], TargetChoice::Ordered, None);
    assert_eq!(reached(&service, 0).await.unwrap(), address);
}

#[tokio::test]
async fn the_number_of_a_stream_selects_the_port_of_a_range() {
    let (_listener, address) = listen().await;
    let range = PortRange {
        host: "127.0.0.1".to_owned(),
        first: address.port() - 1,
        last: address.port(),
    };
    let service = ServiceTargets::at(&LocalAddress::Range(range));
    assert_eq!(reached(&service, 1).await.unwrap(), address);
    let error = reached(&service, 2).await.unwrap_err();
    assert_eq!(error.to_string(), "the port has no such address");
    assert_eq!(
        service.to_string(),
        format!("127.0.0.1:{}-{}", address.port() - 1, address.port())
    );
    assert!(service.reports().is_empty());
}

/// Returns the targets of a port.
fn targets_of(port: &ServerPort) -> &ServiceTargets {
    match &port.service {
        Service::Targets(targets) => targets,
        Service::Destinations(_) => panic!("a port with targets"),
    }
}

/// Waits until the first target of the port has this health.
async fn wait_for_health(port: &ServerPort, is_healthy: bool) {
    let changed = async {
        while targets_of(port).reports()[0].is_healthy != is_healthy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, changed).await.unwrap();
}

#[tokio::test]
async fn checks_notice_a_target_that_is_down_and_one_that_is_up_again_until_they_are_stopped() {
    let (socket, down) = refusing();
    let (_listener, up) = listen().await;
    let check = r#"{"interval": "100ms", "timeout": "100ms", "unhealthy_after": 1}"#;
    let check = serde_json::from_str(check).unwrap();
    let targets = vec![target(down), target(up)];
    let port = Arc::new(ServerPort {
        port: plain_port(),
        service: ServiceTargets::any_of(targets, TargetChoice::Ordered, Some(check)).into(),
        proxy_protocol: false,
    });
    let (tasks, until) = (TaskTracker::new(), CancellationToken::new());
    start_health_checks(&port, &tasks, until.clone());
    wait_for_health(&port, false).await;
    assert_eq!(reached(targets_of(&port), 0).await.unwrap(), up);
    assert_eq!(
        targets_of(&port).reports()[0].failures,
        0,
        "no connection tried it"
    );
    let _again = socket.listen(BACKLOG).unwrap();
    wait_for_health(&port, true).await;
    assert_eq!(reached(targets_of(&port), 0).await.unwrap(), down);
    until.cancel();
    tasks.close();
    tokio::time::timeout(LIMIT, tasks.wait()).await.unwrap();
    assert_eq!(Arc::strong_count(&port), 1);
}

#[tokio::test]
async fn ports_without_a_health_check_start_no_task() {
    let (_listener, address) = listen().await;
    for service in [
        ServiceTargets::from(target(address)),
        any_of([address], TargetChoice::Spread),
    ] {
        let port = Arc::new(ServerPort {
            port: plain_port(),
            service: service.into(),
            proxy_protocol: false,
        });
        let tasks = TaskTracker::new();
        start_health_checks(&port, &tasks, CancellationToken::new());
        assert!(tasks.is_empty());
    }
}
