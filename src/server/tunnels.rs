//! The tunnels of a server: the live ones, and what it remembers of ended ones.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::tunnel::{ResetCode, Tunnel, TunnelStatus};
use report_proto::{
    frame::{Code, Notice, Slot},
    id::Id,
};

/// Maximum number of unconfirmed tunnels per port. A genuine client confirms its tunnel within a
/// round trip; a replayed handshake never does.
pub(crate) const MAX_CANDIDATES: usize = 256;

/// Number of ended tunnels that the server remembers, 40 bytes each.
const MAX_ENDED: usize = 4096;

/// The tunnels of a server by id.
#[derive(Clone, Default)]
pub(super) struct Tunnels(Arc<Mutex<TunnelTable>>);

#[derive(Default)]
struct TunnelTable {
    /// Tunnels that have not ended.
    live: HashMap<Id, Tunnel>,
    /// The most recently ended tunnels.
    ended: VecDeque<EndedTunnel>,
    /// The lanes that the links of each set carry, by its first slot.
    lanes: BTreeMap<Slot, usize>,
}

/// The remembered facts of an ended tunnel.
struct EndedTunnel {
    tunnel: Id,
    port: Id,
    /// The lowest client stream id that the tunnel never saw.
    seen: u64,
}

impl Tunnels {
    fn table(&self) -> MutexGuard<'_, TunnelTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, id: Id) -> Option<Tunnel> {
        self.table()
            .live
            .get(&id)
            .filter(|tunnel| tunnel.notice().is_none())
            .cloned()
    }

    pub(super) fn add(&self, tunnel: &Tunnel) {
        let mut table = self.table();
        table.live.insert(tunnel.id(), tunnel.clone());
        // Under the lock, so that no older number follows a newer one.
        if let Some(lanes) = table.lanes.values().max() {
            tunnel.request_lanes(*lanes);
        }
    }

    /// Asks the clients for as many lanes as the links of a set carry. Of several sets the largest
    /// number counts: a tunnel may have lanes in any of them.
    pub(super) fn want_lanes(&self, set: Slot, lanes: usize) {
        let mut table = self.table();
        table.lanes.insert(set, lanes);
        let wanted = table.lanes.values().max().copied().unwrap_or(1);
        for tunnel in table.live.values() {
            tunnel.request_lanes(wanted);
        }
    }

    /// Removes an ended tunnel that accepts no more streams, and remembers its lowest unseen stream
    /// id.
    pub(super) fn remove(&self, tunnel: &Tunnel) {
        let mut table = self.table();
        table.live.remove(&tunnel.id());
        if table.ended.len() >= MAX_ENDED {
            table.ended.pop_front();
        }
        table.ended.push_back(EndedTunnel {
            tunnel: tunnel.id(),
            port: tunnel.port().keys.id,
            seen: tunnel.seen(),
        });
    }

    /// Returns the lowest unseen stream id of an ended tunnel.
    pub(super) fn seen(&self, port: Id, tunnel: Id) -> Option<u64> {
        let table = self.table();
        table
            .ended
            .iter()
            .find(|ended| (ended.port, ended.tunnel) == (port, tunnel))
            .map(|ended| ended.seen)
    }

    /// Makes room for one more tunnel of a port by ending the detached tunnel that has been lost
    /// the longest. Returns whether there is room. Unconfirmed tunnels count separately, so that
    /// replayed handshakes keep no client out.
    pub(super) fn make_room(&self, port: Id, most: usize) -> bool {
        let (mut attached, mut unconfirmed, mut lost) = (0, Vec::new(), Vec::new());
        for tunnel in self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port)
        {
            let status = tunnel.status().borrow().clone();
            match status {
                TunnelStatus::Unconfirmed => unconfirmed.push(tunnel),
                TunnelStatus::Attached => attached += 1,
                TunnelStatus::Lost { since, .. } => lost.push((since, tunnel)),
                TunnelStatus::Ended => {}
            }
        }
        let full = Notice::new(Code::Limit, "the port has reached its limit of tunnels");
        // A flood of replayed handshakes costs all unconfirmed tunnels. A genuine client attaches
        // again.
        if unconfirmed.len() >= MAX_CANDIDATES {
            unconfirmed
                .iter()
                .for_each(|tunnel| tunnel.end(ResetCode::Limit, full.clone()));
        }
        if attached + lost.len() < most {
            return true;
        }
        let longest = lost.into_iter().max_by_key(|(since, _)| since.elapsed());
        longest
            .inspect(|(_, tunnel)| tunnel.end(ResetCode::Limit, full))
            .is_some()
    }

    /// Makes room for a connection of a port by ending the detached tunnel with the most streams.
    pub(super) fn end_one_detached(&self, port: Id) {
        let of_port = self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port && tunnel.streams() > 0);
        let lost =
            of_port.filter(|tunnel| matches!(*tunnel.status().borrow(), TunnelStatus::Lost { .. }));
        if let Some(tunnel) = lost.max_by_key(Tunnel::streams) {
            tunnel.end(
                ResetCode::Limit,
                Notice::new(
                    Code::Limit,
                    "the tunnel has no attachment, and other tunnels need its streams",
                ),
            );
        }
    }

    pub(super) fn all(&self) -> Vec<Tunnel> {
        self.table().live.values().cloned().collect()
    }

    /// Ends all tunnels and waits until their END frames are sent.
    pub(super) async fn end(&self) {
        Tunnel::shut_down(&self.all(), "the server is shutting down").await;
    }
}
