//! Three network namespaces in a row, `inside ── gateway ── outside`. The gateway forwards nothing,
//! so programs inside reach the outside only through a proxy at the gateway. This needs root.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use crate::support::{
    programs::{self, ProgramOutput},
    sshd,
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
    suffix: String,
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
        let networks = Networks {
            suffix: format!("{:08x}", fastrand::u32(..)),
        };
        for namespace in [Namespace::Inside, Namespace::Gateway, Namespace::Outside] {
            ip(&["netns", "add", &networks.name(namespace)]);
            ip(&["-n", &networks.name(namespace), "link", "set", "lo", "up"]);
        }
        networks.join((Namespace::Inside, INSIDE), (Namespace::Gateway, GATEWAY));
        networks.join(
            (Namespace::Gateway, GATEWAY_OUTSIDE),
            (Namespace::Outside, OUTSIDE),
        );
        // Both ends route packets for the other end to the gateway, which does not forward them.
        ip(&[
            "-n",
            &networks.name(Namespace::Inside),
            "route",
            "add",
            "default",
            "via",
            &GATEWAY.to_string(),
        ]);
        ip(&[
            "-n",
            &networks.name(Namespace::Outside),
            "route",
            "add",
            "default",
            "via",
            &GATEWAY_OUTSIDE.to_string(),
        ]);
        let forwards = networks
            .run(
                Namespace::Gateway,
                &["cat", "/proc/sys/net/ipv4/ip_forward"],
            )
            .succeeded()
            .text();
        if forwards.trim() != "0" {
            networks
                .run(
                    Namespace::Gateway,
                    &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"],
                )
                .succeeded();
        }
        networks
    }

    fn name(&self, namespace: Namespace) -> String {
        let namespace = match namespace {
            Namespace::Inside => "inside",
            Namespace::Gateway => "gateway",
            Namespace::Outside => "outside",
        };
        format!("report-{namespace}-{}", self.suffix)
    }

    /// Connects two namespaces by a veth pair.
    fn join(
        &self,
        (one, one_address): (Namespace, Ipv4Addr),
        (other, other_address): (Namespace, Ipv4Addr),
    ) {
        let end = || format!("rp{:08x}", fastrand::u32(..));
        let (here, there) = (end(), end());
        let [one, other] = [one, other].map(|namespace| self.name(namespace));
        ip(&[
            "link", "add", &here, "netns", &one, "type", "veth", "peer", "name", &there, "netns",
            &other,
        ]);
        for (namespace, end, address) in [(one, here, one_address), (other, there, other_address)] {
            ip(&[
                "-n",
                &namespace,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                &end,
            ]);
            ip(&["-n", &namespace, "link", "set", &end, "up"]);
        }
    }

    /// The words that start a program in this namespace.
    pub(crate) fn within(&self, namespace: Namespace) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(namespace)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a program in this namespace to its end.
    pub(crate) fn run(&self, namespace: Namespace, words: &[&str]) -> ProgramOutput {
        let mut command = programs::command("ip");
        programs::run(
            command
                .args(["netns", "exec", &self.name(namespace)])
                .args(words),
        )
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

impl Drop for Networks {
    fn drop(&mut self) {
        for namespace in [Namespace::Inside, Namespace::Gateway, Namespace::Outside] {
            // The kernel deletes the veth pairs with them.
            programs::run(Command::new("ip").args(["netns", "delete", &self.name(namespace)]));
        }
    }
}

fn ip(arguments: &[&str]) {
    programs::run(Command::new("ip").args(arguments)).succeeded();
}
