//! The place of a supervisor in a set of links: whether the set wants its link, and the table in
//! which all supervisors of the set publish which links are up.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;

use super::{handover::Handover, uplink::RoleLink};
use crate::{link::Outbox, tcp_table::TcpConnection};
use report_proto::frame::Slot;

/// A link of a set: the index of its slot in the set, and of its master in the list.
pub(super) type SetLink = (usize, usize);

/// The index of the slot that a set always keeps linked.
pub(super) const FIRST: usize = 0;

/// The links of a set that are up and in use. Clones share the table.
#[derive(Debug, Clone, Default)]
pub(super) struct UpLinks {
    table: watch::Sender<BTreeSet<SetLink>>,
    connections: Connections,
    handover: Handover,
}

/// The established links of a set whose TCP connections are known, by their epochs. Clones share the
/// list.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<Mutex<BTreeMap<u64, EstablishedLink>>>);

/// An established link, and the TCP connection below.
#[derive(Debug)]
struct EstablishedLink {
    slot: Slot,
    connection: TcpConnection,
    outbox: Arc<Outbox>,
}

/// Removes a connection from the list when dropped.
#[derive(Debug)]
pub(super) struct ListedConnection {
    connections: Connections,
    epoch: u64,
}

impl Connections {
    /// Lists the connection of a link until the result is dropped.
    pub(super) fn list(
        &self,
        epoch: u64,
        connection: Option<TcpConnection>,
        link: &RoleLink,
    ) -> ListedConnection {
        let established = connection.map(|connection| EstablishedLink {
            slot: link.slot,
            connection,
            outbox: Arc::clone(&link.outbox),
        });
        self.lock().extend(established.map(|link| (epoch, link)));
        ListedConnection {
            connections: self.clone(),
            epoch,
        }
    }

    /// Returns the present connections.
    pub(super) fn all(&self) -> Vec<TcpConnection> {
        self.lock().values().map(|link| link.connection).collect()
    }

    /// Returns the peer's address of each present link.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses_of(|_| true)
    }

    /// Returns the peer's address of each present link with another slot.
    pub(super) fn addresses_of_others(&self, slot: Slot) -> Vec<IpAddr> {
        self.addresses_of(|link| link.slot != slot)
    }

    fn addresses_of(&self, is_counted: impl Fn(&EstablishedLink) -> bool) -> Vec<IpAddr> {
        let links = self.lock();
        let counted = links.values().filter(|link| is_counted(link));
        counted.map(|link| link.connection.peer.ip()).collect()
    }

    /// Returns how many bytes the present links have sent and received.
    pub(super) fn moved_bytes(&self) -> u64 {
        let links = self.lock();
        links.values().map(|link| link.outbox.moved_bytes()).sum()
    }

    /// Waits until one of the present links has moved `bytes` more bytes.
    pub(super) async fn wait_until_moved(&self, bytes: u64) {
        let outboxes: Vec<_> = {
            let links = self.lock();
            links
                .values()
                .map(|link| Arc::clone(&link.outbox))
                .collect()
        };
        let mut waiting: FuturesUnordered<_> = outboxes
            .iter()
            .map(|outbox| outbox.wait_until_moved(bytes))
            .collect();
        if waiting.next().await.is_none() {
            pending().await
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, EstablishedLink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ListedConnection {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.epoch);
    }
}

impl UpLinks {
    /// Creates the empty table of a set with this part in handovers.
    pub(super) fn new(handover: &Handover) -> Self {
        UpLinks {
            handover: handover.clone(),
            ..UpLinks::default()
        }
    }

    /// Returns a receiver of the table.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeSet<SetLink>> {
        self.table.subscribe()
    }

    /// Returns the list of connections.
    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    fn replace(&self, old: Option<SetLink>, new: Option<SetLink>) {
        self.table.send_modify(|links| {
            old.inspect(|old| {
                links.remove(old);
            });
            links.extend(new);
        });
    }
}

/// The place of a supervisor in a set of links.
#[derive(Debug)]
pub(super) struct Membership {
    up_links: UpLinks,
    /// The link that the supervisor publishes now.
    published: Option<SetLink>,
    additional: Option<Additional>,
}

/// The place of a supervisor whose link the set does not always want.
#[derive(Debug)]
struct Additional {
    place: SetLink,
    wanted: watch::Receiver<bool>,
}

impl Membership {
    /// Returns the membership of the first slot, whose link the set always wants.
    pub(super) fn first(up_links: &UpLinks) -> Self {
        Membership {
            up_links: up_links.clone(),
            published: None,
            additional: None,
        }
    }

    /// Returns the membership of a further slot, at one master.
    pub(super) fn additional(
        up_links: &UpLinks,
        place: SetLink,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        Membership {
            additional: Some(Additional { place, wanted }),
            ..Membership::first(up_links)
        }
    }

    /// Returns the list of connections of the set.
    pub(super) fn connections(&self) -> Connections {
        self.up_links.connections().clone()
    }

    /// Returns the part of the set in handovers to and from other sets.
    pub(super) fn handover(&self) -> Handover {
        self.up_links.handover.clone()
    }

    /// Whether the set keeps this link beside its first one.
    pub(super) fn is_additional(&self) -> bool {
        self.additional.is_some()
    }

    /// Whether the set wants the link.
    pub(super) fn is_wanted(&self) -> bool {
        self.additional
            .as_ref()
            .is_none_or(|additional| *additional.wanted.borrow())
    }

    /// Waits until the set changes its mind about the link.
    pub(super) async fn wanted_changed(&mut self) {
        let Some(additional) = &mut self.additional else {
            return pending().await;
        };
        if additional.wanted.changed().await.is_err() {
            // The set has ended, and cancels the supervisor.
            pending().await
        }
    }

    /// Publishes the master to which the link in use goes: an index of the supervisor's own list.
    pub(super) fn publish(&mut self, master: Option<usize>) {
        let place = |master| match &self.additional {
            // Its only master has another index in the list of the set.
            Some(additional) => additional.place,
            None => (FIRST, master),
        };
        let link = master.map(place);
        if link != self.published {
            self.up_links.replace(self.published, link);
            self.published = link;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_publish_the_link_in_use_under_its_place_in_the_set() {
        let up_links = UpLinks::default();
        let table = up_links.subscribe();
        let (wanted, is_wanted) = watch::channel(true);
        let mut first = Membership::first(&up_links);
        let mut second = Membership::additional(&up_links, (1, 2), is_wanted);
        assert!(!first.is_additional() && second.is_additional());
        first.publish(Some(2));
        second.publish(Some(0));
        assert_eq!(*table.borrow(), BTreeSet::from([(0, 2), (1, 2)]));
        first.publish(Some(1));
        second.publish(None);
        assert_eq!(*table.borrow(), BTreeSet::from([(0, 1)]));
        wanted.send_replace(false);
        assert!(first.is_wanted() && !second.is_wanted());
    }
}
