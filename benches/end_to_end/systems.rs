//! Starts the processes of each system, between an entry address and the service.
//!
//! The peers' processes are in `peers`.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    children::Children,
    copier::{self, Work},
    peers,
    process::Process,
    results::Values,
    services,
    variants::{Methods, SystemKind, Variant},
};

/// The deadline for the first echoed byte through a system.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval between attempts to reach a starting process.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// The role of a process in its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Client,
    Master,
    Server,
}

impl Role {
    /// All roles, in the order in which uploaded bytes pass them.
    pub(crate) const ALL: [Role; 3] = [Role::Client, Role::Master, Role::Server];

    /// Returns the name of the role, for processes and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Master => "master",
            Role::Server => "server",
        }
    }
}

/// The entry address and the processes of a system.
pub(crate) type StartedSystem = (SocketAddr, Vec<(Role, Process)>);

/// A running system.
pub(crate) struct System {
    variant: Variant,
    /// The address to connect to.
    pub entry: SocketAddr,
    /// The processes. The peers have no client process.
    pub processes: Vec<(Role, Process)>,
}

impl System {
    /// Starts the processes and waits until the service echoes a byte through them.
    pub(crate) fn start(
        variant: &Variant,
        service: SocketAddr,
        children: &Children,
    ) -> anyhow::Result<Self> {
        let (entry, processes) = match &variant.kind {
            SystemKind::Chain => chain(service, children, &variant.name, None)?,
            SystemKind::WorkingChain(methods) => {
                chain(service, children, &variant.name, Some(*methods))?
            }
            SystemKind::Report { program, methods } => Roles {
                program,
                name: variant.name.replace(' ', "-"),
                methods: *methods,
            }
            .start(service, children)?,
            SystemKind::Rathole(program) => peers::rathole(program, service, children)?,
            SystemKind::Bore(program) => peers::bore(program, service, children)?,
        };
        let system = System {
            variant: variant.clone(),
            entry,
            processes,
        };
        let processes: Vec<_> = system
            .processes
            .iter()
            .map(|&(_, process)| process)
            .collect();
        wait_until(children, &processes, || echo_once(system.entry))
            .with_context(|| format!("{} is not ready in time", variant.name))?;
        Ok(system)
    }

    /// Returns the variant of the system.
    pub(crate) fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Returns the name of the system.
    pub(crate) fn name(&self) -> &str {
        &self.variant.name
    }

    /// Returns the CPU time of all processes in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.processes
            .iter()
            .map(|(_, process)| process.cpu_seconds())
            .sum()
    }

    /// Returns the context switches of all processes.
    pub(crate) fn context_switches(&self) -> anyhow::Result<f64> {
        self.processes
            .iter()
            .map(|(_, process)| process.context_switches())
            .sum()
    }

    /// Returns the peak memory of each process.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<Values> {
        let name = |role| match role {
            Role::Client => "client_peak_mib",
            Role::Master => "master_peak_mib",
            Role::Server => "server_peak_mib",
        };
        self.processes
            .iter()
            .map(|&(role, process)| Ok((name(role), process.peak_memory_mib()?)))
            .collect()
    }
}

/// Repeats `attempt` until it succeeds, the deadline passes or one of the processes ends.
pub(crate) fn wait_until(
    children: &Children,
    processes: &[Process],
    attempt: impl Fn() -> io::Result<()>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Err(error) = attempt() {
        children.check(processes)?;
        if begun.elapsed() > READY_TIMEOUT {
            return Err(error.into());
        }
        std::thread::park_timeout(PROBE_INTERVAL);
    }
    Ok(())
}

fn echo_once(entry: SocketAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect(entry)?;
    connection.set_read_timeout(Some(READY_TIMEOUT))?;
    connection.write_all(&[services::ECHO, 1])?;
    connection.read_exact(&mut [0])
}

fn chain(
    service: SocketAddr,
    children: &Children,
    name: &str,
    methods: Option<Methods>,
) -> anyhow::Result<StartedSystem> {
    let (mut entry, mut processes) = (service, Vec::new());
    for role in [Role::Server, Role::Master, Role::Client] {
        let work = methods.map(|methods| Work { role, methods });
        let (process, address) =
            copier::start(children, &format!("{name}-{}", role.name()), entry, work)?;
        entry = address;
        processes.push((role, process));
    }
    processes.reverse();
    Ok((entry, processes))
}

/// rePort's three processes. All their addresses are loopback, where the default of
/// `congestion_control` is the system's algorithm. So the field is not set, and `--beside` can
/// measure builds that do not know it.
struct Roles<'a> {
    program: &'a Path,
    name: String,
    methods: Methods,
}

impl Roles<'_> {
    fn start(&self, service: SocketAddr, children: &Children) -> anyhow::Result<StartedSystem> {
        let (master_address, entry) = (free_address()?, free_address()?);
        let mut master = json!({
            "mode": "master", "log_level": "info", "listen_at": master_address.to_string(), "master_key": "benchmark-of-the-master-key-0123456789",
        });
        let mut server = json!({ "mode": "server", "log_level": "info", "master": master_address.to_string(),
            "master_key": "benchmark-of-the-master-key-0123456789", "ports": [self.port(service)] });
        let mut client = json!({ "mode": "client", "log_level": "info", "master": master_address.to_string(),
            "ports": [self.port(entry)] });
        if self.methods.tls {
            let (cert, key) = certificate(children)?;
            master["tls"] = json!({ "cert": cert, "key": key });
            for role in [&mut server, &mut client] {
                role["master"] = json!(format!("wss://{master_address}/"));
                role["tls"] = json!({ "ca": cert });
            }
        }
        let master = self.role(Role::Master, &master, children)?;
        wait_until(children, &[master], || {
            TcpStream::connect(master_address).map(drop)
        })
        .context("the master does not listen")?;
        let server = self.role(Role::Server, &server, children)?;
        let client = self.role(Role::Client, &client, children)?;
        Ok((
            entry,
            vec![
                (Role::Client, client),
                (Role::Master, master),
                (Role::Server, server),
            ],
        ))
    }

    fn port(&self, address: SocketAddr) -> Value {
        json!({
            "mark": self.name, "local_address": address.to_string(), "port_key": "benchmark-of-the-port-key-0123456789",
            "encrypt_method": self.methods.encrypt.to_string(), "compress_method": self.methods.compress.to_string(),
        })
    }

    fn role(
        &self,
        role: Role,
        configuration: &Value,
        children: &Children,
    ) -> anyhow::Result<Process> {
        let name = format!("{}-{}", self.name, role.name());
        let file = children.path(&format!("{name}.json"));
        fs::write(&file, configuration.to_string())?;
        children.start(&name, Command::new(self.program).arg("--config").arg(file))
    }
}

/// Returns an address whose port was free a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Creates a self-signed certificate for 127.0.0.1 and its key.
fn certificate(children: &Children) -> anyhow::Result<(PathBuf, PathBuf)> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let (cert, key) = (children.path("cert.pem"), children.path("key.pem"));
    fs::write(&cert, certified.cert.pem())?;
    fs::write(&key, certified.signing_key.serialize_pem())?;
    Ok((cert, key))
}
