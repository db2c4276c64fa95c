//! Compares the registry with a simple model after arbitrary operations.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// The operations on the registry, over few names so that they collide.
#[derive(Debug, Clone)]
enum ModelStep {
    AddLink {
        key: ModelKey,
        epoch: u64,
        moves: bool,
    },
    Register {
        link: u64,
        ports: Vec<u8>,
    },
    Unregister {
        link: u64,
        ports: Vec<u8>,
    },
    Attach {
        link: u64,
        port: u8,
        instance: Option<u8>,
        avoid: Vec<u8>,
    },
    Cancel {
        wait: usize,
    },
    Close {
        channel: usize,
    },
    Data {
        link: u64,
    },
    RemoveLink {
        link: u64,
    },
}

/// Whether it is a server, its instance and its slot.
type ModelKey = (bool, u8, u8);

fn step() -> impl Strategy<Value = ModelStep> {
    let ports = || proptest::collection::vec(0_u8..4, 0..5);
    prop_oneof![
        5 => ((any::<bool>(), 0_u8..3, 0_u8..3), 0_u64..8, any::<bool>())
            .prop_map(|(key, epoch, moves)| ModelStep::AddLink { key, epoch, moves }),
        3 => (0_u64..12, ports()).prop_map(|(link, ports)| ModelStep::Register { link, ports }),
        1 => (0_u64..12, ports()).prop_map(|(link, ports)| ModelStep::Unregister { link, ports }),
        8 => (0_u64..12, 0_u8..4, proptest::option::weighted(0.3, 0_u8..3), proptest::collection::vec(0_u8..3, 0..2))
            .prop_map(|(link, port, instance, avoid)| ModelStep::Attach { link, port, instance, avoid }),
        2 => (0_usize..40).prop_map(|wait| ModelStep::Cancel { wait }),
        2 => (0_usize..40).prop_map(|channel| ModelStep::Close { channel }),
        3 => (0_u64..12).prop_map(|link| ModelStep::Data { link }),
        1 => (0_u64..12).prop_map(|link| ModelStep::RemoveLink { link }),
    ]
}

/// A model of the registry: flat lists and linear searches.
#[derive(Default)]
struct Model {
    /// The key and the epoch of each link.
    links: HashMap<u64, (ModelKey, u64)>,
    superseded: HashSet<u64>,
    /// The links on which the role has sent DATA.
    sent_data: HashSet<u64>,
    registered: Vec<(u64, u8)>,
    /// Client, port, instance, attach request, ticket; in the order of arrival.
    waiting: Vec<(u64, u8, Option<u8>, AttachId, Ticket)>,
    /// Client and server.
    open: Vec<(u64, u64)>,
}

const CHANNELS: u32 = 5;
const PORTS: u32 = 3;

impl Model {
    /// Returns the current links of a slot, the newest last.
    fn current_links(&self, key: ModelKey) -> Vec<u64> {
        let of_slot = self.links.iter().filter(|(_, entry)| entry.0 == key);
        let mut links: Vec<_> = of_slot
            .map(|(link, _)| *link)
            .filter(|link| !self.superseded.contains(link))
            .collect();
        links.sort_unstable();
        links
    }

    /// Returns which of these links stays beside a new one: one in use, then the newest.
    fn link_to_keep(&self, links: &[u64]) -> Option<u64> {
        let is_in_use = |link| self.channels(link) > 0 && self.sent_data.contains(&link);
        let links = links.iter().copied();
        links.max_by_key(|link| (is_in_use(*link), *link))
    }

    fn may_register(&self, link: u64) -> bool {
        self.links
            .get(&link)
            .is_some_and(|(key, _)| self.current_links(*key).last() == Some(&link))
    }

    fn instance(&self, link: u64) -> u8 {
        self.links[&link].0.1
    }

    fn slot(&self, link: u64) -> u8 {
        self.links[&link].0.2
    }

    /// Registers key ids. Returns the accepted ones, and the waiting requests that fit them.
    fn register(&mut self, link: u64, ports: &[u8]) -> (Vec<Id>, HashSet<AttachId>) {
        let (mut accepted, mut fitting) = (Vec::new(), HashSet::new());
        if !self.may_register(link) {
            return (accepted, fitting);
        }
        for &port in ports {
            if !self.registered.contains(&(link, port)) {
                let of_link = self.registered.iter().filter(|(other, _)| *other == link);
                if of_link.count() >= PORTS as usize {
                    continue;
                }
                self.registered.push((link, port));
                let instance = self.instance(link);
                let fits = self
                    .waiting
                    .iter()
                    .filter(|wait| wait.1 == port && wait.2.is_none_or(|named| named == instance));
                fitting.extend(fits.map(|wait| wait.3));
            }
            accepted.push(id(port));
        }
        (accepted, fitting)
    }

    fn channels(&self, link: u64) -> u32 {
        let open = self
            .open
            .iter()
            .filter(|(client, server)| *client == link || *server == link)
            .count();
        (open + self.waiting.iter().filter(|wait| wait.0 == link).count()) as u32
    }

    /// Returns the links with this key id, of one instance if it is named.
    fn offering(&self, port: u8, instance: Option<u8>) -> Vec<u64> {
        let links = self.registered.iter().filter(|(_, id)| *id == port);
        links
            .map(|(link, _)| *link)
            .filter(|link| instance.is_none_or(|instance| self.instance(*link) == instance))
            .collect()
    }

    /// Returns the link to choose: of the instance with the fewest channels, the link with the
    /// fewest.
    fn server_for(&self, port: u8, instance: Option<u8>, avoid: &[u8]) -> Option<u64> {
        let has_room = |link: &u64| self.channels(*link) < CHANNELS;
        let all = self.offering(port, instance);
        let instances: HashSet<u8> = all.iter().map(|link| self.instance(*link)).collect();
        let of = |instance: u8| self.offering(port, Some(instance));
        let is_available = |instance: &u8| of(*instance).iter().any(has_room);
        let chosen = instances
            .into_iter()
            .filter(is_available)
            .min_by_key(|instance| {
                let links = of(*instance);
                let channels: u32 = links.iter().map(|link| self.channels(*link)).sum();
                (avoid.contains(instance), channels, links.into_iter().min())
            })?;
        of(chosen)
            .into_iter()
            .filter(has_room)
            .min_by_key(|link| (self.channels(*link), self.slot(*link), *link))
    }
}

/// The registry and its model, after some operations.
struct Comparison {
    registry: Registry<Handle, AttachId>,
    model: Model,
    next_link: u64,
    next_attach_id: AttachId,
}

impl Comparison {
    fn new() -> Self {
        Comparison {
            registry: registry(CHANNELS, PORTS),
            model: Model::default(),
            next_link: 0,
            next_attach_id: 0,
        }
    }

    /// Applies an operation to both, and compares the answers.
    fn apply(&mut self, step: ModelStep) -> Result<(), TestCaseError> {
        match step {
            ModelStep::AddLink { key, epoch, moves } => self.add_link(key, epoch, moves),
            ModelStep::Register { link, ports } if !self.is(link, false) => {
                self.register(link, &ports)
            }
            ModelStep::Attach {
                link,
                port,
                instance,
                avoid,
            } if !self.is(link, true) => self.attach(link, port, instance, &avoid),
            ModelStep::Register { .. } | ModelStep::Attach { .. } => Ok(()),
            ModelStep::Unregister { link, ports } => {
                let ids: Vec<_> = ports.iter().map(|port| id(*port)).collect();
                self.registry.unregister(link, &ids);
                self.model
                    .registered
                    .retain(|(other, port)| *other != link || !ports.contains(port));
                Ok(())
            }
            ModelStep::Cancel { wait } => self.cancel(wait),
            ModelStep::Close { channel } => {
                if channel < self.model.open.len() {
                    let (client, server) = self.model.open.remove(channel);
                    self.registry.release_channel(client);
                    self.registry.release_channel(server);
                }
                Ok(())
            }
            ModelStep::Data { link } => {
                self.registry.on_data(link);
                if self.model.links.contains_key(&link) {
                    self.model.sent_data.insert(link);
                }
                Ok(())
            }
            ModelStep::RemoveLink { link } => self.remove_link(link),
        }
    }

    /// Whether this is a link of a server, or of a client.
    fn is(&self, link: u64, server: bool) -> bool {
        self.model
            .links
            .get(&link)
            .is_some_and(|(key, _)| key.0 == server)
    }

    fn add_link(&mut self, key: ModelKey, epoch: u64, moves: bool) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let link = self.next_link;
        self.next_link += 1;
        let (server, instance, slot) = key;
        let role = if server { Role::Server } else { Role::Client };
        let name = (id(instance), Slot::new(slot).expect("a slot"));
        let mut ended = model.current_links(key);
        let newest = ended.last().map(|newest| model.links[newest].1);
        let answer = add_slot(registry, link, role, name, epoch, moves);
        match newest {
            Some(newest) if newest >= epoch => prop_assert_eq!(answer, Err(Superseded(newest))),
            _ => {
                model.registered.retain(|(link, _)| !ended.contains(link));
                if moves && let Some(kept) = model.link_to_keep(&ended) {
                    ended.retain(|link| *link != kept);
                }
                model.links.insert(link, (key, epoch));
                model.superseded.extend(&ended);
                prop_assert_eq!(answer, Ok(ended));
                prop_assert!(model.current_links(key).len() <= 2);
            }
        }
        Ok(())
    }

    fn register(&mut self, link: u64, ports: &[u8]) -> Result<(), TestCaseError> {
        let requested: Vec<_> = ports.iter().map(|port| id(*port)).collect();
        let answer = register(&mut self.registry, link, &requested);
        let (expected, fitting) = self.model.register(link, ports);
        prop_assert_eq!(answer.accepted, expected);
        let room = CHANNELS.saturating_sub(self.model.channels(link)) as usize;
        let room = room.min(fitting.len());
        prop_assert_eq!(answer.dispatch.assigned.len(), room);
        prop_assert_eq!(answer.dispatch.rejected.len(), fitting.len() - room);
        self.apply_dispatch(link, answer.dispatch, fitting)
    }

    /// Applies the assigned and rejected requests of a registration to the model.
    fn apply_dispatch(
        &mut self,
        link: u64,
        dispatch: Dispatch<Handle, AttachId>,
        mut fitting: HashSet<AttachId>,
    ) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        for (_, assignment) in &dispatch.assigned {
            let answered = registry.on_answer(assignment.ticket, Instant::now());
            prop_assert_eq!(answered, Dispatch::default());
        }
        let assigned = dispatch
            .assigned
            .iter()
            .map(|(attach_id, assignment)| (*attach_id, Some(assignment.server)));
        let rejected = dispatch.rejected.iter().map(|attach_id| (*attach_id, None));
        for (attach_id, server) in assigned.chain(rejected) {
            let is_expected =
                fitting.remove(&attach_id) && server.is_none_or(|server| server == link);
            prop_assert!(is_expected, "attach request {}", attach_id);
            let index = model
                .waiting
                .iter()
                .position(|wait| wait.3 == attach_id)
                .expect("a waiting request");
            let (client, ..) = model.waiting.remove(index);
            match server {
                Some(server) => model.open.push((client, server)),
                None => registry.release_channel(client),
            }
        }
        Ok(())
    }

    fn attach(
        &mut self,
        link: u64,
        port: u8,
        instance: Option<u8>,
        avoid: &[u8],
    ) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let attach_id = self.next_attach_id;
        self.next_attach_id += 1;
        let rejected = !model.links.contains_key(&link) || model.channels(link) >= CHANNELS;
        let is_offered = !model.offering(port, instance).is_empty();
        let server = model.server_for(port, instance, avoid);
        let header = AttachHeader {
            port: id(port),
            instance: instance.map(id),
            avoid: avoid.iter().copied().map(id).collect(),
        };
        match registry.attach(link, &header, 400, Instant::now(), attach_id) {
            RouteResult::Full => prop_assert!(rejected || (is_offered && server.is_none())),
            RouteResult::Assigned(assignment) => {
                prop_assert!(!rejected);
                prop_assert_eq!(Some(assignment.server), server);
                let answered = registry.on_answer(assignment.ticket, Instant::now());
                prop_assert_eq!(answered, Dispatch::default());
                model.open.push((link, assignment.server));
            }
            RouteResult::Waiting(wait) => {
                prop_assert!(!rejected && !is_offered);
                model.waiting.push((link, port, instance, attach_id, wait));
            }
        }
        Ok(())
    }

    fn cancel(&mut self, wait: usize) -> Result<(), TestCaseError> {
        if wait < self.model.waiting.len() {
            let (client, .., attach_id, ticket) = self.model.waiting.remove(wait);
            let (cancelled, _) = self.registry.cancel(ticket, Instant::now());
            prop_assert_eq!(cancelled, Some(attach_id));
            self.registry.release_channel(client);
        }
        Ok(())
    }

    fn remove_link(&mut self, link: u64) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let (gone, keep): (Vec<_>, _) = model.waiting.drain(..).partition(|wait| wait.0 == link);
        model.waiting = keep;
        let (mut attach_ids, _) = registry.remove_link(link, Instant::now());
        attach_ids.sort_unstable();
        prop_assert_eq!(
            attach_ids,
            gone.into_iter().map(|wait| wait.3).collect::<Vec<_>>()
        );
        for (client, server) in std::mem::take(&mut model.open) {
            if client == link || server == link {
                registry.release_channel(if client == link { server } else { client });
            } else {
                model.open.push((client, server));
            }
        }
        model.registered.retain(|(other, _)| *other != link);
        model.links.remove(&link);
        model.superseded.remove(&link);
        Ok(())
    }

    /// Compares the tables of the registry with the model.
    fn check(&self) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let keys = model.links.values().map(|(key, _)| *key);
        let expected: HashSet<_> = keys
            .filter(|key| !model.current_links(*key).is_empty())
            .collect();
        let slots = registry.slots.keys().map(|key| {
            let is_server = key.role == Role::Server;
            (is_server, key.instance.0[0], key.slot.number())
        });
        prop_assert_eq!(slots.collect::<HashSet<_>>(), expected);
        for (number, entry) in &registry.links {
            prop_assert_eq!(
                entry.channels,
                model.channels(*number),
                "channels of link {}",
                number
            );
        }
        let used: HashSet<u8> = model.registered.iter().map(|(_, port)| *port).collect();
        prop_assert_eq!(
            registry.ports.len(),
            used.len(),
            "an unused key id leaves no entry"
        );
        prop_assert_eq!(registry.attach_queue.sizes()[0], model.waiting.len());
        Ok(())
    }
}

proptest! {
    #[test]
    fn registry_matches_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut comparison = Comparison::new();
        for step in steps {
            comparison.apply(step)?;
            comparison.check()?;
        }
    }
}
