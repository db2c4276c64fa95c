//! Compares the registry with a simple model after arbitrary operations.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// The operations on the registry, over few names so that they collide.
#[derive(Debug, Clone)]
enum ModelStep {
    AddLink {
        server: bool,
        instance: u8,
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
    },
    Cancel {
        wait: usize,
    },
    Close {
        channel: usize,
    },
    RemoveLink {
        link: u64,
    },
}

fn step() -> impl Strategy<Value = ModelStep> {
    let ports = || proptest::collection::vec(0_u8..4, 0..5);
    prop_oneof![
        4 => (any::<bool>(), 0_u8..4, 0_u64..8, any::<bool>())
            .prop_map(|(server, instance, epoch, moves)| ModelStep::AddLink { server, instance, epoch, moves }),
        3 => (0_u64..12, ports()).prop_map(|(link, ports)| ModelStep::Register { link, ports }),
        1 => (0_u64..12, ports()).prop_map(|(link, ports)| ModelStep::Unregister { link, ports }),
        6 => (0_u64..12, 0_u8..4, proptest::option::weighted(0.3, 0_u8..4))
            .prop_map(|(link, port, instance)| ModelStep::Attach { link, port, instance }),
        2 => (0_usize..40).prop_map(|wait| ModelStep::Cancel { wait }),
        2 => (0_usize..40).prop_map(|channel| ModelStep::Close { channel }),
        1 => (0_u64..12).prop_map(|link| ModelStep::RemoveLink { link }),
    ]
}

/// A model of the registry: flat lists and linear searches.
#[derive(Default)]
struct Model {
    links: HashMap<u64, (bool, u8, u64)>,
    superseded: HashSet<u64>,
    registered: Vec<(u64, u8)>,
    /// Client, port, instance, attach request, ticket; in the order of arrival.
    waiting: Vec<(u64, u8, Option<u8>, AttachId, Ticket)>,
    /// Client and server.
    open: Vec<(u64, u64)>,
}

const CHANNELS: u32 = 5;
const PORTS: u32 = 3;

impl Model {
    /// Returns the current links of an instance, the newest last.
    fn current_links(&self, server: bool, instance: u8) -> Vec<u64> {
        let of_instance = self
            .links
            .iter()
            .filter(|(_, entry)| (entry.0, entry.1) == (server, instance));
        let mut links: Vec<_> = of_instance
            .map(|(link, _)| *link)
            .filter(|link| !self.superseded.contains(link))
            .collect();
        links.sort_unstable();
        links
    }

    fn may_register(&self, link: u64) -> bool {
        self.links
            .get(&link)
            .is_some_and(|entry| self.current_links(entry.0, entry.1).last() == Some(&link))
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
                let instance = self.links[&link].1;
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

    fn server_for(&self, port: u8, instance: Option<u8>) -> Option<u64> {
        let fits = |link: &u64| instance.is_none_or(|instance| self.links[link].1 == instance);
        let serving = self
            .registered
            .iter()
            .filter(|(_, id)| *id == port)
            .map(|(link, _)| *link);
        serving
            .filter(fits)
            .min_by_key(|link| (self.channels(*link), *link))
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
            ModelStep::AddLink {
                server,
                instance,
                epoch,
                moves,
            } => self.add_link(server, instance, epoch, moves),
            ModelStep::Register { link, ports } if !self.is(link, false) => {
                self.register(link, &ports)
            }
            ModelStep::Attach {
                link,
                port,
                instance,
            } if !self.is(link, true) => self.attach(link, port, instance),
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
            ModelStep::RemoveLink { link } => self.remove_link(link),
        }
    }

    /// Whether this is a link of a server, or of a client.
    fn is(&self, link: u64, server: bool) -> bool {
        self.model
            .links
            .get(&link)
            .is_some_and(|entry| entry.0 == server)
    }

    fn add_link(
        &mut self,
        server: bool,
        instance: u8,
        epoch: u64,
        moves: bool,
    ) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let link = self.next_link;
        self.next_link += 1;
        let role = if server { Role::Server } else { Role::Client };
        let mut ended = model.current_links(server, instance);
        let newest = ended.last().map(|newest| model.links[newest].2);
        let answer = add_link(registry, link, role, id(instance), epoch, moves);
        match newest {
            Some(newest) if newest >= epoch => prop_assert_eq!(answer, Err(Superseded(newest))),
            _ => {
                model.registered.retain(|(link, _)| !ended.contains(link));
                if moves {
                    ended.pop();
                }
                model.links.insert(link, (server, instance, epoch));
                model.superseded.extend(&ended);
                prop_assert_eq!(answer, Ok(ended));
                prop_assert!(model.current_links(server, instance).len() <= 2);
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

    fn attach(&mut self, link: u64, port: u8, instance: Option<u8>) -> Result<(), TestCaseError> {
        let Comparison {
            registry, model, ..
        } = self;
        let attach_id = self.next_attach_id;
        self.next_attach_id += 1;
        let rejected = !model.links.contains_key(&link) || model.channels(link) >= CHANNELS;
        let server = model.server_for(port, instance);
        match attach(registry, link, id(port), instance.map(id), attach_id) {
            RouteResult::Full => {
                let is_full = server.is_some_and(|server| model.channels(server) >= CHANNELS);
                prop_assert!(rejected || is_full);
            }
            RouteResult::Assigned(assignment) => {
                prop_assert!(!rejected);
                prop_assert_eq!(Some(assignment.server), server);
                let answered = registry.on_answer(assignment.ticket, Instant::now());
                prop_assert_eq!(answered, Dispatch::default());
                model.open.push((link, assignment.server));
            }
            RouteResult::Waiting(wait) => {
                prop_assert!(!rejected && server.is_none());
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
        let instances = model.links.values().map(|entry| (entry.0, id(entry.1)));
        let expected: HashSet<_> = instances
            .filter(|(server, instance)| !model.current_links(*server, instance.0[0]).is_empty())
            .collect();
        prop_assert_eq!(
            registry.instances.keys().copied().collect::<HashSet<_>>(),
            expected
        );
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
