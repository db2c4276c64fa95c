//! What is measured: three processes each, between a place to connect to and the service.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    children::{Children, Process},
    results::Values,
    services,
};

/// How long a system may take until the first byte comes back through it.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two attempts to reach what another process is about to offer: nothing tells when it does.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// One way to build a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub name: String,
    /// Whether text is sent, in place of random bytes.
    pub text: bool,
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Chain,
    Report { program: PathBuf, encrypt: &'static str, compress: &'static str, tls: bool },
}

impl Variant {
    /// Everything that there is, in the order of the table: the floor first, then rePort with the least work.
    pub fn all() -> Vec<Self> {
        let chain = Variant { name: "chain".to_owned(), text: false, way: Way::Chain };
        let report = |(name, encrypt, compress, tls): (&str, _, _, _)| {
            let program = PathBuf::from(env!("CARGO_BIN_EXE_report"));
            Variant { name: name.to_owned(), text: compress != "null", way: Way::Report { program, encrypt, compress, tls } }
        };
        let reports = [
            ("plain", "plain", "null", false),
            ("aes-128-cfb", "aes-128-cfb", "null", false),
            ("aes-128-gcm", "aes-128-gcm", "null", false),
            ("chacha20-poly1305", "chacha20-poly1305", "null", false),
            ("s2-text", "aes-128-gcm", "s2", false),
            ("zstd-text", "aes-128-gcm", "zstd", false),
            ("tls", "aes-128-gcm", "null", true),
            ("plain-s2-text", "plain", "s2", false),
            ("plain-zstd-text", "plain", "zstd", false),
        ];
        std::iter::once(chain).chain(reports.map(report)).collect()
    }

    /// Whether it is the floor.
    pub fn is_chain(&self) -> bool {
        self.way == Way::Chain
    }

    /// The same of another build of rePort.
    pub fn of(&self, other: &Path) -> Option<Self> {
        match &self.way {
            Way::Chain => None,
            &Way::Report { encrypt, compress, tls, .. } => {
                let way = Way::Report { program: other.to_owned(), encrypt, compress, tls };
                Some(Variant { name: format!("other {}", self.name), text: self.text, way })
            }
        }
    }
}

/// A system that runs.
pub struct System {
    variant: Variant,
    /// Where to connect to.
    pub entry: SocketAddr,
    processes: [Process; 3],
}

impl System {
    /// Starts its processes, and waits until a byte comes back through them.
    pub fn start(variant: &Variant, service: SocketAddr, children: &Children) -> anyhow::Result<Self> {
        let (entry, processes) = match &variant.way {
            Way::Chain => chain(service, children)?,
            &Way::Report { ref program, encrypt, compress, tls } => {
                let name = variant.name.replace(' ', "-");
                Roles { program, name, encrypt, compress, tls }.start(service, children)?
            }
        };
        let system = System { variant: variant.clone(), entry, processes };
        wait_until(children, &system.processes, || echo_once(system.entry))
            .with_context(|| format!("{} does not get ready", variant.name))?;
        Ok(system)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.variant.name
    }

    /// Whether text is sent through it.
    pub fn text(&self) -> bool {
        self.variant.text
    }

    /// CPU time that its processes have used, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.processes.iter().map(|process| process.cpu_seconds()).sum()
    }

    /// The most memory that each of them ever held.
    pub fn peak_memory(&self) -> anyhow::Result<Values> {
        let names = ["visitor_peak_mib", "relay_peak_mib", "agent_peak_mib"];
        names.into_iter().zip(self.processes).map(|(name, process)| Ok((name, process.peak_memory_mib()?))).collect()
    }
}

/// Tries until it succeeds, the time is over or one of the processes has ended.
fn wait_until(children: &Children, processes: &[Process], attempt: impl Fn() -> io::Result<()>) -> anyhow::Result<()> {
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

/// Where to connect to, and the visitor, the relay and the agent behind it.
type Started = (SocketAddr, [Process; 3]);

fn chain(service: SocketAddr, children: &Children) -> anyhow::Result<Started> {
    let (agent, to_agent) = services::start_copier(children, "chain-agent", service)?;
    let (relay, to_relay) = services::start_copier(children, "chain-relay", to_agent)?;
    let (visitor, entry) = services::start_copier(children, "chain-visitor", to_relay)?;
    Ok((entry, [visitor, relay, agent]))
}

/// rePort's three processes.
struct Roles<'a> {
    program: &'a Path,
    name: String,
    encrypt: &'static str,
    compress: &'static str,
    tls: bool,
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
        if self.tls {
            let (cert, key) = certificate(children)?;
            master["tls"] = json!({ "cert": cert, "key": key });
            for role in [&mut agent, &mut visitor] {
                role["master"] = json!(format!("wss://{relay_address}/"));
                role["tls"] = json!({ "ca": cert });
            }
        }
        let relay = self.role("relay", &master, children)?;
        wait_until(children, &[relay], || TcpStream::connect(relay_address).map(drop)).context("the master does not listen")?;
        let agent = self.role("agent", &agent, children)?;
        let visitor = self.role("visitor", &visitor, children)?;
        Ok((entry, [visitor, relay, agent]))
    }

    fn port(&self, address: SocketAddr) -> Value {
        json!({
            "mark": self.name, "local_address": address.to_string(), "port_key": "benchmark-of-the-port-key-0123456789",
            "encrypt_method": self.encrypt, "compress_method": self.compress,
        })
    }

    fn role(&self, role: &str, configuration: &Value, children: &Children) -> anyhow::Result<Process> {
        let name = format!("{}-{role}", self.name);
        let file = children.path(&format!("{name}.json"));
        fs::write(&file, configuration.to_string())?;
        children.start(&name, Command::new(self.program).arg("--config").arg(file))
    }
}

/// A port that nobody listened at a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
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
