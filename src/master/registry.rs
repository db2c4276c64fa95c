//! Who is linked, who serves which key id, and which attachments no server has answered. Knows names and numbers; a link and an attachment are whatever the
//! caller makes them, so that the whole of it can be checked against a model. It does no I/O and never waits.
//!
//! ```text
//!  enter ──► [linked] ──register──► serves key ids ──leave / a newer link of the instance──► gone
//!                                        └─ a newer link that moves ──► [older]: serves nothing, its channels go on ──leave / a third link──► gone
//!  attach ──► a server is there, and has room: pending ──answered──► release (once for each side) ──► over
//!         └─► none is, or none has room: waits ──register, or room at a fitting server──► pending
//!                            └──cancel, expire──► over
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    ops::Bound,
    time::Instant,
};

use super::{
    limits::Limits,
    unanswered::{Request, Ticket, Unanswered},
};
use crate::{
    frame::{AttachHeader, CHANNELS_RENEWED, Role},
    id::Id,
};

/// The master's number of a link: counted up, never used again while it runs.
pub(super) type LinkNumber = u64;

/// The tables. `L` is a handle of a link, `A` an attachment.
#[derive(Debug)]
pub(super) struct Registry<L, A> {
    links: HashMap<LinkNumber, Member<L>>,
    /// The links of each instance that have not been taken over. A client cannot name itself as a server: the role is in the key.
    instances: HashMap<(RoleKey, Id), Standing>,
    /// The servers of each key id.
    ports: HashMap<Id, BTreeSet<LinkNumber>>,
    unanswered: Unanswered<A>,
    ports_per_link: usize,
    channels_per_link: u32,
}

/// Whether the role is that of a server.
type RoleKey = bool;

/// The links of an instance.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// The one that may serve.
    newest: LinkNumber,
    /// The one that the instance moves away from.
    older: Option<LinkNumber>,
}

/// A link that has been authenticated.
#[derive(Debug, Clone)]
pub(super) struct Newcomer<L> {
    pub(super) link: LinkNumber,
    pub(super) party: IpAddr,
    pub(super) role: Role,
    pub(super) instance: Id,
    pub(super) epoch: u64,
    /// Its instance's link before goes on until it is closed.
    pub(super) moves: bool,
    pub(super) handle: L,
}

#[derive(Debug)]
struct Member<L> {
    handle: L,
    party: IpAddr,
    role: Role,
    instance: Id,
    epoch: u64,
    ports: BTreeSet<Id>,
    /// Channels that are open here, waiting ones included.
    channels: u32,
    /// The last channel number that the master gave out on this link.
    last_channel: u32,
    /// Attachments may wait for it to have room.
    is_awaited: bool,
    /// The key id that was served last of those for which attachments waited.
    served: Id,
    /// Attachments that it has left unanswered since it answered one.
    overdue: u32,
}

impl<L> Member<L> {
    /// Whether the master can open one more channel here.
    fn takes_another(&self, limit: u32) -> bool {
        self.channels < limit && self.last_channel < u32::MAX
    }
}

/// Where an attachment is led: a channel with this number has been counted on this server's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange<L> {
    pub(super) server: LinkNumber,
    pub(super) handle: L,
    pub(super) channel: u32,
    pub(super) ticket: Ticket,
    /// Half of the channel numbers of the server's link are used up with this one: the server is to make another link.
    pub(super) is_half_used: bool,
}

/// The answer to [`Registry::attach`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attached<L> {
    /// A server is there.
    Connected(Exchange<L>),
    /// None is, or none has room; the attachment is kept.
    Waiting(Ticket),
    /// The client, or every server of the key id, has as many channels as it may. Nothing was counted.
    Full,
}

/// Attachments that had waited, and whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next<L, A> {
    /// They are led to a server.
    pub(super) connected: Vec<(A, Exchange<L>)>,
    /// They find the server full.
    pub(super) full: Vec<A>,
}

impl<L, A> Default for Next<L, A> {
    fn default() -> Self {
        Next {
            connected: Vec::new(),
            full: Vec::new(),
        }
    }
}

impl<L, A> Next<L, A> {
    fn append(&mut self, mut other: Self) {
        self.connected.append(&mut other.connected);
        self.full.append(&mut other.full);
    }
}

/// The answer to [`Registry::register`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registered<L, A> {
    /// Those of the asked key ids that stand, in the order of the request.
    pub(super) standing: Vec<Id>,
    /// Who had waited for this server.
    pub(super) next: Next<L, A>,
}

/// An attachment whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired<A> {
    pub(super) attach: A,
    /// A server was asked, and has not answered.
    pub(super) was_pending: bool,
}

/// The instance already has a link with this epoch or a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this instance already has a link with epoch {0}")]
pub(super) struct Superseded(pub(super) u64);

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Nobody is here.
    pub(super) fn new(limits: &Limits) -> Self {
        Registry {
            links: HashMap::new(),
            instances: HashMap::new(),
            ports: HashMap::new(),
            unanswered: Unanswered::new(),
            ports_per_link: limits.ports_per_link as usize,
            channels_per_link: limits.channels_per_link,
        }
    }

    /// Takes in an authenticated link. The link of the same instance before it serves nothing from now on; when the new one `moves`, its channels
    /// go on. Answers the older links that are to be ended.
    pub(super) fn enter(&mut self, newcomer: Newcomer<L>) -> Result<Vec<L>, Superseded> {
        let Newcomer {
            link,
            party,
            role,
            instance,
            epoch,
            moves,
            handle,
        } = newcomer;
        let key = (role == Role::Server, instance);
        let before = self.instances.get(&key).copied();
        if let Some(member) = before.and_then(|before| self.links.get(&before.newest))
            && member.epoch >= epoch
        {
            return Err(Superseded(member.epoch));
        }
        let older = before.map(|before| before.newest).filter(|_| moves);
        self.instances.insert(
            key,
            Standing {
                newest: link,
                older,
            },
        );
        let member = Member {
            handle,
            party,
            role,
            instance,
            epoch,
            ports: BTreeSet::new(),
            channels: 0,
            last_channel: 0,
            is_awaited: false,
            served: Id([0; 16]),
            overdue: 0,
        };
        self.links.insert(link, member);
        let Some(before) = before else {
            return Ok(Vec::new());
        };
        self.withdraw_all(before.newest);
        let ended = before
            .older
            .into_iter()
            .chain(Some(before.newest).filter(|_| !moves));
        Ok(ended
            .filter_map(|number| self.links.get(&number))
            .map(|member| member.handle.clone())
            .collect())
    }

    /// Adds key ids to those that the link serves, and leads those there that waited for them.
    pub(super) fn register(
        &mut self,
        link: LinkNumber,
        ports: &[Id],
        now: Instant,
    ) -> Registered<L, A> {
        let mut standing = Vec::new();
        if self.is_current(link)
            && let Some(member) = self.links.get_mut(&link)
        {
            for &id in ports {
                if !member.ports.contains(&id) {
                    if member.ports.len() >= self.ports_per_link {
                        continue;
                    }
                    member.ports.insert(id);
                    member.is_awaited = true;
                    self.ports.entry(id).or_default().insert(link);
                }
                standing.push(id);
            }
        }
        Registered {
            standing,
            next: self.next(link, now),
        }
    }

    /// Removes key ids from those that the link serves. Its channels go on.
    pub(super) fn unregister(&mut self, link: LinkNumber, ports: &[Id]) {
        for id in ports {
            if self
                .links
                .get_mut(&link)
                .is_some_and(|member| member.ports.remove(id))
            {
                self.withdraw(link, *id);
            }
        }
    }

    /// Opens a channel of a client: leads it to a server, or keeps the attachment until a fitting server comes, or has room. The instances to
    /// avoid are the last choice.
    pub(super) fn attach(
        &mut self,
        client: LinkNumber,
        header: &AttachHeader,
        bytes: usize,
        now: Instant,
        attach: A,
    ) -> Attached<L> {
        let AttachHeader {
            port,
            instance,
            ref avoid,
        } = *header;
        let limit = self.channels_per_link;
        let Some(party) = self
            .links
            .get(&client)
            .filter(|member| member.channels < limit)
            .map(|member| member.party)
        else {
            return Attached::Full;
        };
        let server = match self.find(port, instance, avoid) {
            Found::Server(server) => Some(server),
            Found::Nobody => None,
            Found::Full => return Attached::Full,
        };
        let ticket = self.unanswered.wait(
            Request {
                client,
                party,
                port,
                instance,
                bytes,
            },
            now,
            attach,
        );
        if let Some(member) = self.links.get_mut(&client) {
            member.channels += 1;
        }
        match server.and_then(|server| self.open(server, ticket)) {
            Some(exchange) => {
                self.unanswered.ask(ticket, exchange.server, now);
                Attached::Connected(exchange)
            }
            None => Attached::Waiting(ticket),
        }
    }

    /// The server has answered. Answers whose turn it is there.
    pub(super) fn answered(&mut self, ticket: Ticket, now: Instant) -> Next<L, A> {
        let Some(server) = self
            .unanswered
            .remove(ticket)
            .and_then(|removed| removed.server)
        else {
            return Next::default();
        };
        if let Some(member) = self.links.get_mut(&server) {
            member.overdue = 0;
        }
        self.next(server, now)
    }

    /// Gives up an attachment that has no answer, if it has none; its channels are still to be released. Answers it, and whose turn it is where it was pending.
    pub(super) fn cancel(&mut self, ticket: Ticket, now: Instant) -> (Option<A>, Next<L, A>) {
        let Some(removed) = self.unanswered.remove(ticket) else {
            return (None, Next::default());
        };
        let next = removed
            .server
            .map(|server| self.next(server, now))
            .unwrap_or_default();
        (Some(removed.attach), next)
    }

    /// Gives up those whose deadline has passed, up to `most`, as [`Registry::cancel`] does.
    pub(super) fn expire(&mut self, now: Instant, most: usize) -> (Vec<Expired<A>>, Next<L, A>) {
        let (mut expired, mut next) = (Vec::new(), Next::default());
        for ticket in self.unanswered.expired(now, most) {
            let Some(removed) = self.unanswered.remove(ticket) else {
                continue;
            };
            expired.push(Expired {
                attach: removed.attach,
                was_pending: removed.server.is_some(),
            });
            let Some(server) = removed.server else {
                continue;
            };
            if let Some(member) = self.links.get_mut(&server) {
                member.overdue = member.overdue.saturating_add(1);
            }
            next.append(self.next(server, now));
        }
        (expired, next)
    }

    /// The oldest attachment of a client that has no answer.
    pub(super) fn oldest_of(&self, client: LinkNumber) -> Option<A> {
        self.unanswered
            .oldest_of(client)
            .and_then(|ticket| self.unanswered.get(ticket))
            .cloned()
    }

    /// One channel of the link is over.
    pub(super) fn release(&mut self, link: LinkNumber) {
        if let Some(member) = self.links.get_mut(&link) {
            member.channels = member.channels.saturating_sub(1);
        }
    }

    /// The link is gone, and all that it served and waited for. Its channels were closed one by one before, so that something waits only after a link that
    /// was torn off in the middle. Answers the attachments that had no answer, which are to be dropped, and whose turn it is.
    pub(super) fn leave(&mut self, link: LinkNumber, now: Instant) -> (Vec<A>, Next<L, A>) {
        self.withdraw_all(link);
        let (mut left, mut next) = (Vec::new(), Next::default());
        while let Some(removed) = self
            .unanswered
            .oldest_of(link)
            .and_then(|ticket| self.unanswered.remove(ticket))
        {
            left.push(removed.attach);
            next.append(
                removed
                    .server
                    .map(|server| self.next(server, now))
                    .unwrap_or_default(),
            );
        }
        if let Some(member) = self.links.remove(&link) {
            self.stands_no_more((member.role == Role::Server, member.instance), link);
        }
        (left, next)
    }

    /// The handles of all links, for a drain.
    pub(super) fn handles(&self) -> impl Iterator<Item = &L> {
        self.links.values().map(|member| &member.handle)
    }

    /// The handle of a link.
    pub(super) fn handle(&self, link: LinkNumber) -> Option<L> {
        self.links.get(&link).map(|member| member.handle.clone())
    }

    /// How many links are here.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    fn stands_no_more(&mut self, key: (RoleKey, Id), link: LinkNumber) {
        let Some(standing) = self.instances.get_mut(&key) else {
            return;
        };
        if standing.newest != link {
            standing.older.take_if(|older| *older == link);
        } else if let Some(older) = standing.older.take() {
            // The one that it moved to did not last: this may serve again.
            standing.newest = older;
        } else {
            self.instances.remove(&key);
        }
    }

    /// Whether no newer link of its instance has taken over from this one.
    fn is_current(&self, link: LinkNumber) -> bool {
        let Some(member) = self.links.get(&link) else {
            return false;
        };
        let key = (member.role == Role::Server, member.instance);
        self.instances
            .get(&key)
            .is_some_and(|standing| standing.newest == link)
    }

    /// Among the servers of the key id that have room the one with the fewest channels, the longest linked among equals. Those to avoid, and those that leave
    /// attachments unanswered, come after the others.
    fn find(&mut self, port: Id, instance: Option<Id>, avoid: &[Id]) -> Found {
        let Some(servers) = self.ports.get(&port) else {
            return Found::Nobody;
        };
        let (mut best, mut is_full, mut is_awaited) = (None, false, false);
        for number in servers {
            let Some(member) = self.links.get_mut(number) else {
                continue;
            };
            if instance.is_some_and(|instance| member.instance != instance) {
                continue;
            }
            if !member.takes_another(self.channels_per_link) {
                is_full = true;
            } else if self.unanswered.has_room(*number) {
                let rank = (
                    avoid.contains(&member.instance) || member.overdue > 0,
                    member.channels,
                    *number,
                );
                best = best.map_or(Some(rank), |best| Some(rank.min(best)));
            } else {
                member.is_awaited = true;
                is_awaited = true;
            }
        }
        match best {
            Some((_, _, number)) => Found::Server(number),
            None if is_full && !is_awaited => Found::Full,
            None => Found::Nobody,
        }
    }

    /// Counts a channel on the server's link and numbers it.
    fn open(&mut self, server: LinkNumber, ticket: Ticket) -> Option<Exchange<L>> {
        let limit = self.channels_per_link;
        let member = self
            .links
            .get_mut(&server)
            .filter(|member| member.takes_another(limit))?;
        let channel = member.last_channel.checked_add(1)?;
        member.last_channel = channel;
        member.channels += 1;
        let is_half_used = channel == CHANNELS_RENEWED;
        Some(Exchange {
            server,
            handle: member.handle.clone(),
            channel,
            ticket,
            is_half_used,
        })
    }

    /// Leads those to a server that wait for one of its key ids, as far as it has room: one of each key id in turn.
    fn next(&mut self, server: LinkNumber, now: Instant) -> Next<L, A> {
        let mut next = Next::default();
        while self.unanswered.has_room(server)
            && let Some(ticket) = self.next_waiting(server)
        {
            match self.open(server, ticket) {
                Some(exchange) => {
                    self.unanswered.ask(ticket, server, now);
                    next.connected.extend(
                        self.unanswered
                            .get(ticket)
                            .cloned()
                            .map(|attach| (attach, exchange)),
                    );
                }
                None => next
                    .full
                    .extend(self.unanswered.remove(ticket).map(|removed| removed.attach)),
            }
        }
        next
    }

    fn next_waiting(&mut self, server: LinkNumber) -> Option<Ticket> {
        let member = self
            .links
            .get_mut(&server)
            .filter(|member| member.is_awaited)?;
        let (later, earlier) = (
            member
                .ports
                .range((Bound::Excluded(member.served), Bound::Unbounded)),
            member.ports.range(..=member.served),
        );
        for port in later.chain(earlier) {
            if let Some(ticket) = self.unanswered.next(*port, member.instance) {
                member.served = *port;
                return Some(ticket);
            }
        }
        member.is_awaited = false;
        None
    }

    /// The link serves nothing any more; its channels go on.
    pub(super) fn withdraw_all(&mut self, link: LinkNumber) {
        let ports = self
            .links
            .get_mut(&link)
            .map(|member| std::mem::take(&mut member.ports))
            .unwrap_or_default();
        for id in ports {
            self.withdraw(link, id);
        }
    }

    fn withdraw(&mut self, link: LinkNumber, id: Id) {
        if let Some(servers) = self.ports.get_mut(&id) {
            servers.remove(&link);
            if servers.is_empty() {
                self.ports.remove(&id);
            }
        }
    }
}

/// What [`Registry::find`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Server(LinkNumber),
    /// No server is there, or those that are have no room for now.
    Nobody,
    /// All have as many channels as they may.
    Full,
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
