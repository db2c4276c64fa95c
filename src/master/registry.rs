//! Who is linked, who serves which key id, and who waits for one. Knows names and numbers; a link and a waiting call are whatever the
//! caller makes them, so that the whole of it can be checked against a model. It does no I/O and never waits.
//!
//! ```text
//!  enter ──► [linked] ──register──► serves key ids ──leave / a newer link of the instance──► gone
//!                                        └─ a newer link that moves ──► [older]: serves nothing, its channels go on ──leave / a third link──► gone
//!  attach ──► a server is there: connected ──release (once for each side)──► over
//!         └─► none is: waits ──register of a fitting server──► connected
//!                            └──cancel──► over
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::limits::Limits;
use crate::{frame::Role, id::Id};

/// The master's number of a link: counted up, never used again while it runs.
pub(super) type LinkNumber = u64;

/// The tables. `L` is a handle of a link, `W` what waits for a server.
#[derive(Debug)]
pub(super) struct Registry<L, W> {
    links: HashMap<LinkNumber, Member<L>>,
    /// The links of each instance that have not been taken over. A client cannot name itself as a server: the role is in the key.
    instances: HashMap<(RoleKey, Id), Standing>,
    ports: HashMap<Id, Port<W>>,
    next_wait: u64,
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

#[derive(Debug)]
struct Member<L> {
    handle: L,
    role: Role,
    instance: Id,
    epoch: u64,
    ports: BTreeSet<Id>,
    /// Channels that are open here, waiting ones included.
    channels: u32,
    /// The last channel number that the master gave out on this link.
    last_channel: u32,
}

/// What is known of one key id; kept only while somebody serves it or waits for it.
#[derive(Debug)]
struct Port<W> {
    servers: BTreeSet<LinkNumber>,
    waiting: BTreeMap<u64, Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    client: LinkNumber,
    instance: Option<Id>,
    call: W,
}

/// The place in the line of a key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    port: Id,
    number: u64,
}

/// Where a call is put through: a channel with this number has been counted on this server's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange<L> {
    pub(super) server: LinkNumber,
    pub(super) handle: L,
    pub(super) channel: u32,
}

/// The answer to [`Registry::attach`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attached<L> {
    /// A server is there.
    Connected(Exchange<L>),
    /// None is; the call is kept.
    Waiting(Wait),
    /// The client, or every server of the key id, has as many channels as it may. Nothing was counted.
    Full,
}

/// The answer to [`Registry::register`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registered<L, W> {
    /// Those of the asked key ids that stand, in the order of the request.
    pub(super) standing: Vec<Id>,
    /// Calls that had waited for this server, first come first.
    pub(super) connected: Vec<(W, Exchange<L>)>,
    /// Calls that had waited and find the server full.
    pub(super) full: Vec<W>,
}

/// The instance already has a link with this epoch or a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this instance already has a link with epoch {0}")]
pub(super) struct Superseded(pub(super) u64);

impl<L: Clone, W> Registry<L, W> {
    /// Nobody is here.
    pub(super) fn new(limits: &Limits) -> Self {
        Registry {
            links: HashMap::new(),
            instances: HashMap::new(),
            ports: HashMap::new(),
            next_wait: 0,
            ports_per_link: limits.ports_per_link as usize,
            channels_per_link: limits.channels_per_link,
        }
    }

    /// Takes in an authenticated link. The link of the same instance before it serves nothing from now on; when the new one `moves`, its channels
    /// go on. Answers the older links that are to be ended.
    pub(super) fn enter(
        &mut self,
        link: LinkNumber,
        role: Role,
        instance: Id,
        epoch: u64,
        moves: bool,
        handle: L,
    ) -> Result<Vec<L>, Superseded> {
        let key = (role == Role::Server, instance);
        let before = self.instances.get(&key).copied();
        if let Some(member) = before.and_then(|before| self.links.get(&before.newest))
            && member.epoch >= epoch
        {
            return Err(Superseded(member.epoch));
        }
        let older = before.map(|before| before.newest).filter(|_| moves);
        self.instances.insert(key, Standing { newest: link, older });
        let member = Member { handle, role, instance, epoch, ports: BTreeSet::new(), channels: 0, last_channel: 0 };
        self.links.insert(link, member);
        let Some(before) = before else { return Ok(Vec::new()) };
        self.withdraw_all(before.newest);
        let ended = before.older.into_iter().chain(Some(before.newest).filter(|_| !moves));
        Ok(ended.filter_map(|number| self.links.get(&number)).map(|member| member.handle.clone()).collect())
    }

    /// Adds key ids to those that the link serves, and puts through who waited for them.
    pub(super) fn register(&mut self, link: LinkNumber, ports: &[Id]) -> Registered<L, W> {
        let mut answer = Registered { standing: Vec::new(), connected: Vec::new(), full: Vec::new() };
        let Some(instance) = self.current(link) else { return answer };
        for &id in ports {
            let Some(member) = self.links.get_mut(&link) else { return answer };
            if !member.ports.contains(&id) {
                if member.ports.len() >= self.ports_per_link {
                    continue;
                }
                member.ports.insert(id);
                self.ports.entry(id).or_insert_with(Port::empty).servers.insert(link);
                self.answer_waiting(link, instance, id, &mut answer);
            }
            answer.standing.push(id);
        }
        answer
    }

    /// Removes key ids from those that the link serves. Its channels go on.
    pub(super) fn unregister(&mut self, link: LinkNumber, ports: &[Id]) {
        for id in ports {
            if self.links.get_mut(&link).is_some_and(|member| member.ports.remove(id)) {
                self.withdraw(link, *id);
            }
        }
    }

    /// Opens a channel of a client: puts it through, or keeps the call until a fitting server comes.
    #[cfg(test)]
    pub(super) fn attach(&mut self, client: LinkNumber, port: Id, instance: Option<Id>, call: W) -> Attached<L> {
        self.attach_avoiding(client, port, instance, &[], call)
    }

    /// Opens a channel of a client: puts it through, or keeps the call until a fitting server comes. The instances to `avoid` are the last choice.
    pub(super) fn attach_avoiding(
        &mut self,
        client: LinkNumber,
        port: Id,
        instance: Option<Id>,
        avoid: &[Id],
        call: W,
    ) -> Attached<L> {
        let limit = self.channels_per_link;
        match self.links.get(&client) {
            Some(member) if member.channels < limit => {}
            _ => return Attached::Full,
        }
        let attached = match self.least_busy(port, instance, avoid) {
            Some(server) => match self.open(server) {
                Some(exchange) => Attached::Connected(exchange),
                None => return Attached::Full,
            },
            None => {
                let number = self.next_wait;
                self.next_wait += 1;
                let waiter = Waiter { client, instance, call };
                self.ports.entry(port).or_insert_with(Port::empty).waiting.insert(number, waiter);
                Attached::Waiting(Wait { port, number })
            }
        };
        if let Some(member) = self.links.get_mut(&client) {
            member.channels += 1;
        }
        attached
    }

    /// Gives up a wait. Answers the call unless it has been put through meanwhile; its channel at the client is still to be released.
    pub(super) fn cancel(&mut self, wait: Wait) -> Option<W> {
        let port = self.ports.get_mut(&wait.port)?;
        let waiter = port.waiting.remove(&wait.number)?;
        self.forget_if_unused(wait.port);
        Some(waiter.call)
    }

    /// One channel of the link is over.
    pub(super) fn release(&mut self, link: LinkNumber) {
        if let Some(member) = self.links.get_mut(&link) {
            member.channels = member.channels.saturating_sub(1);
        }
    }

    /// The link is gone, and all that it served and waited for. Answers the calls that had waited, which are to be dropped.
    pub(super) fn leave(&mut self, link: LinkNumber) -> Vec<W> {
        self.withdraw_all(link);
        let Some(member) = self.links.remove(&link) else { return Vec::new() };
        let key = (member.role == Role::Server, member.instance);
        self.stands_no_more(key, link);
        if member.channels == 0 { Vec::new() } else { self.waits_of(link) }
    }

    /// The handles of all links, for a drain.
    pub(super) fn handles(&self) -> impl Iterator<Item = &L> {
        self.links.values().map(|member| &member.handle)
    }

    /// How many links are here.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    fn stands_no_more(&mut self, key: (RoleKey, Id), link: LinkNumber) {
        let Some(standing) = self.instances.get_mut(&key) else { return };
        if standing.newest != link {
            standing.older.take_if(|older| *older == link);
        } else if let Some(older) = standing.older.take() {
            // The one that it moved to did not last: this may serve again.
            standing.newest = older;
        } else {
            self.instances.remove(&key);
        }
    }

    /// The instance of a link that no newer one has taken over.
    fn current(&self, link: LinkNumber) -> Option<Id> {
        let member = self.links.get(&link)?;
        let key = (member.role == Role::Server, member.instance);
        self.instances.get(&key).is_some_and(|standing| standing.newest == link).then_some(member.instance)
    }

    /// Among the servers of the key id, and first among those that are not to be avoided, the one with the fewest channels, the longest linked
    /// among equals.
    fn least_busy(&self, port: Id, instance: Option<Id>, avoid: &[Id]) -> Option<LinkNumber> {
        let fits = |member: &Member<L>| instance.is_none_or(|instance| member.instance == instance);
        let servers = self.ports.get(&port)?.servers.iter();
        servers
            .filter_map(|number| self.links.get(number).filter(|member| fits(member)).map(|member| (member, *number)))
            .min_by_key(|(member, number)| (avoid.contains(&member.instance), member.channels, *number))
            .map(|(_, number)| number)
    }

    /// Counts a channel on the server's link and numbers it.
    fn open(&mut self, server: LinkNumber) -> Option<Exchange<L>> {
        let limit = self.channels_per_link;
        let member = self.links.get_mut(&server).filter(|member| member.channels < limit)?;
        member.last_channel = member.last_channel.checked_add(1)?;
        member.channels += 1;
        Some(Exchange { server, handle: member.handle.clone(), channel: member.last_channel })
    }

    /// Puts through, or turns away, who waited for this server under this key id.
    fn answer_waiting(&mut self, server: LinkNumber, instance: Id, id: Id, answer: &mut Registered<L, W>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        for call in port.take(|waiter| waiter.instance.is_none_or(|named| named == instance)) {
            match self.open(server) {
                Some(exchange) => answer.connected.push((call, exchange)),
                None => answer.full.push(call),
            }
        }
    }

    /// The link serves nothing any more; its channels go on.
    pub(super) fn withdraw_all(&mut self, link: LinkNumber) {
        let ports = self.links.get_mut(&link).map(|member| std::mem::take(&mut member.ports)).unwrap_or_default();
        for id in ports {
            self.withdraw(link, id);
        }
    }

    fn withdraw(&mut self, link: LinkNumber, id: Id) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.servers.remove(&link);
            self.forget_if_unused(id);
        }
    }

    fn forget_if_unused(&mut self, id: Id) {
        if self.ports.get(&id).is_some_and(|port| port.servers.is_empty() && port.waiting.is_empty()) {
            self.ports.remove(&id);
        }
    }

    /// Removes the waits of a client that is gone. Its channels were closed one by one before, so that this finds something only after a
    /// link that was torn off in the middle: it may take its time.
    fn waits_of(&mut self, client: LinkNumber) -> Vec<W> {
        let mut calls = Vec::new();
        self.ports.retain(|_, port| {
            calls.extend(port.take(|waiter| waiter.client == client));
            !port.servers.is_empty() || !port.waiting.is_empty()
        });
        calls
    }
}

impl<W> Port<W> {
    fn empty() -> Self {
        Port { servers: BTreeSet::new(), waiting: BTreeMap::new() }
    }

    /// Removes the waiters that fit, and answers their calls in order.
    fn take(&mut self, fits: impl Fn(&Waiter<W>) -> bool) -> Vec<W> {
        let (taken, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, waiter)| fits(waiter));
        self.waiting = kept;
        let taken: BTreeMap<u64, Waiter<W>> = taken;
        taken.into_values().map(|waiter| waiter.call).collect()
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
