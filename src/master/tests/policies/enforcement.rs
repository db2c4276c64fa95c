//! Changes of policies and of the time act on what runs.

use super::*;

#[tokio::test]
async fn revoked_credential_ends_its_links_and_others_continue() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut revoked, _) = master.server_with(2, OTHER_PORT).await;
    let (mut server, _) = master.server_with(3, PORT).await;
    let mut client = master.client_with(13).await;
    splice(&mut client, 1, &mut server).await;
    let mut changes = Changes::default();
    let mut credential = record((2, Role::Server));
    credential.credential.revoked = true;
    changes.credentials.push(credential);
    let affected = master.change(changes);
    let id = record((2, Role::Server)).credential.id;
    assert!(affected.credentials.contains(&id));
    revoked.expect_error(Code::Denied).await;
    let reason = master.denied(2, Role::Server, 2).await;
    assert_eq!(reason, Denied::CredentialRevoked.to_string());
    assert_eq!(master.refusals("link", Denied::CredentialRevoked), 2);
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}

#[tokio::test]
async fn credential_that_comes_back_in_another_account_ends_its_links() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut moved, _) = master.server_with(2, PORT).await;
    // It was removed and created again between two reads of the database.
    let mut credential = record((2, Role::Server));
    credential.credential.account = AccountId(3);
    master.change(Changes {
        credentials: vec![credential],
        ..Changes::default()
    });
    moved.expect_error(Code::Denied).await;
    let key = secret(2);
    let again = master.join_with_key(&key, Role::Server, 2, 2, &[]);
    again.await.expect("joined").expect_alive().await;
}

#[tokio::test]
async fn key_that_changes_its_owner_changes_its_server_without_a_new_register() {
    let master = start_deciding(policies(Admission::Owned), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.account = Some(AccountId(3));
        changes.keys.push(key);
    });
    let (mut former, _) = master.server_with(3, PORT).await;
    let (mut next, _) = master.server_with(2, PORT).await;
    let mut client = master.client(9).await;
    let channel = splice(&mut client, 1, &mut former).await;
    master.change(service_key(|key| key.account = Some(AccountId(2))));
    let frames = [former.next().await, former.next().await];
    assert!(
        frames.contains(&Frame::Registered(refused(PORT, Denied::KeyNotOwned))),
        "{frames:?}"
    );
    let is_closed = |frame: &Frame| matches!(frame, Frame::Close { channel: closed, notice } if *closed == channel && notice.code == Code::Denied);
    assert!(frames.iter().any(is_closed), "{frames:?}");
    client.expect_close(1, Code::Denied).await;
    assert_eq!(
        next.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    splice(&mut client, 2, &mut next).await;
}

#[tokio::test]
async fn disabled_key_closes_its_tunnels_and_enabled_again_serves_without_a_new_register() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        changes.keys.push(ServiceKey::new(PORT, "service"));
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut client = master.client(9).await;
    let channel = splice(&mut client, 1, &mut server).await;
    master.change(service_key(|key| key.enabled = false));
    client.expect_close(1, Code::Denied).await;
    let frames = [server.next().await, server.next().await];
    assert!(
        frames.contains(&Frame::Registered(refused(PORT, Denied::KeyDisabled))),
        "{frames:?}"
    );
    let is_closed =
        |frame: &Frame| matches!(frame, Frame::Close { channel: closed, .. } if *closed == channel);
    assert!(frames.iter().any(is_closed), "{frames:?}");
    client.attach(2, PORT).await;
    client.expect_close(2, Code::Denied).await;
    assert_eq!(master.refusals("attach", Denied::KeyDisabled), 2);
    assert_eq!(master.refusals("register", Denied::KeyDisabled), 1);
    master.change(service_key(|_| {}));
    assert_eq!(
        server.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    splice(&mut client, 3, &mut server).await;
}

#[tokio::test]
async fn tunnels_are_counted_by_process_and_a_lower_limit_closes_the_newest() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.limits.counts.tunnels = Some(2);
        changes.keys.push(key);
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let (mut first, mut second) = (master.client(9).await, master.client(10).await);
    splice(&mut first, 1, &mut server).await;
    splice(&mut first, 2, &mut server).await;
    splice(&mut second, 1, &mut server).await;
    let mut third = master.client(11).await;
    third.attach(1, PORT).await;
    third.expect_close(1, Code::Denied).await;
    assert_eq!(master.refusals("attach", Denied::KeyTunnels), 1);
    master.change(service_key(|key| key.limits.counts.tunnels = Some(1)));
    second.expect_close(1, Code::Denied).await;
    first.expect_alive().await;
    drop(first);
    until("the tunnel is forgotten", || {
        master
            .shared
            .router
            .live
            .tunnels_of(policy::LimitSubject::Relay)
            == 0
    })
    .await;
    // The server has seen the ends of three channels.
    for _ in 0..3 {
        assert!(matches!(server.next().await, Frame::Close { .. }));
    }
    splice(&mut third, 2, &mut server).await;
}

#[tokio::test]
async fn lower_limit_of_links_ends_the_newest() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut first, _) = master.server_with(2, PORT).await;
    let mut second = master
        .join_with_key(&secret(2), Role::Server, 22, 1, &[])
        .await
        .expect("joined");
    master.change(account(2, |account| account.limits.counts.links = Some(1)));
    second.expect_error(Code::Denied).await;
    first.expect_alive().await;
}

#[tokio::test]
async fn rate_limits_of_policies_apply_to_running_tunnels_of_their_subjects() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut client = master.client_with(13).await;
    splice(&mut client, 1, &mut server).await;
    let limited = || master.shared.router.rates.limited_pairs();
    assert_eq!(limited(), 0);
    let unlimited = Limits::default;
    for subject in ["server's account", "client's account", "key", "relay"] {
        let change = |limits: Limits| match subject {
            "server's account" => account(2, |account| account.limits = limits),
            "client's account" => account(3, |account| account.limits = limits),
            "key" => service_key(|key| key.limits = limits),
            _ => Changes {
                relay: Some(policy::RelayPolicy {
                    limits,
                    reserve: None,
                }),
                ..Changes::default()
            },
        };
        master.change(change(limits(1_000_000)));
        assert_eq!(limited(), 1, "{subject}");
        master.change(change(unlimited()));
        assert_eq!(limited(), 0, "{subject}");
    }
    // The owner of the key pays, once it has one.
    master.change(account(3, |account| account.limits = limits(1_000_000)));
    assert_eq!(limited(), 1, "the client's account");
    master.change(account(3, |_| {}));
    master.change(account(2, |account| account.limits = limits(1_000_000)));
    assert_eq!(limited(), 1, "the server's account");
    master.change(service_key(|key| key.account = Some(AccountId(3))));
    assert_eq!(limited(), 0, "account 2 does not own the key");
    client.data(1, b"passes").await;
    server.expect_data(1, b"passes").await;
}

#[tokio::test]
async fn stopped_quota_closes_tunnels_and_refuses_new_ones() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        changes.keys.push(ServiceKey::new(PORT, "service"));
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut client = master.client(9).await;
    splice(&mut client, 1, &mut server).await;
    let router = &master.shared.router;
    let key = policy::LimitSubject::Key(PORT);
    let stopped = QuotaState {
        is_stopped: true,
        ..QuotaState::default()
    };
    router.set_quotas(vec![(key, stopped)]);
    client.expect_close(1, Code::Denied).await;
    assert!(matches!(server.next().await, Frame::Close { .. }));
    client.attach(2, PORT).await;
    client.expect_close(2, Code::Denied).await;
    assert_eq!(master.refusals("attach", Denied::KeyQuota), 2);
    let slow = QuotaState {
        slow: limits(64_000).rates,
        ..QuotaState::default()
    };
    router.set_quotas(vec![(key, slow)]);
    splice(&mut client, 3, &mut server).await;
    assert_eq!(router.rates.limited_pairs(), 1);
    router.set_quotas(vec![(key, QuotaState::default())]);
    assert_eq!(router.rates.limited_pairs(), 0);
}

/// Runs the enforcement of a router until the result is dropped.
fn enforcement(router: &Arc<Router>) -> JoinSet<()> {
    let router = Arc::clone(router);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { router.run_enforcement().await });
    tasks
}

#[tokio::test(start_paused = true)]
async fn expiry_acts_at_its_time_and_a_later_validity_begins_at_its_time() {
    let policies = policies(Admission::Open);
    let router = Router::new(&MasterLimits::default(), Arc::clone(&policies));
    let _enforcement = enforcement(&router);
    let of_account = |id| Identity::Credential {
        id: record((id, Role::Server)).credential.id.0,
        account: AccountId(id.into()),
    };
    let mut changes = accounts();
    changes.accounts[1].expires = UnixTime::new(START + 30);
    let mut key = ServiceKey::new(OTHER_PORT, "later");
    key.not_before = UnixTime::new(START + 20);
    changes.keys.push(key);
    policies.apply(changes, true);
    let expiring = enter_link_of(&router, 2, Role::Server, of_account(2));
    let other = enter_link_of(&router, 3, Role::Server, of_account(3));
    assert_eq!(router.register(&expiring, &[PORT]).0, [PORT]);
    let (accepted, refused) = router.register(&other, &[OTHER_PORT]);
    assert_eq!(
        (accepted, refused),
        (vec![], vec![(OTHER_PORT, Denied::KeyNotYetValid)])
    );
    let keys_of = |link: &LinkRef| router.registry().keys_of(link.number);

    let (millisecond, start) = (Duration::from_millis(1), tokio::time::Instant::now());
    tokio::time::sleep_until(start + Duration::from_secs(20) - millisecond).await;
    assert_eq!(keys_of(&other), []);
    tokio::time::sleep(100 * millisecond).await;
    assert_eq!(keys_of(&other), [OTHER_PORT]);
    assert!(!expiring.outbox.is_end_requested());
    tokio::time::sleep_until(start + Duration::from_secs(30) - millisecond).await;
    assert!(!expiring.outbox.is_end_requested());
    tokio::time::sleep(100 * millisecond).await;
    assert!(expiring.outbox.is_end_requested());
    assert!(!other.outbox.is_end_requested());
}

#[tokio::test(start_paused = true)]
async fn boundary_that_a_change_adds_is_noticed() {
    let policies = policies(Admission::Open);
    let router = Router::new(&MasterLimits::default(), Arc::clone(&policies));
    let _enforcement = enforcement(&router);
    policies.apply(accounts(), true);
    let identity = Identity::Credential {
        id: record((2, Role::Server)).credential.id.0,
        account: AccountId(2),
    };
    let link = enter_link_of(&router, 2, Role::Server, identity);
    // The enforcement sleeps without a timer until then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let expires = |account: &mut Account| account.expires = UnixTime::new(START + 8);
    router.change_policies(account(2, expires), false);
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert!(!link.outbox.is_end_requested());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(link.outbox.is_end_requested());
}

#[tokio::test(start_paused = true)]
async fn refused_registrations_are_retried_with_a_pause() {
    let policies = policies(Admission::Open);
    let router = Router::new(&MasterLimits::default(), Arc::clone(&policies));
    let _enforcement = enforcement(&router);
    policies.apply(accounts(), true);
    let of_account = |id| Identity::Credential {
        id: record((id, Role::Server)).credential.id.0,
        account: AccountId(id.into()),
    };
    let holder = enter_link_of(&router, 2, Role::Server, of_account(2));
    let waiting = enter_link_of(&router, 3, Role::Server, of_account(3));
    let keys = [PORT, OTHER_PORT];
    assert_eq!(router.register(&holder, &keys).0, keys);
    assert_eq!(router.register(&waiting, &keys).0, []);
    let registered = || router.registry().keys_of(waiting.number).len();
    let pause = Duration::from_millis(10);
    router.unregister(&holder, &[PORT]);
    tokio::time::sleep(pause).await;
    assert_eq!(registered(), 1, "the first retry is immediate");
    router.unregister(&holder, &[OTHER_PORT]);
    tokio::time::sleep(pause).await;
    assert_eq!(registered(), 1);
    tokio::time::sleep(10 * pause).await;
    assert_eq!(registered(), 2);
}

#[tokio::test]
async fn changed_admission_decides_registrations_again_in_both_directions() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut server, answer) = master.server_with(2, PORT).await;
    assert_eq!(answer, Registered::new(vec![PORT]));
    let router = &master.shared.router;
    router.set_registration_rules(Admission::Owned, UnknownKeys::Refuse);
    assert_eq!(
        server.next().await,
        Frame::Registered(refused(PORT, Denied::KeyNotOwned))
    );
    router.set_registration_rules(Admission::Open, UnknownKeys::Refuse);
    assert_eq!(
        server.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    server.expect_alive().await;
}
