//! The baseline for the master: a process that copies between TCP connections.
//!
//! It opens one connection to the target for each connection that it accepts. It does not know
//! links, frames or keep-alives. The benchmark runs its own executable as the copier.

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
    roles::{free_address, wait_until_ready},
};

/// A copier in the master's place.
pub(crate) struct Copier {
    pub address: SocketAddr,
    pub process: Process,
    _folder: TempDir,
}

impl Copier {
    /// Starts the copier, which connects its clients to `target`.
    pub(crate) async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COPIER, &address.to_string(), &target.to_string()]);
        let mut process = Process::start("copier", &mut command, folder.path())?;
        wait_until_ready(&mut [&mut process], async || {
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

/// Runs the copier from `listen_at` to `target` until the process is killed.
pub(crate) fn run(listen_at: SocketAddr, target: SocketAddr) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(listen_at).await?;
        let mut connections = JoinSet::new();
        loop {
            let (connection, _) = listener.accept().await.context("cannot accept")?;
            // Ignore errors here: the ends of the connection report them.
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
