//! An active prober: some two hundred requests to a port, well-formed and malformed, and the
//! answers without their timestamps.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// Longer than any answer takes. A longer answer counts with what has arrived by then.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A request and its name in failure messages.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub name: String,
    pub bytes: Vec<u8>,
}

fn probe(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Probe {
    Probe {
        name: name.into(),
        bytes: bytes.into(),
    }
}

/// An HTTP/1.1 request with these fields.
fn request(method: &str, path: &str, fields: &str) -> Probe {
    let shown: String = fields.chars().take(120).collect();
    probe(
        format!("{method} {path} {shown:?}"),
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"),
    )
}

/// The requests for a master whose only tunnel path is `path`. None of them is a role's.
pub(crate) fn probes(path: &str) -> Vec<Probe> {
    [
        by_method_and_path(path),
        upgrades(path),
        by_fields(path),
        malformed(path),
        connections(path),
    ]
    .concat()
}

fn by_method_and_path(path: &str) -> Vec<Probe> {
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "get",
        "FOO",
    ];
    let neighbours = [
        format!("{path}/"),
        format!("{path}x"),
        path.to_uppercase(),
        format!("{path}/../index.html"),
    ];
    let usual = [
        "/",
        "/index.html",
        "/none",
        "/healthz",
        "/.git/config",
        "/a%20b",
        "/%2e%2e/etc/passwd",
        "//",
        "*",
    ]
    .map(str::to_owned);
    let paths: Vec<String> = [
        path.to_owned(),
        format!("{path}?a=b"),
        format!("http://localhost{path}"),
    ]
    .into_iter()
    .chain(neighbours)
    .chain(usual)
    .collect();
    let mut probes: Vec<Probe> = methods
        .iter()
        .flat_map(|method| [path, "/", "/none"].map(|path| request(method, path, "")))
        .collect();
    probes.extend(paths.iter().flat_map(|path| {
        ["GET", "HEAD", "POST"].map(|method| request(method, path, "Accept: */*\r\n"))
    }));
    probes
}

/// The fields of a correct opening handshake.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Errors in the opening handshake, as pairs of a text in it and its replacement.
const HANDSHAKE_ERRORS: [(&str, &str); 17] = [
    ("Connection: Upgrade\r\n", ""),
    ("Connection: Upgrade", "Connection: close"),
    ("Connection: Upgrade", "Connection: keep-alive"),
    ("Upgrade: websocket\r\n", ""),
    ("Upgrade: websocket", "Upgrade: h2c"),
    ("Upgrade: websocket", "Upgrade: websockets"),
    ("Upgrade: websocket", "Upgrade: TLS/1.0"),
    ("Sec-WebSocket-Version: 13\r\n", ""),
    ("Version: 13", "Version: 8"),
    ("Version: 13", "Version: 0"),
    ("Version: 13", "Version: thirteen"),
    ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    ("dGhlIHNhbXBsZSBub25jZQ==", ""),
    ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"),
    ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"),
    ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j*Q=="),
    (
        "dGhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
];

/// Opening handshakes with an error at the right path, and correct ones at wrong paths.
fn upgrades(path: &str) -> Vec<Probe> {
    let mut probes: Vec<Probe> = HANDSHAKE_ERRORS
        .iter()
        .map(|(from, to)| request("GET", path, &HANDSHAKE.replacen(from, to, 1)))
        .collect();
    probes.extend(
        ["HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "get"]
            .map(|method| request(method, path, HANDSHAKE)),
    );
    let elsewhere = [
        format!("{path}/"),
        format!("{path}x"),
        "/".to_owned(),
        "/none".to_owned(),
        path.to_uppercase(),
    ];
    probes.extend(elsewhere.iter().map(|path| request("GET", path, HANDSHAKE)));
    probes.push(probe(
        "an upgrade of HTTP/1.0",
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{HANDSHAKE}\r\n"),
    ));
    probes.push(probe(
        "an upgrade without Host",
        format!("GET {path} HTTP/1.1\r\n{HANDSHAKE}\r\n"),
    ));
    probes.push(probe(
        "an upgrade of HTTP/1.2",
        format!("GET {path} HTTP/1.2\r\nHost: localhost\r\n{HANDSHAKE}\r\n"),
    ));
    probes
}

fn by_fields(path: &str) -> Vec<Probe> {
    let fields = [
        "Range: bytes=0-3\r\n",
        "Range: bytes=9999999-\r\n",
        "If-Modified-Since: Sat, 01 Jan 2050 00:00:00 GMT\r\n",
        "If-None-Match: *\r\n",
        "Accept-Encoding: gzip, br\r\n",
        "Accept: application/json\r\n",
        "Expect: 100-continue\r\n",
        "Expect: nonsense\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Authorization: Basic YTpi\r\n",
        "Cookie: a=b\r\n",
        "Origin: http://example.com\r\n",
        "X-Forwarded-For: 192.0.2.7\r\n",
        "Forwarded: for=192.0.2.7\r\n",
        "Proxy-Connection: keep-alive\r\n",
        "Sec-WebSocket-Protocol: chat\r\n",
        "TE: trailers\r\n",
        "Host: another\r\n",
        "X-Empty:\r\n",
        "X-Latin: \u{e4}\r\n",
        "User-Agent: curl/8.0\r\n",
    ];
    let mut probes: Vec<Probe> = [path, "/"]
        .iter()
        .flat_map(|path| fields.map(|fields| request("GET", path, fields)))
        .collect();
    for bytes in [1_000, 6_000, 9_000, 15_000, 40_000] {
        probes.push(request(
            "GET",
            path,
            &format!("X-Long: {}\r\n", "x".repeat(bytes)),
        ));
        probes.push(request("GET", &format!("{path}?{}", "x".repeat(bytes)), ""));
    }
    for count in [50, 90, 140, 300] {
        probes.push(request("GET", path, &"X-Many: x\r\n".repeat(count)));
    }
    probes
}

/// Requests that do not follow the grammar of HTTP/1.1, and greetings of other protocols.
fn malformed_requests(path: &str) -> [String; 33] {
    [
        format!("GET {path}"),
        format!("GET {path} HTTP/1.1"),
        format!("GET {path} HTTP/1.1\r\nHost"),
        format!("GET {path} HTTP/9.9\r\nHost: localhost\r\n\r\n"),
        format!("GET {path} HTTP/2.0\r\nHost: localhost\r\n\r\n"),
        format!("GET {path} http/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nno colon\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nHost : localhost\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"),
        format!("GET {path} HTTP/1.1\nHost: localhost\n\n"),
        format!("GET  {path}  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET\t{path}\tHTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("\r\n\r\nGET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET {path}\r\n\r\n"),
        format!("GET {path} HTTP/1.0\r\n\r\n"),
        format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        format!("HEAD {path} HTTP/1.0\r\n\r\n"),
        format!("POST {path} HTTP/1.0\r\nContent-Length: 1\r\n\r\na"),
        format!("GET {path} \r\n\r\n"),
        format!("GE\x01T {path} HTTP/1.1\r\n\r\n"),
        format!("GET {path}\x7f HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nHost:\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nHost: a b\r\n\r\n"),
        format!("GET {path}#fragment HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "PROXY TCP4 192.0.2.7 203.0.113.1 1 2\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            .to_owned(),
        "\r\n".to_owned(),
        "GET".to_owned(),
        " ".to_owned(),
        String::new(),
    ]
}

/// Bytes of other protocols and of none.
const OCTETS: [&[u8]; 6] = [
    // A ClientHello of TLS.
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
    b"\x80\x2e\x01",
    b"\0\0\0\0",
    b"\xff\xfe",
    &[0x05, 0x01, 0x00],
    &[b'A'; 20_000],
];

fn malformed(path: &str) -> Vec<Probe> {
    let requests = malformed_requests(path)
        .into_iter()
        .map(|line| probe(format!("{line:?}"), line));
    let octets = OCTETS.into_iter().map(|octets| {
        probe(
            format!("{} bytes {:02x?}…", octets.len(), &octets[..2]),
            octets,
        )
    });
    requests.chain(octets).collect()
}

/// The fields of a body, and the body or the start of it.
const BODIES: [(&str, &str); 13] = [
    ("Content-Length: 3\r\n", "abc"),
    ("Content-Length: 0\r\n", ""),
    ("Content-Length: 300\r\n", "cut off"),
    ("Content-Length: -1\r\n", ""),
    ("Content-Length: +3\r\n", "abc"),
    ("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    ("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
    ("Content-Length: 99999999999999999999\r\n", "abc"),
    ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "zz\r\n"),
    ("Transfer-Encoding: gzip\r\n", "abc"),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "0\r\n\r\n",
    ),
    ("Transfer-Encoding: identity\r\n", "abc"),
];

/// Bodies, and several requests on one connection.
fn connections(path: &str) -> Vec<Probe> {
    let of_body = |(fields, body): (&str, &str)| {
        let mut probe = request("POST", path, fields);
        probe.bytes.extend(body.as_bytes());
        probe
    };
    let one = |path: &str, more: &str| request("GET", path, more).bytes;
    let mut probes: Vec<Probe> = BODIES.into_iter().map(of_body).collect();
    probes.extend([
        probe(
            "two requests at once",
            [one(path, ""), one("/", "")].concat(),
        ),
        probe(
            "the same path twice",
            [one(path, ""), one(path, "")].concat(),
        ),
        probe(
            "a body and a request",
            [
                request("POST", path, "Content-Length: 2\r\n").bytes,
                b"ab".to_vec(),
                one("/", ""),
            ]
            .concat(),
        ),
        probe(
            "a request after the last one",
            [one(path, "Connection: close\r\n"), one("/", "")].concat(),
        ),
        probe(
            "garbage after a request",
            [one(path, ""), b"\x01\x02\r\n\r\n".to_vec()].concat(),
        ),
        probe(
            "five requests at once",
            [path, "/", path, "/none", path]
                .map(|path| one(path, ""))
                .concat(),
        ),
    ]);
    probes
}

/// The answer of the port until it closes, without timestamps.
pub(crate) fn answer(address: SocketAddr, probe: &Probe) -> String {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a deadline");
    answer_on(
        stream.try_clone().expect("the same connection"),
        &probe.bytes,
        || {
            // With an end of file the server answers and closes. Otherwise it would wait for the
            // next request.
            let _ = stream.shutdown(Shutdown::Write);
        },
    )
}

/// The same on any stream. `end` ends the sending direction.
pub(crate) fn answer_on(mut stream: impl Read + Write, bytes: &[u8], end: impl FnOnce()) -> String {
    let mut answer = Vec::new();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
    end();
    // A reset after the answer is not part of it.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("date: "))
        .collect::<Vec<_>>()
        .join("\n")
}
