//! Tests of the registry: single cases here, a comparison with a simple model in `model`.

mod limits;
mod model;
mod refusals;
mod slots;

use super::*;

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
    add_slot(registry, link, role, (instance, Slot::FIRST), epoch, moves)
}

fn add_slot(
    registry: &mut Registry<Handle, AttachId>,
    link: u64,
    role: Role,
    (instance, slot): (Id, Slot),
    epoch: u64,
    moves: bool,
) -> Result<Vec<Handle>, Superseded> {
    // Two links for each party, so that turns between parties and between links both occur.
    let party = IpAddr::from([10, 0, 0, (link / 2) as u8]);
    registry.add_link(AuthenticatedLink {
        link,
        party,
        role,
        account: None,
        instance,
        slot,
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
    registry.register(link, ports, Instant::now(), |_| Ok(()))
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
fn third_link_of_a_slot_ends_the_older_one_that_is_not_in_use() {
    // For each of the two older links: whether it has a channel, and whether the role sent DATA.
    let (unused, answered, in_use) = ((false, false), (true, false), (true, true));
    for (first, second, ended) in [
        (in_use, unused, 2),
        (in_use, answered, 2),
        (in_use, (false, true), 2),
        (in_use, in_use, 1),
        (answered, unused, 1),
        (unused, in_use, 1),
        (unused, unused, 1),
    ] {
        let mut registry = with_servers(0);
        for (link, (has_channel, has_sent_data)) in [(1, first), (2, second)] {
            add_link(&mut registry, link, Role::Server, id(1), link, true).expect("entered");
            register(&mut registry, link, &[PORT]);
            if has_channel {
                let attached = attach(&mut registry, 100, PORT, None, link as AttachId);
                assert_eq!(server_of(&attached), Some(link));
            }
            if has_sent_data {
                registry.on_data(link);
            }
        }
        assert_eq!(
            add_link(&mut registry, 3, Role::Server, id(1), 3, true),
            Ok(vec![ended]),
            "{first:?}, {second:?}"
        );
        let kept = 3 - ended;
        assert_eq!(register(&mut registry, kept, &[PORT]).accepted, []);
        registry.remove_link(ended, Instant::now());
        registry.remove_link(3, Instant::now());
        assert_eq!(
            register(&mut registry, kept, &[PORT]).accepted,
            [PORT],
            "the link that was kept serves again"
        );
    }
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
fn removed_link_leaves_no_attach_or_registration() {
    let mut registry = with_servers(1);
    assert!(matches!(
        attach(&mut registry, 100, id(50), None, 5),
        RouteResult::Waiting(_)
    ));
    assert_eq!(registry.remove_link(100, Instant::now()).0, [5]);
    registry.remove_link(1, Instant::now());
    assert_eq!(
        (registry.ports.len(), registry.slots.len(), registry.links()),
        (0, 0, 0)
    );
    assert_eq!(registry.attach_queue.sizes(), [0; 4]);
}
