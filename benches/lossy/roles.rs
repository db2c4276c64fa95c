//! rePort's processes: the client in namespace A, the master and the server in namespace B.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    options::Options,
    path::{End, LossyPath},
    processes::Process,
    service,
};

/// The keys of this benchmark.
const MASTER_KEY: &str = "benchmark-of-the-master-key-0123456789";
const PORT_KEY: &str = "benchmark-of-the-port-key-0123456789";

/// The ports in the namespaces, where nothing else listens.
const MASTER_PORT: u16 = 7000;
const CLIENT_PORT: u16 = 7001;

/// The deadline for a process to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval between attempts to reach a process.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The running processes. They end on drop.
pub(crate) struct Roles {
    /// The listen address of the client, in namespace A.
    pub entry: SocketAddr,
    processes: Vec<Process>,
    _folder: TempDir,
}

impl Roles {
    /// Starts the processes and waits until the service echoes a byte through them.
    pub(crate) fn start(
        path: &LossyPath,
        service_port: u16,
        min_links: usize,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        let master = SocketAddr::from((End::B.address(), MASTER_PORT));
        let entry = SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT));
        let service = SocketAddr::from((Ipv4Addr::LOCALHOST, service_port));
        let start = |name: &str, end: End, configuration: &Value| {
            let file = folder.path().join(format!("{name}.json"));
            fs::write(&file, configuration.to_string())?;
            let mut command = path.namespace(end).command(&options.binary);
            Process::start(name, command.arg("--config").arg(file), folder.path())
        };
        let of_role = |mode: &str, local: SocketAddr| {
            let port = json!({ "mark": "lossy", "local_address": local.to_string(),
                "port_key": PORT_KEY, "encrypt_method": "aes-128-gcm", "compress_method": "null" });
            let mut configuration = json!({ "mode": mode, "log_level": "info",
                "master": master.to_string(), "ports": [port] });
            if options.links > 0 {
                configuration["links"] =
                    json!({ "min": min_links.min(options.links), "max": options.links });
                configuration["congestion_control"] = json!("system");
            }
            configuration
        };
        let mut of_master = json!({ "mode": "master", "log_level": "info",
            "listen_at": master.to_string(), "master_key": MASTER_KEY });
        // The algorithm of the row, as for the plain connections. Older builds have neither field.
        if options.links > 0 {
            of_master["congestion_control"] = json!("system");
        }
        let mut of_server = of_role("server", service);
        of_server["master_key"] = json!(MASTER_KEY);
        let mut processes = vec![start("master", End::B, &of_master)?];
        wait_until_ready(path, End::B, &mut processes, || {
            TcpStream::connect(master).map(drop)
        })
        .context("the master does not listen")?;
        processes.push(start("server", End::B, &of_server)?);
        processes.push(start("client", End::A, &of_role("client", entry))?);
        wait_until_ready(path, End::A, &mut processes, || echo_once(entry))
            .context("the tunnel is not ready")?;
        Ok(Roles {
            entry,
            processes,
            _folder: folder,
        })
    }

    /// Returns an error with the last log lines if a process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }
}

/// Repeats `attempt` in the namespace of an end until it succeeds, the deadline passes or one of the
/// processes ends.
fn wait_until_ready(
    path: &LossyPath,
    end: End,
    processes: &mut [Process],
    attempt: impl Fn() -> io::Result<()> + Sync,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = path.namespace(end).run(&attempt)? else {
            return Ok(());
        };
        processes.iter_mut().try_for_each(Process::check)?;
        if begun.elapsed() > READY_TIMEOUT {
            return Err(error.into());
        }
        thread::park_timeout(PROBE_INTERVAL);
    }
}

fn echo_once(entry: SocketAddr) -> io::Result<()> {
    let mut connection = TcpStream::connect(entry)?;
    connection.set_read_timeout(Some(READY_TIMEOUT))?;
    connection.write_all(&[service::ECHO, 1])?;
    connection.read_exact(&mut [0])
}
