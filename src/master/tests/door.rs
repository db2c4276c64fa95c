//! What the master looks like from outside, and who is not let as far as a WebSocket.

use std::net::{Ipv4Addr, TcpListener as BlockingListener};

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;
use crate::link::tls::{TlsParameters, client_config};

async fn asked(master: &Running, request: &str) -> String {
    let mut stream = master.connect().await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer))
        .await
        .expect("an answer");
    answer
}

#[tokio::test]
async fn an_occupied_address_is_a_clear_error() {
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
async fn everything_but_the_upgrade_gets_the_page_of_an_ordinary_web_server() {
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
        let answer = asked(&master, &request).await;
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
async fn health_is_there_when_it_is_configured() {
    let master = start_with(|parameters| parameters.healthz = true);
    let answer = asked(
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
async fn a_head_that_is_too_large_is_refused() {
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
async fn slow_heads_and_idle_connections_are_let_go_and_hold_nobody() {
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
    let (mut client, mut server) = talking(&master).await;
    for stream in [&mut silent, &mut slow, &mut idle] {
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    client.data(1, b"undisturbed").await;
    server.expect_data(1, b"undisturbed").await;
}

#[tokio::test]
async fn a_browser_that_never_stops_asking_is_let_go_as_well() {
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
    let _ = soon(asking).await;
}

#[tokio::test]
async fn connections_are_counted_from_the_first_moment_and_given_back() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (2, 2)
    });
    let (mut client, server) = talking(&master).await;
    let mut refused = master.connect().await;
    let mut rest = Vec::new();
    let _ = soon(refused.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "no challenge: {rest:?}");
    client.expect_alive().await;
    drop(server);
    until("the server is forgotten", || master.shared.tasks.len() == 1).await;
    drop(master.server(3, &[PORT]).await);
}

#[tokio::test]
async fn a_silent_connection_gives_way_and_a_tunnel_does_not() {
    let master = start_with(|parameters| {
        (parameters.limits.links, parameters.limits.links_per_address) = (4, 3)
    });
    let (mut client, mut server) = talking(&master).await;
    let mut silent = master.connect().await;
    until("it is counted", || master.shared.tasks.len() == 3).await;
    let another = master.server(5, &[OTHER_PORT]).await;
    let mut rest = Vec::new();
    let _ = soon(silent.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "no challenge: {rest:?}");
    client.data(1, b"undisturbed").await;
    server.expect_data(1, b"undisturbed").await;
    drop(another);
}

#[tokio::test]
async fn a_client_without_a_tunnel_gives_way_to_others_and_is_told() {
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
            ..
        })
    ));
    drop(master.server(9, &[PORT]).await);
}

struct Certificate {
    folder: tempfile::TempDir,
    files: TlsFiles,
}

fn certificate() -> Certificate {
    let folder = tempfile::tempdir().expect("a folder");
    let signed =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = TlsFiles {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
        client_ca: None,
    };
    std::fs::write(&files.cert, signed.cert.pem()).expect("written");
    std::fs::write(&files.key, signed.signing_key.serialize_pem()).expect("written");
    Certificate { folder, files }
}

#[tokio::test]
async fn tls_carries_a_link_and_a_silent_peer_holds_nobody() {
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
    let stream = soon(connector.connect(name, master.connect().await))
        .await
        .expect("TLS");
    let mut socket = super::upgrade(stream, "/").await;
    let introduction = Introduction {
        role: Role::Server,
        instance: Id([1; 16]),
        epoch: 1,
        moves: false,
        agent: "test".to_owned(),
    };
    let terms = authenticate::join(&mut socket, &link_key(), &introduction, &[])
        .await
        .expect("joined");
    Peer { socket, terms }.expect_alive().await;
    let mut rest = Vec::new();
    let _ = soon(silent.read_to_end(&mut rest)).await;
    drop(certificate.folder);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_master_from_starting() {
    let certificate = certificate();
    let files = TlsFiles {
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

#[tokio::test]
async fn a_master_that_demands_certificates_takes_only_who_shows_one() {
    let certificate = certificate();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let folder = certificate.folder.path();
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
    let files = TlsFiles {
        client_ca: Some(client_ca),
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
        let mut stream = soon(connector.connect(name, master.connect().await)).await?;
        stream.write_all(request("/").as_bytes()).await?;
        let mut answer = vec![0; 12];
        soon(stream.read_exact(&mut answer)).await.map(|_| answer)
    };
    let refused = upgraded(None).await.expect_err("no certificate");
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );
    assert_eq!(
        upgraded(Some((cert_file, key_file)))
            .await
            .expect("an answer"),
        b"HTTP/1.1 101"
    );
    let own = Some((
        certificate.files.cert.clone(),
        certificate.files.key.clone(),
    ));
    assert!(upgraded(own).await.is_err(), "a certificate of nobody");
}
