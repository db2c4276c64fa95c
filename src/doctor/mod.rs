//! The walk along a role's way, layer by layer, that says what holds, what fails, and what to do: `report doctor`.
//!
//! ```text
//!  server, client:  name ─► tcp ─► proxy ─► tls ─► upgrade ─► clock ─► master_key ─► small_messages ─► silence      (way, silence)
//!                                                                          └─► port_key ─► service ─► measures      (port)
//!  master:          listen ─► certificate ─► health ─► clock                                                        (relay)
//! ```
//!
//! Walks with the roles' own dialer, authentication and tunnels, so that what it finds is what they find, under an instance of its own: it registers
//! nothing, and takes nothing from a role that runs beside it. Knows no file and prints nothing: it tells its steps to who asks.

mod judge;
mod port;
mod relay;
mod silence;
mod step;
mod way;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use self::{
    relay::{Relay, RelayAddress, examine_relay},
    step::{Journal, Outcome, Step},
};
use crate::{
    crypto::LinkKey,
    frame::Role,
    link::{dial::Dialer, uplink::Uplink},
    tunnel::PortParameters,
};

/// For how long a link may be silent on a path that is worth trying for: from the shortest in use to what no path that carries links falls short of.
pub const SILENCES: [Duration; 8] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(90),
    Duration::from_secs(120),
    Duration::from_secs(180),
    Duration::from_secs(300),
];

/// A server or a client, and what it is to reach.
pub struct Traveller {
    /// Which of the two.
    pub role: Role,
    /// Proves it to its masters.
    pub key: LinkKey,
    /// Its masters.
    pub masters: Vec<MasterWay>,
    /// Its ports.
    pub ports: Vec<TravellerPort>,
    /// How long a local service may take to answer.
    pub connect_timeout: Duration,
    /// How long a server is waited for.
    pub patience: Duration,
    /// How often the role probes an idle link.
    pub heartbeat: Duration,
    /// How long each measure takes.
    pub measure: Duration,
    /// For how long links are left silent; empty when that is not to be tried.
    pub silences: Vec<Duration>,
}

/// The way to one master.
pub struct MasterWay {
    /// As the role dials it.
    pub dialer: Dialer,
    /// By which a client reaches it.
    pub client: Uplink,
}

/// A port of a server or a client.
pub struct TravellerPort {
    /// What both ends configure.
    pub port: PortParameters,
    /// The local service of a server: host and TCP port.
    pub service: Option<(String, u16)>,
}

/// Walks all the ways of a server or a client, one after the other.
///
/// # Cancel safety
/// Dropping the future drops what was connected; the journal has the steps so far.
pub async fn examine(traveller: Traveller, journal: &mut Journal<'_>, cancel: &CancellationToken) {
    let traveller = Arc::new(traveller);
    for way in &traveller.masters {
        let is_reached = way::walk(&traveller, way, journal).await;
        if is_reached && !traveller.silences.is_empty() {
            silence::try_all(&traveller, way, journal).await;
        }
        let mut measures = Some(traveller.measure);
        for port in &traveller.ports {
            if is_reached {
                port::walk(&traveller, way, port, &mut measures, journal, cancel).await;
            } else {
                port::skip(way, port, journal);
            }
        }
    }
    for TravellerPort { port, service } in &traveller.ports {
        if let Some((host, tcp_port)) = service {
            port::dial_service(
                &port.mark,
                host,
                *tcp_port,
                traveller.connect_timeout,
                journal,
            )
            .await;
        }
    }
}
