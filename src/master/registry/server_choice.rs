//! Chooses the server link of an attach request, and assigns waiting requests to a link that has
//! room.
//!
//! Two questions, in this order: which instance, and which of its links. The number of an
//! instance's links has no influence on the first.

use std::{ops::Bound, time::Instant};

use super::{
    LinkEntry, Registry,
    results::{Assignment, Dispatch, Found},
};
use crate::master::{attach_queue::Ticket, limits::LinkNumber};
use report_proto::{
    frame::{CHANNEL_RENEWAL_THRESHOLD, Slot},
    id::Id,
};

/// The links of one instance that have registered a key id.
struct InstanceLoad {
    instance: Id,
    /// The channels of all these links. Counted per instance, so that an instance with many links
    /// gets no more tunnels than one with a single link.
    channels: u64,
    oldest: LinkNumber,
    /// The link to choose among those that have room.
    best: Option<LinkRank>,
}

/// Orders the links of an instance, the one to choose first: without expired requests, then with
/// the fewest channels, the lowest slot, and the oldest.
type LinkRank = (bool, u32, Slot, LinkNumber);

/// Orders the instances, the one to choose first: not avoided and without expired requests, then
/// with the fewest channels, and the one with the oldest link. The link to choose comes last.
type InstanceRank = (bool, u64, LinkNumber, LinkNumber);

impl InstanceLoad {
    fn new(instance: Id, oldest: LinkNumber) -> Self {
        InstanceLoad {
            instance,
            channels: 0,
            oldest,
            best: None,
        }
    }

    fn add<L>(&mut self, entry: &LinkEntry<L>, number: LinkNumber, has_room: bool) {
        self.channels += u64::from(entry.channels);
        self.oldest = self.oldest.min(number);
        if has_room {
            let rank = (entry.overdue > 0, entry.channels, entry.key.slot, number);
            self.best = Some(self.best.map_or(rank, |best| best.min(rank)));
        }
    }

    /// Returns the rank of the instance. Returns `None` if no link has room.
    fn rank(&self, avoid: &[Id]) -> Option<InstanceRank> {
        let (is_overdue, .., number) = self.best?;
        let is_last_choice = is_overdue || avoid.contains(&self.instance);
        Some((is_last_choice, self.channels, self.oldest, number))
    }
}

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Chooses the server link for a key id, of this instance if one is named: first the instance
    /// with the fewest channels, then its link with the fewest channels. Instances to avoid and
    /// links with expired requests come last.
    pub(super) fn choose_server(&mut self, port: Id, instance: Option<Id>, avoid: &[Id]) -> Found {
        let Some(servers) = self.ports.get(&port) else {
            return Found::NoServer;
        };
        let mut best: Option<InstanceRank> = None;
        let mut load: Option<InstanceLoad> = None;
        let (mut is_full, mut has_waiters) = (false, false);
        // The links of an instance follow each other.
        for &(instance, number) in servers.of(instance) {
            let Some(entry) = self.links.get_mut(&number) else {
                continue;
            };
            if let Some(before) = load.take_if(|load| load.instance != instance) {
                best = best.into_iter().chain(before.rank(avoid)).min();
            }
            let has_channel = entry.has_free_channel(self.channels_per_link);
            let has_room = has_channel && self.attach_queue.has_room(number);
            is_full |= !has_channel;
            if has_channel && !has_room {
                // Unanswered requests only delay the next one. A channel limit rejects it.
                entry.has_waiters = true;
                has_waiters = true;
            }
            load.get_or_insert_with(|| InstanceLoad::new(instance, number))
                .add(entry, number, has_room);
        }
        let last = load.and_then(|load| load.rank(avoid));
        match best.into_iter().chain(last).min() {
            Some((.., number)) => Found::Server(number),
            None if is_full && !has_waiters => Found::Full,
            None => Found::NoServer,
        }
    }

    /// Counts and numbers a channel on the server's link.
    pub(super) fn open_channel(
        &mut self,
        server: LinkNumber,
        ticket: Ticket,
    ) -> Option<Assignment<L>> {
        let limit = self.channels_per_link;
        let entry = self
            .links
            .get_mut(&server)
            .filter(|entry| entry.has_free_channel(limit))?;
        let channel = entry.last_channel.checked_add(1)?;
        entry.last_channel = channel;
        entry.channels += 1;
        let is_half_used = channel == CHANNEL_RENEWAL_THRESHOLD;
        Some(Assignment {
            server,
            handle: entry.handle.clone(),
            channel,
            ticket,
            is_half_used,
        })
    }

    /// Assigns waiting requests to a server while it has room. Its key ids take turns.
    pub(super) fn dispatch(&mut self, server: LinkNumber, now: Instant) -> Dispatch<L, A> {
        let mut dispatch = Dispatch::default();
        while self.attach_queue.has_room(server)
            && let Some(ticket) = self.next_waiting(server)
        {
            match self.open_channel(server, ticket) {
                Some(assignment) => {
                    self.attach_queue.assign(ticket, server, now);
                    dispatch.assigned.extend(
                        self.attach_queue
                            .get(ticket)
                            .cloned()
                            .map(|attach| (attach, assignment)),
                    );
                }
                None => dispatch.rejected.extend(
                    self.attach_queue
                        .remove(ticket)
                        .map(|removed| removed.attach),
                ),
            }
        }
        dispatch
    }

    fn next_waiting(&mut self, server: LinkNumber) -> Option<Ticket> {
        let entry = self
            .links
            .get_mut(&server)
            .filter(|entry| entry.has_waiters)?;
        // Continues behind the key id served last, so that a busy key id does not starve the
        // others.
        let (later, earlier) = (
            entry
                .ports
                .range((Bound::Excluded(entry.last_served), Bound::Unbounded)),
            entry.ports.range(..=entry.last_served),
        );
        for port in later.chain(earlier) {
            if let Some(ticket) = self.attach_queue.next_for(*port, entry.key.instance) {
                entry.last_served = *port;
                return Some(ticket);
            }
        }
        entry.has_waiters = false;
        None
    }
}
