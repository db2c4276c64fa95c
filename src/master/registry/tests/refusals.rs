//! Tests of refused registrations, and of the numbers that decisions get.

use super::*;

const ACCOUNTS: [Option<AccountId>; 3] = [None, Some(AccountId(2)), Some(AccountId(3))];

/// Adds a server's link of the account with this index.
fn add_server(registry: &mut Registry<Handle, AttachId>, link: u64, account: usize) {
    let ended = registry.add_link(AuthenticatedLink {
        link,
        party: IpAddr::from([10, 0, 0, 1]),
        role: Role::Server,
        account: ACCOUNTS[account],
        instance: id(link as u8),
        slot: Slot::FIRST,
        epoch: 1,
        moves: false,
        handle: link,
    });
    assert_eq!(ended, Ok(Vec::new()));
}

/// Registers key ids if `decide` admits them. Returns the candidates, too.
fn decided(
    registry: &mut Registry<Handle, AttachId>,
    link: u64,
    keys: &[Id],
    decide: impl Fn(&Candidate) -> Result<(), Denied>,
) -> (Registered<Handle, AttachId>, Vec<Candidate>) {
    let mut candidates = Vec::new();
    let registered = registry.register(link, keys, Instant::now(), |candidate| {
        candidates.push(*candidate);
        decide(candidate)
    });
    (registered, candidates)
}

fn candidate(key: Id, holder: usize, key_links: u32, account_keys: u32) -> Candidate {
    Candidate {
        key,
        holder: ACCOUNTS[holder],
        key_links,
        account_keys,
    }
}

#[test]
fn decisions_get_the_numbers_of_the_other_registrations() {
    let mut registry = registry(8, 8);
    for (link, account) in [(1, 1), (2, 1), (3, 2)] {
        add_server(&mut registry, link, account);
    }
    let (_, first) = decided(&mut registry, 1, &[id(1), id(2)], |_| Ok(()));
    assert_eq!(
        first,
        [candidate(id(1), 0, 0, 0), candidate(id(2), 0, 0, 1)]
    );
    let (_, again) = decided(&mut registry, 1, &[id(1)], |_| Ok(()));
    assert_eq!(again, [candidate(id(1), 0, 0, 1)], "without itself");
    let (_, second) = decided(&mut registry, 2, &[id(1)], |_| Ok(()));
    assert_eq!(second, [candidate(id(1), 1, 1, 1)]);
    let (_, other) = decided(&mut registry, 3, &[id(1)], |_| Ok(()));
    assert_eq!(other, [candidate(id(1), 1, 2, 0)]);
    let (_, own) = decided(&mut registry, 2, &[id(1)], |_| Ok(()));
    assert_eq!(
        own,
        [candidate(id(1), 1, 2, 1)],
        "its own account comes first"
    );
    registry.remove_link(1, Instant::now());
    registry.remove_link(2, Instant::now());
    let (_, left) = decided(&mut registry, 3, &[id(2)], |_| Ok(()));
    assert_eq!(left, [candidate(id(2), 0, 0, 1)]);
}

#[test]
fn refused_key_ids_stay_on_record_until_they_are_withdrawn_or_registered() {
    let mut registry = registry(8, 8);
    add_server(&mut registry, 1, 1);
    let (registered, _) = decided(&mut registry, 1, &[id(1), id(2)], |candidate| {
        let is_refused = candidate.key == id(1);
        is_refused.then_some(Denied::KeyHeld).map_or(Ok(()), Err)
    });
    assert_eq!(registered.accepted, [id(2)]);
    assert_eq!(registered.refused, [(id(1), Denied::KeyHeld)]);
    assert_eq!(registry.still_refused(1, &[id(1), id(2)]), [id(1)]);
    assert_eq!((registry.keys_of(1), registry.key_ids()), (vec![id(2)], 1));
    registry.refuse(1, id(2), Denied::KeyDisabled);
    assert_eq!(registry.keys_of(1), []);
    let refused: Vec<_> = registry.refused().map(|(_, _, keys)| keys.len()).collect();
    assert_eq!(refused, [2]);
    assert_eq!(register(&mut registry, 1, &[id(1)]).accepted, [id(1)]);
    registry.unregister(1, &[id(2)]);
    assert_eq!(registry.refused().count(), 0);
    assert_eq!(registry.keys_of(1), [id(1)]);
}

#[test]
fn refused_key_ids_count_towards_the_limit_of_the_link() {
    let mut registry = registry(8, 2);
    add_server(&mut registry, 1, 1);
    let (registered, _) = decided(&mut registry, 1, &[id(1), id(2), id(3)], |_| {
        Err(Denied::KeyUnknown)
    });
    assert_eq!(registered.refused.len(), 2);
    let (registered, _) = decided(&mut registry, 1, &[id(2), id(3)], |_| Ok(()));
    assert_eq!(registered.accepted, [id(2)]);
}

#[test]
fn the_end_of_a_registration_is_noted_only_while_another_is_refused() {
    let mut registry = registry(8, 8);
    for link in [1, 2] {
        add_server(&mut registry, link, 1);
        register(&mut registry, link, &[id(1)]);
    }
    registry.unregister(1, &[id(1)]);
    assert!(!registry.take_room_for_refused());
    decided(&mut registry, 1, &[id(1)], |_| Err(Denied::KeyLinks));
    assert!(!registry.take_room_for_refused());
    registry.remove_link(2, Instant::now());
    assert!(registry.take_room_for_refused());
    assert!(!registry.take_room_for_refused());
    // The refusals of an ended link are forgotten.
    registry.remove_link(1, Instant::now());
    add_server(&mut registry, 3, 1);
    register(&mut registry, 3, &[id(1)]);
    registry.unregister(3, &[id(1)]);
    assert!(!registry.take_room_for_refused());
}

#[test]
fn another_account_gets_no_key_id_while_a_newer_link_takes_over() {
    for is_registered in [false, true] {
        let mut registry = registry(8, 8);
        add_server(&mut registry, 1, 1);
        add_server(&mut registry, 2, 2);
        decided(&mut registry, 1, &[PORT], |_| Ok(()));
        let newer = registry.add_link(AuthenticatedLink {
            link: 3,
            party: IpAddr::from([10, 0, 0, 1]),
            role: Role::Server,
            account: ACCOUNTS[1],
            instance: id(1),
            slot: Slot::FIRST,
            epoch: 2,
            moves: true,
            handle: 3,
        });
        assert_eq!(newer, Ok(Vec::new()));
        // The newer link has not registered the key id yet.
        let (_, asked) = decided(&mut registry, 2, &[PORT], |_| Err(Denied::KeyHeld));
        assert_eq!(asked, [candidate(PORT, 1, 0, 0)]);
        if is_registered {
            let (_, own) = decided(&mut registry, 3, &[PORT], |_| Ok(()));
            assert_eq!(own, [candidate(PORT, 0, 0, 0)]);
            registry.take_room_for_refused();
            registry.unregister(3, &[PORT]);
        } else {
            registry.take_room_for_refused();
            registry.remove_link(3, Instant::now());
        }
        assert!(registry.take_room_for_refused(), "another one may ask");
        let (_, asked) = decided(&mut registry, 2, &[PORT], |_| Ok(()));
        assert_eq!(asked, [candidate(PORT, 0, 0, 0)]);
    }
}
