//! Ports at unix sockets: PostgreSQL and nginx behind them, psql and curl in front of them, and the
//! files of the sockets.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    bytes,
    daemon::Daemon,
    nginx, ports,
    postgres::{self, Postgres},
    programs,
    proxy::{Cut, Proxy},
    services, sshd,
    tunnel::{Front, REPORT, Testbed, with},
    wait,
};

const PORT_KEY: &str = "the port key of the unix sockets 0123456789";

/// A port at this address.
fn port(address: &str, fields: Value) -> Value {
    let port = json!({"mark": "socket", "local_address": address, "port_key": PORT_KEY});
    with(port, fields)
}

/// The address of a unix socket as a configuration has it.
fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// The configuration of a client with this port.
fn client_with(testbed: &Testbed, port: &Value) -> Value {
    testbed.client_configuration(&[], json!({"ports": [port]}))
}

/// A master and a server with one service. The client comes from the test.
struct Served {
    _master: Daemon,
    server: Daemon,
    testbed: Testbed,
}

impl Served {
    fn new(testbed: Testbed, service: &str, fields: Value) -> Served {
        let master = testbed.master(json!({}));
        let ports = json!({"ports": [port(service, fields)]});
        let server = testbed.server("server", &[], ports);
        Served {
            _master: master,
            server,
            testbed,
        }
    }

    /// A path in the folder of the test.
    fn path(&self, name: &str) -> PathBuf {
        self.testbed.folder().join(name)
    }

    /// Starts a client that listens at this path.
    fn client(&self, path: &Path, fields: Value) -> Daemon {
        let port = port(&unix(path), fields);
        let mut client = self
            .testbed
            .role("client", &client_with(&self.testbed, &port));
        client.wait_ready(|| UnixStream::connect(path).is_ok());
        client
    }
}

/// Connects to a socket. The first bytes wait until the tunnel is attached.
fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the client listens");
    stream
        .set_read_timeout(Some(wait::TIMEOUT))
        .expect("a limit");
    stream
}

/// Asserts that the other end sends back what it receives.
fn assert_echoes(mut stream: &UnixStream) {
    stream.write_all(b"ping").expect("sent");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"ping");
}

/// The names in a folder that begin like a folder that prepares a socket.
fn leftovers(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".report-")).collect()
}

#[test]
fn psql_at_a_unix_socket_reaches_postgresql_at_another() {
    let testbed = Testbed::new(Front::Direct);
    let database = Postgres::start(testbed.folder(), ports::free());
    let served = Served::new(testbed, &unix(&database.socket()), json!({}));
    // psql derives the name of the socket from the folder and the port.
    let local = served.path(".s.PGSQL.5432");
    let mut client = served.client(&local, json!({}));
    let sql = |sql: &str| {
        let folder = served.testbed.folder();
        postgres::psql_at_socket(folder, 5432, sql)
            .succeeded()
            .text()
    };
    sql("create table lines as select n, md5(n::text) as digest from generate_series(1, 100000) n");
    let lines = sql("copy (select n, digest from lines order by n) to stdout");
    assert_eq!(lines.lines().count(), 100_000);
    assert!(lines.starts_with("1\tc4ca4238a0b923820dcc509a6f75849b\n"));
    assert_eq!(sql("select inet_client_addr() is null").trim(), "t");
    client.stop();
    assert!(!local.exists(), "the end removes the socket");
}

#[test]
fn curl_reaches_nginx_over_two_unix_sockets_and_no_source_is_reported() {
    let testbed = Testbed::new(Front::Direct);
    let (address, socket) = (ports::free(), testbed.folder().join("web.sock"));
    let site = format!(
        "server {{ listen {address}; listen {} proxy_protocol;\n\
         location / {{ add_header X-Seen \"<$proxy_protocol_addr>\" always; return 200 \"over a socket\\n\"; }} }}",
        unix(&socket)
    );
    let _nginx = nginx::site("web", testbed.folder(), address, &site);
    let served = Served::new(testbed, &unix(&socket), json!({"proxy_protocol": "v2"}));
    let local = served.path("local.sock");
    let _client = served.client(&local, json!({}));
    let mut curl = programs::command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--include",
        "--noproxy",
        "*",
    ])
    .arg("--unix-socket")
    .arg(&local)
    .arg("http://service/");
    let answer = programs::run(&mut curl).succeeded().text();
    assert!(answer.ends_with("over a socket\n"), "{answer}");
    // LOCAL: a header without addresses.
    assert!(answer.to_lowercase().contains("x-seen: <>"), "{answer}");
}

#[test]
fn a_transfer_over_unix_sockets_survives_cuts_of_the_link() {
    let testbed = Testbed::new(Front::Direct);
    let path = Proxy::start(testbed.public_address());
    let echo = services::echo();
    let served = Served::new(testbed, &echo.address().to_string(), json!({}));
    let local = served.path("local.sock");
    let port = port(&unix(&local), json!({}));
    let fields = json!({"ports": [port], "master": path.address().to_string()});
    let configuration = served.testbed.client_configuration(&[], fields);
    let mut client = served.testbed.role("client", &configuration);
    client.wait_ready(|| UnixStream::connect(&local).is_ok());
    let stream = connect(&local);
    assert_echoes(&stream);
    let content = bytes::random(7, 8 << 20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (number, part) in content.chunks(1 << 20).enumerate() {
                (&stream).write_all(part).expect("sent");
                if number % 3 == 1 {
                    path.cut(Cut::Reset);
                }
            }
            stream.shutdown(Shutdown::Write).expect("shut down");
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).expect("everything");
        assert!(received == content, "{} bytes", received.len());
    });
}

#[test]
fn each_direction_of_a_unix_socket_ends_separately() {
    let digest = services::digest_after_end();
    let served = Served::new(
        Testbed::new(Front::Direct),
        &digest.address().to_string(),
        json!({}),
    );
    let local = served.path("local.sock");
    let _client = served.client(&local, json!({}));
    let content = bytes::random(3, 3 << 20);
    let mut stream = connect(&local);
    stream.write_all(&content).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(
        answer,
        format!("{} {}", content.len(), bytes::sha256(&content))
    );
}

#[test]
fn a_socket_that_a_killed_client_left_is_replaced() {
    let echo = services::echo();
    let served = Served::new(
        Testbed::new(Front::Direct),
        &echo.address().to_string(),
        json!({}),
    );
    let local = served.path("local.sock");
    let mut client = served.client(&local, json!({}));
    client.kill();
    assert!(local.exists(), "a killed process removes nothing");
    let mut client = served.client(&local, json!({}));
    assert_echoes(&connect(&local));
    assert!(leftovers(served.testbed.folder()).is_empty());
    client.stop();
    assert!(!local.exists());
}

#[test]
fn a_file_or_a_socket_of_another_program_stays() {
    let testbed = Testbed::new(Front::Direct);
    let fails = |path: &Path, words: &[&str]| {
        let port = port(&unix(path), json!({}));
        let mut client = testbed.role("client", &client_with(&testbed, &port));
        let status = client.wait_for_end(wait::TIMEOUT).expect("the client ends");
        assert_ne!(status.code(), Some(0));
        client.wait_for_line(words);
    };
    let file = testbed.folder().join("file");
    fs::write(&file, "content").expect("written");
    fails(
        &file,
        &["file: ", "is not a socket", "choose another address"],
    );
    assert_eq!(fs::read_to_string(&file).expect("it stays"), "content");
    let socket = testbed.folder().join("other.sock");
    let other = UnixListener::bind(&socket).expect("free");
    fails(&socket, &["other.sock", "another process listens there"]);
    assert!(UnixStream::connect(&socket).is_ok(), "it stays");
    drop(other);
    let link = testbed.folder().join("link");
    std::os::unix::fs::symlink(&file, &link).expect("created");
    fails(&link, &["link: ", "is not a socket"]);
    assert!(leftovers(testbed.folder()).is_empty());
}

#[test]
fn a_folder_that_is_missing_or_not_writable_is_an_error_with_its_remedy() {
    let testbed = Testbed::new(Front::Direct);
    let folder = testbed.folder().join("folder");
    let ends_with = |words: &[&str]| {
        let port = port(&unix(&folder.join("s")), json!({}));
        let path = testbed.write("client", &client_with(&testbed, &port));
        // Root may write every folder, except without this capability.
        let mut command = if sshd::is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-dac_override", REPORT]);
            command
        } else {
            Command::new(REPORT)
        };
        command.arg("--config").arg(path);
        let mut client = Daemon::start("client", testbed.folder(), &mut command);
        let status = client.wait_for_end(wait::TIMEOUT).expect("the client ends");
        assert_ne!(status.code(), Some(0));
        client.wait_for_line(words);
    };
    ends_with(&["local_address", "create the folder of the socket"]);
    fs::create_dir(&folder).expect("created");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("set");
    ends_with(&["local_address", "write the folder of the socket"]);
}

#[test]
fn a_path_that_is_too_long_is_an_error_of_the_configuration() {
    let testbed = Testbed::new(Front::Direct);
    let path = testbed.folder().join("x".repeat(108));
    let port = port(&unix(&path), json!({}));
    let mut client = testbed.role("client", &client_with(&testbed, &port));
    let status = client.wait_for_end(wait::TIMEOUT).expect("the client ends");
    assert_ne!(status.code(), Some(0));
    let length = format!("{} bytes", path.as_os_str().len());
    client.wait_for_line(&["ports[0].local_address", &length]);
}

#[test]
fn the_socket_has_the_configured_mode_and_owner() {
    let echo = services::echo();
    let served = Served::new(
        Testbed::new(Front::Direct),
        &echo.address().to_string(),
        json!({}),
    );
    let own = fs::metadata(served.testbed.folder()).expect("a folder");
    // Only root may choose another user.
    let (owner, ids) = if sshd::is_root() {
        ("daemon:daemon".to_owned(), (1, 1))
    } else {
        let (user, group) = (own.uid(), own.gid());
        (format!("{user}:{group}"), (user, group))
    };
    let local = served.path("local.sock");
    let fields = json!({"socket_mode": "0660", "socket_owner": owner});
    let mut client = served.client(&local, fields);
    let metadata = fs::symlink_metadata(&local).expect("it exists");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!((metadata.uid(), metadata.gid()), ids);
    client.stop();
    let mut client = served.client(&local, json!({}));
    let metadata = fs::symlink_metadata(&local).expect("it exists");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "by default");
    client.stop();
    let unknown = port(&unix(&local), json!({"socket_owner": "no-such-user"}));
    let mut client = served
        .testbed
        .role("client", &client_with(&served.testbed, &unknown));
    client.wait_for_end(wait::TIMEOUT).expect("the client ends");
    client.wait_for_line(&["`socket_owner`", "no-such-user", "/etc/passwd"]);
}

#[test]
fn a_client_and_a_server_use_abstract_names() {
    let name = |role: &str| format!("report-test-{role}-{:016x}", fastrand::u64(..));
    let (service, local) = (name("service"), name("client"));
    let address = |name: &str| SocketAddr::from_abstract_name(name).expect("a short name");
    let listener = UnixListener::bind_addr(&address(&service)).expect("free");
    let served = Served::new(
        Testbed::new(Front::Direct),
        &format!("unix:@{service}"),
        json!({}),
    );
    let port = port(&format!("unix:@{local}"), json!({}));
    let mut client = served
        .testbed
        .role("client", &client_with(&served.testbed, &port));
    client.wait_ready(|| UnixStream::connect_addr(&address(&local)).is_ok());
    std::thread::scope(|scope| {
        // The probe of the readiness may reach the service too, and sends nothing.
        scope.spawn(|| {
            loop {
                let (stream, _) = listener.accept().expect("a connection");
                if !matches!(io::copy(&mut &stream, &mut &stream), Ok(0)) {
                    break;
                }
            }
        });
        let stream = UnixStream::connect_addr(&address(&local)).expect("the client listens");
        stream
            .set_read_timeout(Some(wait::TIMEOUT))
            .expect("a limit");
        assert_echoes(&stream);
    });
    client.wait_for_line(&["listening", &format!("unix:@{local}")]);
}

#[test]
fn a_service_without_its_socket_is_a_refusal_that_names_it() {
    let testbed = Testbed::new(Front::Direct);
    let missing = testbed.folder().join("missing.sock");
    let served = Served::new(testbed, &unix(&missing), json!({}));
    let local = served.path("local.sock");
    let _client = served.client(&local, json!({}));
    let mut stream = connect(&local);
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    served.server.wait_for_line(&[
        "cannot reach the local service",
        "missing.sock",
        "there is no such file",
    ]);
}
