//! What somebody sees of a master who looks at it from outside: the web server that it pretends to be, and nothing else.

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
    tunnel::{Front, Scene},
};

/// Only roles know it.
const PATH: &str = "/b7c1-a-path-that-nobody-guesses";

/// Another one, of a master that is asked for [`PATH`] in vain.
const ANOTHER_PATH: &str = "/another";

/// Probes under way at a time.
const AT_ONCE: usize = 8;

/// A site with two files, and nginx that serves it.
struct Site {
    scene: Scene,
    web: SocketAddr,
    _nginx: Daemon,
}

impl Site {
    fn new(front: Front) -> Site {
        let scene = Scene::new(front);
        let root = scene.folder().join("www");
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::write(root.join("index.html"), "<h1>a site like any other</h1>\n").unwrap();
        fs::write(root.join(".git/config"), "[core]\n").unwrap();
        let web = ports::free();
        let _nginx = nginx::file_server(scene.folder(), web, &root);
        Site { scene, web, _nginx }
    }

    fn fallbacks(&self) -> [(&'static str, Value); 3] {
        [
            ("404", json!("404")),
            ("files", json!({"files": self.scene.folder().join("www")})),
            ("server", json!({"server": format!("http://{}", self.web)})),
        ]
    }

    /// A master at a port of its own.
    fn master(&self, name: &str, path: &str, fallback: &Value) -> (Daemon, SocketAddr) {
        let address = ports::free();
        let fields = json!({"listen_at": address.to_string(), "path": path, "fallback": fallback});
        let mut master = self
            .scene
            .role(name, &self.scene.master_configuration(fields));
        master.wait_ready(|| ports::is_listened_at(address));
        (master, address)
    }
}

/// How often a difference must show in a row: nginx keeps a connection or closes it by whether a request came in one piece, which it does not always.
const ATTEMPTS: usize = 3;

/// The probes that are answered in two ways, each with both answers.
fn differences(probes: &[Probe], one: SocketAddr, other: SocketAddr) -> Vec<String> {
    let attempt = |probe: &Probe| {
        let (one, other) = (answer(one, probe), answer(other, probe));
        assert!(
            !one.to_ascii_lowercase().contains("report"),
            "{}: {one}",
            probe.name
        );
        (one != other)
            .then(|| format!("{}\n--- the one\n{one}\n--- the other\n{other}", probe.name))
    };
    let compare = |probe: &Probe| {
        (0..ATTEMPTS)
            .map(|_| attempt(probe))
            .collect::<Option<Vec<_>>>()?
            .pop()
    };
    let compare = &compare;
    thread::scope(|scope| {
        let shares = probes.chunks(probes.len().div_ceil(AT_ONCE));
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
fn a_prober_finds_the_web_server_that_it_looks_like_and_no_difference() {
    let site = Site::new(Front::Direct);
    let probes = probes(PATH);
    assert!(probes.len() >= 200, "{} probes", probes.len());
    for (name, fallback) in site.fallbacks() {
        let (_master, master) = site.master(&format!("master-{name}"), PATH, &fallback);
        // Where there is a server to ask, that one is the measure; elsewhere a master at which the path leads nowhere.
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
fn after_the_upgrade_a_stranger_sees_random_bytes_and_a_close() {
    let site = Site::new(Front::Direct);
    let (_master, address) = site.master("master", PATH, &json!("404"));
    let garbage: [&[u8]; 4] = [
        b"\x82\x85\0\0\0\0hello",
        b"\x81\x85\0\0\0\0hello",
        b"GET / HTTP/1.1\r\n\r\n",
        // A frame of the protocol's own, as an answer to nothing.
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
            "a close without words, not {rest:?}"
        );
    }
    challenges.sort();
    challenges.dedup();
    assert_eq!(challenges.len(), garbage.len(), "each is another one");
}

/// What openssl's client makes of a port: whether there is a connection, with what, and how its request is answered.
fn shaken(address: SocketAddr, options: &[&str]) -> String {
    let mut client = programs::command("openssl");
    client
        .args(["s_client", "-ign_eof", "-connect", &address.to_string()])
        .args(options);
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let ran = programs::run_with(&mut client, request.as_bytes());
    let text = ran.text() + &ran.errors;
    // Which alert it is differs between the libraries.
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
fn oddities_of_tls_are_answered_as_the_web_server_answers_them() {
    let site = Site::new(Front::Tls);
    let leaf = site.scene.leaf();
    let secure = ports::free();
    let configuration = format!(
        "server {{ listen {secure} ssl; root {}; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; }}",
        site.scene.folder().join("www").display(),
        leaf.cert.display(),
        leaf.key.display()
    );
    let _nginx = nginx::site("secure", site.scene.folder(), secure, &configuration);
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
        let (one, other) = (shaken(master, options), shaken(secure, options));
        println!("{options:?}: {one}");
        assert_eq!(one, other, "{options:?}");
    }
}
