//! A tunnel whose paths are in the test's hands: a proxy in front of the client's link and one in front of the server's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::load::{self, Load};
use crate::support::{
    nginx::Tuning,
    proxy::{Path, Proxy},
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Scene, Tunnel, with},
    wait,
};

/// What the streams of a load are sealed and compressed with, one run for each.
pub const METHODS: [Methods; 3] = [
    Methods {
        encrypt: "aes-128-cfb",
        compress: "null",
    },
    Methods {
        encrypt: "aes-128-cfb",
        compress: "s2",
    },
    Methods {
        encrypt: "aes-128-cfb",
        compress: "zstd",
    },
];

/// How long a disturbed transfer takes, by `REPORT_TEST_SCALE`: its paths are limited, so that disturbances fall into it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes of each of the eight streams.
    pub length: u64,
    /// Of each link, each way.
    pub bytes_per_second: u32,
    /// Between two disturbances.
    pub period: Duration,
    /// Disturbances that one run of eight streams must have seen.
    pub least: u64,
}

/// The pace of the tests of this subject.
pub fn pace() -> Pace {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => Pace {
            length: 64 << 20,
            bytes_per_second: 16_000_000,
            period: Duration::from_secs(1),
            least: 6,
        },
        _ => Pace {
            length: 1 << 20,
            bytes_per_second: 1_000_000,
            period: Duration::from_millis(400),
            least: 4,
        },
    }
}

/// The methods of tests that take long: all at full scale, else the first.
pub fn methods_in_turn() -> &'static [Methods] {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => &METHODS,
        _ => &METHODS[..1],
    }
}

/// The tunnel and its paths. The client listens for every pair of [`METHODS`], all of which lead to the service of [`load`], for `echo` and for
/// the ports that the test adds.
pub struct Lab {
    pub tunnel: Tunnel,
    pub client_path: Arc<Proxy>,
    pub server_path: Arc<Proxy>,
    pub echo: Service,
    pub load: Service,
}

impl Lab {
    /// Both roles at the master itself.
    pub fn new() -> Lab {
        Lab::on(Scene::new(Front::Direct), Vec::new(), json!({}))
    }

    /// The same with these fields at client and server.
    pub fn with_fields(fields: Value) -> Lab {
        Lab::on(Scene::new(Front::Direct), Vec::new(), fields)
    }

    /// The same with a service of the test under the mark `service`.
    pub fn with_service(service: SocketAddr, fields: Value) -> Lab {
        Lab::on(
            Scene::new(Front::Direct),
            vec![Port::new("service", service, Methods::USUAL)],
            fields,
        )
    }

    /// Both roles behind nginx.
    pub fn behind_nginx(tuning: &Tuning, fields: Value) -> Lab {
        Lab::on(Scene::tuned(Front::NginxPlain, tuning), Vec::new(), fields)
    }

    /// On a prepared scene, with further ports, and with fields of client and server; a field `master_role` is
    /// the master's, and `server_role` and `client_role` are for one of the two alone.
    pub fn on(scene: Scene, mut ports: Vec<Port>, fields: Value) -> Lab {
        let [client_path, server_path] =
            [(); 2].map(|()| Arc::new(Proxy::start(scene.public_address())));
        let (echo, load) = (services::echo(), load::service());
        ports.extend(Port::for_each(&METHODS, load.address()));
        ports.push(Port::new("echo", echo.address(), Methods::USUAL));
        let of = |role: &str| fields.get(role).cloned().unwrap_or_else(|| json!({}));
        let both = with(
            fields.clone(),
            json!({"master_role": null, "server_role": null, "client_role": null}),
        );
        let through = |path: &Proxy, own: Value| {
            with(
                with(both.clone(), own),
                json!({"master": path.address().to_string()}),
            )
        };
        let fields = Fields {
            master: of("master_role"),
            server: through(&server_path, of("server_role")),
            client: through(&client_path, of("client_role")),
        };
        Lab {
            tunnel: Tunnel::on(scene, ports, fields),
            client_path,
            server_path,
            echo,
            load,
        }
    }

    /// The client's path and the server's.
    pub fn paths(&self) -> [Arc<Proxy>; 2] {
        [self.client_path.clone(), self.server_path.clone()]
    }

    /// Limits both paths as the scale wants it.
    pub fn limit(&self) {
        self.set_paths(Path::limited(pace().bytes_per_second));
    }

    /// Both paths behave so from now on.
    pub fn set_paths(&self, path: Path) {
        self.paths().iter().for_each(|proxy| proxy.set_path(path));
    }

    /// Starts eight streams with these methods.
    pub fn start_load(&self, methods: Methods) -> Load {
        Load::start(self.tunnel.local(methods), pace().length)
    }

    /// Waits until the client's path has carried as many more bytes, which are to be those of this load.
    #[track_caller]
    pub fn wait_for_traffic(&self, bytes: u64, load: &Load) {
        let carried = || self.client_path.forwarded().iter().sum::<u64>();
        let before = carried();
        wait::until_true("the streams run", || {
            assert!(
                !load.is_done(),
                "the streams ended before they were disturbed"
            );
            carried() >= before + bytes
        });
    }

    /// Where the client listens for the echo.
    pub fn echo(&self) -> SocketAddr {
        self.tunnel.local("echo")
    }
}
