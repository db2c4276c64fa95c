//! Limits the open streams of clients: per tunnel, per port and in total. Knows ids and numbers,
//! not sockets.
//!
//! - A tunnel may have eight times as many streams as its port has free (the dynamic threshold of
//!   Choudhury and Hahne): the first tunnel takes eight ninths and leaves the rest to others.
//! - Half of all streams are reserved for the ports in equal shares. Each port finds its share
//!   free, whatever the clients of other ports do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::config::ServerLimitsConfig;
use report_proto::id::Id;

/// A tunnel may have this many times the free streams of its port.
const SHARE: usize = 8;

/// The stream and tunnel limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Streams in total: connections to services.
    pub streams: usize,
    /// Streams of one port.
    pub streams_per_port: usize,
    /// Streams of one tunnel.
    pub streams_per_tunnel: usize,
    /// Tunnels of one port.
    pub tunnels_per_port: usize,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        QuotaLimits {
            streams: 32_768,
            streams_per_port: 16_384,
            streams_per_tunnel: 8_192,
            tunnels_per_port: 1_024,
        }
    }
}

impl QuotaLimits {
    /// Creates the limits of a configuration.
    #[must_use]
    pub fn new(config: &ServerLimitsConfig) -> Self {
        QuotaLimits {
            streams: *config.streams as usize,
            streams_per_port: *config.streams_per_port as usize,
            streams_per_tunnel: *config.streams_per_tunnel as usize,
            tunnels_per_port: *config.tunnels_per_port as usize,
        }
    }
}

/// Counts the open streams.
#[derive(Debug)]
pub(super) struct Quotas {
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    limits: QuotaLimits,
    /// Streams that each port finds free, whatever the other ports use.
    reserve: usize,
    total: usize,
    ports: HashMap<Id, PortStreams>,
}

#[derive(Debug, Default)]
struct PortStreams {
    total: usize,
    tunnels: HashMap<Id, usize>,
}

/// Why a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuotaError {
    /// The tunnel has used its share.
    #[error(
        "this tunnel already has its share of {0} connections (raise limits.streams_per_tunnel or limits.streams_per_port)"
    )]
    Tunnel(usize),
    /// The port has used its share.
    #[error(
        "this port already has its share of {0} connections (raise limits.streams_per_port or limits.streams)"
    )]
    Port(usize),
}

impl QuotaError {
    /// Returns the reason for the metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            QuotaError::Tunnel(_) => "tunnel_limit",
            QuotaError::Port(_) => "port_limit",
        }
    }
}

impl Quotas {
    /// Creates the quotas of this many ports, with no open streams.
    pub(super) fn new(limits: QuotaLimits, ports: usize) -> Arc<Self> {
        let open = Open {
            limits,
            reserve: reserve(limits, ports),
            total: 0,
            ports: HashMap::new(),
        };
        Arc::new(Quotas {
            open: Mutex::new(open),
        })
    }

    /// Changes the limits and the number of ports. Open streams beyond them stay.
    pub(super) fn set(&self, limits: QuotaLimits, ports: usize) {
        let mut open = self.open();
        open.limits = limits;
        open.reserve = reserve(limits, ports);
    }

    /// Returns the limits.
    pub(super) fn limits(&self) -> QuotaLimits {
        self.open().limits
    }

    /// Reserves one stream of a tunnel, until the permit is dropped.
    pub(super) fn stream(
        self: &Arc<Self>,
        port: Id,
        tunnel: Id,
    ) -> Result<StreamPermit, QuotaError> {
        let mut open = self.open();
        let of_port = open.ports.get(&port);
        let held_by_port = of_port.map_or(0, |streams| streams.total);
        let held = of_port
            .and_then(|streams| streams.tunnels.get(&tunnel))
            .copied()
            .unwrap_or(0);
        let limits = open.limits;
        let free = open
            .free_to(port, held_by_port)
            .min(limits.streams_per_port.saturating_sub(held_by_port));
        if free == 0 {
            return Err(QuotaError::Port(held_by_port));
        }
        if held >= free.saturating_mul(SHARE) || held >= limits.streams_per_tunnel {
            return Err(QuotaError::Tunnel(held));
        }
        open.total += 1;
        let streams = open.ports.entry(port).or_default();
        streams.total += 1;
        *streams.tunnels.entry(tunnel).or_default() += 1;
        Ok(StreamPermit {
            quotas: Arc::clone(self),
            port,
            tunnel,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Returns how many of the free streams a port may take.
    fn free_to(&self, port: Id, held: usize) -> usize {
        let free = self.limits.streams.saturating_sub(self.total);
        let others = self
            .ports
            .iter()
            .filter(|(other, _)| **other != port)
            .map(|(_, streams)| streams.total.min(self.reserve))
            .sum::<usize>();
        // Half of the streams are in reserve, for all ports together.
        let reserved = (self.limits.streams / 2)
            .saturating_sub(self.reserve)
            .saturating_sub(others);
        free.saturating_sub(reserved)
            .max(self.reserve.saturating_sub(held).min(free))
    }
}

/// Returns how many streams each of these ports finds free.
fn reserve(limits: QuotaLimits, ports: usize) -> usize {
    limits.streams / 2 / ports.max(1)
}

/// One open stream. Dropping the permit releases it.
#[derive(Debug)]
pub(super) struct StreamPermit {
    quotas: Arc<Quotas>,
    port: Id,
    tunnel: Id,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.quotas.open();
        open.total = open.total.saturating_sub(1);
        let Some(streams) = open.ports.get_mut(&self.port) else {
            return;
        };
        streams.total = streams.total.saturating_sub(1);
        if let Some(held) = streams.tunnels.get_mut(&self.tunnel) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                streams.tunnels.remove(&self.tunnel);
            }
        }
        if streams.total == 0 {
            open.ports.remove(&self.port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuotaLimits = QuotaLimits {
        streams: 1_000,
        streams_per_port: 1_000,
        streams_per_tunnel: 1_000,
        tunnels_per_port: 10,
    };

    fn id(number: u8) -> Id {
        Id([number; 16])
    }

    /// Opens streams until one is refused.
    fn fill(quotas: &Arc<Quotas>, port: u8, tunnel: u8) -> (Vec<StreamPermit>, QuotaError) {
        let mut permits = Vec::new();
        loop {
            match quotas.stream(id(port), id(tunnel)) {
                Ok(permit) => permits.push(permit),
                Err(error) => return (permits, error),
            }
        }
    }

    #[test]
    fn a_tunnel_takes_eight_ninths_of_its_port_and_a_port_leaves_the_reserve_of_others() {
        let quotas = Quotas::new(LIMITS, 4);
        let (first, error) = fill(&quotas, 1, 1);
        assert_eq!(
            (first.len(), error),
            (556, QuotaError::Tunnel(556)),
            "eight ninths of what the reserves of three ports leave"
        );
        let (second, _) = fill(&quotas, 1, 2);
        assert_eq!(second.len(), 62);
        let greedy: Vec<_> = (3..100).map(|tunnel| fill(&quotas, 1, tunnel).0).collect();
        for port in 2..=4 {
            let (other, _) = fill(&quotas, port, 1);
            assert!(
                other.len() >= 111,
                "port {port} finds its reserve: {}",
                other.len()
            );
        }
        drop((first, second, greedy));
        let open = quotas.open();
        assert_eq!((open.total, open.ports.len()), (0, 0));
    }

    #[test]
    fn limits_are_not_exceeded() {
        let quotas = Quotas::new(
            QuotaLimits {
                streams_per_port: 100,
                streams_per_tunnel: 30,
                ..LIMITS
            },
            1,
        );
        let (first, error) = fill(&quotas, 1, 1);
        assert_eq!((first.len(), error), (30, QuotaError::Tunnel(30)));
        let tunnels: Vec<_> = (2..50).map(|tunnel| fill(&quotas, 1, tunnel)).collect();
        let open = first.len()
            + tunnels
                .iter()
                .map(|(permits, _)| permits.len())
                .sum::<usize>();
        assert!((95..=100).contains(&open), "{open}");
    }
}
