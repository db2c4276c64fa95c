//! Tests of the admin address over real sockets.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{connection::HEADER_BYTES, *};
use crate::{
    metrics::{Degradation, MetricFamilies, OPENMETRICS, Sample},
    net::websocket::ByteStream,
};

/// A role that is ready on request.
#[derive(Default)]
struct TestRole {
    is_ready: AtomicBool,
    is_degraded: AtomicBool,
}

impl ObservedRole for TestRole {
    fn name(&self) -> &'static str {
        "client"
    }

    fn missing(&self) -> Vec<String> {
        if self.is_ready.load(Relaxed) {
            Vec::new()
        } else {
            vec!["no link to a master".to_owned()]
        }
    }

    fn degraded(&self) -> Vec<Degradation> {
        let degradation = Degradation {
            what: "the database is away".to_owned(),
            since: 1_800_000_000,
        };
        let is_degraded = self.is_degraded.load(Relaxed);
        is_degraded.then_some(degradation).into_iter().collect()
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        families.gauge_of_counts("report_things", "Things.", [Sample::of(3)])
    }
}

/// Starts an admin address at a free port, or at `path`.
fn start(listen_at: AdminAddress, role: &Arc<TestRole>) -> (Option<SocketAddr>, JoinSet<()>) {
    let listener = AdminListener::bind(&AdminConfig::new(listen_at)).expect("a free address");
    let address = listener.local_addr();
    let mut task = JoinSet::new();
    let service = AdminService::new(Arc::clone(role) as Arc<dyn ObservedRole>);
    task.spawn(listener.serve(service));
    (address, task)
}

fn any_port() -> AdminAddress {
    AdminAddress::Loopback(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Sends a request and returns the whole answer.
async fn exchange(mut stream: impl ByteStream, request: &str) -> String {
    let exchanged = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    timeout(Duration::from_secs(10), exchanged).await.unwrap()
}

async fn answer(address: SocketAddr, request: &str) -> String {
    exchange(TcpStream::connect(address).await.unwrap(), request).await
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[track_caller]
fn assert_status(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "not {status}: {answer}"
    );
}

#[tokio::test]
async fn metrics_and_health_are_served_and_nothing_else() {
    let (address, _task) = start(any_port(), &Arc::default());
    let address = address.expect("an address");
    let metrics = answer(address, &request("GET", "/metrics")).await;
    assert_status(&metrics, 200);
    assert!(metrics.contains(&format!("content-type: {OPENMETRICS}\r\n")));
    assert!(metrics.contains("\nreport_things 3\n") && metrics.ends_with("# EOF\n"));
    assert_status(&answer(address, &request("GET", "/livez")).await, 200);
    assert_status(&answer(address, &request("HEAD", "/livez")).await, 200);
    for path in ["/", "/metrics/", "/debug", "/livez/x"] {
        let missing = answer(address, &request("GET", path)).await;
        assert_status(&missing, 404);
        assert!(missing.contains("content-type: application/json\r\n"));
        assert!(missing.contains("{\"error\":"), "{missing}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/metrics", "/livez", "/readyz"] {
            let refused = answer(address, &request(method, path)).await;
            assert_status(&refused, 405);
            assert!(refused.contains("{\"error\":"), "{refused}");
        }
    }
}

#[tokio::test]
async fn readyz_names_what_is_missing() {
    let role = Arc::<TestRole>::default();
    let (address, _task) = start(any_port(), &role);
    let address = address.expect("an address");
    let refused = answer(address, &request("GET", "/readyz")).await;
    assert_status(&refused, 503);
    assert!(
        refused.ends_with(r#"{"missing":["no link to a master"],"ready":false}"#),
        "{refused}"
    );
    assert_status(&answer(address, &request("GET", "/livez")).await, 200);
    role.is_ready.store(true, Relaxed);
    let ready = answer(address, &request("GET", "/readyz")).await;
    assert_status(&ready, 200);
    assert!(ready.ends_with(r#"{"missing":[],"ready":true}"#), "{ready}");
}

#[tokio::test]
async fn readyz_of_a_degraded_role_is_200_and_says_since_when() {
    let role = Arc::<TestRole>::default();
    role.is_ready.store(true, Relaxed);
    role.is_degraded.store(true, Relaxed);
    let (address, _task) = start(any_port(), &role);
    let address = address.expect("an address");
    let degraded = answer(address, &request("GET", "/readyz")).await;
    assert_status(&degraded, 200);
    let expected = r#"{"degraded":[{"since":"2027-01-15T08:00:00Z","what":"the database is away"}],"missing":[],"ready":true}"#;
    assert!(degraded.ends_with(expected), "{degraded}");
}

#[tokio::test]
async fn a_request_for_another_host_is_refused_at_loopback() {
    let (address, _task) = start(any_port(), &Arc::default());
    let address = address.expect("an address");
    for host in ["rebound.example", "rebound.example:9300", "192.0.2.1"] {
        let refused = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_status(&answer(address, &refused).await, 403);
    }
    let absolute = "GET http://rebound.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_status(&answer(address, absolute).await, 403);
    let local = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n");
    assert_status(&answer(address, &local).await, 200);
}

#[tokio::test]
async fn a_request_with_a_body_or_a_long_head_is_refused() {
    let (address, _task) = start(any_port(), &Arc::default());
    let address = address.expect("an address");
    let body = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nxx";
    assert_status(&answer(address, body).await, 413);
    let long = "x".repeat(2 * HEADER_BYTES);
    let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: {long}\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The answer may arrive before all of the head is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
}

#[tokio::test]
async fn a_connection_without_a_place_waits_for_one() {
    let (address, _task) = start(any_port(), &Arc::default());
    let address = address.expect("an address");
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let request = request("GET", "/livez");
    let mut waiting = std::pin::pin!(answer(address, &request));
    let early = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "it waits in the backlog: {early:?}");
    silent.pop();
    assert_status(&waiting.await, 200);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_serves_every_host_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let (_, task) = start(AdminAddress::Unix(path.clone()), &Arc::default());
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let answer = exchange(stream, "GET /livez HTTP/1.1\r\nHost: anything\r\n\r\n").await;
    assert_status(&answer, 200);
    let error = AdminListener::bind(&AdminConfig::new(AdminAddress::Unix(path.clone())))
        .expect_err("in use");
    assert!(
        error.to_string().contains("another process listens there"),
        "{error}"
    );
    drop(task);
    let removed = async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), removed).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_without_its_folder_names_the_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let listen_at = AdminAddress::Unix(folder.path().join("missing/admin.sock"));
    let error = AdminListener::bind(&AdminConfig::new(listen_at)).expect_err("no folder");
    let text = error.to_string();
    assert!(text.contains("create the folder of the socket"), "{text}");
}
