//! Tests of the registry: single cases, and a comparison with a simple model.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{super::attach_queue::PENDING_TIMEOUT, *};

impl<L, A> Registry<L, A> {
    /// Sets the last channel number of every link.
    pub(in crate::master) fn set_last_channel(&mut self, count: u32) {
        self.links
            .values_mut()
            .for_each(|entry| entry.last_channel = count);
    }
}

type Handle = LinkNumber;
type AttachId = u32;

const PORT: Id = Id([7; 16]);

fn id(number: u8) -> Id {
    Id([number; 16])
}

fn add_link(
    registry: &mut Registry<Handle, AttachId>,
    link: u64,
    role: Role,
    instance: Id,
    epoch: u64,
    moves: bool,
) -> Result<Vec<Handle>, Superseded> {
    // Two links for each party, so that turns between parties and between links both occur.
    let party = IpAddr::from([10, 0, 0, (link / 2) as u8]);
    registry.add_link(AuthenticatedLink {
        link,
        party,
        role,
        instance,
        epoch,
        moves,
        handle: link,
    })
}

fn header(avoid: &[Id]) -> AttachHeader {
    AttachHeader {
        port: PORT,
        instance: None,
        avoid: avoid.to_vec(),
    }
}

fn attach(
    registry: &mut Registry<Handle, AttachId>,
    client: u64,
    port: Id,
    instance: Option<Id>,
    attach_id: AttachId,
) -> RouteResult<Handle> {
    registry.attach(
        client,
        &AttachHeader {
            port,
            instance,
            avoid: Vec::new(),
        },
        400,
        Instant::now(),
        attach_id,
    )
}

fn register(
    registry: &mut Registry<Handle, AttachId>,
    link: u64,
    ports: &[Id],
) -> Registered<Handle, AttachId> {
    registry.register(link, ports, Instant::now())
}

/// The assigned attach requests with their servers, sorted.
fn assigned(dispatch: &Dispatch<Handle, AttachId>) -> Vec<(AttachId, u64)> {
    let mut assigned: Vec<_> = dispatch
        .assigned
        .iter()
        .map(|(attach_id, assignment)| (*attach_id, assignment.server))
        .collect();
    assigned.sort_unstable();
    assigned
}

fn registry(channels_per_link: u32, ports_per_link: u32) -> Registry<Handle, AttachId> {
    Registry::new(&MasterLimits {
        channels_per_link,
        ports_per_link,
        ..MasterLimits::default()
    })
}

/// Creates a registry with the servers 1 to `servers` (with equal instance numbers) and the client
/// 100.
fn with_servers(servers: u8) -> Registry<Handle, AttachId> {
    let mut registry = registry(8, 8);
    for number in 1..=servers {
        add_link(
            &mut registry,
            number.into(),
            Role::Server,
            id(number),
            1,
            false,
        )
        .expect("entered");
        assert_eq!(
            register(&mut registry, number.into(), &[PORT]).accepted,
            [PORT]
        );
    }
    add_link(&mut registry, 100, Role::Client, id(100), 1, false).expect("entered");
    registry
}

fn server_of(attached: &RouteResult<Handle>) -> Option<LinkNumber> {
    match attached {
        RouteResult::Assigned(assignment) => Some(assignment.server),
        RouteResult::Waiting(_) | RouteResult::Full => None,
    }
}

#[test]
fn new_channels_are_spread_over_the_servers_of_a_key_id() {
    let mut registry = with_servers(3);
    let mut servers: Vec<_> = (0..6)
        .filter_map(|attach_id| server_of(&attach(&mut registry, 100, PORT, None, attach_id)))
        .collect();
    servers.sort_unstable();
    assert_eq!(servers, [1, 1, 2, 2, 3, 3]);
    registry.release_channel(2);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 9)),
        Some(2)
    );
}

#[test]
fn avoided_server_is_the_last_choice() {
    let mut registry = with_servers(3);
    let mut avoiding =
        |avoid: &[Id]| server_of(&registry.attach(100, &header(avoid), 400, Instant::now(), 0));
    assert_eq!(
        [avoiding(&[id(1)]), avoiding(&[id(1)])],
        [Some(2), Some(3)],
        "even when the others are busier"
    );
    assert_eq!(avoiding(&[id(1), id(3)]), Some(2));
    assert_eq!(
        avoiding(&[id(1), id(2), id(3), id(9)]),
        Some(1),
        "all servers are avoided"
    );
    assert_eq!(avoiding(&[]), Some(1));
}

#[test]
fn link_is_half_used_then_full_as_channel_numbers_run_out() {
    let mut registry = with_servers(1);
    let channel_of = |attached: RouteResult<Handle>| match attached {
        RouteResult::Assigned(assignment) => Some((assignment.channel, assignment.is_half_used)),
        RouteResult::Waiting(_) | RouteResult::Full => None,
    };
    let half = CHANNEL_RENEWAL_THRESHOLD;
    registry.set_last_channel(half - 2);
    for (attach_id, expected) in [
        (1, (half - 1, false)),
        (2, (half, true)),
        (3, (half + 1, false)),
    ] {
        assert_eq!(
            channel_of(attach(&mut registry, 100, PORT, None, attach_id)),
            Some(expected)
        );
    }
    registry.set_last_channel(u32::MAX - 1);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 4)),
        Some((u32::MAX, false))
    );
    for attach_id in 5..7 {
        assert_eq!(
            attach(&mut registry, 100, PORT, None, attach_id),
            RouteResult::Full,
            "no number is used again"
        );
    }
    // The new link of the instance numbers its channels from 1.
    add_link(&mut registry, 2, Role::Server, id(1), 2, true).expect("entered");
    register(&mut registry, 2, &[PORT]);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 7)),
        Some((1, false))
    );
}

#[test]
fn named_instance_is_reached_or_waited_for() {
    let mut registry = with_servers(2);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, Some(id(2)), 0)),
        Some(2)
    );
    assert!(matches!(
        attach(&mut registry, 100, PORT, Some(id(3)), 1),
        RouteResult::Waiting(_)
    ));
    add_link(&mut registry, 3, Role::Server, id(3), 1, false).expect("entered");
    let registered = register(&mut registry, 3, &[PORT]);
    let (attach_id, assignment) = &registered.dispatch.assigned[0];
    assert_eq!(
        (
            *attach_id,
            assignment.server,
            assignment.handle,
            assignment.channel
        ),
        (1, 3, 3, 1)
    );
}

#[test]
fn waiting_attaches_are_assigned_in_order() {
    let mut registry = with_servers(0);
    let results: Vec<_> = (0..4)
        .map(|attach_id| attach(&mut registry, 100, PORT, None, attach_id))
        .collect();
    let RouteResult::Waiting(second) = results[1] else {
        panic!("no server is registered")
    };
    assert_eq!(registry.cancel(second, Instant::now()).0, Some(1));
    assert_eq!(registry.cancel(second, Instant::now()).0, None);
    add_link(&mut registry, 1, Role::Server, id(1), 1, false).expect("entered");
    let attach_ids: Vec<_> = register(&mut registry, 1, &[PORT])
        .dispatch
        .assigned
        .into_iter()
        .map(|(attach_id, assignment)| (attach_id, assignment.channel))
        .collect();
    assert_eq!(attach_ids, [(0, 1), (2, 2), (3, 3)]);
}

#[test]
fn newer_link_takes_over_and_older_epoch_is_refused() {
    let mut registry = with_servers(1);
    assert_eq!(
        add_link(&mut registry, 2, Role::Server, id(1), 1, false),
        Err(Superseded(1))
    );
    assert_eq!(
        add_link(&mut registry, 2, Role::Server, id(1), 2, false),
        Ok(vec![1])
    );
    assert!(
        matches!(
            attach(&mut registry, 100, PORT, None, 0),
            RouteResult::Waiting(_)
        ),
        "the old link serves nothing any more"
    );
    assert_eq!(
        register(&mut registry, 1, &[PORT]).accepted,
        [],
        "the old link cannot register"
    );
    assert_eq!(
        register(&mut registry, 2, &[PORT]).dispatch.assigned.len(),
        1
    );
    registry.remove_link(1, Instant::now());
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 1)),
        Some(2),
        "its removal does not affect the new link"
    );
}

#[test]
fn handover_keeps_the_previous_link_and_routes_to_the_newest() {
    let mut registry = with_servers(1);
    assert_eq!(
        add_link(&mut registry, 2, Role::Server, id(1), 2, true),
        Ok(vec![])
    );
    assert!(
        matches!(
            attach(&mut registry, 100, PORT, Some(id(1)), 0),
            RouteResult::Waiting(_)
        ),
        "the old link serves nothing any more"
    );
    assert_eq!(register(&mut registry, 1, &[PORT]).accepted, []);
    assert_eq!(
        register(&mut registry, 2, &[PORT]).dispatch.assigned.len(),
        1
    );
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, Some(id(1)), 1)),
        Some(2)
    );
    assert_eq!(
        add_link(&mut registry, 3, Role::Server, id(1), 3, true),
        Ok(vec![1]),
        "a third link ends the first"
    );
    assert_eq!(
        add_link(&mut registry, 4, Role::Server, id(1), 4, false),
        Ok(vec![2, 3]),
        "without `moves` a new link ends them all"
    );
}

#[test]
fn previous_link_serves_again_when_the_new_one_is_lost() {
    let mut registry = with_servers(1);
    add_link(&mut registry, 2, Role::Server, id(1), 2, true).expect("entered");
    registry.remove_link(2, Instant::now());
    assert_eq!(register(&mut registry, 1, &[PORT]).accepted, [PORT]);
    assert_eq!(
        add_link(&mut registry, 3, Role::Server, id(1), 3, true),
        Ok(vec![])
    );
}

#[test]
fn client_cannot_take_over_a_server() {
    let mut registry = with_servers(1);
    assert_eq!(
        add_link(&mut registry, 2, Role::Client, id(1), 9, false),
        Ok(vec![])
    );
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 0)),
        Some(1)
    );
}

#[test]
fn ports_beyond_the_limit_are_rejected_and_register_is_idempotent() {
    let mut registry = registry(8, 2);
    add_link(&mut registry, 1, Role::Server, id(1), 1, false).expect("entered");
    assert_eq!(
        register(&mut registry, 1, &[id(1), id(2), id(3), id(1)]).accepted,
        [id(1), id(2), id(1)]
    );
    registry.unregister(1, &[id(1), id(9)]);
    assert_eq!(
        register(&mut registry, 1, &[id(2), id(3)]).accepted,
        [id(2), id(3)]
    );
}

#[test]
fn full_client_and_full_server_are_rejected() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 0)),
        Some(1)
    );
    assert_eq!(
        attach(&mut registry, 100, PORT, None, 1),
        RouteResult::Full,
        "the client is full"
    );
    assert_eq!(
        attach(&mut registry, 101, PORT, None, 2),
        RouteResult::Full,
        "the server is full"
    );
    registry.release_channel(1);
    assert_eq!(
        server_of(&attach(&mut registry, 101, PORT, None, 3)),
        Some(1)
    );
}

#[test]
fn waiting_attach_is_rejected_when_the_server_is_full() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    assert!(matches!(
        attach(&mut registry, 100, PORT, None, 0),
        RouteResult::Waiting(_)
    ));
    assert!(matches!(
        attach(&mut registry, 101, PORT, None, 1),
        RouteResult::Waiting(_)
    ));
    let registered = register(&mut registry, 1, &[PORT]);
    assert_eq!(
        (
            registered.dispatch.assigned.len(),
            registered.dispatch.rejected
        ),
        (1, vec![1])
    );
}

#[test]
fn removed_link_leaves_no_attach_or_registration() {
    let mut registry = with_servers(1);
    assert!(matches!(
        attach(&mut registry, 100, id(50), None, 5),
        RouteResult::Waiting(_)
    ));
    assert_eq!(registry.remove_link(100, Instant::now()).0, [5]);
    registry.remove_link(1, Instant::now());
    assert_eq!(
        (
            registry.ports.len(),
            registry.instances.len(),
            registry.links()
        ),
        (0, 0, 0)
    );
    assert_eq!(registry.attach_queue.sizes(), [0; 4]);
}

#[test]
fn pending_attaches_per_server_are_bounded() {
    let mut registry = registry(4_000, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (200, Role::Client)] {
        add_link(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    let tickets: Vec<_> = (0..1_000)
        .map(|attach_id| attach(&mut registry, 100, PORT, None, attach_id))
        .collect();
    let pending = tickets
        .iter()
        .filter(|attached| matches!(attached, RouteResult::Assigned(_)))
        .count();
    assert!((300..500).contains(&pending), "{pending}");
    assert!(matches!(
        attach(&mut registry, 200, PORT, None, 9_999),
        RouteResult::Waiting(_)
    ));
    let answer = |registry: &mut Registry<Handle, AttachId>, attached: &RouteResult<Handle>| {
        let RouteResult::Assigned(assignment) = attached else {
            panic!("the request is not assigned")
        };
        assigned(&registry.on_answer(assignment.ticket, Instant::now()))
    };
    let dispatch: Vec<_> = tickets[..2]
        .iter()
        .flat_map(|attached| answer(&mut registry, attached))
        .collect();
    assert_eq!(dispatch.len(), 2);
    assert!(
        dispatch.contains(&(9_999, 1)),
        "the other party has its turn: {dispatch:?}"
    );
}

#[test]
fn unresponsive_server_is_the_last_choice() {
    let mut registry = with_servers(2);
    let start = Instant::now();
    assert_eq!(
        server_of(&registry.attach(100, &header(&[]), 400, start, 0)),
        Some(1)
    );
    let (expired, _) = registry.expire(start + PENDING_TIMEOUT, 9);
    assert_eq!(
        expired,
        [Expired {
            attach: 0,
            was_pending: true
        }]
    );
    registry.release_channel(1);
    for attach_id in 1..4 {
        assert_eq!(
            server_of(&registry.attach(100, &header(&[]), 400, start, attach_id)),
            Some(2)
        );
    }
    registry.unregister(2, &[PORT]);
    let RouteResult::Assigned(assignment) = registry.attach(100, &header(&[]), 400, start, 4)
    else {
        panic!("server 1 has room")
    };
    registry.on_answer(assignment.ticket, start);
    register(&mut registry, 2, &[PORT]);
    registry.release_channel(1);
    assert_eq!(
        server_of(&registry.attach(100, &header(&[]), 400, start, 5)),
        Some(1),
        "it answers again"
    );
}

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

proptest! {
    #[test]
    fn registry_matches_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut registry = registry(CHANNELS, PORTS);
        let mut model = Model::default();
        let (mut next_link, mut next_attach_id) = (0_u64, 0);
        for step in steps {
            match step {
                ModelStep::AddLink { server, instance, epoch, moves } => {
                    let link = next_link;
                    next_link += 1;
                    let role = if server { Role::Server } else { Role::Client };
                    let mut ended = model.current_links(server, instance);
                    let newest = ended.last().map(|newest| model.links[newest].2);
                    let answer = add_link(&mut registry, link, role, id(instance), epoch, moves);
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
                }
                ModelStep::Register { link, .. } if model.links.get(&link).is_some_and(|entry| !entry.0) => {}
                ModelStep::Attach { link, .. } if model.links.get(&link).is_some_and(|entry| entry.0) => {}
                ModelStep::Register { link, ports } => {
                    let requested: Vec<_> = ports.iter().map(|port| id(*port)).collect();
                    let answer = register(&mut registry, link, &requested);
                    let mut expected = Vec::new();
                    let mut fitting = HashSet::new();
                    if model.may_register(link) {
                        for port in ports {
                            if !model.registered.contains(&(link, port)) {
                                if model.registered.iter().filter(|(other, _)| *other == link).count() >= PORTS as usize {
                                    continue;
                                }
                                model.registered.push((link, port));
                                let instance = model.links[&link].1;
                                let fits = model.waiting.iter().filter(|wait| wait.1 == port && wait.2.is_none_or(|named| named == instance));
                                fitting.extend(fits.map(|wait| wait.3));
                            }
                            expected.push(id(port));
                        }
                    }
                    prop_assert_eq!(answer.accepted, expected);
                    let room = (CHANNELS.saturating_sub(model.channels(link)) as usize).min(fitting.len());
                    prop_assert_eq!(answer.dispatch.assigned.len(), room);
                    prop_assert_eq!(answer.dispatch.rejected.len(), fitting.len() - room);
                    for (_, assignment) in &answer.dispatch.assigned {
                        prop_assert_eq!(registry.on_answer(assignment.ticket, Instant::now()), Dispatch::default());
                    }
                    let dispatched = answer.dispatch.assigned.iter().map(|(attach_id, assignment)| (*attach_id, Some(assignment.server)));
                    for (attach_id, server) in dispatched.chain(answer.dispatch.rejected.iter().map(|attach_id| (*attach_id, None))).collect::<Vec<_>>() {
                        prop_assert!(fitting.remove(&attach_id) && server.is_none_or(|server| server == link), "attach request {}", attach_id);
                        let index = model.waiting.iter().position(|wait| wait.3 == attach_id).expect("a waiting request");
                        let (client, ..) = model.waiting.remove(index);
                        match server {
                            Some(server) => model.open.push((client, server)),
                            None => registry.release_channel(client),
                        }
                    }
                }
                ModelStep::Unregister { link, ports } => {
                    registry.unregister(link, &ports.iter().map(|port| id(*port)).collect::<Vec<_>>());
                    model.registered.retain(|(other, port)| *other != link || !ports.contains(port));
                }
                ModelStep::Attach { link, port, instance } => {
                    let attach_id = next_attach_id;
                    next_attach_id += 1;
                    let rejected = !model.links.contains_key(&link) || model.channels(link) >= CHANNELS;
                    let server = model.server_for(port, instance);
                    match attach(&mut registry, link, id(port), instance.map(id), attach_id) {
                        RouteResult::Full => prop_assert!(rejected || server.is_some_and(|server| model.channels(server) >= CHANNELS)),
                        RouteResult::Assigned(assignment) => {
                            prop_assert!(!rejected);
                            prop_assert_eq!(Some(assignment.server), server);
                            prop_assert_eq!(registry.on_answer(assignment.ticket, Instant::now()), Dispatch::default());
                            model.open.push((link, assignment.server));
                        }
                        RouteResult::Waiting(wait) => {
                            prop_assert!(!rejected && server.is_none());
                            model.waiting.push((link, port, instance, attach_id, wait));
                        }
                    }
                }
                ModelStep::Cancel { wait } => if wait < model.waiting.len() {
                    let wait = model.waiting.remove(wait);
                    prop_assert_eq!(registry.cancel(wait.4, Instant::now()).0, Some(wait.3));
                    registry.release_channel(wait.0);
                },
                ModelStep::Close { channel } => if channel < model.open.len() {
                    let (client, server) = model.open.remove(channel);
                    registry.release_channel(client);
                    registry.release_channel(server);
                },
                ModelStep::RemoveLink { link } => {
                    let (gone, keep): (Vec<_>, _) = model.waiting.drain(..).partition(|wait| wait.0 == link);
                    model.waiting = keep;
                    let (mut attach_ids, _) = registry.remove_link(link, Instant::now());
                    attach_ids.sort_unstable();
                    prop_assert_eq!(attach_ids, gone.into_iter().map(|wait| wait.3).collect::<Vec<_>>());
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
                }
            }
            let expected: HashSet<_> = model.links.values().map(|entry| (entry.0, id(entry.1))).filter(|(server, instance)| {
                !model.current_links(*server, instance.0[0]).is_empty()
            }).collect();
            prop_assert_eq!(registry.instances.keys().copied().collect::<HashSet<_>>(), expected);
            for (number, entry) in &registry.links {
                prop_assert_eq!(entry.channels, model.channels(*number), "channels of link {}", number);
            }
            let used: HashSet<u8> = model.registered.iter().map(|(_, port)| *port).collect();
            prop_assert_eq!(registry.ports.len(), used.len(), "an unused key id leaves no entry");
            prop_assert_eq!(registry.attach_queue.sizes()[0], model.waiting.len());
        }
    }
}
