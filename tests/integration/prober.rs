//! Active probing of a master. A prober must see the web server that the master imitates, and no
//! difference from it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    nginx, ports,
    prober::{Probe, answer, probes},
    programs, services,
    tunnel::{Front, Testbed},
};

/// A path that only roles know.
const PATH: &str = "/b7c1-a-path-that-is-hard-to-guess";

/// The path of a second master, at which [`PATH`] leads nowhere.
const ANOTHER_PATH: &str = "/another";

/// Probes in progress at a time.
const PARALLEL_PROBES: usize = 8;

/// A web site with two files, served by nginx.
struct Site {
    testbed: Testbed,
    web: SocketAddr,
    _nginx: Daemon,
}

impl Site {
    fn new(front: Front) -> Site {
        let testbed = Testbed::new(front);
        let root = testbed.folder().join("www");
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::write(root.join("index.html"), "<h1>a site like any other</h1>\n").unwrap();
        fs::write(root.join(".git/config"), "[core]\n").unwrap();
        let web = ports::free();
        let _nginx = nginx::file_server(testbed.folder(), web, &root);
        Site {
            testbed,
            web,
            _nginx,
        }
    }

    fn fallbacks(&self) -> [(&'static str, Value); 3] {
        [
            ("404", json!("404")),
            ("files", json!({"files": self.testbed.folder().join("www")})),
            ("server", json!({"server": format!("http://{}", self.web)})),
        ]
    }

    /// A master at a separate port.
    fn master(&self, name: &str, path: &str, fallback: &Value) -> (Daemon, SocketAddr) {
        let address = ports::free();
        let fields = json!({"listen_at": address.to_string(), "path": path, "fallback": fallback});
        let mut master = self
            .testbed
            .role(name, &self.testbed.master_configuration(fields));
        master.wait_ready(|| ports::has_listener_at(address));
        (master, address)
    }
}

/// A difference must appear in this many attempts in a row. nginx keeps or closes a connection
/// depending on whether a request arrives in one piece, which varies.
const ATTEMPTS: usize = 3;

/// The probes that the two addresses answer differently, each with both answers.
fn differences(probes: &[Probe], one: SocketAddr, other: SocketAddr) -> Vec<String> {
    let attempt = |probe: &Probe| {
        let (one, other) = (answer(one, probe), answer(other, probe));
        assert!(
            !one.to_ascii_lowercase().contains("report"),
            "{}: {one}",
            probe.name
        );
        (one != other).then(|| format!("{}\n--- first\n{one}\n--- second\n{other}", probe.name))
    };
    let compare = |probe: &Probe| {
        (0..ATTEMPTS)
            .map(|_| attempt(probe))
            .collect::<Option<Vec<_>>>()?
            .pop()
    };
    let compare = &compare;
    thread::scope(|scope| {
        let shares = probes.chunks(probes.len().div_ceil(PARALLEL_PROBES));
        let workers: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().filter_map(compare).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("compared"))
            .collect()
    })
}

#[test]
fn a_prober_finds_no_difference_from_the_imitated_web_server() {
    let site = Site::new(Front::Direct);
    let probes = probes(PATH);
    assert!(probes.len() >= 200, "{} probes", probes.len());
    for (name, fallback) in site.fallbacks() {
        let (_master, master) = site.master(&format!("master-{name}"), PATH, &fallback);
        // The fallback server is the reference if there is one. Otherwise the reference is a master
        // at which the path leads nowhere.
        let (_bare, bare) = match name {
            "server" => (None, site.web),
            _ => {
                let (bare, address) = site.master(&format!("bare-{name}"), ANOTHER_PATH, &fallback);
                (Some(bare), address)
            }
        };
        let differences = differences(&probes, master, bare);
        println!(
            "fallback {name}: {} probes, {} differences",
            probes.len(),
            differences.len()
        );
        assert!(
            differences.is_empty(),
            "fallback {name}: {} differences\n{}",
            differences.len(),
            differences.join("\n\n")
        );
    }
}

#[test]
fn after_the_upgrade_a_prober_sees_random_bytes_and_a_close() {
    let site = Site::new(Front::Direct);
    let (_master, address) = site.master("master", PATH, &json!("404"));
    let garbage: [&[u8]; 4] = [
        b"\x82\x85\0\0\0\0hello",
        b"\x81\x85\0\0\0\0hello",
        b"GET / HTTP/1.1\r\n\r\n",
        // A frame of the protocol itself that answers nothing.
        b"\x82\x89\0\0\0\0\x0a12345678",
    ];
    let mut challenges = Vec::new();
    for bytes in garbage {
        let mut stream = services::connect(address);
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head")
            + 4;
        let head = String::from_utf8(answer[..end].to_vec()).expect("text");
        assert_eq!(
            head,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let frames = &answer[end..];
        assert_eq!(frames[..2], [0x82, 32], "one binary message of 32 bytes");
        challenges.push(frames[2..34].to_vec());
        let rest = &frames[34..];
        assert!(
            rest.is_empty() || (rest[0] == 0x88 && rest.len() <= 4),
            "a close frame without a reason, not {rest:?}"
        );
    }
    challenges.sort();
    challenges.dedup();
    assert_eq!(challenges.len(), garbage.len(), "all challenges differ");
}

/// The result of openssl's client at a port: whether the handshake succeeds, with which parameters,
/// and how the request is answered.
fn tls_summary(address: SocketAddr, options: &[&str]) -> String {
    let mut client = programs::command("openssl");
    client
        .args(["s_client", "-ign_eof", "-connect", &address.to_string()])
        .args(options);
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let output = programs::run_with(&mut client, request.as_bytes());
    let text = output.text() + &output.errors;
    // The libraries differ in which alert they send.
    let refused = if text.contains(":SSL alert number ") {
        "refused by an alert"
    } else {
        "taken"
    };
    let shown = [
        "ALPN protocol:",
        "No ALPN negotiated",
        "HTTP/1.1 ",
        "<html>",
        "<head>",
        "<h1>",
        "Server:",
        "subject=",
    ];
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| shown.iter().any(|shown| line.contains(shown)))
        .collect();
    format!("{refused} {lines:?}")
}

#[test]
fn tls_oddities_get_the_same_answers_as_from_the_web_server() {
    let site = Site::new(Front::Tls);
    let leaf = site.testbed.leaf();
    let secure = ports::free();
    let configuration = format!(
        "server {{ listen {secure} ssl; root {}; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; }}",
        site.testbed.folder().join("www").display(),
        leaf.cert.display(),
        leaf.key.display()
    );
    let _nginx = nginx::site("secure", site.testbed.folder(), secure, &configuration);
    let (_master, master) = site.master(
        "master",
        PATH,
        &json!({"server": format!("http://{}", site.web)}),
    );
    let odd: [&[&str]; 10] = [
        &["-servername", "localhost"],
        &["-noservername"],
        &["-servername", "another.example.com"],
        &["-tls1_2", "-servername", "localhost"],
        &["-tls1_3", "-servername", "localhost"],
        &[
            "-tls1_1",
            "-cipher",
            "DEFAULT:@SECLEVEL=0",
            "-servername",
            "localhost",
        ],
        &[
            "-tls1",
            "-cipher",
            "DEFAULT:@SECLEVEL=0",
            "-servername",
            "localhost",
        ],
        &["-alpn", "http/1.1", "-servername", "localhost"],
        &["-alpn", "h2,http/1.1", "-servername", "localhost"],
        &["-alpn", "nonsense", "-servername", "localhost"],
    ];
    for options in odd {
        let (one, other) = (tls_summary(master, options), tls_summary(secure, options));
        println!("{options:?}: {one}");
        assert_eq!(one, other, "{options:?}");
    }
}
