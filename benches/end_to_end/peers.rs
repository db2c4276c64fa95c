//! Other tunnels for comparison: `cargo install --root target/peers rathole bore-cli`.
//!
//! Each has two processes, in the places of rePort's master and server. Every connection gets a
//! separate TCP connection between the two processes. Neither tunnel encrypts here, and neither
//! survives a broken connection.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::Context;

use crate::{
    children::Children,
    systems::{Role, StartedSystem, free_address, wait_until},
};

/// The port on which bore's server listens for its clients. It is not configurable.
const BORE_CONTROL: u16 = 7835;

/// Starts rathole with its defaults: plain TCP with TCP_NODELAY.
pub(crate) fn rathole(
    program: &Path,
    service: SocketAddr,
    children: &Children,
) -> anyhow::Result<StartedSystem> {
    let (server_address, entry) = (free_address()?, free_address()?);
    let token = "default_token = \"benchmark\"";
    let server = format!(
        "[server]\nbind_addr = \"{server_address}\"\n{token}\n[server.services.it]\nbind_addr = \"{entry}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{server_address}\"\n{token}\n[client.services.it]\nlocal_addr = \"{service}\"\n"
    );
    let start = |name: &str, mode: &str, configuration: &str| {
        let file = children.path(&format!("{name}.toml"));
        fs::write(&file, configuration)?;
        children.start(name, Command::new(program).arg(mode).arg(file))
    };
    let public_end = start("rathole-server", "--server", &server)?;
    wait_until(children, &[public_end], || {
        TcpStream::connect(server_address).map(drop)
    })
    .context("rathole's server does not listen")?;
    let private_end = start("rathole-client", "--client", &client)?;
    Ok((
        entry,
        vec![(Role::Master, public_end), (Role::Server, private_end)],
    ))
}

/// Starts bore with its defaults.
pub(crate) fn bore(
    program: &Path,
    service: SocketAddr,
    children: &Children,
) -> anyhow::Result<StartedSystem> {
    let entry = free_address()?;
    let host = Ipv4Addr::LOCALHOST.to_string();
    let port = entry.port().to_string();
    let server = [
        "server",
        "--bind-addr",
        &host,
        "--min-port",
        &port,
        "--max-port",
        &port,
    ];
    let public_end = children.start("bore-server", Command::new(program).args(server))?;
    let control = (Ipv4Addr::LOCALHOST, BORE_CONTROL);
    wait_until(children, &[public_end], || {
        TcpStream::connect(control).map(drop)
    })
    .context("bore's server does not listen")?;
    let service_port = service.port().to_string();
    let local = [
        "local",
        &service_port,
        "--local-host",
        &host,
        "--to",
        &host,
        "--port",
        &port,
    ];
    let private_end = children.start("bore-client", Command::new(program).args(local))?;
    Ok((
        entry,
        vec![(Role::Master, public_end), (Role::Server, private_end)],
    ))
}
