//! Tests of the listener: HTTP, TLS, limits, and connections that never become a WebSocket.

use std::{
    io,
    net::{Ipv4Addr, TcpListener as BlockingListener},
    path::{Path, PathBuf},
};

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;
use crate::net::{
    dial::{DialParameters, Dialer, MasterAddress, ProxyChoice},
    tls::{TlsParameters, client_config},
};
use report_proto::frame::{Code, Notice};

async fn response_to(master: &RunningMaster, request: &str) -> String {
    let mut stream = master.connect().await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    with_timeout(stream.read_to_string(&mut answer))
        .await
        .expect("an answer");
    answer
}

#[tokio::test]
async fn occupied_address_is_a_clear_error() {
    let occupied = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = occupied.local_addr().expect("bound");
    let error = Master::bind(MasterParameters {
        listen_at: vec![address],
        ..parameters()
    })
    .expect_err("it is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.to_string().contains("listen_at"), "{error}");
    assert!(matches!(
        Master::bind(MasterParameters {
            listen_at: vec![],
            ..parameters()
        }),
        Err(MasterError::NoAddress)
    ));
}

#[tokio::test]
async fn non_upgrade_requests_get_a_plain_404_page() {
    let master = start_with(|parameters| parameters.path = "/tunnel".to_owned());
    let upgrade = request("/tunnel");
    let others = [
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "POST /tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        "GET /tunnel HTTP/1.0\r\n\r\n".to_owned(),
        upgrade.replace("HTTP/1.1", "HTTP/1.0"),
        upgrade.replace("Connection: Upgrade", "Connection: close"),
        upgrade.replace("/tunnel", "/other").replace("Connection: Upgrade", "Connection: Upgrade, close"),
    ];
    for request in others {
        let answer = response_to(&master, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 404 ") || answer.starts_with("HTTP/1.0 404 "),
            "{request:?} gets {answer:?}"
        );
        assert!(answer.contains("<h1>404 Not Found</h1>"), "{answer:?}");
        assert!(
            !answer.to_ascii_lowercase().contains("report"),
            "{answer:?}"
        );
    }
    drop(super::upgrade(master.connect().await, "/tunnel").await);
}

#[tokio::test]
async fn health_check_answers_when_enabled() {
    let master = start_with(|parameters| parameters.healthz = true);
    let answer = response_to(
        &master,
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn oversized_request_head_is_rejected() {
    let master = start_with(|parameters| parameters.limits.header_bytes = 8 * 1024);
    let large = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n",
        "x".repeat(9 * 1024)
    );
    let mut stream = master.connect().await;
    stream.write_all(large.as_bytes()).await.expect("sent");
    let (head, _) = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
}

#[tokio::test]
async fn slow_and_idle_connections_time_out_without_blocking_others() {
    let master = start_with(|parameters| parameters.timing.header = Duration::from_millis(300));
    let (mut silent, mut slow, mut idle) = (
        master.connect().await,
        master.connect().await,
        master.connect().await,
    );
    slow.write_all(b"GET / HTTP/1.1\r\nHost: loc")
        .await
        .expect("sent");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("sent");
    let (mut client, mut server) = connected_pair(&master).await;
    for stream in [&mut silent, &mut slow, &mut idle] {
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    }
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}

#[tokio::test]
async fn endless_requests_hit_the_connection_timeout() {
    let master = start_with(|parameters| parameters.timing.connection = Duration::from_millis(300));
    let mut stream = master.connect().await;
    let asking = async {
        loop {
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await?;
            if stream.read(&mut [0; 4096]).await? == 0 {
                return Ok::<(), io::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = with_timeout(asking).await;
}

#[tokio::test]
async fn connections_count_from_accept_until_close() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (2, 2)
    });
    let (mut client, server) = connected_pair(&master).await;
    let mut refused = master.connect().await;
    let mut rest = Vec::new();
    let _ = with_timeout(refused.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "no challenge: {rest:?}");
    client.expect_alive().await;
    drop(server);
    until("the server is removed", || master.shared.tasks.len() == 1).await;
    drop(master.server(3, &[PORT]).await);
}

#[tokio::test]
async fn full_master_answers_503_with_retry_after() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (2, 2)
    });
    let (mut client, server) = connected_pair(&master).await;
    for request in [
        request("/"),
        "GET /page HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ] {
        let answer = response_to(&master, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n")
                && answer.contains("\r\nRetry-After: 20\r\n")
                && answer.contains("<h1>503 Service Unavailable</h1>"),
            "{answer:?}"
        );
        assert!(
            !answer.to_ascii_lowercase().contains("report"),
            "{answer:?}"
        );
        // A master of this size answers one connection at a time.
        until("the refusal has ended", || {
            master.shared.settings().refusals.available_permits() == 1
        })
        .await;
    }
    let address: MasterAddress = format!("ws://{}/", master.address)
        .parse()
        .expect("an address");
    let parameters = DialParameters {
        proxy: ProxyChoice::Direct,
        ..DialParameters::default()
    };
    let dialer = Dialer::new(address, parameters).expect("no TLS");
    let error = with_timeout(dialer.dial())
        .await
        .expect_err("the master is full");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(20)));
    client.expect_alive().await;
    drop(server);
    until("there is a place", || master.shared.tasks.len() == 1).await;
    drop(master.server(3, &[PORT]).await);
}

#[tokio::test]
async fn silent_connections_take_the_answers_of_a_full_master_for_a_short_time() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (2, 2)
    });
    let (_client, _server) = connected_pair(&master).await;
    let _silent = master.connect().await;
    until("it waits for a request", || {
        master.shared.settings().refusals.available_permits() == 0
    })
    .await;
    let mut closed = master.connect().await;
    let mut rest = Vec::new();
    let _ = with_timeout(closed.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "closed without an answer: {rest:?}");
    until("the time of the silent connection is over", || {
        master.shared.settings().refusals.available_permits() == 1
    })
    .await;
    let answer = response_to(&master, &request("/")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
}

#[tokio::test]
async fn silent_connection_is_evicted_and_a_tunnel_is_not() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (4, 3)
    });
    let (mut client, mut server) = connected_pair(&master).await;
    let mut silent = master.connect().await;
    until("it is counted", || master.shared.tasks.len() == 3).await;
    let another = master.server(5, &[OTHER_PORT]).await;
    let mut rest = Vec::new();
    let _ = with_timeout(silent.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "no challenge: {rest:?}");
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
    drop(another);
}

#[tokio::test]
async fn client_without_a_tunnel_is_evicted_with_a_notice() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (8, 8)
    });
    let mut first = master.client(1).await;
    let mut others = Vec::new();
    for instance in 2..=6 {
        others.push(master.client(instance).await);
    }
    assert!(matches!(
        first.next().await,
        Frame::Error(Notice {
            code: Code::Limit,
            retry_after_seconds: Some(20),
            ..
        })
    ));
    drop(master.server(9, &[PORT]).await);
}

#[tokio::test]
async fn client_without_a_place_learns_when_to_return() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (8, 8)
    });
    let mut server = master.server(9, &[PORT]).await;
    let mut clients = Vec::new();
    for instance in 1..=5 {
        let mut client = master.client(instance).await;
        client.attach(1, PORT).await;
        server.answer().await;
        client.expect_data(1, b"answer").await;
        clients.push(client);
    }
    let refused = master.join(Role::Client, 6, 1, &[]).await;
    let Err(JoinError::Limit(notice)) = refused else {
        panic!("the clients with a tunnel use the whole client share")
    };
    assert_eq!(notice.retry_after(), Some(Duration::from_secs(20)));
    drop((server, clients));
}

struct TestCertificate {
    folder: tempfile::TempDir,
    files: MasterTlsFiles,
}

fn certificate() -> TestCertificate {
    let folder = tempfile::tempdir().expect("a folder");
    let signed =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = MasterTlsFiles {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
        client_ca: None,
    };
    std::fs::write(&files.cert, signed.cert.pem()).expect("written");
    std::fs::write(&files.key, signed.signing_key.serialize_pem()).expect("written");
    TestCertificate { folder, files }
}

#[tokio::test]
async fn tls_link_works_beside_a_silent_peer() {
    let certificate = certificate();
    let master = start_with(|parameters| {
        parameters.tls = Some(certificate.files.clone());
        parameters.timing.tls = Duration::from_millis(300);
    });
    let mut silent = master.connect().await;
    let connector = TlsConnector::from(
        client_config(&TlsParameters::trusting(Some(
            certificate.files.cert.clone(),
        )))
        .expect("the certificate"),
    );
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = with_timeout(connector.connect(name, master.connect().await))
        .await
        .expect("TLS");
    let mut socket = super::upgrade(stream, "/").await;
    let introduction = identity(Role::Server, 1, 1);
    let terms = authenticate::join(&mut socket, &key_of(Role::Server), &introduction, &[])
        .await
        .expect("joined");
    TestPeer { socket, terms }.expect_alive().await;
    let mut rest = Vec::new();
    let _ = with_timeout(silent.read_to_end(&mut rest)).await;
    drop(certificate.folder);
}

#[tokio::test]
async fn unusable_certificate_prevents_start() {
    let certificate = certificate();
    let files = MasterTlsFiles {
        key: certificate.files.cert.clone(),
        ..certificate.files.clone()
    };
    let error = Master::bind(MasterParameters {
        tls: Some(files),
        ..parameters()
    })
    .expect_err("no key in it");
    assert!(error.to_string().contains("private key"), "{error}");
}

/// The files of a client's certificate, and of the authority that signed it.
struct ClientCertificate {
    authority: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl ClientCertificate {
    fn write(folder: &Path) -> Self {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let client_ca = folder.join("client-ca.pem");
        std::fs::write(
            &client_ca,
            authority.self_signed(&authority_key).expect("signed").pem(),
        )
        .expect("written");
        let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let signed = rcgen::CertificateParams::new(vec!["visitor".to_owned()])
            .expect("parameters")
            .signed_by(&key, &issuer);
        let (cert_file, key_file) = (folder.join("client.pem"), folder.join("client-key.pem"));
        std::fs::write(&cert_file, signed.expect("signed").pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        ClientCertificate {
            authority: client_ca,
            cert: cert_file,
            key: key_file,
        }
    }
}

#[tokio::test]
async fn master_with_client_ca_requires_a_client_certificate() {
    let certificate = certificate();
    let client = ClientCertificate::write(certificate.folder.path());
    let files = MasterTlsFiles {
        client_ca: Some(client.authority),
        ..certificate.files.clone()
    };
    let master = start_with(|parameters| parameters.tls = Some(files));
    let upgraded = async |client: Option<(PathBuf, PathBuf)>| {
        let trusting = TlsParameters {
            client,
            ..TlsParameters::trusting(Some(certificate.files.cert.clone()))
        };
        let connector = TlsConnector::from(client_config(&trusting).expect("files"));
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = with_timeout(connector.connect(name, master.connect().await)).await?;
        stream.write_all(request("/").as_bytes()).await?;
        let mut answer = vec![0; 12];
        with_timeout(stream.read_exact(&mut answer))
            .await
            .map(|_| answer)
    };
    let refused = upgraded(None).await.expect_err("no certificate");
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
    assert_eq!(
        upgraded(Some((client.cert, client.key)))
            .await
            .expect("an answer"),
        b"HTTP/1.1 101"
    );
    let own = Some((
        certificate.files.cert.clone(),
        certificate.files.key.clone(),
    ));
    assert!(
        upgraded(own).await.is_err(),
        "a certificate of no authority"
    );
}
