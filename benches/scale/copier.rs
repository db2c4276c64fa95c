//! The floor under the master: a process that copies between TCP connections, one to the target for each that it accepts, and knows nothing of
//! links, frames or heartbeats. This program runs itself as it.

use std::{net::SocketAddr, process::Command};

use anyhow::Context;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    options::COPIER,
    processes::Process,
    roles::{free_address, ready},
};

/// A copier in the master's place.
pub struct Copier {
    pub address: SocketAddr,
    pub process: Process,
    _folder: TempDir,
}

impl Copier {
    /// Starts it: what connects to it comes out at `target`.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("a folder for the log")?;
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COPIER, &address.to_string(), &target.to_string()]);
        let mut process = Process::start("copier", &mut command, folder.path())?;
        ready(&mut [&mut process], async || {
            TcpStream::connect(address).await.map(drop)
        })
        .await?;
        Ok(Copier {
            address,
            process,
            _folder: folder,
        })
    }
}

/// Is a copier from `listen_at` to `target`, until it is killed.
pub fn run(listen_at: SocketAddr, target: SocketAddr) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(listen_at).await?;
        let mut connections = JoinSet::new();
        loop {
            let (connection, _) = listener.accept().await.context("cannot accept")?;
            // A connection that breaks is noticed at its ends.
            connections.spawn(async move { drop(copy(connection, target).await) });
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn copy(mut one: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut other = TcpStream::connect(target).await?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    copy_bidirectional(&mut one, &mut other).await.map(drop)
}
