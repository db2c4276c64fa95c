//! The peers that cargo can install: `cargo install --root target/peers rathole bore-cli`.
//!
//! Both are two processes: what connects at the relay goes over a TCP connection of its own to the agent, and from there to the service. Neither
//! encrypts here, and a connection that is cut on the way is lost.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::Context;

use crate::{
    children::Children,
    systems::{Role, Started, free_address, wait_until},
};

/// Where bore's relay listens for agents: it can be told no other port.
const BORE_CONTROL: u16 = 7835;

/// rathole over plain TCP, with TCP_NODELAY, as it comes.
pub fn rathole(
    program: &Path,
    service: SocketAddr,
    children: &Children,
) -> anyhow::Result<Started> {
    let (relay_address, entry) = (free_address()?, free_address()?);
    let token = "default_token = \"benchmark\"";
    let server = format!(
        "[server]\nbind_addr = \"{relay_address}\"\n{token}\n[server.services.it]\nbind_addr = \"{entry}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{relay_address}\"\n{token}\n[client.services.it]\nlocal_addr = \"{service}\"\n"
    );
    let start = |name: &str, mode: &str, configuration: &str| {
        let file = children.path(&format!("{name}.toml"));
        fs::write(&file, configuration)?;
        children.start(name, Command::new(program).arg(mode).arg(file))
    };
    let relay = start("rathole-relay", "--server", &server)?;
    wait_until(children, &[relay], || {
        TcpStream::connect(relay_address).map(drop)
    })
    .context("rathole's relay does not listen")?;
    let agent = start("rathole-agent", "--client", &client)?;
    Ok((entry, vec![(Role::Relay, relay), (Role::Agent, agent)]))
}

/// bore as it comes.
pub fn bore(program: &Path, service: SocketAddr, children: &Children) -> anyhow::Result<Started> {
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
    let relay = children.start("bore-relay", Command::new(program).args(server))?;
    let control = (Ipv4Addr::LOCALHOST, BORE_CONTROL);
    wait_until(children, &[relay], || TcpStream::connect(control).map(drop))
        .context("bore's relay does not listen")?;
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
    let agent = children.start("bore-agent", Command::new(program).args(local))?;
    Ok((entry, vec![(Role::Relay, relay), (Role::Agent, agent)]))
}
