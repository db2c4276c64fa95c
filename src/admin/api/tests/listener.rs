//! Tests of the API at a listener: origins, and addresses that other machines can reach.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::*;
use crate::{
    admin::{AdminError, AdminListener, AdminService},
    config::{AdminAddress, AdminConfig},
    metrics::{ObservedRole, RoleObserver},
};

fn service(testbed: &Testbed) -> AdminService {
    let role: Arc<dyn ObservedRole> = Arc::new(RoleObserver::new("master"));
    AdminService {
        role,
        api: Some(Arc::clone(&testbed.api)),
    }
}

fn listener(address: fn(std::net::SocketAddr) -> AdminAddress) -> AdminListener {
    let address = address(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    AdminListener::bind(&AdminConfig::new(address)).unwrap()
}

/// Sends a request with further header lines, and returns the answer.
async fn exchange(address: std::net::SocketAddr, path: &str, lines: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    answer
}

/// Starts a listener. Returns its address.
fn start(listener: AdminListener, testbed: &Testbed) -> (std::net::SocketAddr, JoinSet<()>) {
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(listener.serve(service(testbed)));
    (address, task)
}

#[tokio::test]
async fn loopback_needs_a_token_for_the_api_only() {
    let testbed = Testbed::new().await;
    let (token, _) = testbed.token(TokenRole::Read, None).await;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let (address, _task) = start(listener(AdminAddress::Loopback), &testbed);
    for (path, lines, status) in [
        ("/livez", "", 200),
        ("/metrics", "", 200),
        ("/v1/status", "", 401),
        ("/v1/status", bearer.as_str(), 200),
        ("/v1/unknown", bearer.as_str(), 404),
    ] {
        let answer = exchange(address, path, lines).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{path} {lines}: {answer}");
    }
    let rebound = "X-Host: x\r\nHost: rebound.example\r\n";
    let answer = exchange(address, "/v1/status", rebound).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_public_address_needs_a_token_for_metrics_too() {
    let testbed = Testbed::new().await;
    let (token, _) = testbed.token(TokenRole::Read, None).await;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    // The configuration demands TLS, which does not matter here.
    let (address, _task) = start(listener(AdminAddress::Public), &testbed);
    for (path, lines, status) in [
        ("/livez", "", 200),
        ("/metrics", "", 401),
        ("/metrics", bearer.as_str(), 200),
        ("/v1/status", "", 401),
        ("/v1/status", bearer.as_str(), 200),
    ] {
        let answer = exchange(address, path, lines).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{path} {lines}: {answer}");
    }
}

#[tokio::test]
async fn a_public_address_is_refused_without_a_valid_token() {
    let testbed = Testbed::new().await;
    let public = listener(AdminAddress::Public);
    let refused = public.check(&service(&testbed)).await.unwrap_err();
    assert!(matches!(refused, AdminError::NoToken(_)), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("`admin.listen_at` 127.0.0.1:0"),
        "{refused}"
    );
    let without_store = AdminService {
        api: None,
        ..service(&testbed)
    };
    let refused = public.check(&without_store).await.unwrap_err();
    assert!(matches!(refused, AdminError::NoStore(_)), "{refused}");
    testbed.token(TokenRole::Read, None).await;
    public.check(&service(&testbed)).await.unwrap();
    testbed.store.close().await;
    let loopback = listener(AdminAddress::Loopback);
    loopback.check(&service(&testbed)).await.unwrap();
}

#[tokio::test]
async fn a_public_address_without_a_store_has_no_metrics() {
    let testbed = Testbed::new().await;
    let public = listener(AdminAddress::Public);
    let address = public.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(public.serve(AdminService {
        api: None,
        ..service(&testbed)
    }));
    for (path, status) in [("/livez", 200), ("/metrics", 404), ("/v1/status", 404)] {
        let answer = exchange(address, path, "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
    }
}
