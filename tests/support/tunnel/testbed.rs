//! The folder, addresses, certificates and configuration files of a tunnel, and its roles as
//! processes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::port::Port;
use crate::support::{
    bytes,
    certificates::{Authority, Leaf},
    daemon::Daemon,
    nginx, ports,
    programs::{self, ProgramOutput},
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
        client.wait_ready(|| ports.iter().all(Port::has_listener));
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
