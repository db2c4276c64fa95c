//! The tunnel: the three roles as real processes of the built binary, with generated configuration
//! files.

use std::{
    fmt::Display,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    bytes,
    certificates::{Authority, Leaf},
    daemon::{Daemon, Signal},
    nginx, ports,
    programs::{self, ProgramOutput},
    services::{self, Service},
    wait,
};

/// The components between the roles and the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// Nothing: `ws://` to the master.
    Direct,
    /// TLS at the master itself.
    Tls,
    /// nginx with nginx/report-plain.conf.
    NginxPlain,
    /// nginx with nginx/report-tls.conf.
    NginxTls,
}

/// The encryption and compression of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Methods {
    pub encrypt: &'static str,
    pub compress: &'static str,
}

impl Methods {
    /// The methods of tests that are not about methods.
    pub(crate) const DEFAULT: Methods = Methods {
        encrypt: "aes-128-gcm",
        compress: "null",
    };
    /// Two pairs without a common method.
    pub(crate) const TWO: [Methods; 2] = [
        Methods {
            encrypt: "aes-128-cfb",
            compress: "zstd",
        },
        Methods {
            encrypt: "chacha20-poly1305",
            compress: "s2",
        },
    ];

    /// Every combination.
    pub(crate) fn all() -> Vec<Methods> {
        let encrypt = ["plain", "aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];
        let pairs = |encrypt| ["null", "s2", "zstd"].map(|compress| Methods { encrypt, compress });
        encrypt.into_iter().flat_map(pairs).collect()
    }
}

impl Display for Methods {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}+{}", self.encrypt, self.compress)
    }
}

/// A service at the server, and the client's address that leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub mark: String,
    pub service: String,
    pub local: SocketAddr,
    pub key: String,
    pub methods: Methods,
    /// Fields of the port that only the server's configuration has.
    pub at_server: Value,
}

impl Port {
    /// A port with a new key and an unused local address.
    pub(crate) fn new(mark: impl Display, service: impl Display, methods: Methods) -> Port {
        let key = bytes::hexadecimal(&bytes::random(fastrand::u64(..), 20));
        Port {
            mark: mark.to_string(),
            service: service.to_string(),
            local: ports::free(),
            key,
            methods,
            at_server: Value::Null,
        }
    }

    /// One port for each pair of methods, all for the same service.
    pub(crate) fn for_each(methods: &[Methods], service: impl Display) -> Vec<Port> {
        methods
            .iter()
            .map(|&methods| Port::new(methods, &service, methods))
            .collect()
    }

    /// The same port at another client.
    pub(crate) fn at_another_address(&self) -> Port {
        Port {
            local: ports::free(),
            ..self.clone()
        }
    }

    fn json(&self, local_address: &str) -> Value {
        let Methods { encrypt, compress } = self.methods;
        json!({
            "mark": self.mark, "local_address": local_address, "port_key": self.key,
            "encrypt_method": encrypt, "compress_method": compress,
        })
    }
}

/// A testbed: its folder, the address of the master, and the front. No role runs
/// yet.
pub(crate) struct Testbed {
    folder: TempDir,
    front: Front,
    master: SocketAddr,
    /// The address at which roles reach the master.
    public: SocketAddr,
    authority: Authority,
    leaf: Leaf,
    pub master_key: String,
    /// Environment variables of every role, beside those of the test's process.
    pub environment: Vec<(String, String)>,
    nginx: Option<Daemon>,
}

impl Testbed {
    /// A new testbed. nginx runs already when it is the front.
    pub(crate) fn new(front: Front) -> Testbed {
        Testbed::tuned(front, &nginx::Tuning::default())
    }

    /// The same with changes to nginx's shipped file.
    pub(crate) fn tuned(front: Front, tuning: &nginx::Tuning) -> Testbed {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let authority = Authority::new(folder.path());
        let leaf = authority.leaf("leaf");
        let master = ports::free();
        let public = if matches!(front, Front::Direct | Front::Tls) {
            master
        } else {
            ports::free()
        };
        let shipped = match front {
            Front::Direct | Front::Tls => None,
            Front::NginxPlain => Some(("report-plain.conf", None)),
            Front::NginxTls => Some(("report-tls.conf", Some(&leaf))),
        };
        let nginx = shipped.map(|(file, leaf)| {
            let root = folder.path().join("site");
            fs::create_dir_all(&root).expect("a folder for the web site");
            fs::write(root.join("index.html"), "the web site beside the tunnel\n").expect("a page");
            nginx::front(
                folder.path(),
                public,
                &nginx::Shipped {
                    file,
                    master,
                    leaf,
                    root: &root,
                    tuning,
                },
            )
        });
        let master_key = bytes::hexadecimal(&bytes::random(fastrand::u64(..), 20));
        Testbed {
            folder,
            front,
            master,
            public,
            authority,
            leaf,
            master_key,
            environment: Vec::new(),
            nginx,
        }
    }

    /// The nginx in front of the master.
    #[track_caller]
    pub(crate) fn nginx(&self) -> &Daemon {
        self.nginx.as_ref().expect("a testbed with nginx")
    }

    /// The folder of configurations, logs and files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The master's listening address.
    pub(crate) fn master_address(&self) -> SocketAddr {
        self.master
    }

    /// The address at which roles reach the master: the master's own or nginx's.
    pub(crate) fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// The authority that signed the certificates of this testbed.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate that the master or nginx presents.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The value of `master` in the roles' configurations.
    pub(crate) fn master_url(&self) -> String {
        match self.front {
            // The files under nginx/ have the tunnel at both paths.
            Front::Direct | Front::NginxPlain => self.public.to_string(),
            Front::Tls => format!("wss://localhost:{}", self.public.port()),
            Front::NginxTls => format!("wss://localhost:{}/tunnel", self.public.port()),
        }
    }

    /// The master's configuration with these fields added or replaced.
    pub(crate) fn master_configuration(&self, fields: Value) -> Value {
        let mut configuration = json!({"mode": "master", "log_level": "debug", "listen_at": self.master.to_string(), "master_key": self.master_key});
        if self.front == Front::Tls {
            configuration = with(
                configuration,
                json!({"tls": {"cert": self.leaf.cert, "key": self.leaf.key}}),
            );
        }
        with(configuration, fields)
    }

    /// A server's configuration with these fields added or replaced.
    pub(crate) fn server_configuration(&self, ports: &[Port], fields: Value) -> Value {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| with(port.json(&port.service), port.at_server.clone()))
            .collect();
        let role = json!({
            "mode": "server", "log_level": "debug", "master": self.master_url(), "master_key": self.master_key, "ports": ports,
        });
        with(self.with_trust(role), fields)
    }

    /// A client's configuration with these fields added or replaced.
    pub(crate) fn client_configuration(&self, ports: &[Port], fields: Value) -> Value {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| port.json(&port.local.to_string()))
            .collect();
        let role = json!({"mode": "client", "log_level": "debug", "master": self.master_url(), "ports": ports});
        with(self.with_trust(role), fields)
    }

    fn with_trust(&self, configuration: Value) -> Value {
        if matches!(self.front, Front::Tls | Front::NginxTls) {
            with(configuration, json!({"tls": {"ca": self.authority.path()}}))
        } else {
            configuration
        }
    }

    /// Writes a configuration to `NAME.json` in the folder.
    pub(crate) fn write(&self, name: &str, configuration: &Value) -> PathBuf {
        let path = self.folder().join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(configuration).expect("JSON of a value");
        fs::write(&path, text).expect("the configuration is written");
        path
    }

    /// Starts a role from this configuration without waiting.
    pub(crate) fn role(&self, name: &str, configuration: &Value) -> Daemon {
        let path = self.write(name, configuration);
        let mut command = Command::new(REPORT);
        command.arg("--config").arg(path).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Daemon::start(name, self.folder(), &mut command)
    }

    /// Starts a role with this limit of open files.
    pub(crate) fn limited_role(&self, name: &str, configuration: &Value, files: usize) -> Daemon {
        let path = self.write(name, configuration);
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                &format!("ulimit -n {files}; exec \"$0\" --config \"$1\""),
                REPORT,
            ])
            .arg(path);
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Daemon::start(name, self.folder(), &mut shell)
    }

    /// Starts the master and waits until it listens.
    pub(crate) fn master(&self, fields: Value) -> Daemon {
        let mut master = self.role("master", &self.master_configuration(fields));
        master.wait_ready(|| ports::has_listener_at(self.master));
        master
    }

    /// Starts a further master at another address and waits until it listens.
    pub(crate) fn another_master(&self, name: &str, address: SocketAddr) -> Daemon {
        let mut master = self.role(
            name,
            &self.master_configuration(json!({"listen_at": address.to_string()})),
        );
        master.wait_ready(|| ports::has_listener_at(address));
        master
    }

    /// Starts a server.
    pub(crate) fn server(&self, name: &str, ports: &[Port], fields: Value) -> Daemon {
        self.role(name, &self.server_configuration(ports, fields))
    }

    /// Starts a client and waits until it listens.
    pub(crate) fn client(&self, name: &str, ports: &[Port], fields: Value) -> Daemon {
        let mut client = self.role(name, &self.client_configuration(ports, fields));
        client.wait_ready(|| ports.iter().all(|port| ports::has_listener_at(port.local)));
        client
    }
}

/// The binary under test.
pub(crate) const REPORT: &str = env!("CARGO_BIN_EXE_report");

/// Runs one of its commands to its end.
pub(crate) fn report(arguments: &[&str]) -> ProgramOutput {
    programs::run(programs::command(REPORT).args(arguments))
}

/// The object with these fields added or replaced. A null removes a field.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        for (name, value) in fields {
            if value.is_null() {
                object.remove(&name)
            } else {
                object.insert(name, value)
            };
        }
    }
    object
}

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
