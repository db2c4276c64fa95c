//! Tests of instances with several links.

use super::*;
use crate::master::attach_queue::PENDING_BYTES;

fn slot(number: u8) -> Slot {
    Slot::new(number).expect("a slot")
}

/// Adds a server's link with this number in a slot of an instance, and registers the key id.
fn add_server(registry: &mut Registry<Handle, AttachId>, link: u64, instance: u8, number: u8) {
    let name = (id(instance), slot(number));
    assert_eq!(
        add_slot(registry, link, Role::Server, name, link, false),
        Ok(vec![]),
        "no other link ends"
    );
    assert_eq!(register(registry, link, &[PORT]).accepted, [PORT]);
}

/// Creates a registry with the client 100 and a server for each pair of an instance and the number
/// of its links. The links are numbered from 1.
fn with_slots(instances: &[(u8, u8)]) -> Registry<Handle, AttachId> {
    let mut registry = registry(1_000, 8);
    let mut link = 0;
    for &(instance, links) in instances {
        for number in 0..links {
            link += 1;
            add_server(&mut registry, link, instance, number);
        }
    }
    add_link(&mut registry, 100, Role::Client, id(100), 1, false).expect("entered");
    registry
}

/// Attaches `count` times and answers each request. Returns the number of channels of each link.
fn channels(
    registry: &mut Registry<Handle, AttachId>,
    instance: Option<Id>,
    count: AttachId,
) -> Vec<(u64, usize)> {
    let mut channels = std::collections::BTreeMap::new();
    for attach_id in 0..count {
        let RouteResult::Assigned(assignment) =
            attach(registry, 100, PORT, instance, 1_000 + attach_id)
        else {
            panic!("a server has room")
        };
        registry.on_answer(assignment.ticket, Instant::now());
        *channels.entry(assignment.server).or_default() += 1;
    }
    channels.into_iter().collect()
}

#[test]
fn links_of_different_slots_do_not_supersede_each_other() {
    let mut registry = with_slots(&[(1, 3)]);
    let in_slot = |registry: &mut Registry<Handle, AttachId>, link, number, epoch, moves| {
        let name = (id(1), slot(number));
        add_slot(registry, link, Role::Server, name, epoch, moves)
    };
    // The links 1, 2 and 3 have the slots 0, 1 and 2, and their number as epoch.
    assert_eq!(
        in_slot(&mut registry, 9, 1, 2, false),
        Err(Superseded(2)),
        "epochs count for each slot"
    );
    assert_eq!(in_slot(&mut registry, 10, 1, 3, false), Ok(vec![2]));
    assert_eq!(in_slot(&mut registry, 11, 2, 4, true), Ok(vec![]));
    assert_eq!(
        in_slot(&mut registry, 12, 2, 5, true),
        Ok(vec![3]),
        "two links for each slot"
    );
    assert_eq!(register(&mut registry, 1, &[PORT]).accepted, [PORT]);
    assert_eq!(register(&mut registry, 11, &[PORT]).accepted, []);
    registry.remove_link(12, Instant::now());
    assert_eq!(
        register(&mut registry, 11, &[PORT]).accepted,
        [PORT],
        "the older link of the slot serves again"
    );
}

#[test]
fn an_account_cannot_take_over_the_link_of_another_one() {
    let mut registry = registry(8, 8);
    let mut add = |link, account, epoch| {
        registry.add_link(AuthenticatedLink {
            link,
            party: IpAddr::from([10, 0, 0, 1]),
            role: Role::Server,
            account: Some(AccountId(account)),
            instance: id(1),
            slot: Slot::FIRST,
            epoch,
            moves: false,
            handle: link,
        })
    };
    assert_eq!(add(1, 2, 1), Ok(vec![]));
    assert_eq!(add(2, 3, u64::MAX), Ok(vec![]), "no link ends");
    assert_eq!(add(3, 2, 2), Ok(vec![1]), "and no epoch is too low");
    assert_eq!(register(&mut registry, 3, &[PORT]).accepted, [PORT]);
}

#[test]
fn attaches_spread_over_the_links_of_an_instance() {
    for instance in [None, Some(id(1))] {
        let mut registry = with_slots(&[(1, 4)]);
        assert_eq!(
            channels(&mut registry, instance, 4),
            [(1, 1), (2, 1), (3, 1), (4, 1)]
        );
        assert_eq!(
            channels(&mut registry, instance, 6),
            [(1, 2), (2, 2), (3, 1), (4, 1)]
        );
        registry.release_channel(4);
        assert_eq!(channels(&mut registry, instance, 1), [(4, 1)]);
    }
}

#[test]
fn lowest_slot_and_then_the_oldest_link_wins_a_tie() {
    let mut registry = registry(8, 8);
    // A higher slot was linked first.
    for (link, number) in [(1, 5), (2, 0), (3, 2)] {
        add_server(&mut registry, link, 1, number);
    }
    add_link(&mut registry, 100, Role::Client, id(100), 1, false).expect("entered");
    let order: Vec<_> = (0..3)
        .filter_map(|attach_id| server_of(&attach(&mut registry, 100, PORT, None, attach_id)))
        .collect();
    assert_eq!(order, [2, 3, 1]);
}

#[test]
fn instance_with_many_links_gets_as_many_tunnels_as_one_with_a_single_link() {
    let mut registry = with_slots(&[(1, 8), (2, 1)]);
    let channels = channels(&mut registry, None, 160);
    let of_single: usize = channels
        .iter()
        .filter(|(link, _)| *link == 9)
        .map(|(_, count)| count)
        .sum();
    assert_eq!(of_single, 80, "{channels:?}");
    assert!(
        channels[..8].iter().all(|(_, count)| *count == 10),
        "{channels:?}"
    );
}

#[test]
fn avoided_instance_with_a_free_link_is_the_last_choice() {
    let mut registry = with_slots(&[(1, 4), (2, 1)]);
    channels(&mut registry, Some(id(2)), 20);
    let attached = registry.attach(100, &header(&[id(1)]), 400, Instant::now(), 0);
    assert_eq!(server_of(&attached), Some(5));
}

#[test]
fn full_link_leaves_attaches_to_the_other_links_of_its_instance() {
    let mut registry = registry(2, 8);
    for (link, number) in [(1, 0), (2, 1)] {
        add_server(&mut registry, link, 1, number);
    }
    for client in 100..105 {
        let instance = id(client as u8);
        add_link(&mut registry, client, Role::Client, instance, 1, false).expect("entered");
    }
    let results: Vec<_> = (100..105)
        .map(|client| attach(&mut registry, client, PORT, Some(id(1)), client as AttachId))
        .collect();
    let servers: Vec<_> = results.iter().filter_map(server_of).collect();
    assert_eq!(servers, [1, 2, 1, 2]);
    assert_eq!(results[4], RouteResult::Full, "both links are full");
}

#[test]
fn link_that_leaves_requests_unanswered_is_the_last_of_its_instance() {
    let mut registry = with_slots(&[(1, 2)]);
    let attached = attach(&mut registry, 100, PORT, None, 0);
    assert_eq!(server_of(&attached), Some(1));
    registry.expire(
        Instant::now() + crate::master::attach_queue::PENDING_TIMEOUT,
        9,
    );
    registry.release_channel(1);
    assert_eq!(channels(&mut registry, None, 3), [(2, 3)]);
}

#[test]
fn pending_bytes_of_each_link_are_bounded_separately() {
    let mut registry = with_slots(&[(1, 2)]);
    let pending = |registry: &mut Registry<Handle, AttachId>| {
        let results: Vec<_> = (0..900)
            .map(|attach_id| attach(registry, 100, PORT, None, attach_id))
            .collect();
        let servers = results.iter().filter_map(server_of);
        servers.fold([0, 0], |[first, second], server| match server {
            1 => [first + 1, second],
            _ => [first, second + 1],
        })
    };
    let [first, second] = pending(&mut registry);
    let most = PENDING_BYTES / 656 + 1;
    assert_eq!([first, second], [most, most]);
}

#[test]
fn client_with_eight_links_and_client_with_one_get_the_same_turns() {
    let mut registry = registry(4_000, 8);
    add_server(&mut registry, 1, 1, 0);
    let one = 20;
    let add_client = |registry: &mut Registry<Handle, AttachId>, link, instance, number, party| {
        let new_link = AuthenticatedLink {
            link,
            party: IpAddr::from([10, 0, 1, party]),
            role: Role::Client,
            account: None,
            instance: id(instance),
            slot: slot(number),
            epoch: 1,
            moves: false,
            handle: link,
        };
        registry.add_link(new_link).expect("entered");
    };
    let eight = 10..18_u64;
    for link in eight.clone() {
        add_client(&mut registry, link, 10, (link - 10) as u8, 1);
    }
    add_client(&mut registry, one, 20, 0, 2);
    // The attach id is the client's link. The first ones fill the server.
    let mut pending = std::collections::VecDeque::new();
    for link in eight.clone().chain([one]).cycle().take(9 * 400) {
        if let RouteResult::Assigned(assignment) =
            attach(&mut registry, link, PORT, None, link as AttachId)
        {
            pending.push_back(assignment.ticket);
        }
    }
    let mut turns = [0, 0];
    for _ in 0..400 {
        let ticket = pending.pop_front().expect("the server is never idle");
        for (attach_id, assignment) in registry.on_answer(ticket, Instant::now()).assigned {
            turns[usize::from(u64::from(attach_id) == one)] += 1;
            pending.push_back(assignment.ticket);
        }
    }
    assert_eq!(turns, [200, 200]);
}
