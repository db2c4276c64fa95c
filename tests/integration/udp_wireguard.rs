//! WireGuard over a port with the protocol `udp`: a TCP transfer through both, compared with a stream
//! of the tunnel. Measurements, which only a quiet machine makes well: run them with `--ignored`.
//!
//! They need root, `iperf3`, `wg` (package wireguard-tools), and WireGuard in the kernel or
//! `wireguard-go`.

use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    namespace::NetworkNamespace,
    path::{End, LossyPath, conditions::Conditions},
    ports, programs,
    tunnel::{Front, Methods, Port, REPORT, Testbed},
    wait,
};

/// The device in each namespace.
const DEVICE: &str = "wg0";

/// The address of an end inside WireGuard.
fn inner(end: End) -> &'static str {
    match end {
        End::A => "10.77.0.1",
        End::B => "10.77.0.2",
    }
}

/// Two namespaces that reach one another.
trait Path {
    fn namespace(&self, end: End) -> &NetworkNamespace;
}

impl Path for LossyPath {
    fn namespace(&self, end: End) -> &NetworkNamespace {
        LossyPath::namespace(self, end)
    }
}

/// A path of the kernel, without delay and losses.
struct VirtualCable([NetworkNamespace; 2]);

impl VirtualCable {
    fn new() -> VirtualCable {
        let namespaces = ["near", "far"]
            .map(|label| NetworkNamespace::new(label).expect("run the tests as root"));
        let [near, far] = &namespaces;
        let add = [
            "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
        ];
        near.ip(&[&add[..], &[far.name()]].concat())
            .expect("a pair of devices");
        for (namespace, end) in namespaces.iter().zip(End::BOTH) {
            let address = format!("{}/24", end.address());
            let set = namespace.ip(&["address", "add", &address, "dev", "cable"]);
            set.and_then(|()| namespace.ip(&["link", "set", "cable", "up"]))
                .expect("an address");
        }
        VirtualCable(namespaces)
    }
}

impl Path for VirtualCable {
    fn namespace(&self, end: End) -> &NetworkNamespace {
        let VirtualCable([near, far]) = self;
        match end {
            End::A => near,
            End::B => far,
        }
    }
}

/// The keys of one end.
struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn new() -> Keys {
        let private = programs::run(Command::new("wg").arg("genkey")).succeeded();
        let public = programs::run_with(Command::new("wg").arg("pubkey"), &private.out);
        Keys {
            private: private.text().trim().to_owned(),
            public: public.succeeded().text().trim().to_owned(),
        }
    }
}

/// WireGuard at one end. The process of `wireguard-go` ends with it.
struct WireGuard {
    _daemon: Option<Daemon>,
}

impl WireGuard {
    /// Starts an end whose datagrams go to `peer`, or which waits for those of the other at `port`.
    fn start(
        testbed: &Testbed,
        (namespace, end): (&NetworkNamespace, End),
        keys: &Keys,
        other: &Keys,
        (port, peer): (u16, Option<SocketAddr>),
    ) -> WireGuard {
        let added = namespace.ip(&["link", "add", DEVICE, "type", "wireguard"]);
        let daemon = added.is_err().then(|| {
            let mut command = namespace.command("wireguard-go");
            command.args(["--foreground", DEVICE]);
            let daemon = Daemon::start(
                &format!("wireguard-{end:?}"),
                testbed.folder(),
                &mut command,
            );
            wait::until_true("wireguard-go has its device", || {
                namespace.ip(&["link", "show", DEVICE]).is_ok()
            });
            daemon
        });
        let key = testbed.folder().join(format!("{end:?}.key"));
        std::fs::write(&key, &keys.private).expect("the key is written");
        let mut set = namespace.command("wg");
        set.args([
            "set",
            DEVICE,
            "listen-port",
            &port.to_string(),
            "private-key",
        ])
        .arg(&key)
        .args(["peer", &other.public, "allowed-ips", "10.77.0.0/24"]);
        if let Some(peer) = peer {
            set.args(["endpoint", &peer.to_string(), "persistent-keepalive", "25"]);
        }
        programs::run(&mut set).succeeded();
        let address = format!("{}/24", inner(end));
        namespace
            .ip(&["address", "add", &address, "dev", DEVICE])
            .and_then(|()| namespace.ip(&["link", "set", DEVICE, "up"]))
            .expect("the device is up");
        WireGuard { _daemon: daemon }
    }
}

/// Measures TCP to this address. Returns the rate in Mbit/s.
fn iperf3(namespace: &NetworkNamespace, host: &str, port: u16, seconds: u32) -> f64 {
    let mut command = namespace.command("timeout");
    command.args([
        "120",
        "iperf3",
        "--client",
        host,
        "--port",
        &port.to_string(),
    ]);
    command.args(["--time", &seconds.to_string(), "--json"]);
    let report = programs::run(&mut command).succeeded().json();
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .expect("a rate")
        / 1e6
}

/// Connects both ends over the tunnel: the near one sends to `local`, the far one waits at `service`.
fn connect_wireguard(
    testbed: &Testbed,
    [near, far]: [&NetworkNamespace; 2],
    service: u16,
    local: SocketAddr,
) -> [WireGuard; 2] {
    let [near_keys, far_keys] = [Keys::new(), Keys::new()];
    let to_client = (ports::free().port(), Some(local));
    let ends = [
        WireGuard::start(testbed, (near, End::A), &near_keys, &far_keys, to_client),
        WireGuard::start(
            testbed,
            (far, End::B),
            &far_keys,
            &near_keys,
            (service, None),
        ),
    ];
    wait::until_true("WireGuard connects", || {
        let mut ping = near.command("ping");
        ping.args(["-c", "1", "-W", "1", inner(End::B)]);
        programs::run(&mut ping).code == Some(0)
    });
    ends
}

/// Measures a stream of the tunnel and a TCP connection through WireGuard, and prints their ratio.
fn compare(what: &str, path: &impl Path, seconds: u32) {
    let testbed = Testbed::new(Front::Direct);
    let [near, far] = End::BOTH.map(|end| path.namespace(end));
    let number = || ports::free().port();
    let master = SocketAddr::from((End::B.address(), number()));
    let (measured, wireguard) = (number(), number());
    let stream = Port::new("stream", format!("127.0.0.1:{measured}"), Methods::DEFAULT);
    let datagrams = Port {
        at_both: json!({"protocol": "udp", "udp_idle_timeout": 0}),
        ..Port::udp("wireguard", format!("127.0.0.1:{wireguard}"))
    };
    let role = |namespace: &NetworkNamespace, name: &str, configuration: &Value| {
        let file = testbed.write(name, configuration);
        let mut command = namespace.command(REPORT);
        command.arg("--config").arg(file);
        Daemon::start(name, testbed.folder(), &mut command)
    };
    let listen_at = json!({"listen_at": master.to_string(), "log_level": "info"});
    let uplink = json!({"master": master.to_string(), "links": {"max": 8}, "log_level": "info"});
    let roles_ports = [stream.clone(), datagrams.clone()];
    let _master = role(far, "master", &testbed.master_configuration(listen_at));
    let of_server = testbed.server_configuration(&roles_ports, uplink.clone());
    let _server = role(far, "server", &of_server);
    let of_client = testbed.client_configuration(&roles_ports, uplink);
    let client = role(near, "client", &of_client);
    let mut server = far.command("iperf3");
    server.args(["--server", "--port", &measured.to_string()]);
    let _server = Daemon::start("iperf3", testbed.folder(), &mut server);
    for port in ["port=stream", "port=wireguard"] {
        client.wait_for_line(&["attached to a server", port]);
    }
    let _wireguard = connect_wireguard(&testbed, [near, far], wireguard, datagrams.local);
    let through_stream = iperf3(near, "127.0.0.1", stream.local.port(), seconds);
    let through_wireguard = iperf3(near, inner(End::B), measured, seconds);
    println!(
        "{what}: stream {through_stream:.1} Mbit/s, WireGuard {through_wireguard:.1} Mbit/s, ratio {:.2}",
        through_wireguard / through_stream
    );
    assert!(through_wireguard > 0.0);
}

#[test]
#[ignore = "a measurement for a quiet machine, with WireGuard"]
fn wireguard_without_delay() {
    compare("without delay", &VirtualCable::new(), 10);
}

#[test]
#[ignore = "a measurement for a quiet machine, with WireGuard"]
fn wireguard_over_a_lossy_path() {
    let round_trip = Duration::from_millis(100);
    let conditions = Conditions::new(round_trip, 100).with_loss(0.01);
    let path = LossyPath::new(1, [conditions; 2]).expect("run the tests as root");
    compare("100 ms, 1 % loss", &path, 30);
}
