//! A tunnel whose paths the test controls: one proxy in front of the client's link and one in front
//! of the server's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::stream_load::{self, Load};
use crate::support::{
    nginx::Tuning,
    proxy::{Path, Proxy},
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
    wait,
};

/// The encryption and compression of the streams, one run for each.
pub(crate) const METHODS: [Methods; 3] = [
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

/// The size of a disturbed transfer, by `REPORT_TEST_SCALE`. Its paths are limited, so that
/// disturbances happen during the transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadProfile {
    /// Bytes of each of the eight streams.
    pub length: u64,
    /// Rate limit of each link in each direction.
    pub bytes_per_second: u32,
    /// Time between two disturbances.
    pub period: Duration,
    /// The minimum of disturbances in one run of eight streams.
    pub min_disturbances: u64,
}

/// The load profile of the survival tests.
pub(crate) fn load_profile() -> LoadProfile {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => LoadProfile {
            length: 64 << 20,
            bytes_per_second: 16_000_000,
            period: Duration::from_secs(1),
            min_disturbances: 6,
        },
        _ => LoadProfile {
            length: 1 << 20,
            bytes_per_second: 1_000_000,
            period: Duration::from_millis(400),
            min_disturbances: 4,
        },
    }
}

/// The methods of slow tests: all at full scale, else the first.
pub(crate) fn methods_in_turn() -> &'static [Methods] {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => &METHODS,
        _ => &METHODS[..1],
    }
}

/// A tunnel and its paths. The client listens for `echo`, for the ports that the test adds, and for
/// every pair of [`METHODS`]. The latter lead to the service of [`stream_load`].
pub(crate) struct Lab {
    pub tunnel: Tunnel,
    pub client_path: Arc<Proxy>,
    pub server_path: Arc<Proxy>,
    pub echo: Service,
    pub load: Service,
}

impl Lab {
    /// Both roles dial the master directly.
    pub(crate) fn new() -> Lab {
        Lab::on(Testbed::new(Front::Direct), Vec::new(), json!({}))
    }

    /// The same with these fields at client and server.
    pub(crate) fn with_fields(fields: Value) -> Lab {
        Lab::on(Testbed::new(Front::Direct), Vec::new(), fields)
    }

    /// The same with a service of the test under the mark `service`.
    pub(crate) fn with_service(service: SocketAddr, fields: Value) -> Lab {
        Lab::on(
            Testbed::new(Front::Direct),
            vec![Port::new("service", service, Methods::DEFAULT)],
            fields,
        )
    }

    /// Both roles dial nginx.
    pub(crate) fn behind_nginx(tuning: &Tuning, fields: Value) -> Lab {
        Lab::on(
            Testbed::tuned(Front::NginxPlain, tuning),
            Vec::new(),
            fields,
        )
    }

    /// Starts the roles on a prepared testbed, with further ports and these fields at client and
    /// server. The field `master_role` applies to the master, and `server_role` and `client_role`
    /// to one of the two only.
    pub(crate) fn on(testbed: Testbed, mut ports: Vec<Port>, fields: Value) -> Lab {
        let [client_path, server_path] =
            [(); 2].map(|()| Arc::new(Proxy::start(testbed.public_address())));
        let (echo, load) = (services::echo(), stream_load::service());
        ports.extend(Port::for_each(&METHODS, load.address()));
        ports.push(Port::new("echo", echo.address(), Methods::DEFAULT));
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
            tunnel: Tunnel::on(testbed, ports, fields),
            client_path,
            server_path,
            echo,
            load,
        }
    }

    /// The client's path and the server's.
    pub(crate) fn paths(&self) -> [Arc<Proxy>; 2] {
        [self.client_path.clone(), self.server_path.clone()]
    }

    /// Limits both paths according to the load profile.
    pub(crate) fn limit(&self) {
        self.set_paths(Path::limited(load_profile().bytes_per_second));
    }

    /// Applies these path properties to both paths.
    pub(crate) fn set_paths(&self, path: Path) {
        self.paths().iter().for_each(|proxy| proxy.set_path(path));
    }

    /// Starts eight streams with these methods.
    pub(crate) fn start_load(&self, methods: Methods) -> Load {
        Load::start(self.tunnel.local(methods), load_profile().length)
    }

    /// Waits until the client's path has carried that many more bytes. Fails if the load ends
    /// first.
    #[track_caller]
    pub(crate) fn wait_for_traffic(&self, bytes: u64, load: &Load) {
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

    /// The client's listening address for the echo service.
    pub(crate) fn echo(&self) -> SocketAddr {
        self.tunnel.local("echo")
    }
}
