//! The tunnel: the three roles as real processes of the built binary, with generated configuration
//! files.

mod port;
mod testbed;

use std::{fmt::Display, net::SocketAddr};

use serde_json::Value;

pub(crate) use self::{
    port::{Methods, Port},
    testbed::{Front, REPORT, Testbed, report, with},
};
use super::{
    daemon::{Daemon, Signal},
    ports,
    services::{self, Service},
    wait,
};

/// Additional configuration fields of the roles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    pub master: Value,
    pub server: Value,
    pub client: Value,
}

/// A connected master, server and client. The client stops first and the master last, which causes
/// the fewest errors in their logs.
pub(crate) struct Tunnel {
    pub client: Daemon,
    pub server: Daemon,
    pub master: Daemon,
    ports: Vec<Port>,
    fields: Fields,
    pub testbed: Testbed,
    probe: Port,
    _echo: Service,
}

impl Tunnel {
    /// Starts a tunnel behind this front.
    pub(crate) fn start(front: Front, ports: Vec<Port>) -> Tunnel {
        Tunnel::on(Testbed::new(front), ports, Fields::default())
    }

    /// Starts a tunnel on a prepared testbed. It adds a port to an echo service, which shows
    /// when the tunnel is up.
    pub(crate) fn on(testbed: Testbed, mut ports: Vec<Port>, fields: Fields) -> Tunnel {
        let echo = services::echo();
        let probe = Port::new("probe", echo.address(), Methods::DEFAULT);
        ports.push(probe.clone());
        let master = testbed.master(fields.master.clone());
        let server = testbed.server("server", &ports, fields.server.clone());
        let client = testbed.client("client", &ports, fields.client.clone());
        let tunnel = Tunnel {
            client,
            server,
            master,
            ports,
            fields,
            testbed,
            probe,
            _echo: echo,
        };
        tunnel.wait_until_connected();
        tunnel
    }

    /// Waits until a connection through all three works.
    #[track_caller]
    pub(crate) fn wait_until_connected(&self) {
        wait::until_true("a connection goes through the tunnel", || {
            for (name, role) in [
                ("master", &self.master),
                ("server", &self.server),
                ("client", &self.client),
            ] {
                assert!(!role.has_ended(), "the {name} has ended");
            }
            self.is_connected()
        });
    }

    /// Whether a connection through all three works now.
    pub(crate) fn is_connected(&self) -> bool {
        services::echoes(self.probe.local)
    }

    /// The client's listening address for this mark.
    #[track_caller]
    pub(crate) fn local(&self, mark: impl Display) -> SocketAddr {
        let mark = mark.to_string();
        self.ports
            .iter()
            .find(|port| port.mark == mark)
            .map(|port| port.local)
            .expect("a port with this mark")
    }

    /// The port to an echo service that every tunnel has.
    pub(crate) fn probe(&self) -> &Port {
        &self.probe
    }

    /// The process ids of master, server and client.
    pub(crate) fn pids(&self) -> [(&'static str, u32); 3] {
        [
            ("master", self.master.pid()),
            ("server", self.server.pid()),
            ("client", self.client.pid()),
        ]
    }

    /// Restarts the server.
    pub(crate) fn restart_server(&mut self) {
        self.server.stop();
        self.server = self
            .testbed
            .server("server", &self.ports, self.fields.server.clone());
    }

    /// Asks the master to drain, and starts another one at its address as soon as that is free.
    /// Returns the draining one.
    pub(crate) fn replace_master(&mut self) -> Daemon {
        self.master.signal(Signal::Terminate);
        wait::until_true("the master accepts no more connections", || {
            !ports::has_listener_at(self.testbed.master_address())
        });
        let new = self.testbed.master(self.fields.master.clone());
        std::mem::replace(&mut self.master, new)
    }

    /// Restarts the master.
    pub(crate) fn restart_master(&mut self) {
        self.master.stop();
        self.master = self.testbed.master(self.fields.master.clone());
    }
}
