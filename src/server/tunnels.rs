//! The tunnels of a server: the live ones, and what it remembers of ended ones.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    link::Outbox,
    tunnel::{ResetCode, Tunnel, TunnelStatus},
};
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
    /// The links that have not ended, with their slots.
    links: Vec<(Arc<Outbox>, Slot)>,
    /// The lanes that the links to the same master carry best, by the slot of each. One if missing.
    lanes: BTreeMap<Slot, usize>,
}

/// The remembered facts of an ended tunnel.
struct EndedTunnel {
    tunnel: Id,
    port: Id,
    /// The lowest client stream id that the tunnel never saw.
    seen: u64,
}

impl TunnelTable {
    /// Asks the client for as many lanes as the links to its master carry. While the tunnel moves
    /// from one master to another, the larger number counts. A tunnel without a lane keeps its
    /// number.
    fn request_lanes(&self, tunnel: &Tunnel) {
        let attached = tunnel.attached_links();
        let links = self.links.iter();
        let used = links.filter(|(outbox, _)| attached.contains(&outbox.id()));
        let lanes = used.map(|(_, slot)| self.lanes.get(slot).copied().unwrap_or(1));
        if let Some(lanes) = lanes.max() {
            tunnel.request_lanes(lanes);
        }
    }

    /// Whether a lane of the tunnel uses a link with one of these slots.
    fn is_carried_by(&self, tunnel: &Tunnel, slots: &[Slot]) -> bool {
        let attached = tunnel.attached_links();
        self.links
            .iter()
            .any(|(outbox, slot)| slots.contains(slot) && attached.contains(&outbox.id()))
    }
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
        self.table().live.insert(tunnel.id(), tunnel.clone());
    }

    /// Adds a link that is being established.
    pub(super) fn linked(&self, outbox: &Arc<Outbox>, slot: Slot) {
        let mut table = self.table();
        table.links.retain(|(outbox, _)| outbox.ended().is_none());
        table.links.push((Arc::clone(outbox), slot));
    }

    /// Sets how many lanes of a tunnel the links with these slots carry best, which lead to one
    /// master. Asks the clients whose tunnels use them. When there are more links than before, lanes
    /// that share one move to those without any: the client may have opened several for its own
    /// links.
    pub(super) fn want_lanes(&self, slots: &[Slot], lanes: usize) {
        let mut table = self.table();
        let before = slots.iter().filter_map(|slot| table.lanes.get(slot)).max();
        let has_more = lanes > before.copied().unwrap_or(1);
        table.lanes.extend(slots.iter().map(|slot| (*slot, lanes)));
        // Under the lock, so that no older number follows a newer one.
        for tunnel in table.live.values() {
            table.request_lanes(tunnel);
            if has_more && table.is_carried_by(tunnel, slots) {
                tunnel.spread_lanes(lanes);
            }
        }
    }

    /// Asks the client of this tunnel for other lanes when the tunnel uses other links, for example
    /// those to another master. Does not return.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn follow_links(&self, tunnel: &Tunnel) {
        let mut status = tunnel.status();
        loop {
            self.table().request_lanes(tunnel);
            // Cannot fail: the tunnel owns the sender.
            if status.changed().await.is_err() {
                pending().await
            }
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

    /// Ends the tunnels of a removed port that have neither streams nor flows, or all of them. Returns whether some
    /// are left.
    pub(super) fn end_removed(&self, port: Id, all: bool) -> bool {
        let mut left = false;
        let tunnels = self.all().into_iter();
        for tunnel in tunnels.filter(|tunnel| tunnel.port().keys.id == port) {
            if all || tunnel.streams() + tunnel.flows() == 0 {
                let reason = "the port was removed from the configuration of the server";
                tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, reason));
            } else {
                left = true;
            }
        }
        left
    }

    pub(super) fn all(&self) -> Vec<Tunnel> {
        self.table().live.values().cloned().collect()
    }

    /// Ends all tunnels and waits until their END frames are sent.
    pub(super) async fn end(&self) {
        Tunnel::shut_down(&self.all(), "the server is shutting down").await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tunnel::tests::{TunnelTestbed, eventually};
    use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

    /// Waits until the client knows that the server asks for this number of lanes.
    async fn until_requested(client: &Tunnel, lanes: usize) {
        let mut status = client.status();
        let waiting = async {
            while client.requested_lanes() != lanes {
                status.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .expect("in time");
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_the_lanes_of_the_links_to_its_master() {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let slots: Vec<Slot> = Slot::all().collect();
        let tunnels = Tunnels::default();
        tunnels.linked(&bed.server_link(), slots[0]);
        tunnels.add(&server);
        let steps = async {
            // Another master, where the tunnel has no lane, gets more links.
            tunnels.want_lanes(&slots[2..4], 8);
            tunnels.want_lanes(&slots[..2], 2);
            until_requested(&client, 2).await;
            // A second lane on the link is closed when another link is up.
            bed.share_link(&client).await;
            eventually(|| server.lanes() == 2).await;
            tunnels.want_lanes(&slots[..2], 2);
            assert_eq!(server.lanes(), 2, "no more links");
            tunnels.want_lanes(&slots[2..4], 9);
            assert_eq!(server.lanes(), 2, "links to another master");
            tunnels.want_lanes(&slots[..2], 3);
            eventually(|| client.lanes() == 1 && server.lanes() == 1).await;
            // The tunnel moves there.
            let there = bed.join_lane(&client).await;
            tunnels.linked(&there, slots[3]);
            bed.cut();
            until_requested(&client, 9).await;
        };
        tokio::select! {
            () = tunnels.follow_links(&server) => {}
            () = steps => {}
        }
        bed.end().await;
    }
}
