//! Chooses the server of an attach request, and assigns waiting requests to a server that has room.

use std::{ops::Bound, time::Instant};

use super::{
    Registry,
    results::{Assignment, Dispatch, Found},
};
use crate::master::{attach_queue::Ticket, limits::LinkNumber};
use report_proto::{frame::CHANNEL_RENEWAL_THRESHOLD, id::Id};

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Chooses the server of a key id with the fewest channels; the oldest link wins a tie. Servers
    /// to avoid and servers with expired requests come last.
    pub(super) fn choose_server(&mut self, port: Id, instance: Option<Id>, avoid: &[Id]) -> Found {
        let Some(servers) = self.ports.get(&port) else {
            return Found::NoServer;
        };
        let (mut best, mut is_full, mut has_waiters) = (None, false, false);
        for number in servers {
            let Some(entry) = self.links.get_mut(number) else {
                continue;
            };
            if instance.is_some_and(|instance| entry.instance != instance) {
                continue;
            }
            if !entry.has_free_channel(self.channels_per_link) {
                is_full = true;
            } else if self.attach_queue.has_room(*number) {
                let rank = (
                    avoid.contains(&entry.instance) || entry.overdue > 0,
                    entry.channels,
                    *number,
                );
                best = best.map_or(Some(rank), |best| Some(rank.min(best)));
            } else {
                // Unanswered requests only delay the next one. A channel limit rejects it.
                entry.has_waiters = true;
                has_waiters = true;
            }
        }
        match best {
            Some((_, _, number)) => Found::Server(number),
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
            if let Some(ticket) = self.attach_queue.next_for(*port, entry.instance) {
                entry.last_served = *port;
                return Some(ticket);
            }
        }
        entry.has_waiters = false;
        None
    }
}
