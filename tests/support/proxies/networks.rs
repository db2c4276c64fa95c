//! Three network namespaces in a row, `inside ── gateway ── outside`. The gateway forwards nothing,
//! so programs inside reach the outside only through a proxy at the gateway. This needs root.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    namespace::{self, NetworkNamespace},
    programs::{self, ProgramOutput},
    sshd,
    tunnel::{Port, REPORT, Testbed},
};

/// The inside address. All addresses come from ranges for documentation (RFC 5737), which no
/// host has.
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The inner address of the gateway.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The outer address of the gateway.
const GATEWAY_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The outside address.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The three namespaces. They are deleted on drop.
#[derive(Debug)]
pub(crate) struct Networks {
    inside: NetworkNamespace,
    gateway: NetworkNamespace,
    outside: NetworkNamespace,
}

/// One of the three namespaces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Namespace {
    Inside,
    Gateway,
    Outside,
}

impl Networks {
    /// Creates the namespaces.
    #[track_caller]
    pub(crate) fn new() -> Networks {
        assert!(
            sshd::is_root(),
            "network namespaces need root: run the tests as root"
        );
        let new = |label| NetworkNamespace::new(label).expect("a network namespace");
        let networks = Networks {
            inside: new("inside"),
            gateway: new("gateway"),
            outside: new("outside"),
        };
        networks.join((Namespace::Inside, INSIDE), (Namespace::Gateway, GATEWAY));
        networks.join(
            (Namespace::Gateway, GATEWAY_OUTSIDE),
            (Namespace::Outside, OUTSIDE),
        );
        // Both ends route packets for the other end to the gateway, which does not forward them.
        networks.add_default_route(Namespace::Inside, GATEWAY);
        networks.add_default_route(Namespace::Outside, GATEWAY_OUTSIDE);
        networks.disable_forwarding();
        networks
    }

    fn add_default_route(&self, namespace: Namespace, gateway: Ipv4Addr) {
        let gateway = gateway.to_string();
        self.ip(namespace, &["route", "add", "default", "via", &gateway]);
    }

    /// Makes the gateway drop packets from one end to the other.
    fn disable_forwarding(&self) {
        let forwards = self
            .run(
                Namespace::Gateway,
                &["cat", "/proc/sys/net/ipv4/ip_forward"],
            )
            .succeeded()
            .text();
        if forwards.trim() != "0" {
            self.run(
                Namespace::Gateway,
                &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"],
            )
            .succeeded();
        }
    }

    fn namespace(&self, namespace: Namespace) -> &NetworkNamespace {
        match namespace {
            Namespace::Inside => &self.inside,
            Namespace::Gateway => &self.gateway,
            Namespace::Outside => &self.outside,
        }
    }

    /// Runs `ip` on the devices of a namespace.
    #[track_caller]
    fn ip(&self, namespace: Namespace, arguments: &[&str]) {
        self.namespace(namespace)
            .ip(arguments)
            .expect("the network is set up");
    }

    /// Connects two namespaces by a veth pair.
    fn join(
        &self,
        (one, one_address): (Namespace, Ipv4Addr),
        (other, other_address): (Namespace, Ipv4Addr),
    ) {
        let end = || format!("rp{:08x}", fastrand::u32(..));
        let (here, there) = (end(), end());
        let names = [one, other].map(|namespace| self.namespace(namespace).name());
        namespace::ip(&[
            "link", "add", &here, "netns", names[0], "type", "veth", "peer", "name", &there,
            "netns", names[1],
        ])
        .expect("a veth pair");
        for (namespace, end, address) in [(one, here, one_address), (other, there, other_address)] {
            let address = format!("{address}/24");
            self.ip(namespace, &["address", "add", &address, "dev", &end]);
            self.ip(namespace, &["link", "set", &end, "up"]);
        }
    }

    /// The words that start a program in this namespace.
    pub(crate) fn within(&self, namespace: Namespace) -> Vec<String> {
        self.namespace(namespace).exec_words()
    }

    /// Runs a program in this namespace to its end.
    pub(crate) fn run(&self, namespace: Namespace, words: &[&str]) -> ProgramOutput {
        let mut command = programs::command("ip");
        programs::run(
            command
                .args(["netns", "exec", self.namespace(namespace).name()])
                .args(words),
        )
    }

    /// Fetches a URL inside without a proxy, within this many seconds. `arguments` are the URL and
    /// further options of curl.
    pub(crate) fn fetch_inside(&self, seconds: &str, arguments: &[&str]) -> ProgramOutput {
        let curl = ["curl", "--silent", "--show-error", "--fail"];
        let limits = ["--noproxy", "*", "--max-time", seconds];
        self.run(
            Namespace::Inside,
            &[&curl[..], &limits[..], arguments].concat(),
        )
    }

    /// Starts a role in this namespace without waiting.
    fn role(
        &self,
        namespace: Namespace,
        testbed: &Testbed,
        name: &str,
        configuration: &Value,
        environment: &[(&str, &str)],
    ) -> Daemon {
        let path = testbed.write(name, configuration);
        let mut command = programs::within(&self.within(namespace), REPORT);
        command
            .arg("--config")
            .arg(path)
            .envs(environment.iter().copied());
        Daemon::start(name, testbed.folder(), &mut command)
    }

    /// Starts a master at this address in this namespace and waits until it listens.
    pub(crate) fn master(
        &self,
        namespace: Namespace,
        testbed: &Testbed,
        address: SocketAddr,
    ) -> Daemon {
        let there = json!({"listen_at": address.to_string()});
        let configuration = testbed.master_configuration(there);
        let mut master = self.role(namespace, testbed, "master", &configuration, &[]);
        master.wait_ready(|| self.has_listener_at(namespace, address));
        master
    }

    /// Starts a server for one port in this namespace, with these fields in its configuration.
    pub(crate) fn server(
        &self,
        namespace: Namespace,
        testbed: &Testbed,
        port: &Port,
        fields: Value,
    ) -> Daemon {
        let configuration = testbed.server_configuration(std::slice::from_ref(port), fields);
        self.role(namespace, testbed, "server", &configuration, &[])
    }

    /// Starts a client for one port inside, with these fields and environment variables. Waits until
    /// it listens.
    pub(crate) fn client(
        &self,
        testbed: &Testbed,
        name: &str,
        port: &Port,
        fields: Value,
        environment: &[(&str, &str)],
    ) -> Daemon {
        let configuration = testbed.client_configuration(std::slice::from_ref(port), fields);
        let inside = Namespace::Inside;
        let mut client = self.role(inside, testbed, name, &configuration, environment);
        client.wait_ready(|| self.has_listener_at(inside, port.local));
        client
    }

    /// Whether a process listens at the address in this namespace.
    pub(crate) fn has_listener_at(&self, namespace: Namespace, address: SocketAddr) -> bool {
        let listening = self
            .run(
                namespace,
                &["ss", "--no-header", "--listening", "--tcp", "--numeric"],
            )
            .text();
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        listening
            .split_whitespace()
            .any(|word| word == address.to_string() || word == any.to_string())
    }
}
