//! Ports with the protocol `socks5`: curl and nc reach destinations through the proxy, every failure
//! has its answer, and malformed requests harm no other application.

mod datagrams;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use serde_json::{Value, json};

use crate::support::{
    bytes,
    daemon::Daemon,
    ports, programs,
    proxy::{Cut, Proxy},
    services::{self, Ending, Service},
    tunnel::{Front, REPORT, Testbed, with},
};

const PORT_KEY: &str = "the port key of the proxies 0123456789";

/// A connected master, server and client with one proxy.
struct Socks {
    client: Daemon,
    server: Daemon,
    _master: Daemon,
    /// The path of the client's links.
    path: Proxy,
    local: SocketAddr,
    testbed: Testbed,
}

impl Socks {
    /// Starts a proxy with these rules. `fields` are those of the client's port.
    fn start(rules: &[String], fields: Value) -> Socks {
        let testbed = Testbed::new(Front::Direct);
        let path = Proxy::start(testbed.public_address());
        let local = ports::free();
        let port = json!({"mark": "exit", "protocol": "socks5", "port_key": PORT_KEY, "compress_method": "zstd", "max_delay": "10s"});
        let at_server = with(port.clone(), json!({"allow": rules}));
        let at_client = with(
            with(port, json!({"local_address": local.to_string()})),
            fields,
        );
        let master = testbed.master(json!({}));
        let server = testbed.server("server", &[], json!({"ports": [at_server]}));
        let fields = json!({"ports": [at_client], "master": path.address().to_string()});
        let mut client = testbed.role("client", &testbed.client_configuration(&[], fields));
        client.wait_ready(|| ports::has_listener_at(local));
        Socks {
            client,
            server,
            _master: master,
            path,
            local,
            testbed,
        }
    }

    /// Sends these bytes and an end of file. Returns everything that the proxy answers.
    fn answer_to(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = services::connect(self.local);
        // A proxy that has refused the first bytes may have closed the connection already.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        services::read_to_ending(&stream).0
    }

    /// Requests a connection with SOCKS5. Returns it with the code of the reply.
    fn connect(&self, command: u8, host: &str, port: u16) -> (TcpStream, u8) {
        let mut stream = services::connect(self.local);
        stream.write_all(&[5, 1, 0]).expect("sent");
        let mut method = [0; 2];
        stream.read_exact(&mut method).expect("a method");
        assert_eq!(method, [5, 0]);
        stream
            .write_all(&socks_request(command, host, port))
            .expect("sent");
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).expect("a reply");
        assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
        (stream, reply[1])
    }

    /// Returns the code of a reply without a connection.
    fn refusal(&self, command: u8, host: &str, port: u16) -> u8 {
        let (stream, code) = self.connect(command, host, port);
        assert_eq!(
            services::read_to_ending(&stream),
            (Vec::new(), Ending::Clean)
        );
        code
    }

    /// Returns the status line of the response to a CONNECT.
    fn status(&self, host: &str, port: u16) -> String {
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        let response = String::from_utf8(self.answer_to(request.as_bytes())).expect("text");
        response.lines().next().unwrap_or_default().to_owned()
    }

    /// Runs curl through the proxy.
    fn curl(&self, scheme: &str, user: &str, url: &str) -> programs::ProgramOutput {
        let mut curl = programs::command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", ""])
            .args(["--proxytunnel", "--proxy"])
            .arg(format!("{scheme}://{user}{}", self.local))
            .arg(url);
        programs::run(&mut curl)
    }
}

/// Encodes a request for a name.
fn socks_request(command: u8, host: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).expect("a short name");
    let mut request = vec![5, command, 0, 3, length];
    request.extend(host.bytes());
    request.extend(port.to_be_bytes());
    request
}

/// A web server with one page.
fn web() -> Service {
    Service::start(|mut stream| {
        let (mut request, mut block) = (Vec::new(), [0; 1024]);
        while !request.ends_with(b"\r\n\r\n") {
            match services::read(stream, &mut block) {
                Ok(0) => return Ending::Clean,
                Ok(length) => request.extend(&block[..length]),
                Err(error) => return error.into(),
            }
        }
        let page = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\narrived\n";
        match stream.write_all(page) {
            Ok(()) => Ending::Clean,
            Err(error) => error.into(),
        }
    })
}

/// A rule for this address.
fn rule(address: SocketAddr) -> String {
    address.to_string()
}

#[test]
fn report_connect_names_its_destination() {
    let digest = services::digest_after_end();
    let closed = ports::free();
    let socks = Socks::start(&[rule(digest.address()), rule(closed)], json!({}));
    let file = socks.testbed.folder().join("client.json");
    let connect = |to: &str| {
        let mut command = programs::command(REPORT);
        command.args(["connect", "exit", "--to", to, "--config"]);
        programs::run_with(command.arg(&file), b"abc")
    };
    let output = connect(&digest.address().to_string()).succeeded();
    assert_eq!(output.text(), format!("3 {}", bytes::sha256(b"abc")));
    assert_eq!(output.errors, "");
    let closed = closed.to_string();
    for (to, code, says) in [
        (closed.as_str(), 1, "the destination refused the connection"),
        ("192.0.2.1:1", 1, "do not allow the destination"),
        ("nowhere", 2, "--to (\"nowhere\") has no port"),
    ] {
        let output = connect(to);
        assert_eq!(
            (output.code, output.out.len()),
            (Some(code), 0),
            "{output:?}"
        );
        assert!(output.errors.contains(says), "{}", output.errors);
    }
}

#[test]
fn curl_reaches_a_web_server_by_every_protocol() {
    let web = web();
    let port = web.address().port();
    let rules = [rule(web.address()), format!("localhost:{port}")];
    let socks = Socks::start(&rules, json!({}));
    for (scheme, host) in [
        ("socks5", "127.0.0.1"),
        ("socks5h", "127.0.0.1"),
        ("socks5h", "localhost"),
        ("http", "127.0.0.1"),
        ("http", "localhost"),
    ] {
        let page = socks.curl(scheme, "", &format!("http://{host}:{port}/"));
        assert_eq!(page.succeeded().text(), "arrived\n", "{scheme} {host}");
    }
}

#[test]
fn applications_must_authenticate_if_there_is_a_user() {
    let web = web();
    let fields = json!({"socks_user": {"name": "me", "password": "open:sesame"}});
    let socks = Socks::start(&[rule(web.address())], fields);
    let url = format!("http://{}/", web.address());
    for scheme in ["socks5h", "http"] {
        let page = socks.curl(scheme, "me:open%3Asesame@", &url);
        assert_eq!(page.succeeded().text(), "arrived\n", "{scheme}");
        for user in ["", "me:open@", "you:open%3Asesame@"] {
            let output = socks.curl(scheme, user, &url);
            assert_ne!(output.code, Some(0), "{scheme} {user}");
        }
    }
    assert_eq!(socks.answer_to(b"\x05\x01\x00"), [5, 0xff]);
    let wrong = b"\x05\x01\x02\x01\x02me\x04open";
    assert_eq!(socks.answer_to(wrong), [5, 2, 1, 1]);
    assert!(socks.status("127.0.0.1", 1).starts_with("HTTP/1.1 407 "));
    assert_eq!(web.accepted(), 2, "only the user reached it");
    socks.client.wait_for_line(&["proxy request refused"]);
    assert!(!socks.client.log().contains("sesame"));
}

#[test]
fn every_failure_has_its_answer() {
    let echo = services::echo();
    let (port, closed, other) = (echo.address().port(), ports::free(), ports::free());
    let rules = [
        rule(echo.address()),
        rule(closed),
        "*.invalid:80".to_owned(),
        format!("*:{}", other.port()),
    ];
    let socks = Socks::start(&rules, json!({}));
    let (stream, code) = socks.connect(1, "127.0.0.1", port);
    assert_eq!(code, 0);
    services::ping(&stream, b"through the proxy").expect("an echo");
    for (command, host, port, code) in [
        // No rule; a rule for everything that does not apply to this machine; numbers.
        (1, "127.0.0.1", 1, 2),
        (1, "127.0.0.1", other.port(), 2),
        (1, "localhost", other.port(), 2),
        (1, "127.1", port, 2),
        (1, "2130706433", port, 2),
        (1, "0x7f.1", port, 2),
        (1, "169.254.169.254", other.port(), 2),
        (1, "127.0.0.1", closed.port(), 5),
        (1, "no-such-host.invalid", 80, 4),
        // BIND.
        (2, "127.0.0.1", port, 7),
        (1, "", port, 1),
        (1, "127.0.0.1", 0, 1),
    ] {
        assert_eq!(
            socks.refusal(command, host, port),
            code,
            "{command} {host}:{port}"
        );
    }
    for (host, port, status) in [
        ("127.0.0.1", 1, "HTTP/1.1 403 Forbidden"),
        ("127.0.0.1", closed.port(), "HTTP/1.1 502 Bad Gateway"),
        ("no-such-host.invalid", 80, "HTTP/1.1 502 Bad Gateway"),
        ("127.0.0.1", port, "HTTP/1.1 200 Connection established"),
    ] {
        assert_eq!(socks.status(host, port), status, "{host}:{port}");
    }
    let line = ["destination refused", "127.0.0.1:1", "no rule in `allow`"];
    socks.server.wait_for_line(&line);
}

#[test]
fn malformed_requests_harm_no_other_application() {
    let echo = services::echo();
    let port = echo.address().port();
    let socks = Socks::start(&[rule(echo.address())], json!({}));
    let (stream, code) = socks.connect(1, "127.0.0.1", port);
    assert_eq!(code, 0);
    let connect = format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n");
    let long = format!("{connect}a: {}\r\n\r\n", "b".repeat(100_000));
    for (request, answer) in [
        // SOCKS4 and SOCKS4a.
        (
            &b"\x04\x01\0\x50\x7f\0\0\x01me\0"[..],
            &b"\0\x5b\0\0\0\0\0\0"[..],
        ),
        (
            &b"\x04\x01\0\x50\0\0\0\x01me\0nas.lan\0"[..],
            &b"\0\x5b\0\0\0\0\0\0"[..],
        ),
        // Lengths without their bytes, no method, a wrong version, an unknown type.
        (&b"\x05"[..], &b""[..]),
        (&b"\x05\xff\0"[..], &b""[..]),
        (&b"\x05\0"[..], &b"\x05\xff"[..]),
        (&b"\x05\x01\0\x05\x01\0\x03\xffnas"[..], &b"\x05\0"[..]),
        (
            &b"\x05\x01\0\x04\x01\0\x01\x7f\0\0\x01\0\x50"[..],
            &b"\x05\0"[..],
        ),
        (
            &b"\x05\x01\0\x05\x01\0\x07\x7f\0\0\x01\0\x50"[..],
            &b"\x05\0\x05\x08"[..],
        ),
        // TLS, and nothing.
        (&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], &b""[..]),
        (&b""[..], &b""[..]),
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &b"HTTP/1.1 405 "[..]),
        (
            &b"POST http://nas.lan/ HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"[..],
            &b"HTTP/1.1 405 "[..],
        ),
        (
            format!("{connect}Content-Length: 5\r\n\r\nhello").as_bytes(),
            &b"HTTP/1.1 400 "[..],
        ),
        (
            format!("{connect}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").as_bytes(),
            &b"HTTP/1.1 400 "[..],
        ),
        (
            &b"CONNECT nas.lan HTTP/1.1\r\n\r\n"[..],
            &b"HTTP/1.1 400 "[..],
        ),
        (long.as_bytes(), &b"HTTP/1.1 431 "[..]),
    ] {
        let answered = socks.answer_to(request);
        assert!(answered.starts_with(answer), "{request:?}: {answered:?}");
        assert_eq!(
            answered.is_empty(),
            answer.is_empty(),
            "{request:?}: {answered:?}"
        );
    }
    socks.client.wait_for_line(&["SOCKS4", "configure SOCKS5"]);
    services::ping(&stream, b"still there").expect("an echo");
    assert_eq!(socks.connect(1, "127.0.0.1", port).1, 0);
}

#[test]
fn data_behind_the_request_and_data_of_the_service_first_arrive_whole() {
    let content = bytes::random(3, 300_000);
    let source = services::source(content.clone());
    let digest = services::digest_after_end();
    let rules = [rule(source.address()), rule(digest.address())];
    let socks = Socks::start(&rules, json!({}));
    let (stream, code) = socks.connect(1, "127.0.0.1", source.address().port());
    assert_eq!(code, 0);
    let (received, ending) = services::read_to_ending(&stream);
    assert!(received == content, "{} bytes", received.len());
    assert_eq!(ending, Ending::Clean);
    // The application waits for no answer: its content follows the head at once.
    let mut request = format!("CONNECT {} HTTP/1.1\r\n\r\n", digest.address()).into_bytes();
    request.extend(&content);
    let answer = String::from_utf8(socks.answer_to(&request)).expect("text");
    let expected = format!("{} {}", content.len(), bytes::sha256(&content));
    assert_eq!(
        answer,
        format!("HTTP/1.1 200 Connection established\r\n\r\n{expected}")
    );
}

#[test]
fn nc_reaches_a_service_and_its_half_close_arrives() {
    let digest = services::digest_after_end();
    let socks = Socks::start(&[rule(digest.address())], json!({}));
    let content = bytes::random(5, 1 << 20);
    let mut nc = programs::command("nc");
    nc.args(["-N", "-X", "5", "-x"])
        .arg(socks.local.to_string())
        .arg(digest.address().ip().to_string())
        .arg(digest.address().port().to_string());
    let output = programs::run_with(&mut nc, &content).succeeded();
    let expected = format!("{} {}", content.len(), bytes::sha256(&content));
    assert_eq!(output.text(), expected);
}

#[test]
fn a_connection_through_the_proxy_survives_cuts_of_the_link() {
    let echo = services::echo();
    let socks = Socks::start(&[rule(echo.address())], json!({}));
    let (stream, code) = socks.connect(1, "127.0.0.1", echo.address().port());
    assert_eq!(code, 0);
    for number in 0..5_u32 {
        services::ping(&stream, &number.to_be_bytes()).expect("an echo");
        socks.path.cut(Cut::Reset);
    }
    services::ping(&stream, b"after all cuts").expect("an echo");
}
