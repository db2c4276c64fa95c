//! Handshakes and requests over TLS listeners, and the options.

use std::net::IpAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{
    cli::administration::{
        api_client::ApiClient,
        api_transport::{ApiTransport, OpenError},
    },
    config::{AdminAddress, AdminConfig},
    net::tls::tests::Authority,
};

/// The configuration of an admin address with the certificate of an authority.
fn config(address: SocketAddr, authority: &Authority) -> AdminConfig {
    let path = |name: &str| authority.path(name).display().to_string();
    AdminConfig {
        listen_at: AdminAddress::Loopback(address),
        tls: Some(TlsFilesConfig {
            cert: path("cert.pem").as_str().into(),
            key: path("key.pem").as_str().into(),
            client_ca: None,
        }),
    }
}

fn authority(host: &str) -> Authority {
    let authority = Authority::named(host);
    authority.sign(host, |_| ());
    authority
}

/// The options that trust an authority.
fn trusting(authority: &Authority) -> TlsArguments {
    TlsArguments {
        ca: Some(authority.path("ca.pem")),
        ..TlsArguments::default()
    }
}

/// The options that trust an authority, and present the certificate of another one.
fn presenting(client: &Authority, authority: &Authority) -> TlsArguments {
    TlsArguments {
        client_certificate: Some(client.path("cert.pem")),
        client_key: Some(client.path("key.pem")),
        ..trusting(authority)
    }
}

/// Connects to an address that presents a certificate of one authority. Returns the error.
async fn connect(
    presented: &Authority,
    configured: &Authority,
    options: &TlsArguments,
) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap(), configured);
    let files = [presented.path("cert.pem"), presented.path("key.pem")];
    let certificate = tls::ReloadingCertificate::load(&files[0], &files[1]).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = certificate.acceptor().accept(stream).await {
            let _ = stream.read_u8().await;
        }
    });
    let transport = ApiTransport::new(&config, options).unwrap();
    let opened = transport.open().await;
    opened.map(drop).map_err(|error| error.to_string())
}

/// Sends a request to an address that demands certificates of an authority. Returns the error.
async fn request(
    relay: &Authority,
    demanded: &Authority,
    options: &TlsArguments,
) -> Result<bool, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap(), relay);
    let files = [relay.path("cert.pem"), relay.path("key.pem")];
    let certificate = tls::ReloadingCertificate::load(&files[0], &files[1]).unwrap();
    let acceptor = certificate.acceptor_requiring_client_certificate(&demanded.path("ca.pem"));
    let acceptor = acceptor.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            // The check whether a process listens sends nothing.
            if stream.read_u8().await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let answered = async {
        let client = ApiClient::connect(&config, options, None).await?;
        client.expect("a process listens").has_api().await
    };
    answered.await.map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn the_certificate_must_have_a_trusted_authority_and_the_configured_name() {
    let relay = authority("relay.test");
    assert_eq!(connect(&relay, &relay, &trusting(&relay)).await, Ok(()));
    let other = authority("other.test");
    let error = connect(&relay, &relay, &trusting(&other)).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("no authority in") && error.contains("--ca"),
        "{error}"
    );
    let error = connect(&relay, &other, &trusting(&relay)).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("is not for \"other.test\"") && error.contains("--server-name"),
        "{error}"
    );
}

#[tokio::test]
async fn the_name_of_an_option_replaces_the_configured_one() {
    let relay = authority("relay.test");
    let other = authority("other.test");
    let named = |name: &str| TlsArguments {
        server_name: Some(name.to_owned()),
        ..trusting(&relay)
    };
    let connected = connect(&relay, &other, &named("relay.test")).await;
    assert_eq!(connected, Ok(()));
    let error = connect(&relay, &relay, &named("other.test")).await;
    let error = error.unwrap_err();
    assert!(error.contains("is not for \"other.test\""), "{error}");
    let address = named("192.0.2.7").name().unwrap();
    assert_eq!(address, Some(IpAddr::from([192, 0, 2, 7]).into()));
}

#[tokio::test]
async fn expired_certificates_and_wildcards_are_told_apart() {
    let wildcard = authority("*.relay.test");
    let connected = connect(&wildcard, &wildcard, &trusting(&wildcard)).await;
    assert_eq!(connected, Ok(()));
    let expired = Authority::new();
    expired.sign("relay.test", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let error = connect(&expired, &expired, &trusting(&expired)).await;
    let error = error.unwrap_err();
    assert!(error.contains("has expired"), "{error}");
}

#[tokio::test]
async fn an_address_that_demands_a_certificate_gets_one() {
    let relay = authority("relay.test");
    let office = authority("office.test");
    let answered = request(&relay, &office, &presenting(&office, &relay)).await;
    assert_eq!(answered, Ok(true));
    // The configuration here may be older than the process there.
    let error = request(&relay, &office, &trusting(&relay)).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("demands a certificate (name one with --client-certificate"),
        "{error}"
    );
    let stranger = authority("stranger.test");
    let error = request(&relay, &office, &presenting(&stranger, &relay)).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("rejects the certificate in") && error.contains("client_ca"),
        "{error}"
    );
    office.sign("office.test", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let error = request(&relay, &office, &presenting(&office, &relay)).await;
    let error = error.unwrap_err();
    assert!(error.contains("cert.pem has expired"), "{error}");
}

#[tokio::test]
async fn an_absent_process_differs_from_one_without_tls() {
    let relay = authority("relay.test");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap(), &relay);
    let transport = ApiTransport::new(&config, &trusting(&relay)).unwrap();
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        // Closing with unread data would reset the connection before the answer arrives.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let (opened, ()) = tokio::join!(transport.open(), answer);
    let error = opened.map(drop).unwrap_err();
    assert!(error.to_string().contains("does not use TLS"), "{error}");
    drop(listener);
    let opened = transport.open().await.map(drop);
    assert!(matches!(opened, Err(OpenError::Absent(_))), "{opened:?}");
}

#[test]
fn options_without_effect_are_errors() {
    let address = AdminAddress::Loopback("127.0.0.1:9300".parse().unwrap());
    let plain = AdminConfig::new(address);
    let file = || Some(PathBuf::from("file.pem"));
    let none = TlsArguments::default;
    for (options, option) in [
        (
            TlsArguments {
                ca: file(),
                ..none()
            },
            "--ca",
        ),
        (
            TlsArguments {
                client_certificate: file(),
                ..none()
            },
            "--client-certificate",
        ),
        (
            TlsArguments {
                client_key: file(),
                ..none()
            },
            "--client-key",
        ),
        (
            TlsArguments {
                server_name: Some("relay.test".to_owned()),
                ..none()
            },
            "--server-name",
        ),
    ] {
        let error = ApiTransport::new(&plain, &options).unwrap_err().to_string();
        let expected = format!("{option} has no effect without `admin.tls` (omit it)");
        assert_eq!(error, expected);
    }
    ApiTransport::new(&plain, &none()).unwrap();
}

#[test]
fn unusable_options_are_errors() {
    let (relay, office) = (authority("relay.test"), authority("office.test"));
    let mut config = config("127.0.0.1:9300".parse().unwrap(), &relay);
    let complete = presenting(&office, &relay);
    let absent = Some(relay.path("absent.pem"));
    let refused = |config: &AdminConfig, change: &dyn Fn(&mut TlsArguments)| {
        let mut options = complete.clone();
        change(&mut options);
        let transport = ApiTransport::new(config, &options);
        transport.map(drop).unwrap_err().to_string()
    };
    let error = refused(&config, &|options| options.ca.clone_from(&absent));
    assert!(
        error.starts_with("--ca: ") && error.contains("absent.pem"),
        "{error}"
    );
    let error = refused(&config, &|options| options.client_key = None);
    assert!(error.contains("--client-certificate has no key"), "{error}");
    let error = refused(&config, &|options| options.client_certificate = None);
    assert!(error.contains("--client-key has no certificate"), "{error}");
    let error = refused(&config, &|options| {
        options.client_certificate.clone_from(&absent);
    });
    assert!(error.starts_with("--client-certificate: "), "{error}");
    let error = refused(&config, &|options| options.client_key.clone_from(&absent));
    assert!(error.starts_with("--client-key: "), "{error}");
    // The key of another certificate.
    let error = refused(&config, &|options| {
        options.client_key = Some(relay.path("key.pem"));
    });
    assert!(error.starts_with("--client-key: "), "{error}");
    for name in ["", "a b", "relay..test"] {
        let error = refused(&config, &|options| {
            options.server_name = Some(name.to_owned());
        });
        assert!(error.contains("--server-name"), "{error}");
    }
    if let Some(files) = &mut config.tls {
        files.client_ca = Some("ca.pem".into());
    }
    let error = refused(&config, &|options| *options = trusting(&relay));
    assert!(
        error.contains("`admin.tls.client_ca`") && error.contains("--client-certificate"),
        "{error}"
    );
    ApiTransport::new(&config, &complete).unwrap();
}
