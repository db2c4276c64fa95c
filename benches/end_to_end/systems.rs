//! What is measured: three processes each, between a place to connect to and the service.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    pub name: &'static str,
    /// Whether text is sent, in place of random bytes.
    pub text: bool,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Chain,
    Report { encrypt: &'static str, compress: &'static str, tls: bool },
}

impl Variant {
    /// The floor.
    pub const CHAIN: Variant = Variant { name: "chain", text: false, way: Way::Chain };
    /// rePort with the least work.
    pub const PLAIN: Variant = Variant::report("plain", "plain", "null", false);
    /// Everything that there is, in the order of the table.
    pub const ALL: [Variant; 10] = [
        Variant::CHAIN,
        Variant::PLAIN,
        Variant::report("aes-128-cfb", "aes-128-cfb", "null", false),
        Variant::report("aes-128-gcm", "aes-128-gcm", "null", false),
        Variant::report("chacha20-poly1305", "chacha20-poly1305", "null", false),
        Variant::report("s2-text", "aes-128-gcm", "s2", false),
        Variant::report("zstd-text", "aes-128-gcm", "zstd", false),
        Variant::report("tls", "aes-128-gcm", "null", true),
        Variant::report("plain-s2-text", "plain", "s2", false),
        Variant::report("plain-zstd-text", "plain", "zstd", false),
    ];

    const fn report(name: &'static str, encrypt: &'static str, compress: &'static str, tls: bool) -> Self {
        let text = !matches!(compress.as_bytes(), b"null");
        Variant { name, text, way: Way::Report { encrypt, compress, tls } }
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
        let system = match variant.way {
            Way::Chain => chain(*variant, service, children)?,
            Way::Report { encrypt, compress, tls } => {
                let roles = Roles { variant: *variant, encrypt, compress, tls };
                roles.start(service, children)?
            }
        };
        wait_until(children, &system.processes, || echo_once(system.entry))
            .with_context(|| format!("{} does not get ready", variant.name))?;
        Ok(system)
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.variant.name
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

fn chain(variant: Variant, service: SocketAddr, children: &Children) -> anyhow::Result<System> {
    let (agent, to_agent) = services::start_copier(children, "chain-agent", service)?;
    let (relay, to_relay) = services::start_copier(children, "chain-relay", to_agent)?;
    let (visitor, entry) = services::start_copier(children, "chain-visitor", to_relay)?;
    Ok(System { variant, entry, processes: [visitor, relay, agent] })
}

/// rePort's three processes.
struct Roles {
    variant: Variant,
    encrypt: &'static str,
    compress: &'static str,
    tls: bool,
}

impl Roles {
    fn start(&self, service: SocketAddr, children: &Children) -> anyhow::Result<System> {
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
        Ok(System { variant: self.variant, entry, processes: [visitor, relay, agent] })
    }

    fn port(&self, address: SocketAddr) -> Value {
        json!({
            "mark": self.variant.name, "local_address": address.to_string(), "port_key": "benchmark-of-the-port-key-0123456789",
            "encrypt_method": self.encrypt, "compress_method": self.compress,
        })
    }

    fn role(&self, role: &str, configuration: &Value, children: &Children) -> anyhow::Result<Process> {
        let name = format!("{}-{role}", self.variant.name);
        let file = children.path(&format!("{name}.json"));
        fs::write(&file, configuration.to_string())?;
        children.start(&name, Command::new(env!("CARGO_BIN_EXE_report")).arg("--config").arg(file))
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
