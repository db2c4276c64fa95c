//! The registry: all links, the servers of each key id, and the unanswered attach requests. It does
//! no I/O and never blocks. Links and attach requests are type parameters, so that tests can check
//! the whole registry against a model.
//!
//! ```text
//!  add_link ──► [linked] ──register──► serves key ids ──remove_link / newer link of the slot──► gone
//!                                           └─ newer link with `moves` ──► [older] serves nothing, keeps channels
//!                                                                              └─ remove_link / third link ──► gone
//!  attach ──► a server has room: pending ──on_answer──► release_channel (once for each side) ──► closed
//!         └─► no server, or none has room: waiting ──register / room at a matching server──► pending
//!                            └──cancel, expire──► closed
//! ```

mod inheritance;
mod key_servers;
mod registrations;
mod results;
mod server_choice;
mod slot_links;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Instant,
};

pub(super) use self::results::{
    Assignment, Candidate, Dispatch, Expired, Registered, RouteResult, Superseded,
};
use self::{
    key_servers::KeyServers,
    registrations::AccountKeys,
    results::Found,
    slot_links::{SlotKey, SlotLinks},
};
use super::{
    attach_queue::{AttachInfo, AttachQueue, Ticket},
    limits::{LinkNumber, MasterLimits},
};
use crate::policy::{AccountId, Denied};
use report_proto::{
    frame::{AttachHeader, Role, Slot},
    id::Id,
};

/// The tables of the registry. `L` is the handle of a link, `A` an attach request.
#[derive(Debug)]
pub(super) struct Registry<L, A> {
    links: HashMap<LinkNumber, LinkEntry<L>>,
    /// The current links of each slot.
    slots: HashMap<SlotKey, SlotLinks>,
    /// The servers' links of each key id.
    ports: HashMap<Id, KeyServers>,
    attach_queue: AttachQueue<A>,
    account_keys: AccountKeys,
    /// The links that have inherited a key id and not registered it yet.
    heirs: HashMap<Id, LinkNumber>,
    /// The refused key ids of all links.
    refusals: usize,
    /// Whether a registration has ended while another one was refused.
    has_room_for_refused: bool,
    ports_per_link: usize,
    channels_per_link: u32,
}

/// An authenticated link that enters the registry.
#[derive(Debug, Clone)]
pub(super) struct AuthenticatedLink<L> {
    pub(super) link: LinkNumber,
    pub(super) party: IpAddr,
    pub(super) role: Role,
    /// The account of the link. A client without a credential has none.
    pub(super) account: Option<AccountId>,
    pub(super) instance: Id,
    pub(super) slot: Slot,
    pub(super) epoch: u64,
    /// Whether an older link of the slot stays open until the role closes it.
    pub(super) moves: bool,
    pub(super) handle: L,
}

impl<L> AuthenticatedLink<L> {
    fn key(&self) -> SlotKey {
        SlotKey {
            account: self.account,
            role: self.role,
            instance: self.instance,
            slot: self.slot,
        }
    }
}

#[derive(Debug)]
struct LinkEntry<L> {
    handle: L,
    party: IpAddr,
    key: SlotKey,
    epoch: u64,
    account: Option<AccountId>,
    ports: BTreeSet<Id>,
    /// The key ids that a policy refuses, with the policies. At most `ports_per_link` with the
    /// registered ones.
    refused: BTreeMap<Id, Denied>,
    /// The key ids of the former link of the slot that this one has not registered yet.
    inherited: BTreeSet<Id>,
    /// Open channels of this link, including waiting ones.
    channels: u32,
    /// Whether the role has sent DATA on this link, so that it knows that the link is up.
    has_sent_data: bool,
    /// The last channel number that the master assigned on this link.
    last_channel: u32,
    /// Whether attach requests may wait for room at this server.
    has_waiters: bool,
    /// The key id of the waiting attach request that was assigned last.
    last_served: Id,
    /// Attach requests that expired here since the server's last answer.
    overdue: u32,
}

impl<L> LinkEntry<L> {
    fn new(link: AuthenticatedLink<L>) -> Self {
        LinkEntry {
            key: link.key(),
            handle: link.handle,
            party: link.party,
            epoch: link.epoch,
            account: link.account,
            ports: BTreeSet::new(),
            refused: BTreeMap::new(),
            inherited: BTreeSet::new(),
            channels: 0,
            has_sent_data: false,
            last_channel: 0,
            has_waiters: false,
            last_served: Id([0; 16]),
            overdue: 0,
        }
    }

    /// Whether the master can open one more channel on this link.
    fn has_free_channel(&self, limit: u32) -> bool {
        self.channels < limit && self.last_channel < u32::MAX
    }
}

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Creates an empty registry.
    pub(super) fn new(limits: &MasterLimits) -> Self {
        Registry {
            links: HashMap::new(),
            slots: HashMap::new(),
            ports: HashMap::new(),
            attach_queue: AttachQueue::new(),
            account_keys: HashMap::new(),
            heirs: HashMap::new(),
            refusals: 0,
            has_room_for_refused: false,
            ports_per_link: limits.ports_per_link as usize,
            channels_per_link: limits.channels_per_link,
        }
    }

    /// Applies other limits to the key ids and channels that come. Those beyond a lower limit stay.
    pub(super) fn set_limits(&mut self, limits: &MasterLimits) {
        self.ports_per_link = limits.ports_per_link as usize;
        self.channels_per_link = limits.channels_per_link;
    }

    /// Opens a channel of a client. Assigns the request to a server, or keeps it until a matching
    /// server registers or has room. Servers to avoid are the last choice.
    pub(super) fn attach(
        &mut self,
        client: LinkNumber,
        header: &AttachHeader,
        bytes: usize,
        now: Instant,
        attach: A,
    ) -> RouteResult<L> {
        let AttachHeader {
            port,
            instance,
            ref avoid,
        } = *header;
        let limit = self.channels_per_link;
        let Some(party) = self
            .links
            .get(&client)
            .filter(|entry| entry.channels < limit)
            .map(|entry| entry.party)
        else {
            return RouteResult::Full;
        };
        let server = match self.choose_server(port, instance, avoid) {
            Found::Server(server) => Some(server),
            Found::NoServer => None,
            Found::Full => return RouteResult::Full,
        };
        let info = AttachInfo {
            client,
            party,
            port,
            instance,
            bytes,
        };
        let ticket = self.attach_queue.push(info, now, attach);
        if let Some(entry) = self.links.get_mut(&client) {
            entry.channels += 1;
        }
        match server.and_then(|server| self.open_channel(server, ticket)) {
            Some(assignment) => {
                self.attach_queue.assign(ticket, assignment.server, now);
                RouteResult::Assigned(assignment)
            }
            None => RouteResult::Waiting(ticket),
        }
    }

    /// Records a server's answer. Returns the waiting requests that the server can now take.
    pub(super) fn on_answer(&mut self, ticket: Ticket, now: Instant) -> Dispatch<L, A> {
        let Some(server) = self
            .attach_queue
            .remove(ticket)
            .and_then(|removed| removed.server)
        else {
            return Dispatch::default();
        };
        if let Some(entry) = self.links.get_mut(&server) {
            entry.overdue = 0;
        }
        self.dispatch(server, now)
    }

    /// Removes an unanswered attach request, if it still exists. The caller must still release its
    /// channels. Returns the request, and the waiting requests that its server can now take.
    pub(super) fn cancel(&mut self, ticket: Ticket, now: Instant) -> (Option<A>, Dispatch<L, A>) {
        let Some(removed) = self.attach_queue.remove(ticket) else {
            return (None, Dispatch::default());
        };
        let dispatch = removed
            .server
            .map(|server| self.dispatch(server, now))
            .unwrap_or_default();
        (Some(removed.attach), dispatch)
    }

    /// Removes up to `most` expired attach requests, as [`Registry::cancel`] does.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        most: usize,
    ) -> (Vec<Expired<A>>, Dispatch<L, A>) {
        let (mut expired, mut dispatch) = (Vec::new(), Dispatch::default());
        for ticket in self.attach_queue.expired(now, most) {
            let Some(removed) = self.attach_queue.remove(ticket) else {
                continue;
            };
            expired.push(Expired {
                attach: removed.attach,
                was_pending: removed.server.is_some(),
            });
            let Some(server) = removed.server else {
                continue;
            };
            if let Some(entry) = self.links.get_mut(&server) {
                entry.overdue = entry.overdue.saturating_add(1);
            }
            dispatch.append(self.dispatch(server, now));
        }
        (expired, dispatch)
    }

    /// Returns the oldest unanswered attach request of a client.
    pub(super) fn oldest_of(&self, client: LinkNumber) -> Option<A> {
        self.attach_queue
            .oldest_of(client)
            .and_then(|ticket| self.attach_queue.get(ticket))
            .cloned()
    }

    /// Counts one channel less on the link.
    pub(super) fn release_channel(&mut self, link: LinkNumber) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.channels = entry.channels.saturating_sub(1);
        }
    }

    /// Removes a link with its registrations and attach requests. The link's channels are closed
    /// one by one before, so requests remain only when the link was aborted. Returns these
    /// requests, which the caller must drop, and the waiting requests that can now proceed.
    pub(super) fn remove_link(
        &mut self,
        link: LinkNumber,
        now: Instant,
    ) -> (Vec<A>, Dispatch<L, A>) {
        self.withdraw_all(link);
        let (mut removed_attaches, mut dispatch) = (Vec::new(), Dispatch::default());
        while let Some(removed) = self
            .attach_queue
            .oldest_of(link)
            .and_then(|ticket| self.attach_queue.remove(ticket))
        {
            removed_attaches.push(removed.attach);
            dispatch.append(
                removed
                    .server
                    .map(|server| self.dispatch(server, now))
                    .unwrap_or_default(),
            );
        }
        if let Some(entry) = self.links.remove(&link) {
            self.forget_link(entry.key, link);
        }
        (removed_attaches, dispatch)
    }

    /// Returns the role and the handle of each link, for a drain.
    pub(super) fn handles(&self) -> impl Iterator<Item = (Role, &L)> {
        self.links
            .values()
            .map(|entry| (entry.key.role, &entry.handle))
    }

    /// Returns the role, the handle and the number of open channels of each link.
    pub(super) fn channels(&self) -> impl Iterator<Item = (Role, &L, u32)> {
        self.links
            .values()
            .map(|entry| (entry.key.role, &entry.handle, entry.channels))
    }

    /// Returns the number of key ids with a server.
    pub(super) fn key_ids(&self) -> usize {
        self.ports.len()
    }

    /// Returns the number of unanswered attach requests.
    pub(super) fn attach_requests(&self) -> usize {
        self.attach_queue.len()
    }

    /// Returns the handle of a link.
    pub(super) fn handle(&self, link: LinkNumber) -> Option<L> {
        self.links.get(&link).map(|entry| entry.handle.clone())
    }

    /// Returns the number of links.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }
}
