//! The registry, case by case and against a model that is too simple to be wrong.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{super::unanswered::PENDING_TIMEOUT, *};

impl<L, A> Registry<L, A> {
    /// As if the master had numbered as many channels of each server.
    pub(in crate::master) fn channels_numbered(&mut self, count: u32) {
        self.links
            .values_mut()
            .for_each(|member| member.last_channel = count);
    }
}

type Handle = LinkNumber;
type Call = u32;

const PORT: Id = Id([7; 16]);

fn id(number: u8) -> Id {
    Id([number; 16])
}

fn enter(
    registry: &mut Registry<Handle, Call>,
    link: u64,
    role: Role,
    instance: Id,
    epoch: u64,
    moves: bool,
) -> Result<Vec<Handle>, Superseded> {
    // Two links of a party, so that turns between both are taken.
    let party = IpAddr::from([10, 0, 0, (link / 2) as u8]);
    registry.enter(Newcomer {
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
    registry: &mut Registry<Handle, Call>,
    client: u64,
    port: Id,
    instance: Option<Id>,
    call: Call,
) -> Attached<Handle> {
    registry.attach(
        client,
        &AttachHeader {
            port,
            instance,
            avoid: Vec::new(),
        },
        400,
        Instant::now(),
        call,
    )
}

fn register(
    registry: &mut Registry<Handle, Call>,
    link: u64,
    ports: &[Id],
) -> Registered<Handle, Call> {
    registry.register(link, ports, Instant::now())
}

/// The calls that are led on, by number.
fn connected(next: &Next<Handle, Call>) -> Vec<(Call, u64)> {
    let mut connected: Vec<_> = next
        .connected
        .iter()
        .map(|(call, exchange)| (*call, exchange.server))
        .collect();
    connected.sort_unstable();
    connected
}

fn registry(channels_per_link: u32, ports_per_link: u32) -> Registry<Handle, Call> {
    Registry::new(&Limits {
        channels_per_link,
        ports_per_link,
        ..Limits::default()
    })
}

/// A registry with the servers 1 to `servers` (instances of the same number) and the client 100.
fn with_servers(servers: u8) -> Registry<Handle, Call> {
    let mut registry = registry(8, 8);
    for number in 1..=servers {
        enter(
            &mut registry,
            number.into(),
            Role::Server,
            id(number),
            1,
            false,
        )
        .expect("entered");
        assert_eq!(
            register(&mut registry, number.into(), &[PORT]).standing,
            [PORT]
        );
    }
    enter(&mut registry, 100, Role::Client, id(100), 1, false).expect("entered");
    registry
}

fn server_of(attached: &Attached<Handle>) -> Option<LinkNumber> {
    match attached {
        Attached::Connected(exchange) => Some(exchange.server),
        Attached::Waiting(_) | Attached::Full => None,
    }
}

#[test]
fn new_channels_are_spread_over_the_servers_of_a_key() {
    let mut registry = with_servers(3);
    let mut servers: Vec<_> = (0..6)
        .filter_map(|call| server_of(&attach(&mut registry, 100, PORT, None, call)))
        .collect();
    servers.sort_unstable();
    assert_eq!(servers, [1, 1, 2, 2, 3, 3]);
    registry.release(2);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 9)),
        Some(2)
    );
}

#[test]
fn a_server_to_be_avoided_is_the_last_choice() {
    let mut registry = with_servers(3);
    let mut avoiding =
        |avoid: &[Id]| server_of(&registry.attach(100, &header(avoid), 400, Instant::now(), 0));
    assert_eq!(
        [avoiding(&[id(1)]), avoiding(&[id(1)])],
        [Some(2), Some(3)],
        "however busy the others are"
    );
    assert_eq!(avoiding(&[id(1), id(3)]), Some(2));
    assert_eq!(
        avoiding(&[id(1), id(2), id(3), id(9)]),
        Some(1),
        "better than none"
    );
    assert_eq!(avoiding(&[]), Some(1));
}

#[test]
fn a_link_is_replaced_when_half_of_its_channel_numbers_are_used_up_and_full_without_any() {
    let mut registry = with_servers(1);
    let channel_of = |attached: Attached<Handle>| match attached {
        Attached::Connected(exchange) => Some((exchange.channel, exchange.is_half_used)),
        Attached::Waiting(_) | Attached::Full => None,
    };
    let half = CHANNELS_RENEWED;
    registry.channels_numbered(half - 2);
    for (call, expected) in [
        (1, (half - 1, false)),
        (2, (half, true)),
        (3, (half + 1, false)),
    ] {
        assert_eq!(
            channel_of(attach(&mut registry, 100, PORT, None, call)),
            Some(expected)
        );
    }
    registry.channels_numbered(u32::MAX - 1);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 4)),
        Some((u32::MAX, false))
    );
    for call in 5..7 {
        assert_eq!(
            attach(&mut registry, 100, PORT, None, call),
            Attached::Full,
            "no number is used again"
        );
    }
    // The new link of the instance counts from the beginning.
    enter(&mut registry, 2, Role::Server, id(1), 2, true).expect("entered");
    register(&mut registry, 2, &[PORT]);
    assert_eq!(
        channel_of(attach(&mut registry, 100, PORT, None, 7)),
        Some((1, false))
    );
}

#[test]
fn a_named_instance_is_reached_or_waited_for() {
    let mut registry = with_servers(2);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, Some(id(2)), 0)),
        Some(2)
    );
    assert!(matches!(
        attach(&mut registry, 100, PORT, Some(id(3)), 1),
        Attached::Waiting(_)
    ));
    enter(&mut registry, 3, Role::Server, id(3), 1, false).expect("entered");
    let registered = register(&mut registry, 3, &[PORT]);
    let (call, exchange) = &registered.next.connected[0];
    assert_eq!(
        (*call, exchange.server, exchange.handle, exchange.channel),
        (1, 3, 3, 1)
    );
}

#[test]
fn calls_that_wait_are_put_through_in_their_order() {
    let mut registry = with_servers(0);
    let waits: Vec<_> = (0..4)
        .map(|call| attach(&mut registry, 100, PORT, None, call))
        .collect();
    let Attached::Waiting(second) = waits[1] else {
        panic!("no server is there")
    };
    assert_eq!(registry.cancel(second, Instant::now()).0, Some(1));
    assert_eq!(registry.cancel(second, Instant::now()).0, None);
    enter(&mut registry, 1, Role::Server, id(1), 1, false).expect("entered");
    let calls: Vec<_> = register(&mut registry, 1, &[PORT])
        .next
        .connected
        .into_iter()
        .map(|(call, exchange)| (call, exchange.channel))
        .collect();
    assert_eq!(calls, [(0, 1), (2, 2), (3, 3)]);
}

#[test]
fn a_newer_link_of_an_instance_takes_over_and_an_older_one_is_refused() {
    let mut registry = with_servers(1);
    assert_eq!(
        enter(&mut registry, 2, Role::Server, id(1), 1, false),
        Err(Superseded(1))
    );
    assert_eq!(
        enter(&mut registry, 2, Role::Server, id(1), 2, false),
        Ok(vec![1])
    );
    assert!(
        matches!(
            attach(&mut registry, 100, PORT, None, 0),
            Attached::Waiting(_)
        ),
        "the old link serves nothing any more"
    );
    assert_eq!(
        register(&mut registry, 1, &[PORT]).standing,
        [],
        "nor can it register again"
    );
    assert_eq!(register(&mut registry, 2, &[PORT]).next.connected.len(), 1);
    registry.leave(1, Instant::now());
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 1)),
        Some(2),
        "its end takes nothing from the new one"
    );
}

#[test]
fn an_instance_that_moves_keeps_its_link_before_and_is_reached_over_the_newest() {
    let mut registry = with_servers(1);
    assert_eq!(
        enter(&mut registry, 2, Role::Server, id(1), 2, true),
        Ok(vec![])
    );
    assert!(
        matches!(
            attach(&mut registry, 100, PORT, Some(id(1)), 0),
            Attached::Waiting(_)
        ),
        "the old link serves nothing any more"
    );
    assert_eq!(register(&mut registry, 1, &[PORT]).standing, []);
    assert_eq!(register(&mut registry, 2, &[PORT]).next.connected.len(), 1);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, Some(id(1)), 1)),
        Some(2)
    );
    assert_eq!(
        enter(&mut registry, 3, Role::Server, id(1), 3, true),
        Ok(vec![1]),
        "a third link ends the first"
    );
    assert_eq!(
        enter(&mut registry, 4, Role::Server, id(1), 4, false),
        Ok(vec![2, 3]),
        "one that does not move ends them all"
    );
}

#[test]
fn when_the_link_that_an_instance_moved_to_is_lost_the_one_before_may_serve_again() {
    let mut registry = with_servers(1);
    enter(&mut registry, 2, Role::Server, id(1), 2, true).expect("entered");
    registry.leave(2, Instant::now());
    assert_eq!(register(&mut registry, 1, &[PORT]).standing, [PORT]);
    assert_eq!(
        enter(&mut registry, 3, Role::Server, id(1), 3, true),
        Ok(vec![])
    );
}

#[test]
fn a_client_cannot_take_over_a_server() {
    let mut registry = with_servers(1);
    assert_eq!(
        enter(&mut registry, 2, Role::Client, id(1), 9, false),
        Ok(vec![])
    );
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 0)),
        Some(1)
    );
}

#[test]
fn ports_beyond_the_limit_do_not_stand_and_registering_again_changes_nothing() {
    let mut registry = registry(8, 2);
    enter(&mut registry, 1, Role::Server, id(1), 1, false).expect("entered");
    assert_eq!(
        register(&mut registry, 1, &[id(1), id(2), id(3), id(1)]).standing,
        [id(1), id(2), id(1)]
    );
    registry.unregister(1, &[id(1), id(9)]);
    assert_eq!(
        register(&mut registry, 1, &[id(2), id(3)]).standing,
        [id(2), id(3)]
    );
}

#[test]
fn a_full_client_and_a_full_server_are_told_so() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        enter(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    assert_eq!(
        server_of(&attach(&mut registry, 100, PORT, None, 0)),
        Some(1)
    );
    assert_eq!(
        attach(&mut registry, 100, PORT, None, 1),
        Attached::Full,
        "the client is"
    );
    assert_eq!(
        attach(&mut registry, 101, PORT, None, 2),
        Attached::Full,
        "the server is"
    );
    registry.release(1);
    assert_eq!(
        server_of(&attach(&mut registry, 101, PORT, None, 3)),
        Some(1)
    );
}

#[test]
fn who_waited_for_a_server_that_comes_up_full_is_turned_away() {
    let mut registry = registry(1, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (101, Role::Client)] {
        enter(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    assert!(matches!(
        attach(&mut registry, 100, PORT, None, 0),
        Attached::Waiting(_)
    ));
    assert!(matches!(
        attach(&mut registry, 101, PORT, None, 1),
        Attached::Waiting(_)
    ));
    let registered = register(&mut registry, 1, &[PORT]);
    assert_eq!(
        (registered.next.connected.len(), registered.next.full),
        (1, vec![1])
    );
}

#[test]
fn what_a_lost_link_waited_for_and_served_goes_with_it() {
    let mut registry = with_servers(1);
    assert!(matches!(
        attach(&mut registry, 100, id(50), None, 5),
        Attached::Waiting(_)
    ));
    assert_eq!(registry.leave(100, Instant::now()).0, [5]);
    registry.leave(1, Instant::now());
    assert_eq!(
        (
            registry.ports.len(),
            registry.instances.len(),
            registry.links()
        ),
        (0, 0, 0)
    );
    assert_eq!(registry.unanswered.sizes(), [0; 4]);
}

#[test]
fn a_server_is_asked_for_a_bounded_number_at_a_time_and_the_rest_waits() {
    let mut registry = registry(4_000, 8);
    for (link, role) in [(1, Role::Server), (100, Role::Client), (200, Role::Client)] {
        enter(&mut registry, link, role, id(link as u8), 1, false).expect("entered");
    }
    register(&mut registry, 1, &[PORT]);
    let tickets: Vec<_> = (0..1_000)
        .map(|call| attach(&mut registry, 100, PORT, None, call))
        .collect();
    let asked = tickets
        .iter()
        .filter(|attached| matches!(attached, Attached::Connected(_)))
        .count();
    assert!((300..500).contains(&asked), "{asked}");
    assert!(matches!(
        attach(&mut registry, 200, PORT, None, 9_999),
        Attached::Waiting(_)
    ));
    let answer = |registry: &mut Registry<Handle, Call>, attached: &Attached<Handle>| {
        let Attached::Connected(exchange) = attached else {
            panic!("it was asked for")
        };
        connected(&registry.answered(exchange.ticket, Instant::now()))
    };
    let next: Vec<_> = tickets[..2]
        .iter()
        .flat_map(|attached| answer(&mut registry, attached))
        .collect();
    assert_eq!(next.len(), 2);
    assert!(
        next.contains(&(9_999, 1)),
        "the other party has its turn: {next:?}"
    );
}

#[test]
fn a_server_that_does_not_answer_is_asked_after_the_others() {
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
    registry.release(1);
    for call in 1..4 {
        assert_eq!(
            server_of(&registry.attach(100, &header(&[]), 400, start, call)),
            Some(2)
        );
    }
    registry.unregister(2, &[PORT]);
    let Attached::Connected(exchange) = registry.attach(100, &header(&[]), 400, start, 4) else {
        panic!("one is left")
    };
    registry.answered(exchange.ticket, start);
    register(&mut registry, 2, &[PORT]);
    registry.release(1);
    assert_eq!(
        server_of(&registry.attach(100, &header(&[]), 400, start, 5)),
        Some(1),
        "it answers again"
    );
}

/// What may be asked of the registry, over few names so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Enter {
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
    Hangup {
        channel: usize,
    },
    Leave {
        link: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let ports = || proptest::collection::vec(0_u8..4, 0..5);
    prop_oneof![
        4 => (any::<bool>(), 0_u8..4, 0_u64..8, any::<bool>())
            .prop_map(|(server, instance, epoch, moves)| Step::Enter { server, instance, epoch, moves }),
        3 => (0_u64..12, ports()).prop_map(|(link, ports)| Step::Register { link, ports }),
        1 => (0_u64..12, ports()).prop_map(|(link, ports)| Step::Unregister { link, ports }),
        6 => (0_u64..12, 0_u8..4, proptest::option::weighted(0.3, 0_u8..4))
            .prop_map(|(link, port, instance)| Step::Attach { link, port, instance }),
        2 => (0_usize..40).prop_map(|wait| Step::Cancel { wait }),
        2 => (0_usize..40).prop_map(|channel| Step::Hangup { channel }),
        1 => (0_u64..12).prop_map(|link| Step::Leave { link }),
    ]
}

/// Everything in flat lists, searched from end to end.
#[derive(Default)]
struct Model {
    links: HashMap<u64, (bool, u8, u64)>,
    superseded: HashSet<u64>,
    registered: Vec<(u64, u8)>,
    /// client, port, instance, call, ticket: in the order of their coming.
    waiting: Vec<(u64, u8, Option<u8>, Call, Ticket)>,
    /// client, server
    open: Vec<(u64, u64)>,
}

const CHANNELS: u32 = 5;
const PORTS: u32 = 3;

impl Model {
    /// The links of an instance that have not been taken over, the newest last.
    fn standing(&self, server: bool, instance: u8) -> Vec<u64> {
        let of_instance = self
            .links
            .iter()
            .filter(|(_, member)| (member.0, member.1) == (server, instance));
        let mut standing: Vec<_> = of_instance
            .map(|(link, _)| *link)
            .filter(|link| !self.superseded.contains(link))
            .collect();
        standing.sort_unstable();
        standing
    }

    fn may_register(&self, link: u64) -> bool {
        self.links
            .get(&link)
            .is_some_and(|member| self.standing(member.0, member.1).last() == Some(&link))
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
    fn the_registry_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..120)) {
        let mut registry = registry(CHANNELS, PORTS);
        let mut model = Model::default();
        let (mut next_link, mut next_call) = (0_u64, 0);
        for step in steps {
            match step {
                Step::Enter { server, instance, epoch, moves } => {
                    let link = next_link;
                    next_link += 1;
                    let role = if server { Role::Server } else { Role::Client };
                    let mut ended = model.standing(server, instance);
                    let newest = ended.last().map(|newest| model.links[newest].2);
                    let answer = enter(&mut registry, link, role, id(instance), epoch, moves);
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
                            prop_assert!(model.standing(server, instance).len() <= 2);
                        }
                    }
                }
                Step::Register { link, .. } if model.links.get(&link).is_some_and(|member| !member.0) => {}
                Step::Attach { link, .. } if model.links.get(&link).is_some_and(|member| member.0) => {}
                Step::Register { link, ports } => {
                    let asked: Vec<_> = ports.iter().map(|port| id(*port)).collect();
                    let answer = register(&mut registry, link, &asked);
                    let mut standing = Vec::new();
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
                            standing.push(id(port));
                        }
                    }
                    prop_assert_eq!(answer.standing, standing);
                    let room = (CHANNELS.saturating_sub(model.channels(link)) as usize).min(fitting.len());
                    prop_assert_eq!(answer.next.connected.len(), room);
                    prop_assert_eq!(answer.next.full.len(), fitting.len() - room);
                    for (_, exchange) in &answer.next.connected {
                        prop_assert_eq!(registry.answered(exchange.ticket, Instant::now()), Next::default());
                    }
                    let led = answer.next.connected.iter().map(|(call, exchange)| (*call, Some(exchange.server)));
                    for (call, server) in led.chain(answer.next.full.iter().map(|call| (*call, None))).collect::<Vec<_>>() {
                        prop_assert!(fitting.remove(&call) && server.is_none_or(|server| server == link), "call {}", call);
                        let place = model.waiting.iter().position(|wait| wait.3 == call).expect("it waited");
                        let (client, ..) = model.waiting.remove(place);
                        match server {
                            Some(server) => model.open.push((client, server)),
                            None => registry.release(client),
                        }
                    }
                }
                Step::Unregister { link, ports } => {
                    registry.unregister(link, &ports.iter().map(|port| id(*port)).collect::<Vec<_>>());
                    model.registered.retain(|(other, port)| *other != link || !ports.contains(port));
                }
                Step::Attach { link, port, instance } => {
                    let call = next_call;
                    next_call += 1;
                    let full = !model.links.contains_key(&link) || model.channels(link) >= CHANNELS;
                    let server = model.server_for(port, instance);
                    match attach(&mut registry, link, id(port), instance.map(id), call) {
                        Attached::Full => prop_assert!(full || server.is_some_and(|server| model.channels(server) >= CHANNELS)),
                        Attached::Connected(exchange) => {
                            prop_assert!(!full);
                            prop_assert_eq!(Some(exchange.server), server);
                            prop_assert_eq!(registry.answered(exchange.ticket, Instant::now()), Next::default());
                            model.open.push((link, exchange.server));
                        }
                        Attached::Waiting(wait) => {
                            prop_assert!(!full && server.is_none());
                            model.waiting.push((link, port, instance, call, wait));
                        }
                    }
                }
                Step::Cancel { wait } => if wait < model.waiting.len() {
                    let wait = model.waiting.remove(wait);
                    prop_assert_eq!(registry.cancel(wait.4, Instant::now()).0, Some(wait.3));
                    registry.release(wait.0);
                },
                Step::Hangup { channel } => if channel < model.open.len() {
                    let (client, server) = model.open.remove(channel);
                    registry.release(client);
                    registry.release(server);
                },
                Step::Leave { link } => {
                    let (gone, keep): (Vec<_>, _) = model.waiting.drain(..).partition(|wait| wait.0 == link);
                    model.waiting = keep;
                    let (mut calls, _) = registry.leave(link, Instant::now());
                    calls.sort_unstable();
                    prop_assert_eq!(calls, gone.into_iter().map(|wait| wait.3).collect::<Vec<_>>());
                    for (client, server) in std::mem::take(&mut model.open) {
                        if client == link || server == link {
                            registry.release(if client == link { server } else { client });
                        } else {
                            model.open.push((client, server));
                        }
                    }
                    model.registered.retain(|(other, _)| *other != link);
                    model.links.remove(&link);
                    model.superseded.remove(&link);
                }
            }
            let standing: HashSet<_> = model.links.values().map(|member| (member.0, id(member.1))).filter(|(server, instance)| {
                !model.standing(*server, instance.0[0]).is_empty()
            }).collect();
            prop_assert_eq!(registry.instances.keys().copied().collect::<HashSet<_>>(), standing);
            for (number, member) in &registry.links {
                prop_assert_eq!(member.channels, model.channels(*number), "channels of link {}", number);
            }
            let used: HashSet<u8> = model.registered.iter().map(|(_, port)| *port).collect();
            prop_assert_eq!(registry.ports.len(), used.len(), "nothing is remembered of a key id without need");
            prop_assert_eq!(registry.unanswered.sizes()[0], model.waiting.len());
        }
    }
}
