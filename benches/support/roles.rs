//! rePort's processes and their configurations.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::processes::Process;

/// The master key of this benchmark.
pub(crate) const MASTER_KEY: &str = "benchmark-of-the-master-key-0123456789";

/// The port key of this benchmark.
const PORT_KEY: &str = "benchmark-of-the-port-key-0123456789";

/// A limit that the benchmark never reaches.
const UNLIMITED: usize = 1_000_000;

/// The deadline for a process to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The interval between attempts to reach a process.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A master that listens.
pub(crate) struct Master {
    pub address: SocketAddr,
    pub process: Process,
    /// The folder with the files of all processes.
    pub folder: TempDir,
}

impl Master {
    /// Starts the master with limits that do not matter here.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Master::start_with(&json!({})).await
    }

    /// Starts the same master with these further fields in its configuration.
    pub(crate) async fn start_with(fields: &Value) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        let address = free_address()?;
        let limits = json!({ "links": UNLIMITED, "links_per_address": UNLIMITED, "channels_per_link": UNLIMITED });
        let mut configuration = json!({ "mode": "master", "log_level": "warn", "listen_at": address.to_string(),
            "master_key": MASTER_KEY, "limits": limits });
        if let (Some(all), Some(fields)) = (configuration.as_object_mut(), fields.as_object()) {
            all.extend(fields.clone());
        }
        let mut process = role("master", &configuration, &folder)?;
        wait_until_ready(&mut [&mut process], async || {
            TcpStream::connect(address).await.map(drop)
        })
        .await?;
        Ok(Master {
            address,
            process,
            folder,
        })
    }
}

/// A client, a master and a server with one port.
pub(crate) struct System {
    /// The listen address of the client.
    pub entry: SocketAddr,
    pub client: Process,
    pub server: Process,
    pub master: Master,
}

impl System {
    /// Starts the roles and waits until the `service`, which echoes, returns a byte through them.
    pub(crate) async fn start(service: SocketAddr) -> anyhow::Result<Self> {
        let master = Master::start().await?;
        let entry = free_address()?;
        let of_role = |mode: &str, address: SocketAddr| {
            let port = json!({ "mark": "scale", "local_address": address.to_string(), "port_key": PORT_KEY,
                "encrypt_method": "aes-128-gcm", "compress_method": "null" });
            json!({ "mode": mode, "log_level": "warn", "master": master.address.to_string(), "ports": [port] })
        };
        let mut of_server = of_role("server", service);
        of_server["master_key"] = json!(MASTER_KEY);
        let mut server = role("server", &of_server, &master.folder)?;
        let mut client = role("client", &of_role("client", entry), &master.folder)?;
        wait_until_ready(&mut [&mut server, &mut client], async || {
            let mut connection = TcpStream::connect(entry).await?;
            connection.write_all(b"?").await?;
            connection.read_exact(&mut [0]).await.map(drop)
        })
        .await?;
        Ok(System {
            entry,
            client,
            server,
            master,
        })
    }
}

fn role(name: &str, configuration: &Value, folder: &TempDir) -> anyhow::Result<Process> {
    let file = folder.path().join(format!("{name}.json"));
    fs::write(&file, configuration.to_string())?;
    Process::start(
        name,
        Command::new(env!("CARGO_BIN_EXE_report"))
            .arg("--config")
            .arg(file),
        folder.path(),
    )
}

/// Repeats `attempt` until it succeeds, the deadline passes or one of the processes ends.
pub(crate) async fn wait_until_ready(
    processes: &mut [&mut Process],
    attempt: impl AsyncFn() -> io::Result<()>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let tried = tokio::time::timeout(READY_TIMEOUT, attempt())
            .await
            .unwrap_or_else(|late| Err(late.into()));
        let Err(error) = tried else { return Ok(()) };
        processes
            .iter_mut()
            .try_for_each(|process| process.check())?;
        if begun.elapsed() > READY_TIMEOUT {
            return Err(error).context("the roles are not ready in time");
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Returns an address whose port was free a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
