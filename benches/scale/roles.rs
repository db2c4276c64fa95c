//! rePort's processes, as a user starts them, and their configurations.

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

/// What admits servers in this benchmark.
pub const MASTER_KEY: &str = "benchmark-of-the-master-key-0123456789";

/// What client and server share.
const PORT_KEY: &str = "benchmark-of-the-port-key-0123456789";

/// More of anything than is ever asked for.
const PLENTY: usize = 1_000_000;

/// How long a process may take until it can be used.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// How often it is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A master that listens.
pub struct Master {
    pub address: SocketAddr,
    pub process: Process,
    /// Where the files of its processes are.
    pub folder: TempDir,
}

impl Master {
    /// Starts it, without limits that matter here.
    pub async fn start() -> anyhow::Result<Self> {
        let folder =
            TempDir::with_prefix("report-bench-").context("a folder for the configurations")?;
        let address = free_address()?;
        let limits =
            json!({ "links": PLENTY, "links_per_address": PLENTY, "channels_per_link": PLENTY });
        let configuration = json!({ "mode": "master", "log_level": "warn", "listen_at": address.to_string(),
            "master_key": MASTER_KEY, "limits": limits });
        let mut process = role("master", &configuration, &folder)?;
        ready(&mut [&mut process], async || {
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

/// A client, a master and a server, and one port through them.
pub struct System {
    /// Where to connect to.
    pub entry: SocketAddr,
    pub client: Process,
    pub server: Process,
    pub master: Master,
}

impl System {
    /// Starts the roles, and waits until a byte comes back through them from the `service`, which echoes.
    pub async fn start(service: SocketAddr) -> anyhow::Result<Self> {
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
        ready(&mut [&mut server, &mut client], async || {
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

/// Tries until it succeeds, the time is over or one of the processes has ended.
pub async fn ready(
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
            return Err(error).context("the roles do not get ready");
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// A port that nobody listened at a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}
