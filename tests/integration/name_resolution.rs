//! Services given by name: names with several addresses, and names whose DNS server is silent. The
//! server has a private `/etc/hosts` and `/etc/resolv.conf`, in a mount namespace.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    daemon::Daemon,
    ports,
    services::{self, Service},
    tunnel::{Front, Methods, Port, REPORT, Tunnel},
    wait,
};

/// Starts a server for these ports with private `/etc/hosts` and `/etc/resolv.conf` files.
fn server_with_names(
    tunnel: &Tunnel,
    ports: &[Port],
    hosts: &str,
    resolver: Ipv4Addr,
    fields: Value,
) -> Daemon {
    let file = tunnel
        .testbed
        .write("named", &tunnel.testbed.server_configuration(ports, fields));
    let path = |name: &str, text: String| {
        let path = tunnel.testbed.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let script = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && exec \"$0\" --config \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script, REPORT]);
    command
        .arg(path("hosts", hosts.to_owned()))
        .arg(path("resolv.conf", format!("nameserver {resolver}\n")))
        .arg(file);
    Daemon::start("named", tunnel.testbed.folder(), &mut command)
}

/// Starts a client for these ports.
fn client(tunnel: &Tunnel, ports: &[Port]) -> Daemon {
    tunnel.testbed.client("named-client", ports, json!({}))
}

/// Swallows SYNs at this address while the returned values live: a listener with a full accept
/// queue.
fn silence(address: SocketAddr) -> (Socket, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500));
    let queued = std::iter::from_fn(|| connect().ok()).collect();
    (listener, queued)
}

#[test]
fn a_service_whose_first_address_is_silent_is_reached_at_the_second() {
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let silent = ports::free();
    let _silence = silence(silent);
    let echo = Service::at(
        SocketAddr::from(([127, 0, 0, 2], silent.port())),
        |stream| {
            let _ = std::io::copy(&mut &*stream, &mut &*stream);
            services::Ending::Clean
        },
    );
    let port = Port::new(
        "two",
        format!("two.test:{}", echo.address().port()),
        Methods::DEFAULT,
    );
    let hosts = "127.0.0.1 localhost\n127.0.0.1 two.test\n127.0.0.2 two.test\n";
    let ports = std::slice::from_ref(&port);
    let _server = server_with_names(&tunnel, ports, hosts, Ipv4Addr::LOCALHOST, json!({}));
    let _client = client(&tunnel, ports);
    wait::until_true("the service is reached", || services::echoes(port.local));
    let begun = Instant::now();
    assert!(services::echoes(port.local));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

/// A DNS server that receives queries at an unused loopback address and never answers.
fn silent_dns_server() -> (UdpSocket, Ipv4Addr) {
    let address = Ipv4Addr::from_bits(0x7f42_0000 | fastrand::u32(1..0xffff));
    let socket = UdpSocket::bind((address, 53)).unwrap();
    socket.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
    (socket, address)
}

#[test]
fn many_lookups_at_a_silent_dns_server_block_no_other_name() {
    /// More than the runtime has threads for blocking work.
    const SILENT: usize = 600;
    let tunnel = Tunnel::start(Front::Direct, Vec::new());
    let (dns, resolver) = silent_dns_server();
    let echo = services::echo();
    let silent = Port::new("silent", "silent.test:7", Methods::DEFAULT);
    let here = Port::new(
        "here",
        format!("here.test:{}", echo.address().port()),
        Methods::DEFAULT,
    );
    let ports = [silent.clone(), here.clone()];
    let hosts = "127.0.0.1 localhost here.test\n";
    let server = server_with_names(
        &tunnel,
        &ports,
        hosts,
        resolver,
        json!({"connect_timeout": "120s"}),
    );
    let _client = client(&tunnel, &ports);
    wait::until_true("the other name is reached", || services::echoes(here.local));
    let asking: Vec<TcpStream> = (0..SILENT)
        .map(|_| services::connect(silent.local))
        .collect();
    asking
        .iter()
        .for_each(|mut stream| stream.write_all(b"hello").unwrap());
    dns.recv(&mut [0; 512]).expect("the name is looked up");
    let threads = || {
        fs::read_dir(format!("/proc/{}/task", server.pid()))
            .expect("the server runs")
            .count()
    };
    wait::throughout(
        "one lookup serves all connections",
        Duration::from_secs(2),
        || threads() < 100,
    );
    assert!(services::echoes(here.local));
    drop(asking);
}
