//! Connection attempts that do not reach a master. The client's log names the layer and the remedy,
//! and `report doctor` reports the same for the same configuration file.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use report::net::upgrade::derive_accept_key;
use serde_json::{Value, json};

use crate::support::{
    certificates::{self, Authority, Leaf},
    daemon::Daemon,
    ports,
    services::{self, Ending, Service},
    tunnel::{Front, Methods, Port, Testbed, report},
};

/// Runs a client with these fields in its configuration, and the doctor with the same file. `step`
/// is the doctor step that fails, and `code` its code. Both outputs contain the code and all
/// `words`.
#[track_caller]
fn assert_diagnosis(testbed: &Testbed, fields: Value, (step, code): (&str, &str), words: &[&str]) {
    let line = failure_of_client(testbed, fields);
    let failed = failed_doctor_step(testbed);
    assert_eq!(
        (&failed["name"], &failed["code"]),
        (&json!(step), &json!(code)),
        "{failed}"
    );
    assert!(line.contains(&format!("code={code}")), "{line}");
    assert!(
        failed["remedy"]
            .as_str()
            .is_some_and(|remedy| !remedy.is_empty()),
        "{failed}"
    );
    let parts = ["evidence", "cause", "remedy"]
        .map(|part| failed[part].as_str().unwrap_or_default().to_owned());
    for word in words {
        assert!(
            line.contains(word),
            "the client does not log {word}:\n{line}"
        );
        assert!(
            parts.iter().any(|part| part.contains(word)),
            "the doctor does not report {word}:\n{failed}"
        );
    }
}

/// Runs a client until it logs that it cannot reach the master. Returns that line without escapes.
#[track_caller]
fn failure_of_client(testbed: &Testbed, fields: Value) -> String {
    let port = Port::new("SSH", "127.0.0.1:1", Methods::DEFAULT);
    let configuration = testbed.client_configuration(&[port], fields);
    let client = testbed.role("lost", &configuration);
    let reached = client.wait_for_line(&["the master: "]);
    drop(client);
    std::fs::remove_file(testbed.folder().join("lost.log")).expect("the log is there");
    reached.replace("\\\"", "\"")
}

/// The first failed step of the doctor for the configuration of the client.
#[track_caller]
fn failed_doctor_step(testbed: &Testbed) -> Value {
    let file = testbed.folder().join("lost.json");
    let output = report(&[
        "doctor",
        "--json",
        "--config",
        file.to_str().expect("a path in UTF-8"),
    ]);
    let document = output.json();
    assert_eq!(
        (output.code, &document["ok"]),
        (Some(1), &json!(false)),
        "{document}"
    );
    document["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .find(|step| step["outcome"] == "failed")
        .expect("a failed step")
        .clone()
}

fn read_head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Answers each request with these bytes and closes the connection.
fn answering_service(answer: &'static str) -> Service {
    Service::start(move |mut stream| {
        read_head(stream);
        let _ = stream.write_all(answer.as_bytes());
        Ending::Clean
    })
}

/// Accepts a WebSocket upgrade and then sends these bytes.
fn upgrading_service(behind: &'static [u8]) -> Service {
    Service::start(move |mut stream| {
        let head = read_head(stream);
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        let _ = stream
            .write_all(answer.as_bytes())
            .and_then(|()| stream.write_all(behind));
        // Keep the connection open until the client closes it.
        let _ = services::read(stream, &mut [0; 1024]);
        Ending::Clean
    })
}

fn at(service: &Service) -> Value {
    json!({"master": format!("ws://{}/tunnel", service.address())})
}

fn by_proxy(address: SocketAddr) -> Value {
    json!({"master": "ws://master.invalid/", "proxy": format!("http://{address}")})
}

#[test]
fn a_proxy_that_is_down_refuses_or_closes_is_reported_with_a_remedy() {
    let testbed = Testbed::new(Front::Direct);
    assert_diagnosis(
        &testbed,
        by_proxy(ports::free()),
        ("tcp", "tcp_refused"),
        &["refused", "no program listens there"],
    );
    let refusing =
        answering_service("HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nnot here\r\n");
    assert_diagnosis(
        &testbed,
        by_proxy(refusing.address()),
        ("proxy", "proxy_forbidden"),
        &["403 Forbidden", "not here", "its rules do not allow that"],
    );
    let closing = answering_service("");
    assert_diagnosis(
        &testbed,
        by_proxy(closing.address()),
        ("proxy", "proxy_closed"),
        &[
            "closed the connection without an answer",
            "accepts this machine",
        ],
    );
}

/// An answer of another server, its code, and words of its diagnosis.
type ForeignAnswer = (&'static str, &'static str, &'static [&'static str]);

const FOREIGN_ANSWERS: [ForeignAnswer; 6] = [
    (
        "HTTP/1.1 302 Found\r\nLocation: http://login.hotel.example/?to=x\r\nContent-Length: 0\r\n\r\n",
        "http_login_page",
        &[
            "302 Found",
            "http://login.hotel.example/?to=x",
            "a login page",
            "open it in a browser",
        ],
    ),
    (
        "HTTP/1.1 200 OK\r\nServer: Apache\r\nContent-Type: text/html\r\nContent-Length: 45\r\n\r\n<html><body><h1>Welcome</h1></body></html>   ",
        "http_page",
        &[
            "200 OK",
            "\"Apache\"",
            "\"Welcome\"",
            "an HTML page",
            "forwards Upgrade and Connection",
        ],
    ),
    (
        "HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive\r\nVia: 1.1 gate (squid/5.7)\r\n\r\n",
        "http_handshake_altered",
        &[
            "no `Upgrade: websocket`",
            "no `Connection: Upgrade`",
            "no `Sec-WebSocket-Accept`",
            "Squid changed the response",
            "wss://",
        ],
    ),
    (
        "HTTP/1.1 502 Bad Gateway\r\nServer: nginx/1.22.1\r\nContent-Length: 0\r\n\r\n",
        "http_master_unreachable",
        &[
            "502 Bad Gateway",
            "nginx",
            "the master behind it does not",
            "check that the master is running",
        ],
    ),
    (
        "HTTP/1.1 403 Forbidden\r\nServer: cloudflare\r\nCF-RAY: 8a1-FRA\r\nContent-Length: 0\r\n\r\n",
        "http_forbidden",
        &["8a1-FRA", "Cloudflare refuses", "user_agent"],
    ),
    (
        "SSH-2.0-OpenSSH_9.2\r\n",
        "http_not_spoken",
        &[
            "does not speak HTTP/1.1",
            "SSH-2.0-OpenSSH_9.2",
            "check the host and port",
        ],
    ),
];

#[test]
fn other_servers_in_place_of_the_master_are_reported_with_a_remedy() {
    let testbed = Testbed::new(Front::Direct);
    for (answer, code, words) in FOREIGN_ANSWERS {
        assert_diagnosis(
            &testbed,
            at(&answering_service(answer)),
            ("upgrade", code),
            words,
        );
    }
}

#[test]
fn foreign_data_after_an_upgrade_is_reported_with_a_remedy() {
    let testbed = Testbed::new(Front::Direct);
    let garbage = upgrading_service(b"\xff\xff\xff\xffgarbage, and more of it");
    assert_diagnosis(
        &testbed,
        at(&garbage),
        ("master_key", "not_a_websocket"),
        &["not the WebSocket protocol", "wss://"],
    );
    let another = upgrading_service(b"\x82\x05hello");
    assert_diagnosis(
        &testbed,
        at(&another),
        ("master_key", "not_a_master"),
        &["not a rePort master", "check the address and the path"],
    );
}

/// Starts a master with this certificate.
fn master_with_certificate(testbed: &Testbed, leaf: &Leaf) -> Daemon {
    testbed.master(json!({"tls": {"cert": leaf.cert, "key": leaf.key}}))
}

/// Certificates of the testbed's authority that are not valid for the master: for another name,
/// expired, and not yet valid.
fn leaves_of_own_authority(testbed: &Testbed) -> [Leaf; 3] {
    let own = testbed.authority();
    let other_name = own.leaf_with("other", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName(
            "www.example.com".try_into().expect("a name"),
        )];
    });
    let expired = own.leaf_with("expired", |params| {
        params.not_after = rcgen::date_time_ymd(2001, 2, 3)
    });
    let early = own.leaf_with("early", |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1)
    });
    [other_name, expired, early]
}

/// Certificates of other issuers: an unknown authority, a TLS inspector, and the certificate itself.
fn leaves_of_other_issuers(testbed: &Testbed) -> [Leaf; 3] {
    let folder = |name: &str| {
        let folder = testbed.folder().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    };
    let unknown = Authority::named(&folder("unknown"), "Somebody Else CA").leaf("leaf");
    let inspected = Authority::named(&folder("inspected"), "Zscaler Root CA").leaf("leaf");
    let makeshift = certificates::self_signed(&folder("makeshift"), "leaf");
    [unknown, inspected, makeshift]
}

#[test]
fn invalid_certificates_are_distinguished_and_their_owners_reported() {
    let testbed = Testbed::new(Front::Tls);
    let [other_name, expired, early] = leaves_of_own_authority(&testbed);
    let [unknown, inspected, makeshift] = leaves_of_other_issuers(&testbed);
    for (leaf, code, words) in [
        (
            other_name,
            "tls_wrong_name",
            &["it is for \"www.example.com\"", "`tls.server_name`"][..],
        ),
        (
            expired,
            "tls_expired",
            &[
                "valid until 2001-02-03",
                "this machine's time is 2",
                "renew it",
            ],
        ),
        (
            early,
            "tls_not_yet_valid",
            &[
                "valid from 4000-01-01",
                "this machine's time is 2",
                "set this machine's clock",
            ],
        ),
        (
            unknown,
            "tls_untrusted",
            &["CN=Somebody Else CA", "untrusted authority", "`tls.ca`"],
        ),
        (
            inspected,
            "tls_intercepted",
            &["Zscaler intercepts TLS", "set `tls.ca` to its root"],
        ),
        (makeshift, "tls_self_signed", &["self-signed", "pin_sha256"]),
    ] {
        let _master = master_with_certificate(&testbed, &leaf);
        assert_diagnosis(&testbed, json!({}), ("tls", code), words);
    }
}

#[test]
fn missing_or_aborted_tls_is_reported_with_a_remedy() {
    let testbed = Testbed::new(Front::Tls);
    let at =
        |address: SocketAddr| json!({"master": format!("wss://localhost:{}/", address.port())});
    let plain = Service::start(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = services::read(stream, &mut [0; 1024]);
        Ending::Clean
    });
    assert_diagnosis(
        &testbed,
        at(plain.address()),
        ("tls", "tls_plain_http"),
        &["speaks plain HTTP", "write ws:// in `master`"],
    );
    let filter = services::resetter();
    assert_diagnosis(
        &testbed,
        at(filter.address()),
        ("tls", "tls_cut"),
        &[
            "reset right after the ClientHello",
            "SNI",
            "`tls.server_name`",
        ],
    );
}

#[test]
fn a_peer_that_supports_only_tls_1_0_is_reported_with_a_remedy() {
    let testbed = Testbed::new(Front::Tls);
    let address = ports::free();
    let leaf = testbed.leaf();
    let mut openssl = Command::new("openssl");
    let accept = format!("127.0.0.1:{}", address.port());
    openssl.args([
        "s_server",
        "-tls1",
        "-cipher",
        "ALL:@SECLEVEL=0",
        "-quiet",
        "-accept",
        &accept,
    ]);
    openssl
        .arg("-cert")
        .arg(&leaf.cert)
        .arg("-key")
        .arg(&leaf.key);
    let mut old = Daemon::start("openssl", testbed.folder(), &mut openssl);
    old.wait_ready(|| ports::has_listener_at(address));
    let fields = json!({"master": format!("wss://127.0.0.1:{}/", address.port())});
    assert_diagnosis(
        &testbed,
        fields,
        ("tls", "tls_too_old"),
        &[
            "no common TLS version",
            "TLS 1.1 or older",
            "ssl_protocols TLSv1.2",
        ],
    );
}
