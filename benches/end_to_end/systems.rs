//! Systems that run: the processes of each, between a place to connect to and the service. The peers' are in `peers`.

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
    variants::{Methods, Variant, Way},
};

/// How long a system may take until the first byte comes back through it.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two attempts to reach what another process is about to offer: nothing tells when it does.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// What a process is in its system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Visitor,
    Relay,
    Agent,
}

impl Role {
    /// All there are, as bytes pass them on their way up.
    pub const ALL: [Role; 3] = [Role::Visitor, Role::Relay, Role::Agent];

    /// In names of processes and files.
    pub fn name(self) -> &'static str {
        match self {
            Role::Visitor => "visitor",
            Role::Relay => "relay",
            Role::Agent => "agent",
        }
    }
}

/// Where to connect to, and the processes behind it.
pub type Started = (SocketAddr, Vec<(Role, Process)>);

/// A system that runs.
pub struct System {
    variant: Variant,
    /// Where to connect to.
    pub entry: SocketAddr,
    /// The peers have no visitor.
    pub processes: Vec<(Role, Process)>,
}

impl System {
    /// Starts its processes, and waits until a byte comes back through them.
    pub fn start(
        variant: &Variant,
        service: SocketAddr,
        children: &Children,
    ) -> anyhow::Result<Self> {
        let (entry, processes) = match &variant.way {
            Way::Chain => chain(service, children, &variant.name, None)?,
            Way::WorkingChain(methods) => chain(service, children, &variant.name, Some(*methods))?,
            Way::Report { program, methods } => Roles {
                program,
                name: variant.name.replace(' ', "-"),
                methods: *methods,
            }
            .start(service, children)?,
            Way::Rathole(program) => peers::rathole(program, service, children)?,
            Way::Bore(program) => peers::bore(program, service, children)?,
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
            .with_context(|| format!("{} does not get ready", variant.name))?;
        Ok(system)
    }

    /// How it was built.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.variant.name
    }

    /// CPU time that its processes have used, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.processes
            .iter()
            .map(|(_, process)| process.cpu_seconds())
            .sum()
    }

    /// Context switches of its processes.
    pub fn context_switches(&self) -> anyhow::Result<f64> {
        self.processes
            .iter()
            .map(|(_, process)| process.context_switches())
            .sum()
    }

    /// The most memory that each of them ever held.
    pub fn peak_memory(&self) -> anyhow::Result<Values> {
        let name = |role| match role {
            Role::Visitor => "visitor_peak_mib",
            Role::Relay => "relay_peak_mib",
            Role::Agent => "agent_peak_mib",
        };
        self.processes
            .iter()
            .map(|&(role, process)| Ok((name(role), process.peak_memory_mib()?)))
            .collect()
    }
}

/// Tries until it succeeds, the time is over or one of the processes has ended.
pub fn wait_until(
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
) -> anyhow::Result<Started> {
    let (mut entry, mut processes) = (service, Vec::new());
    for role in [Role::Agent, Role::Relay, Role::Visitor] {
        let work = methods.map(|methods| Work { role, methods });
        let (process, address) =
            copier::start(children, &format!("{name}-{}", role.name()), entry, work)?;
        entry = address;
        processes.push((role, process));
    }
    processes.reverse();
    Ok((entry, processes))
}

/// rePort's three processes.
struct Roles<'a> {
    program: &'a Path,
    name: String,
    methods: Methods,
}

impl Roles<'_> {
    fn start(&self, service: SocketAddr, children: &Children) -> anyhow::Result<Started> {
        let (relay_address, entry) = (free_address()?, free_address()?);
        let mut master = json!({
            "mode": "master", "log_level": "info", "listen_at": relay_address.to_string(), "master_key": "benchmark-of-the-master-key-0123456789",
        });
        let mut agent = json!({ "mode": "server", "log_level": "info", "master": relay_address.to_string(),
            "master_key": "benchmark-of-the-master-key-0123456789", "ports": [self.port(service)] });
        let mut visitor = json!({ "mode": "client", "log_level": "info", "master": relay_address.to_string(),
            "ports": [self.port(entry)] });
        if self.methods.tls {
            let (cert, key) = certificate(children)?;
            master["tls"] = json!({ "cert": cert, "key": key });
            for role in [&mut agent, &mut visitor] {
                role["master"] = json!(format!("wss://{relay_address}/"));
                role["tls"] = json!({ "ca": cert });
            }
        }
        let relay = self.role(Role::Relay, &master, children)?;
        wait_until(children, &[relay], || {
            TcpStream::connect(relay_address).map(drop)
        })
        .context("the master does not listen")?;
        let agent = self.role(Role::Agent, &agent, children)?;
        let visitor = self.role(Role::Visitor, &visitor, children)?;
        Ok((
            entry,
            vec![
                (Role::Visitor, visitor),
                (Role::Relay, relay),
                (Role::Agent, agent),
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

/// A port that nobody listened at a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn certificate(children: &Children) -> anyhow::Result<(PathBuf, PathBuf)> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let (cert, key) = (children.path("cert.pem"), children.path("key.pem"));
    fs::write(&cert, certified.cert.pem())?;
    fs::write(&key, certified.signing_key.serialize_pem())?;
    Ok((cert, key))
}
