use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn key(number: u8) -> Id {
    Id([number; 16])
}

/// A pair of an anonymous client with this instance, charged to an account.
fn pair(instance: u8, number: u8, owner: i64) -> LivePair {
    LivePair {
        tunnel: TunnelKey {
            client: Identity::Anonymous,
            instance: key(instance),
            key: key(number),
        },
        client: instance.into(),
        server: 1,
        server_account: Some(AccountId(owner)),
        owner: Some(AccountId(owner)),
        visitor: HERE,
    }
}

fn enter(live: &Arc<LiveKeys<()>>, pair: LivePair, handle: &Arc<()>) -> Entered<()> {
    let entered = live.enter(pair, Arc::downgrade(handle), 7, |_| Ok(()));
    entered.expect("admitted")
}

fn counts(live: &Arc<LiveKeys<()>>, account: i64) -> [u32; 3] {
    [
        LimitSubject::Key(key(1)),
        LimitSubject::Account(AccountId(account)),
        LimitSubject::Relay,
    ]
    .map(|subject| live.tunnels_of(subject))
}

#[test]
fn pairs_of_one_process_and_key_are_one_tunnel() {
    let (live, handle) = (LiveKeys::new(), Arc::new(()));
    let first = enter(&live, pair(1, 1, 2), &handle);
    let lane = enter(&live, pair(1, 1, 2), &handle);
    let other = enter(&live, pair(2, 1, 2), &handle);
    assert_eq!(
        [first.is_new, lane.is_new, other.is_new],
        [true, false, true]
    );
    assert_eq!((first.tunnel, lane.tunnel), (1, 1));
    assert_eq!(counts(&live, 2), [2, 2, 2]);
    assert_eq!(lane.entry.forget(), None);
    assert_eq!(counts(&live, 2), [2, 2, 2]);
    assert_eq!(
        first.entry.forget(),
        Some(EndedTunnel {
            number: 1,
            key: key(1)
        })
    );
    assert_eq!(counts(&live, 2), [1, 1, 1]);
    drop(other);
    assert_eq!(counts(&live, 2), [0, 0, 0]);
    assert_eq!((live.pairs(), live.subjects()), (vec![], vec![]));
}

#[test]
fn surplus_pairs_of_a_process_count_as_further_tunnels() {
    assert_eq!(PAIRS_PER_TUNNEL, 2 * crate::tunnel::LANES_MAX);
    let (live, handle) = (LiveKeys::new(), Arc::new(()));
    let tunnel = pair(1, 1, 2).tunnel;
    let is_further = || live.counts(&tunnel, None).is_further;
    let mut entries = Vec::new();
    for _ in 0..PAIRS_PER_TUNNEL {
        assert!(!is_further());
        entries.push(enter(&live, pair(1, 1, 2), &handle));
        assert_eq!(counts(&live, 2), [1, 1, 1]);
    }
    assert!(is_further());
    let surplus = enter(&live, pair(1, 1, 2), &handle);
    assert_eq!((surplus.is_new, surplus.tunnel), (false, 1));
    assert_eq!(counts(&live, 2), [2, 2, 2]);
    assert!(!is_further());
    assert_eq!(live.tunnels().len(), 1, "the master sees one");
    // Any pair may end.
    assert_eq!(entries.remove(0).entry.forget(), None);
    assert_eq!(counts(&live, 2), [1, 1, 1]);
    drop(surplus);
    while let Some(entered) = entries.pop() {
        assert_eq!(counts(&live, 2), [1, 1, 1]);
        drop(entered);
    }
    assert_eq!(counts(&live, 2), [0, 0, 0]);
    assert_eq!(live.subjects(), vec![]);
}

#[test]
fn refused_pair_leaves_nothing() {
    let live = LiveKeys::<()>::new();
    let entered = live.enter(pair(1, 1, 2), Weak::new(), 7, |counts| {
        assert_eq!(
            counts,
            &TunnelCounts {
                is_new: true,
                ..TunnelCounts::default()
            }
        );
        Err(Denied::KeyTunnels)
    });
    assert_eq!(entered.err(), Some(Denied::KeyTunnels));
    assert_eq!(counts(&live, 2), [0, 0, 0]);
}

#[test]
fn client_of_another_account_counts_for_both() {
    let (live, handle) = (LiveKeys::new(), Arc::new(()));
    let of_account = |account| {
        let mut pair = pair(1, 1, 2);
        pair.tunnel.client = Identity::Credential {
            id: key(9),
            account: AccountId(account),
        };
        pair
    };
    let foreign = enter(&live, of_account(3), &handle);
    assert_eq!([counts(&live, 2)[1], counts(&live, 3)[1]], [1, 1]);
    let own = enter(&live, of_account(2), &handle);
    assert_eq!(counts(&live, 2)[1], 2, "counted once");
    let numbers = |account| live.pairs_of([], [AccountId(account)]).len();
    assert_eq!([numbers(2), numbers(3)], [2, 1]);
    foreign.entry.set_owner(Some(AccountId(4)));
    assert_eq!([numbers(2), numbers(3), numbers(4)], [1, 1, 1]);
    drop((foreign, own));
    assert_eq!([numbers(2), numbers(3), numbers(4)], [0, 0, 0]);
    assert_eq!([counts(&live, 2)[1], counts(&live, 3)[1]], [0, 0]);
}

#[test]
fn tunnels_are_listed_with_their_pairs_in_the_order_of_their_age() {
    let (live, handle) = (LiveKeys::new(), Arc::new(()));
    let _entries =
        [pair(2, 1, 2), pair(1, 1, 2), pair(2, 1, 2)].map(|pair| enter(&live, pair, &handle).entry);
    let listed = live.tunnels().into_iter().map(|view| {
        let pairs = view.pairs.iter().map(|(pair, _)| pair.tunnel.instance);
        (view.number, view.since, pairs.collect::<Vec<_>>())
    });
    assert_eq!(
        listed.collect::<Vec<_>>(),
        [(1, 7, vec![key(2), key(2)]), (2, 7, vec![key(1)])]
    );
    assert_eq!(live.tunnel(2).map(|view| view.pairs.len()), Some(1));
    assert!(live.tunnel(3).is_none());
}
