//! The commands for one service: `report connect`, `invite`, `forward` and `expose`.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{
    bytes,
    daemon::Daemon,
    ports,
    programs::{self, ProgramOutput},
    services::{self, Ending, Service},
    sshd::Sshd,
    tunnel::{Front, Methods, Port, REPORT, Testbed, Tunnel, report},
    wait,
};

/// Bytes of a transfer that passes several windows.
const SEVERAL_WINDOWS: usize = 3 << 20;

/// A tunnel, and the file of another client that no role runs.
fn tunnel(ports: Vec<Port>) -> (Tunnel, PathBuf) {
    let tunnel = Tunnel::start(Front::Direct, ports.clone());
    let client = tunnel.testbed.client_configuration(&ports, json!({}));
    let file = tunnel.testbed.write("connect", &client);
    (tunnel, file)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs `report connect` to its end with this input.
fn connect(file: &Path, arguments: &[&str], input: &[u8]) -> ProgramOutput {
    let mut command = programs::command(REPORT);
    command.args(["connect", "--config", text(file)]);
    programs::run_with(command.args(arguments), input)
}

/// Runs `report connect` without input. Asserts that it failed with this exit code. Returns its
/// errors.
#[track_caller]
fn connect_error(file: &Path, arguments: &[&str], code: i32) -> String {
    let output = connect(file, arguments, b"");
    assert_eq!(
        (output.code, output.out.len()),
        (Some(code), 0),
        "{output:?}"
    );
    output.errors
}

/// A running `report connect`.
struct Connection {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Connection {
    fn start(file: &Path, mark: &str) -> Connection {
        let mut command = Command::new(REPORT);
        command.args(["connect", "--config", text(file), mark]);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = piped.spawn().expect("report starts");
        let input = child.stdin.take();
        let output = child.stdout.take();
        Connection {
            child,
            input,
            output,
        }
    }

    /// Sends these bytes.
    fn send(&mut self, content: &[u8]) {
        let input = self.input.as_mut().expect("an open standard input");
        input.write_all(content).expect("report reads its input");
        input.flush().expect("report reads its input");
    }

    /// Asserts that these bytes return from an echo.
    #[track_caller]
    fn check_echo(&mut self, content: &[u8]) {
        self.send(content);
        let mut returned = vec![0; content.len()];
        let output = self.output.as_mut().expect("an open standard output");
        output.read_exact(&mut returned).expect("an echo");
        assert_eq!(returned, content);
    }

    /// Waits for the exit code.
    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        let ended = wait::until("report has ended", || {
            self.child.try_wait().expect("a child")
        });
        ended.code()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A child that has ended already is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ssh_runs_over_connect_beside_a_running_client() {
    let folder = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(folder.path(), ports::free());
    let (tunnel, file) = tunnel(vec![Port::new("SSH", sshd.address(), Methods::DEFAULT)]);
    let proxy_command = format!("'{REPORT}' connect ssh --config '{}'", file.display());
    let content = bytes::mixed(1, SEVERAL_WINDOWS);
    let output = sshd.ssh_over(&proxy_command, "cat", &content).succeeded();
    assert_eq!(bytes::sha256(&output.out), bytes::sha256(&content));
    assert_eq!(output.errors, "", "connect logs nothing");
    assert_eq!(sshd.ssh_over(&proxy_command, "exit 7", b"").code, Some(7));
    assert!(tunnel.is_connected(), "the other client keeps running");
}

#[test]
fn binary_data_and_its_end_pass_with_every_pair_of_methods() {
    let digest = services::digest_after_end();
    let (_tunnel, file) = tunnel(Port::for_each(&Methods::all(), digest.address()));
    for methods in Methods::all() {
        for content in [Vec::new(), bytes::mixed(2, SEVERAL_WINDOWS)] {
            let output = connect(&file, &[&methods.to_string()], &content).succeeded();
            assert_eq!(
                output.text(),
                format!("{} {}", content.len(), bytes::sha256(&content)),
                "{methods}"
            );
            assert_eq!(output.errors, "", "{methods}");
        }
    }
}

#[test]
fn a_service_that_ends_first_still_receives_the_input() {
    let content = bytes::mixed(3, SEVERAL_WINDOWS);
    let service = services::source(content.clone());
    let (_tunnel, file) = tunnel(vec![Port::new(
        "source",
        service.address(),
        Methods::DEFAULT,
    )]);
    let mut connection = Connection::start(&file, "source");
    let mut received = Vec::new();
    // Standard output ends while standard input is still open.
    let mut output = connection.output.take().expect("an open standard output");
    output.read_to_end(&mut received).unwrap();
    assert_eq!(bytes::sha256(&received), bytes::sha256(&content));
    assert!(service.endings().is_empty(), "the input is still open");
    connection.send(b"more");
    drop(connection.input.take());
    assert_eq!(connection.code(), Some(0));
    assert_eq!(service.wait_for_endings(1), [Ending::Clean]);
}

#[test]
fn connect_ends_without_a_failure_when_its_output_has_no_reader() {
    let service = services::endless();
    let (_tunnel, file) = tunnel(vec![Port::new(
        "endless",
        service.address(),
        Methods::DEFAULT,
    )]);
    let mut connection = Connection::start(&file, "endless");
    let mut output = connection.output.take().expect("an open standard output");
    output.read_exact(&mut [0; 1_000]).unwrap();
    drop(output);
    assert_eq!(connection.code(), Some(0), "standard input is still open");
    service.wait_for_endings(1);
}

#[test]
fn a_connection_survives_a_restart_of_the_master() {
    let echo = services::echo();
    let (mut tunnel, file) = tunnel(vec![Port::new("echo", echo.address(), Methods::DEFAULT)]);
    let mut connection = Connection::start(&file, "echo");
    connection.check_echo(b"before\0\xff");
    tunnel.restart_master();
    connection.check_echo(b"after");
    drop(connection.input.take());
    assert_eq!(connection.code(), Some(0));
    assert_eq!(echo.accepted(), 1);
}

#[test]
fn a_signal_ends_connect_at_once() {
    let echo = services::echo();
    let (_tunnel, file) = tunnel(vec![Port::new("echo", echo.address(), Methods::DEFAULT)]);
    let mut connection = Connection::start(&file, "echo");
    connection.check_echo(b"open");
    let pid = connection.child.id().to_string();
    programs::run(Command::new("kill").args(["-s", "TERM", &pid])).succeeded();
    assert_eq!(connection.code(), Some(143));
    echo.wait_for_endings(1);
}

#[test]
fn failures_are_explained_on_standard_error() {
    let echo = services::echo();
    let dead = Port::new("dead", ports::free(), Methods::DEFAULT);
    let (tunnel, file) = tunnel(vec![
        dead,
        Port::new("echo", echo.address(), Methods::DEFAULT),
    ]);
    let testbed = &tunnel.testbed;
    let invitation = "report+wss://host/#hush";
    for (arguments, code, says) in [
        (
            &["dead"][..],
            1,
            "\"dead\": the service refused the connection",
        ),
        (&["none"], 1, "no port has the mark \"none\""),
        (&["echo", "--offset", "1"], 2, "choose one with --offset"),
        (
            &["echo", "--host", "a"],
            2,
            "--host is only for an invitation",
        ),
        (&["report+wss://host/"], 2, "no key"),
        (&["--invite-file", "/no/such/file"], 2, "the invitation in"),
        (
            &[invitation, "--links-max", "none"],
            2,
            "--links-max is \"none\"",
        ),
    ] {
        let errors = connect_error(&file, arguments, code);
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
    let stranger = Port::new("stranger", echo.address(), Methods::DEFAULT);
    let fields = json!({"hold_timeout": "100ms"});
    let client = testbed.client_configuration(std::slice::from_ref(&stranger), fields);
    let unknown = testbed.write("unknown", &client);
    let errors = connect_error(&unknown, &["stranger"], 1);
    assert!(errors.contains("no server for the port key"), "{errors}");
    let fields = json!({"master": ports::free().to_string()});
    let client = testbed.client_configuration(std::slice::from_ref(&stranger), fields);
    let unreachable = testbed.write("unreachable", &client);
    let errors = connect_error(&unreachable, &["stranger"], 1);
    assert!(errors.contains("no link to a master"), "{errors}");
    let errors = connect_error(&testbed.folder().join("server.json"), &["echo"], 1);
    assert!(errors.contains("is a server configuration"), "{errors}");
}

/// Starts a command of the binary, and waits until it listens at the address, if there is one.
fn start(
    testbed: &Testbed,
    arguments: &[&str],
    variables: &[(&str, &str)],
    listens: Option<std::net::SocketAddr>,
) -> Daemon {
    let mut command = Command::new(REPORT);
    command.args(arguments).envs(variables.iter().copied());
    let name = arguments.first().expect("a command");
    let mut daemon = Daemon::start(name, testbed.folder(), &mut command);
    if let Some(address) = listens {
        daemon.wait_ready(|| ports::has_listener_at(address));
    }
    daemon
}

/// Asserts that the lines are an invitation with the key, and a warning without it.
#[track_caller]
fn invitation(output: &ProgramOutput, key: &str) -> String {
    let text = output.text();
    let invitation = text.strip_suffix('\n').expect("a line");
    assert!(
        invitation.starts_with("report+ws") && invitation.ends_with(&format!("#{key}")),
        "{text}"
    );
    assert!(
        output
            .errors
            .contains("warning: the invitation contains the port key")
            && !output.errors.contains(key),
        "{}",
        output.errors
    );
    invitation.to_owned()
}

#[test]
fn an_invitation_is_all_that_a_client_needs() {
    let digest = services::digest_after_end();
    let methods = Methods::TWO[0];
    let port = Port::new("远程 SSH", digest.address(), methods);
    let (tunnel, file) = tunnel(vec![port.clone()]);
    let testbed = &tunnel.testbed;
    let server = testbed.folder().join("server.json");
    for config in [&server, &file] {
        let printed = report(&["invite", &port.mark, "--config", text(config)]).succeeded();
        let invitation = invitation(&printed, &port.key);
        let output = programs::run_with(
            programs::command(REPORT).args(["connect", &invitation]),
            b"abc",
        );
        let expected = format!("3 {}", bytes::sha256(b"abc"));
        assert_eq!(output.succeeded().text(), expected);
    }
    let invitation = testbed.folder().join("invitation");
    report(&[
        "invite",
        &port.mark,
        "--config",
        text(&server),
        "--write",
        text(&invitation),
    ])
    .succeeded();
    let local = ports::free();
    let forward = start(
        testbed,
        &[
            "forward",
            "--invite-file",
            text(&invitation),
            "--listen",
            &local.to_string(),
            "--log-level",
            "debug",
        ],
        &[],
        Some(local),
    );
    let answer = programs::nc(local, b"abc").succeeded();
    assert_eq!(answer.text(), format!("3 {}", bytes::sha256(b"abc")));
    assert!(
        !forward.log().contains(&port.key),
        "the log contains no key"
    );
}

#[test]
fn a_server_and_a_client_run_without_files() {
    let echo: Service = services::echo();
    let testbed = Testbed::new(Front::Tls);
    let _master = testbed.master(Value::Null);
    let key_file = testbed.folder().join("master.key");
    fs::write(&key_file, &testbed.master_key).unwrap();
    let (url, to) = (testbed.master_url(), echo.address().to_string());
    let authority = testbed.authority().path();
    let variables = [("REPORT_PORT_KEY", "a key of this test, in the environment")];
    let links = ["--master", &url, "--tls-ca", text(&authority)];
    let expose = [
        &["expose", "--to", &to, "--master-key-file", text(&key_file)][..],
        &links,
        &["--compress-method", "zstd"],
    ];
    let _server = start(&testbed, &expose.concat(), &variables, None);
    let local = ports::free();
    let listen = local.to_string();
    let forward = [
        &["forward", "--listen", &listen][..],
        &links,
        &["--compress-method", "zstd", "--links-max", "2"],
    ];
    let mut client = start(&testbed, &forward.concat(), &variables, Some(local));
    wait::until_true("a connection goes through", || services::echoes(local));
    assert!(client.stop().success(), "a drain is a success");
}

#[test]
fn invalid_options_are_invalid_arguments() {
    for (arguments, says) in [
        (
            &[
                "forward",
                "--listen",
                "22",
                "--master",
                "host:1",
                "--port-key",
                "hush",
            ][..],
            "--listen (\"22\") has no host",
        ),
        (
            &["forward", "--listen", "127.0.0.1:0", "--port-key", "hush"],
            "--master is missing",
        ),
        (
            &[
                "expose",
                "--to",
                "127.0.0.1:1",
                "--master",
                "host:1",
                "--port-key",
                "hush",
            ],
            "--master-key-file is missing",
        ),
        (
            &[
                "expose",
                "--to",
                "127.0.0.1:1",
                "--master",
                "host:1",
                "--port-key",
                "hush",
                "--master-key",
                "hush",
                "--encrypt-method",
                "aes",
            ],
            "--encrypt-method is \"aes\"",
        ),
    ] {
        let output = report(arguments);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.errors.contains(says), "{}", output.errors);
        assert!(!output.errors.contains("hush"), "{}", output.errors);
    }
}
