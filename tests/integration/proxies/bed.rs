//! A tunnel whose links both go through a proxy, and what every proxy is put through.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::transfer::Transfer;
use crate::support::{
    daemon::Daemon,
    services::{self, Service},
    tunnel::{Fields, Methods, Port, Scene, Tunnel, with},
    wait,
};

/// What a role says when it has a new link.
const LINKED: &str = "linked to the master";

/// A tunnel, an echo behind it, and the proxy at its links.
pub struct Bed {
    pub tunnel: Tunnel,
    _echo: Service,
}

impl Bed {
    /// Both roles with these fields, which name the proxy.
    pub fn new(scene: Scene, fields: Value) -> Bed {
        Bed::with_roles(
            scene,
            Fields {
                server: fields.clone(),
                client: fields,
                ..Fields::default()
            },
        )
    }

    /// Each role with fields of its own.
    pub fn with_roles(scene: Scene, fields: Fields) -> Bed {
        let echo = services::echo();
        let port = Port::new("echo", echo.address(), Methods::USUAL);
        Bed {
            tunnel: Tunnel::on(scene, vec![port], fields),
            _echo: echo,
        }
    }

    /// Where the client listens for the echo.
    pub fn echo(&self) -> SocketAddr {
        self.tunnel.local("echo")
    }

    /// A transfer that nobody disturbs.
    #[track_caller]
    pub fn carries(&self, what: &str) {
        Transfer::start(self.echo()).finish(what);
    }

    /// A transfer in whose middle something happens to the proxy, twice. While it happens the transfer goes on as far as it can, but not to its end.
    #[track_caller]
    pub fn survives(&self, what: &str, mut disturb: impl FnMut()) {
        let before = self.links();
        let transfer = Transfer::slow(self.echo(), 0.45);
        for (from, limit) in [(0.25, 0.85), (0.6, 1.0)] {
            transfer.wait_for(from);
            disturb();
            transfer.let_on(limit);
        }
        transfer.finish(what);
        println!(
            "{what}: {before:?} links of client and server before, {:?} after",
            self.links()
        );
    }

    /// The same when it is killed and started again, and both roles have new links each time.
    #[track_caller]
    pub fn survives_restarts(&self, what: &str, mut kill_and_start: impl FnMut()) {
        self.survives(what, || {
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

    /// How many links the client and the server have had.
    pub fn links(&self) -> [usize; 2] {
        [&self.tunnel.client, &self.tunnel.server].map(links_of)
    }

    /// The client and the server keep their links although a connection is idle for so long, and the connection answers then.
    #[track_caller]
    pub fn stays_linked_while_idle(&self, time: Duration) {
        let stream = services::connect(self.echo());
        services::ping(&stream, b"before the rest").unwrap();
        let before = self.links();
        wait::throughout("the links are the same", time, || self.links() == before);
        services::ping(&stream, b"after the rest").unwrap();
        assert_eq!(self.links(), before);
    }

    /// The proxy cuts the idle links within so long, and the connection answers all the same, over new ones.
    #[track_caller]
    pub fn is_cut_while_idle_and_survives(&self) {
        let stream = services::connect(self.echo());
        services::ping(&stream, b"before the rest").unwrap();
        let before = self.links();
        self.wait_for_new_links(before);
        services::ping(&stream, b"after the cut").unwrap();
    }
}

/// How many links a role has had.
pub fn links_of(role: &Daemon) -> usize {
    role.log().matches(LINKED).count()
}

/// A client that cannot get out: starts it with these fields, waits until it says why, in a line with all these words, and gives the line.
#[track_caller]
pub fn refused(scene: &Scene, fields: Value, words: &[&str]) -> String {
    let echo = services::echo();
    let port = Port::new("echo", echo.address(), Methods::USUAL);
    let fields = with(json!({"connect_timeout": "5s"}), fields);
    let client = scene.client("refused", &[port], fields);
    let line = client.wait_for_line(&[&["cannot reach the master"], words].concat());
    println!("{line}");
    line
}
