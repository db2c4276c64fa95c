//! Unanswered attach requests: those that wait for a server, and those that are pending at one.
//! Every request has a deadline. Each server gets a bounded number of pending requests; the others
//! wait, with fairness between parties and between the links of a party. Takes the time as a
//! parameter.
//!
//! ```text
//!  push ──► waiting ──assign──► pending at a server ──remove (answered, closed)──► gone
//!             └── remove (cancelled), expired ──► gone ◄── expired ──┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::limits::LinkNumber;
use report_proto::id::Id;

/// The longest time that an attach request waits for a server (PROTOCOL 12). The client then
/// retries.
pub(crate) const WAITING_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time that a server may take to answer (PROTOCOL 12): several round trips of a slow
/// path.
pub(crate) const PENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// First-message bytes that may be pending at one server, with [`ATTACH_COST`] for each: some 400
/// requests of the usual length. Further requests wait, so that a flood of one party delays others
/// by one turn.
pub(crate) const PENDING_BYTES: usize = 256 * 1024;

/// The bytes charged for a pending request besides its first message: the rest of its ATTACH frame
/// and its bookkeeping.
const ATTACH_COST: usize = 256;

/// Identifies an unanswered attach request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The origin and the target of an attach request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttachInfo {
    pub(super) client: LinkNumber,
    /// The party of the client's link.
    pub(super) party: IpAddr,
    pub(super) port: Id,
    /// The server instance, if the client requires a particular one.
    pub(super) instance: Option<Id>,
    /// The length of the first handshake message.
    pub(super) bytes: usize,
}

/// All unanswered attach requests. `A` is the caller's handle of a request.
#[derive(Debug)]
pub(super) struct AttachQueue<A> {
    entries: BTreeMap<Ticket, QueueEntry<A>>,
    next_ticket: u64,
    /// The waiting requests by key id and required instance.
    queues: HashMap<(Id, Option<Id>), FairQueue>,
    clients: HashMap<LinkNumber, BTreeSet<Ticket>>,
    /// The bytes pending at each server.
    pending_bytes: HashMap<LinkNumber, usize>,
    /// The assignment times of pending requests, in order. Entries of answered requests are
    /// skipped.
    deadlines: VecDeque<(Instant, Ticket)>,
}

/// Parties take turns, and so do the links of each party.
type FairQueue = RoundRobin<IpAddr, RoundRobin<LinkNumber, BTreeSet<Ticket>>>;

#[derive(Debug)]
struct QueueEntry<A> {
    info: AttachInfo,
    since: Instant,
    /// The assigned server, and the time of the assignment.
    assigned: Option<(LinkNumber, Instant)>,
    attach: A,
}

/// A removed attach request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RemovedAttach<A> {
    pub(super) info: AttachInfo,
    /// The server at which the request was pending.
    pub(super) server: Option<LinkNumber>,
    pub(super) attach: A,
}

impl<A> AttachQueue<A> {
    /// Creates an empty queue.
    pub(super) fn new() -> Self {
        AttachQueue {
            entries: BTreeMap::new(),
            next_ticket: 0,
            queues: HashMap::new(),
            clients: HashMap::new(),
            pending_bytes: HashMap::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// Adds a request, which waits until [`AttachQueue::assign`].
    pub(super) fn push(&mut self, info: AttachInfo, now: Instant, attach: A) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.entries.insert(
            ticket,
            QueueEntry {
                info,
                since: now,
                assigned: None,
                attach,
            },
        );
        self.clients.entry(info.client).or_default().insert(ticket);
        self.queue(&info)
            .get_or_insert(info.party)
            .get_or_insert(info.client)
            .insert(ticket);
        ticket
    }

    /// Whether the server may get one more pending request.
    pub(super) fn has_room(&self, server: LinkNumber) -> bool {
        self.pending_bytes.get(&server).copied().unwrap_or(0) < PENDING_BYTES
    }

    /// Returns the next waiting request that a server of this instance can take for this key id.
    pub(super) fn next_for(&mut self, port: Id, instance: Id) -> Option<Ticket> {
        [Some(instance), None].into_iter().find_map(|named| {
            self.queues
                .get_mut(&(port, named))?
                .next_turn(|links| links.next_turn(|tickets| tickets.first().copied()))
        })
    }

    /// Makes a waiting request pending at a server.
    pub(super) fn assign(&mut self, ticket: Ticket, server: LinkNumber, now: Instant) {
        let Some(entry) = self
            .entries
            .get_mut(&ticket)
            .filter(|entry| entry.assigned.is_none())
        else {
            return;
        };
        entry.assigned = Some((server, now));
        let info = entry.info;
        *self.pending_bytes.entry(server).or_default() += info.bytes + ATTACH_COST;
        self.deadlines.push_back((now, ticket));
        self.dequeue(&info, ticket);
    }

    /// Returns the handle of a request.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&A> {
        self.entries.get(&ticket).map(|entry| &entry.attach)
    }

    /// Removes a request that was answered, cancelled or closed.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<RemovedAttach<A>> {
        let QueueEntry {
            info,
            assigned,
            attach,
            ..
        } = self.entries.remove(&ticket)?;
        if let Some(tickets) = self.clients.get_mut(&info.client) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.clients.remove(&info.client);
            }
        }
        let server = assigned.map(|(server, _)| server);
        match server {
            None => self.dequeue(&info, ticket),
            Some(server) => self.subtract_pending(server, info.bytes + ATTACH_COST),
        }
        Some(RemovedAttach {
            info,
            server,
            attach,
        })
    }

    /// Returns the oldest request of a client.
    pub(super) fn oldest_of(&self, client: LinkNumber) -> Option<Ticket> {
        self.clients
            .get(&client)
            .and_then(|tickets| tickets.first().copied())
    }

    /// Returns up to `most` requests whose deadline has passed.
    pub(super) fn expired(&mut self, now: Instant, most: usize) -> Vec<Ticket> {
        let mut expired = Vec::new();
        while let Some(&(assigned_at, ticket)) = self.deadlines.front() {
            let is_pending = self
                .entries
                .get(&ticket)
                .is_some_and(|entry| entry.assigned.is_some_and(|(_, at)| at == assigned_at));
            // Deadlines are in order, so the first one that has not passed ends the search.
            if is_pending
                && (now.saturating_duration_since(assigned_at) < PENDING_TIMEOUT
                    || expired.len() >= most)
            {
                break;
            }
            self.deadlines.pop_front();
            expired.extend(is_pending.then_some(ticket));
        }
        // Free the memory of a flood once it has passed.
        if self.deadlines.is_empty() {
            self.deadlines.shrink_to_fit();
        }
        let is_late =
            |entry: &QueueEntry<A>| now.saturating_duration_since(entry.since) >= WAITING_TIMEOUT;
        // Tickets count up, so the iteration visits the oldest requests first.
        let late = self
            .entries
            .iter()
            .take_while(|(_, entry)| is_late(entry))
            .filter(|(_, entry)| entry.assigned.is_none());
        expired.extend(
            late.map(|(ticket, _)| *ticket)
                .take(most.saturating_sub(expired.len())),
        );
        expired
    }

    fn queue(&mut self, info: &AttachInfo) -> &mut FairQueue {
        self.queues.entry((info.port, info.instance)).or_default()
    }

    fn dequeue(&mut self, info: &AttachInfo, ticket: Ticket) {
        let key = (info.port, info.instance);
        let Some(queue) = self.queues.get_mut(&key) else {
            return;
        };
        queue.update(info.party, |links| {
            links.update(info.client, |tickets| {
                tickets.remove(&ticket);
                tickets.is_empty()
            })
        });
        if queue.is_empty() {
            self.queues.remove(&key);
        }
    }

    fn subtract_pending(&mut self, server: LinkNumber, bytes: usize) {
        if let Some(pending) = self.pending_bytes.get_mut(&server) {
            *pending = pending.saturating_sub(bytes);
            if *pending == 0 {
                self.pending_bytes.remove(&server);
            }
        }
    }

    /// Returns the number of unanswered requests.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the table sizes: requests, queues, clients and servers.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.entries.len(),
            self.queues.len(),
            self.clients.len(),
            self.pending_bytes.len(),
        ]
    }
}

/// A round robin of members, each with a value.
#[derive(Debug)]
struct RoundRobin<K, V> {
    members: HashMap<K, V>,
    /// The members, the next one first.
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, V: Default> RoundRobin<K, V> {
    fn new() -> Self {
        RoundRobin {
            members: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the value of a member. A new member goes to the end.
    fn get_or_insert(&mut self, key: K) -> &mut V {
        let order = &mut self.order;
        self.members.entry(key).or_insert_with(|| {
            order.push_back(key);
            V::default()
        })
    }

    /// Updates the value of a member, and removes the member when `update` returns true. Returns
    /// whether no member is left.
    fn update(&mut self, key: K, update: impl FnOnce(&mut V) -> bool) -> bool {
        if self.members.get_mut(&key).is_some_and(update) {
            self.members.remove(&key);
            self.order.retain(|other| *other != key);
        }
        self.is_empty()
    }

    /// Lets the next member choose, and moves that member to the end.
    fn next_turn<R>(&mut self, choose: impl FnOnce(&mut V) -> Option<R>) -> Option<R> {
        let key = self.order.pop_front()?;
        self.order.push_back(key);
        self.members.get_mut(&key).and_then(choose)
    }
}

impl<K: Copy + Eq + Hash, V: Default> Default for RoundRobin<K, V> {
    fn default() -> Self {
        RoundRobin::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Id = Id([7; 16]);
    const SERVER: LinkNumber = 1;
    const INSTANCE: Id = Id([1; 16]);

    fn info(party: u8, client: LinkNumber) -> AttachInfo {
        AttachInfo {
            client,
            party: IpAddr::from([10, 0, 0, party]),
            port: PORT,
            instance: None,
            bytes: 400,
        }
    }

    /// Assigns waiting requests while the server has room. Returns the clients.
    fn assign_all(attach_queue: &mut AttachQueue<u64>, now: Instant) -> Vec<u64> {
        let mut assigned = Vec::new();
        while attach_queue.has_room(SERVER)
            && let Some(ticket) = attach_queue.next_for(PORT, INSTANCE)
        {
            attach_queue.assign(ticket, SERVER, now);
            assigned.extend(attach_queue.get(ticket));
        }
        assigned
    }

    #[test]
    fn flood_of_one_party_delays_another_by_one_turn() {
        let (mut attach_queue, now) = (AttachQueue::new(), Instant::now());
        for link in 10..13 {
            for _ in 0..2_000 {
                attach_queue.push(info(1, link), now, link);
            }
        }
        let assigned = assign_all(&mut attach_queue, now);
        assert!((300..500).contains(&assigned.len()), "{}", assigned.len());
        attach_queue.push(info(2, 20), now, 20);
        attach_queue.push(info(1, 13), now, 13);
        let answered = attach_queue
            .oldest_of(10)
            .and_then(|ticket| attach_queue.remove(ticket))
            .expect("a pending request");
        assert_eq!(
            (answered.server, assign_all(&mut attach_queue, now).len()),
            (Some(SERVER), 1),
            "an answer frees room for one request"
        );
        let next: Vec<_> = (0..8)
            .flat_map(|_| {
                let ticket = attach_queue.oldest_of(11).expect("one waits");
                attach_queue.remove(ticket);
                assign_all(&mut attach_queue, now)
            })
            .collect();
        assert!(next[..2].contains(&20), "{next:?}");
        assert!(
            next.contains(&13),
            "a quiet link of the same party waits for one turn of each of its links: {next:?}"
        );
    }

    #[test]
    fn every_state_has_a_deadline() {
        let (mut attach_queue, start) = (AttachQueue::new(), Instant::now());
        let waiting = attach_queue.push(info(1, 10), start, 10);
        let pending = attach_queue.push(info(1, 11), start, 11);
        let answered = attach_queue.push(info(1, 12), start, 12);
        attach_queue.assign(pending, SERVER, start);
        attach_queue.assign(answered, SERVER, start);
        attach_queue.remove(answered);
        assert_eq!(
            attach_queue.expired(start + PENDING_TIMEOUT - Duration::from_millis(1), 9),
            []
        );
        assert_eq!(attach_queue.expired(start + PENDING_TIMEOUT, 9), [pending]);
        attach_queue.remove(pending);
        assert_eq!(
            attach_queue.expired(start + WAITING_TIMEOUT - Duration::from_millis(1), 9),
            []
        );
        assert_eq!(attach_queue.expired(start + WAITING_TIMEOUT, 9), [waiting]);
        assert_eq!(
            attach_queue.remove(waiting).map(|removed| removed.server),
            Some(None)
        );
        assert_eq!(
            (attach_queue.sizes(), attach_queue.deadlines.len()),
            ([0; 4], 0)
        );
    }

    #[test]
    fn attach_for_a_named_instance_has_a_separate_queue() {
        let (mut attach_queue, now) = (AttachQueue::new(), Instant::now());
        let named = attach_queue.push(
            AttachInfo {
                instance: Some(INSTANCE),
                ..info(1, 10)
            },
            now,
            10,
        );
        assert_eq!(attach_queue.next_for(PORT, Id([2; 16])), None);
        assert_eq!(attach_queue.next_for(PORT, INSTANCE), Some(named));
    }
}
