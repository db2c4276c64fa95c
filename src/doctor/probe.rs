//! Probes the first host of a dial: its name, and a connection to each of its addresses.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::net::{
    connect::ConnectFault,
    dial::{ChosenProxy, DialError, DialPeer, Dialer},
};

/// The result of probing the first host of a dial.
#[derive(Debug)]
pub(super) struct DialProbe {
    /// The peer at that host.
    pub peer: DialPeer,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The duration of the name look-up.
    pub name_took: Duration,
    /// Each address, with the time to connect or the fault.
    pub addresses: Vec<(SocketAddr, Result<Duration, ConnectFault>)>,
}

/// Resolves the first host of a dial and connects to each of its addresses.
///
/// # Errors
/// If the host has no address.
///
/// # Cancel safety
/// Dropping the future closes the connections.
pub(super) async fn probe(
    dialer: &Dialer,
    proxy: Option<&ChosenProxy>,
) -> Result<DialProbe, DialError> {
    let (peer, host, port) = dialer.first_hop(proxy);
    let started = Instant::now();
    let addresses = dialer.resolve(peer, host, port).await?;
    let name_took = started.elapsed();
    let attempts = addresses.into_iter().map(|address| async move {
        let started = Instant::now();
        let attempt = dialer.connect_to(address).await;
        (address, attempt.map(|_| started.elapsed()))
    });
    Ok(DialProbe {
        peer,
        host: host.to_owned(),
        port,
        name_took,
        addresses: futures_util::future::join_all(attempts).await,
    })
}
