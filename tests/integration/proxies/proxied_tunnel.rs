//! A tunnel whose links both go through a proxy, and the checks that every proxy must pass.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::transfer::Transfer;
use crate::support::{
    daemon::Daemon,
    services::{self, Service},
    tunnel::{Fields, Methods, Port, Testbed, Tunnel, with},
    wait,
};

/// The log event of a new link.
const LINKED: &str = "linked to the master";

/// A tunnel with an echo service, whose links go through a proxy.
pub(crate) struct ProxiedTunnel {
    pub tunnel: Tunnel,
    _echo: Service,
}

impl ProxiedTunnel {
    /// Starts both roles with these fields, which name the proxy.
    pub(crate) fn new(testbed: Testbed, fields: Value) -> ProxiedTunnel {
        ProxiedTunnel::with_roles(
            testbed,
            Fields {
                server: fields.clone(),
                client: fields,
                ..Fields::default()
            },
        )
    }

    /// Starts each role with separate fields.
    pub(crate) fn with_roles(testbed: Testbed, fields: Fields) -> ProxiedTunnel {
        let echo = services::echo();
        let port = Port::new("echo", echo.address(), Methods::DEFAULT);
        ProxiedTunnel {
            tunnel: Tunnel::on(testbed, vec![port], fields),
            _echo: echo,
        }
    }

    /// The client's listening address for the echo service.
    pub(crate) fn echo(&self) -> SocketAddr {
        self.tunnel.local("echo")
    }

    /// Runs an undisturbed transfer.
    #[track_caller]
    pub(crate) fn assert_transfer(&self, what: &str) {
        Transfer::start(self.echo()).finish(what);
    }

    /// Runs a transfer and disturbs the proxy twice in the middle of it. During each disturbance
    /// the transfer may continue up to a limit, but not to its end.
    #[track_caller]
    pub(crate) fn assert_survives(&self, what: &str, disturb: impl FnMut()) {
        self.assert_all_survive(1, what, disturb);
    }

    /// The same with this many transfers at once.
    #[track_caller]
    pub(crate) fn assert_all_survive(&self, count: usize, what: &str, mut disturb: impl FnMut()) {
        let before = self.links();
        let transfers: Vec<Transfer> = (0..count)
            .map(|_| Transfer::slow(self.echo(), 0.45))
            .collect();
        for (from, limit) in [(0.25, 0.85), (0.6, 1.0)] {
            transfers
                .iter()
                .for_each(|transfer| transfer.wait_for(from));
            disturb();
            transfers
                .iter()
                .for_each(|transfer| transfer.allow_up_to(limit));
        }
        for transfer in transfers {
            transfer.finish(what);
        }
        println!(
            "{what}: {before:?} links of client and server before, {:?} after",
            self.links()
        );
    }

    /// Kills and restarts the proxy twice during a transfer. Both roles must have new links each
    /// time.
    #[track_caller]
    pub(crate) fn assert_survives_restarts(&self, what: &str, mut kill_and_start: impl FnMut()) {
        self.assert_survives(what, || {
            let before = self.links();
            kill_and_start();
            self.wait_for_new_links(before);
        });
    }

    #[track_caller]
    fn wait_for_new_links(&self, before: [usize; 2]) {
        wait::until_true("both roles have new links", || {
            self.links()
                .iter()
                .zip(before)
                .all(|(links, before)| *links > before)
        });
    }

    /// The number of links that the client and the server have had.
    pub(crate) fn links(&self) -> [usize; 2] {
        [&self.tunnel.client, &self.tunnel.server].map(links_of)
    }

    /// Asserts that client and server keep their links while a connection is idle for this long,
    /// and that the connection still works afterwards.
    #[track_caller]
    pub(crate) fn assert_links_stay_while_idle(&self, time: Duration) {
        let stream = services::connect(self.echo());
        services::ping(&stream, b"before the idle time").unwrap();
        let before = self.links();
        wait::throughout("the links stay up", time, || self.links() == before);
        services::ping(&stream, b"after the idle time").unwrap();
        assert_eq!(self.links(), before);
    }

    /// Asserts that the proxy cuts the idle links in time, and that the connection still works over
    /// new ones.
    #[track_caller]
    pub(crate) fn assert_survives_idle_cut(&self) {
        let stream = services::connect(self.echo());
        services::ping(&stream, b"before the idle time").unwrap();
        let before = self.links();
        self.wait_for_new_links(before);
        services::ping(&stream, b"after the cut").unwrap();
    }
}

/// The number of links that a role has had.
pub(crate) fn links_of(role: &Daemon) -> usize {
    role.log().matches(LINKED).count()
}

/// Starts a client that cannot connect, with these fields. Waits for the log line that has all
/// `words` and returns it.
#[track_caller]
pub(crate) fn assert_refused(testbed: &Testbed, fields: Value, words: &[&str]) -> String {
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::DEFAULT);
    let fields = with(json!({"connect_timeout": "5s"}), fields);
    let client = testbed.client("refused", &[port], fields);
    let line = client.wait_for_line(&[&["cannot reach the master"], words].concat());
    println!("{line}");
    line
}
