//! How many streams the clients of a server may have open: of one tunnel, of one port, in all. Knows names and numbers; nothing of sockets.
//!
//! - A tunnel may have eight times as many streams as its port has left (the dynamic threshold of Choudhury and Hahne): the first takes eight ninths, and leaves the
//!   rest to the others.
//! - Half of all streams are divided among the ports, each of which finds its part free, whatever the clients of the others do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::id::Id;

/// How many times what its port has left a tunnel may have.
const SHARE: usize = 8;

/// What the clients of a server may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Streams in all: connections to services.
    pub streams: usize,
    /// Streams of one port.
    pub streams_per_port: usize,
    /// Streams of one tunnel.
    pub streams_per_tunnel: usize,
    /// Tunnels of one port.
    pub tunnels_per_port: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            streams: 32_768,
            streams_per_port: 16_384,
            streams_per_tunnel: 8_192,
            tunnels_per_port: 1_024,
        }
    }
}

/// The streams that are open.
#[derive(Debug)]
pub struct Quotas {
    limits: ServerLimits,
    /// Streams that each port finds free, whatever the others have.
    reserve: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
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
pub enum Exhausted {
    /// The tunnel has its share.
    #[error(
        "this tunnel has {0} connections, and no more for the sake of the port's other clients (limits.streams_per_tunnel, limits.streams_per_port)"
    )]
    Tunnel(usize),
    /// The port has its share.
    #[error(
        "this port has {0} connections, and no more for the sake of the other ports (limits.streams_per_port, limits.streams)"
    )]
    Port(usize),
}

impl Quotas {
    /// Nothing is open; there are so many ports.
    pub fn new(limits: ServerLimits, ports: usize) -> Arc<Self> {
        Arc::new(Quotas {
            limits,
            reserve: limits.streams / 2 / ports.max(1),
            open: Mutex::default(),
        })
    }

    /// What they are.
    pub fn limits(&self) -> ServerLimits {
        self.limits
    }

    /// A place for one more stream of a tunnel.
    pub fn stream(self: &Arc<Self>, port: Id, tunnel: Id) -> Result<Permit, Exhausted> {
        let mut open = self.open();
        let of_port = open.ports.get(&port);
        let held_by_port = of_port.map_or(0, |streams| streams.total);
        let held = of_port
            .and_then(|streams| streams.tunnels.get(&tunnel))
            .copied()
            .unwrap_or(0);
        let free = self
            .free_to(&open, port, held_by_port)
            .min(self.limits.streams_per_port.saturating_sub(held_by_port));
        if free == 0 {
            return Err(Exhausted::Port(held_by_port));
        }
        if held >= free.saturating_mul(SHARE) || held >= self.limits.streams_per_tunnel {
            return Err(Exhausted::Tunnel(held));
        }
        open.total += 1;
        let streams = open.ports.entry(port).or_default();
        streams.total += 1;
        *streams.tunnels.entry(tunnel).or_default() += 1;
        Ok(Permit {
            quotas: Arc::clone(self),
            port,
            tunnel,
        })
    }

    /// What a port may take of the streams that are left.
    fn free_to(&self, open: &Open, port: Id, held: usize) -> usize {
        let free = self.limits.streams.saturating_sub(open.total);
        let others = open
            .ports
            .iter()
            .filter(|(other, _)| **other != port)
            .map(|(_, streams)| streams.total.min(self.reserve))
            .sum::<usize>();
        // All ports together have half of the streams in reserve.
        let reserved = (self.limits.streams / 2)
            .saturating_sub(self.reserve)
            .saturating_sub(others);
        free.saturating_sub(reserved)
            .max(self.reserve.saturating_sub(held).min(free))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a stream; dropping it makes room.
#[derive(Debug)]
pub struct Permit {
    quotas: Arc<Quotas>,
    port: Id,
    tunnel: Id,
}

impl Drop for Permit {
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

    const LIMITS: ServerLimits = ServerLimits {
        streams: 1_000,
        streams_per_port: 1_000,
        streams_per_tunnel: 1_000,
        tunnels_per_port: 10,
    };

    fn id(number: u8) -> Id {
        Id([number; 16])
    }

    /// Opens streams until one is refused.
    fn fill(quotas: &Arc<Quotas>, port: u8, tunnel: u8) -> (Vec<Permit>, Exhausted) {
        let mut permits = Vec::new();
        loop {
            match quotas.stream(id(port), id(tunnel)) {
                Ok(permit) => permits.push(permit),
                Err(exhausted) => return (permits, exhausted),
            }
        }
    }

    #[test]
    fn a_tunnel_takes_half_of_its_port_and_a_port_leaves_the_others_their_part() {
        let quotas = Quotas::new(LIMITS, 4);
        let (first, exhausted) = fill(&quotas, 1, 1);
        assert_eq!(
            (first.len(), exhausted),
            (556, Exhausted::Tunnel(556)),
            "eight ninths of what the reserves of three ports leave"
        );
        let (second, _) = fill(&quotas, 1, 2);
        assert_eq!(second.len(), 62);
        let greedy: Vec<_> = (3..100).map(|tunnel| fill(&quotas, 1, tunnel).0).collect();
        for port in 2..=4 {
            let (other, _) = fill(&quotas, port, 1);
            assert!(
                other.len() >= 111,
                "port {port} has its part: {}",
                other.len()
            );
        }
        drop((first, second, greedy));
        let open = quotas.open();
        assert_eq!((open.total, open.ports.len()), (0, 0));
    }

    #[test]
    fn no_limit_is_exceeded() {
        let quotas = Quotas::new(
            ServerLimits {
                streams_per_port: 100,
                streams_per_tunnel: 30,
                ..LIMITS
            },
            1,
        );
        let (first, exhausted) = fill(&quotas, 1, 1);
        assert_eq!((first.len(), exhausted), (30, Exhausted::Tunnel(30)));
        let tunnels: Vec<_> = (2..50).map(|tunnel| fill(&quotas, 1, tunnel)).collect();
        let open = first.len()
            + tunnels
                .iter()
                .map(|(permits, _)| permits.len())
                .sum::<usize>();
        assert!((95..=100).contains(&open), "{open}");
    }
}
