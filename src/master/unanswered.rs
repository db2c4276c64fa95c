//! Attachments that no server has answered yet: those that wait for a server, and those that a server has been asked for. Each of them has a deadline, a
//! server is asked for a bounded number at a time, and the rest waits in an order that is fair between parties and between the links of a party. Knows
//! names, numbers, and time as a parameter.
//!
//! ```text
//!  wait ──► waiting ──ask──► pending at a server ──remove (answered, closed)──► over
//!             └── remove (given up), expired ──► over ◄── expired ──┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::registry::LinkNumber;
use crate::id::Id;

/// How long an attachment waits for a server (PROTOCOL 12). A client whose server is away asks again.
pub(crate) const WAITING_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a server may take to answer (PROTOCOL 12): several round trips of a slow path.
pub(crate) const PENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of first messages that one server is asked for at a time, each with [`ASK_COST`]: some 400 of the usual length. What comes beyond it waits, so that a
/// flood of one party delays the others by one turn.
pub(crate) const PENDING_BYTES: usize = 256 * 1024;

/// What an attachment counts at a server beside its first message: the rest of its ATTACH frame and what is kept with it.
const ASK_COST: usize = 256;

/// Names an attachment as long as it has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// Where an attachment comes from, and where it wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) client: LinkNumber,
    /// The party that the client's link belongs to.
    pub(super) party: IpAddr,
    pub(super) port: Id,
    /// The server process that is meant, if it has to be a certain one.
    pub(super) instance: Option<Id>,
    /// The length of the first handshake message.
    pub(super) bytes: usize,
}

/// The attachments without an answer. `A` is what the caller makes of one.
#[derive(Debug)]
pub(super) struct Unanswered<A> {
    entries: BTreeMap<Ticket, Entry<A>>,
    next: u64,
    /// Who waits for a port, whatever the server, and for a certain server of it.
    queues: HashMap<(Id, Option<Id>), Queue>,
    clients: HashMap<LinkNumber, BTreeSet<Ticket>>,
    /// Bytes that each server is being asked for.
    asked: HashMap<LinkNumber, usize>,
    /// When each server was asked, in order; those that have an answer since then are skipped.
    deadlines: VecDeque<(Instant, Ticket)>,
}

/// Parties take turns, and the links of a party among themselves.
type Queue = Turns<IpAddr, Turns<LinkNumber, BTreeSet<Ticket>>>;

#[derive(Debug)]
struct Entry<A> {
    request: Request,
    since: Instant,
    /// The server that was asked, and when.
    asked: Option<(LinkNumber, Instant)>,
    attach: A,
}

/// An attachment that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removed<A> {
    pub(super) request: Request,
    /// The server that had been asked.
    pub(super) server: Option<LinkNumber>,
    pub(super) attach: A,
}

impl<A> Unanswered<A> {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Unanswered {
            entries: BTreeMap::new(),
            next: 0,
            queues: HashMap::new(),
            clients: HashMap::new(),
            asked: HashMap::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// Takes in an attachment. It waits until a server is asked.
    pub(super) fn wait(&mut self, request: Request, now: Instant, attach: A) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.insert(
            ticket,
            Entry {
                request,
                since: now,
                asked: None,
                attach,
            },
        );
        self.clients
            .entry(request.client)
            .or_default()
            .insert(ticket);
        self.queue(&request)
            .member(request.party)
            .member(request.client)
            .insert(ticket);
        ticket
    }

    /// Whether the server may be asked for one more.
    pub(super) fn has_room(&self, server: LinkNumber) -> bool {
        self.asked.get(&server).copied().unwrap_or(0) < PENDING_BYTES
    }

    /// Whose turn it is among those that a server of this instance could take at this port.
    pub(super) fn next(&mut self, port: Id, instance: Id) -> Option<Ticket> {
        [Some(instance), None].into_iter().find_map(|named| {
            self.queues
                .get_mut(&(port, named))?
                .turn(|links| links.turn(|tickets| tickets.first().copied()))
        })
    }

    /// The server is asked for an attachment that waited.
    pub(super) fn ask(&mut self, ticket: Ticket, server: LinkNumber, now: Instant) {
        let Some(entry) = self
            .entries
            .get_mut(&ticket)
            .filter(|entry| entry.asked.is_none())
        else {
            return;
        };
        entry.asked = Some((server, now));
        let request = entry.request;
        *self.asked.entry(server).or_default() += request.bytes + ASK_COST;
        self.deadlines.push_back((now, ticket));
        self.dequeue(&request, ticket);
    }

    /// What was made of an attachment.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&A> {
        self.entries.get(&ticket).map(|entry| &entry.attach)
    }

    /// An attachment is over: answered, given up, or closed.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Removed<A>> {
        let Entry {
            request,
            asked,
            attach,
            ..
        } = self.entries.remove(&ticket)?;
        if let Some(tickets) = self.clients.get_mut(&request.client) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.clients.remove(&request.client);
            }
        }
        let server = asked.map(|(server, _)| server);
        match server {
            None => self.dequeue(&request, ticket),
            Some(server) => self.discount(server, request.bytes + ASK_COST),
        }
        Some(Removed {
            request,
            server,
            attach,
        })
    }

    /// The oldest attachment of a client.
    pub(super) fn oldest_of(&self, client: LinkNumber) -> Option<Ticket> {
        self.clients
            .get(&client)
            .and_then(|tickets| tickets.first().copied())
    }

    /// Those whose deadline has passed, up to `most`.
    pub(super) fn expired(&mut self, now: Instant, most: usize) -> Vec<Ticket> {
        let mut expired = Vec::new();
        while let Some(&(asked_at, ticket)) = self.deadlines.front() {
            let is_pending = self
                .entries
                .get(&ticket)
                .is_some_and(|entry| entry.asked.is_some_and(|(_, at)| at == asked_at));
            if is_pending
                && (now.saturating_duration_since(asked_at) < PENDING_TIMEOUT
                    || expired.len() >= most)
            {
                break;
            }
            self.deadlines.pop_front();
            expired.extend(is_pending.then_some(ticket));
        }
        if self.deadlines.is_empty() {
            self.deadlines.shrink_to_fit();
        }
        let is_late =
            |entry: &Entry<A>| now.saturating_duration_since(entry.since) >= WAITING_TIMEOUT;
        let late = self
            .entries
            .iter()
            .take_while(|(_, entry)| is_late(entry))
            .filter(|(_, entry)| entry.asked.is_none());
        expired.extend(
            late.map(|(ticket, _)| *ticket)
                .take(most.saturating_sub(expired.len())),
        );
        expired
    }

    fn queue(&mut self, request: &Request) -> &mut Queue {
        self.queues
            .entry((request.port, request.instance))
            .or_default()
    }

    fn dequeue(&mut self, request: &Request, ticket: Ticket) {
        let key = (request.port, request.instance);
        let Some(queue) = self.queues.get_mut(&key) else {
            return;
        };
        queue.change(request.party, |links| {
            links.change(request.client, |tickets| {
                tickets.remove(&ticket);
                tickets.is_empty()
            })
        });
        if queue.is_empty() {
            self.queues.remove(&key);
        }
    }

    fn discount(&mut self, server: LinkNumber, bytes: usize) {
        if let Some(asked) = self.asked.get_mut(&server) {
            *asked = asked.saturating_sub(bytes);
            if *asked == 0 {
                self.asked.remove(&server);
            }
        }
    }

    /// How much is kept: attachments, queues, clients and servers.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.entries.len(),
            self.queues.len(),
            self.clients.len(),
            self.asked.len(),
        ]
    }
}

/// Members that take turns, each with something of its own.
#[derive(Debug)]
struct Turns<K, V> {
    members: HashMap<K, V>,
    /// Who is next.
    order: VecDeque<K>,
}

impl<K: Copy + Eq + Hash, V: Default> Turns<K, V> {
    fn new() -> Self {
        Turns {
            members: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What is a member's, who comes last when it is new.
    fn member(&mut self, name: K) -> &mut V {
        let order = &mut self.order;
        self.members.entry(name).or_insert_with(|| {
            order.push_back(name);
            V::default()
        })
    }

    /// Changes what is a member's; it leaves when the change says that nothing is left. Says whether nobody is left.
    fn change(&mut self, name: K, change: impl FnOnce(&mut V) -> bool) -> bool {
        if self.members.get_mut(&name).is_some_and(change) {
            self.members.remove(&name);
            self.order.retain(|other| *other != name);
        }
        self.is_empty()
    }

    /// Lets the next member choose; its next turn comes after everybody else's.
    fn turn<R>(&mut self, choose: impl FnOnce(&mut V) -> Option<R>) -> Option<R> {
        let name = self.order.pop_front()?;
        self.order.push_back(name);
        self.members.get_mut(&name).and_then(choose)
    }
}

impl<K: Copy + Eq + Hash, V: Default> Default for Turns<K, V> {
    fn default() -> Self {
        Turns::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Id = Id([7; 16]);
    const SERVER: LinkNumber = 1;
    const INSTANCE: Id = Id([1; 16]);

    fn request(party: u8, client: LinkNumber) -> Request {
        Request {
            client,
            party: IpAddr::from([10, 0, 0, party]),
            port: PORT,
            instance: None,
            bytes: 400,
        }
    }

    /// Asks the server for whoever is next, as far as there is room; answers the clients.
    fn ask_all(unanswered: &mut Unanswered<u64>, now: Instant) -> Vec<u64> {
        let mut asked = Vec::new();
        while unanswered.has_room(SERVER)
            && let Some(ticket) = unanswered.next(PORT, INSTANCE)
        {
            unanswered.ask(ticket, SERVER, now);
            asked.extend(unanswered.get(ticket));
        }
        asked
    }

    #[test]
    fn a_flood_of_one_party_delays_another_by_one_turn() {
        let (mut unanswered, now) = (Unanswered::new(), Instant::now());
        for link in 10..13 {
            for _ in 0..2_000 {
                unanswered.wait(request(1, link), now, link);
            }
        }
        let asked = ask_all(&mut unanswered, now);
        assert!((300..500).contains(&asked.len()), "{}", asked.len());
        unanswered.wait(request(2, 20), now, 20);
        unanswered.wait(request(1, 13), now, 13);
        let answered = unanswered
            .oldest_of(10)
            .and_then(|ticket| unanswered.remove(ticket))
            .expect("asked");
        assert_eq!(
            (answered.server, ask_all(&mut unanswered, now).len()),
            (Some(SERVER), 1),
            "an answer makes room for one"
        );
        let next: Vec<_> = (0..8)
            .flat_map(|_| {
                let ticket = unanswered.oldest_of(11).expect("one waits");
                unanswered.remove(ticket);
                ask_all(&mut unanswered, now)
            })
            .collect();
        assert!(next[..2].contains(&20), "{next:?}");
        assert!(
            next.contains(&13),
            "a quiet link of the same party waits for one turn of each of its links: {next:?}"
        );
    }

    #[test]
    fn each_state_has_a_deadline() {
        let (mut unanswered, start) = (Unanswered::new(), Instant::now());
        let waiting = unanswered.wait(request(1, 10), start, 10);
        let pending = unanswered.wait(request(1, 11), start, 11);
        let answered = unanswered.wait(request(1, 12), start, 12);
        unanswered.ask(pending, SERVER, start);
        unanswered.ask(answered, SERVER, start);
        unanswered.remove(answered);
        assert_eq!(
            unanswered.expired(start + PENDING_TIMEOUT - Duration::from_millis(1), 9),
            []
        );
        assert_eq!(unanswered.expired(start + PENDING_TIMEOUT, 9), [pending]);
        unanswered.remove(pending);
        assert_eq!(
            unanswered.expired(start + WAITING_TIMEOUT - Duration::from_millis(1), 9),
            []
        );
        assert_eq!(unanswered.expired(start + WAITING_TIMEOUT, 9), [waiting]);
        assert_eq!(
            unanswered.remove(waiting).map(|removed| removed.server),
            Some(None)
        );
        assert_eq!(
            (unanswered.sizes(), unanswered.deadlines.len()),
            ([0; 4], 0)
        );
    }

    #[test]
    fn a_named_instance_is_waited_for_apart() {
        let (mut unanswered, now) = (Unanswered::new(), Instant::now());
        let named = unanswered.wait(
            Request {
                instance: Some(INSTANCE),
                ..request(1, 10)
            },
            now,
            10,
        );
        assert_eq!(unanswered.next(PORT, Id([2; 16])), None);
        assert_eq!(unanswered.next(PORT, INSTANCE), Some(named));
    }
}
