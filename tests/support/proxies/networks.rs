//! Three network namespaces in a row, `room ── gate ── outside`, of which the gate forwards nothing: who is in the room gets out through what listens at
//! the gate, or not at all. That needs root.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use crate::support::{
    programs::{self, Ran},
    sshd,
};

/// Addresses from a range for documentation (RFC 5737), which nobody has.
pub const ROOM: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The gate's address on the side of the room.
pub const GATE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The gate's address on the other side.
const GATE_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// What is outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// The three, until they are dropped.
#[derive(Debug)]
pub struct Networks {
    suffix: String,
}

/// One of the three.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    Room,
    Gate,
    Outside,
}

impl Networks {
    /// Makes them.
    #[track_caller]
    pub fn new() -> Networks {
        assert!(
            sshd::is_root(),
            "network namespaces need root: run the tests as root"
        );
        let networks = Networks {
            suffix: format!("{:08x}", fastrand::u32(..)),
        };
        for place in [Place::Room, Place::Gate, Place::Outside] {
            ip(&["netns", "add", &networks.name(place)]);
            ip(&["-n", &networks.name(place), "link", "set", "lo", "up"]);
        }
        networks.join((Place::Room, ROOM), (Place::Gate, GATE));
        networks.join((Place::Gate, GATE_OUTSIDE), (Place::Outside, OUTSIDE));
        // Both ends would send what is for the other, if only somebody in between passed it on.
        ip(&[
            "-n",
            &networks.name(Place::Room),
            "route",
            "add",
            "default",
            "via",
            &GATE.to_string(),
        ]);
        ip(&[
            "-n",
            &networks.name(Place::Outside),
            "route",
            "add",
            "default",
            "via",
            &GATE_OUTSIDE.to_string(),
        ]);
        let forwards = networks
            .run(Place::Gate, &["cat", "/proc/sys/net/ipv4/ip_forward"])
            .succeeded()
            .text();
        if forwards.trim() != "0" {
            networks
                .run(
                    Place::Gate,
                    &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"],
                )
                .succeeded();
        }
        networks
    }

    fn name(&self, place: Place) -> String {
        let place = match place {
            Place::Room => "room",
            Place::Gate => "gate",
            Place::Outside => "outside",
        };
        format!("report-{place}-{}", self.suffix)
    }

    /// A cable between two of them.
    fn join(
        &self,
        (one, one_address): (Place, Ipv4Addr),
        (other, other_address): (Place, Ipv4Addr),
    ) {
        let end = || format!("rp{:08x}", fastrand::u32(..));
        let (here, there) = (end(), end());
        let [one, other] = [one, other].map(|place| self.name(place));
        ip(&[
            "link", "add", &here, "netns", &one, "type", "veth", "peer", "name", &there, "netns",
            &other,
        ]);
        for (place, end, address) in [(one, here, one_address), (other, there, other_address)] {
            ip(&[
                "-n",
                &place,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                &end,
            ]);
            ip(&["-n", &place, "link", "set", &end, "up"]);
        }
    }

    /// What a program has to be started within to be there.
    pub fn within(&self, place: Place) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(place)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Runs a program there to its end.
    pub fn run(&self, place: Place, words: &[&str]) -> Ran {
        let mut command = programs::command("ip");
        programs::run(
            command
                .args(["netns", "exec", &self.name(place)])
                .args(words),
        )
    }

    /// Whether somebody listens there.
    pub fn is_listened_at(&self, place: Place, address: SocketAddr) -> bool {
        let listening = self
            .run(
                place,
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
        for place in [Place::Room, Place::Gate, Place::Outside] {
            // The cables go with them.
            programs::run(Command::new("ip").args(["netns", "delete", &self.name(place)]));
        }
    }
}

fn ip(arguments: &[&str]) {
    programs::run(Command::new("ip").args(arguments)).succeeded();
}
