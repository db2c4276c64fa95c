//! Decisions about links, registrations and attachments.

use super::*;

#[tokio::test]
async fn owned_admits_only_the_owner_and_refuses_without_ending_the_link() {
    let master = start_deciding(policies(Admission::Owned), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.account = Some(AccountId(3));
        changes.keys.push(key);
    });
    let (mut owner, answer) = master.server_with(3, PORT).await;
    assert_eq!(answer, Registered::new(vec![PORT]));
    let mut client = master.client(9).await;
    splice(&mut client, 1, &mut owner).await;
    let (mut other, answer) = master.server_with(2, PORT).await;
    assert_eq!(answer, refused(PORT, Denied::KeyNotOwned));
    other.expect_alive().await;
    // The client's next attach reaches the owner, too.
    splice(&mut client, 2, &mut owner).await;
    client.data(1, b"unnoticed").await;
    owner.expect_data(1, b"unnoticed").await;
    // The master key is an account like others.
    let mut server = master.join(Role::Server, 1, 1, &[]).await.expect("joined");
    server
        .send(Frame::Register(Ports { ports: vec![PORT] }))
        .await;
    assert_eq!(
        server.next().await,
        Frame::Registered(refused(PORT, Denied::KeyNotOwned))
    );
}

#[tokio::test]
async fn open_does_not_let_another_account_take_over_a_key_until_its_server_leaves() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut holder, answer) = master.server_with(2, PORT).await;
    assert_eq!(answer, Registered::new(vec![PORT]));
    let (mut other, answer) = master.server_with(3, PORT).await;
    assert_eq!(answer, refused(PORT, Denied::KeyHeld));
    // Another process of the same account may serve it, too.
    let register = Frame::Register(Ports { ports: vec![PORT] });
    let mut second = master
        .join_with_key(&secret(2), Role::Server, 22, 1, &[register])
        .await
        .expect("joined");
    assert_eq!(
        second.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    holder
        .send(Frame::Unregister(Ports { ports: vec![PORT] }))
        .await;
    holder.expect_alive().await;
    other.expect_alive().await;
    drop(second);
    assert_eq!(
        other.next().await,
        Frame::Registered(Registered::new(vec![PORT])),
        "the last holder has left"
    );
    let mut client = master.client(9).await;
    splice(&mut client, 1, &mut other).await;
}

#[tokio::test]
async fn known_refuses_other_keys_and_their_clients_wait_as_for_an_absent_server() {
    let master = start_deciding(policies(Admission::Known), |changes| {
        changes.keys.push(ServiceKey::new(PORT, "service"));
    });
    let (_known, answer) = master.server_with(2, PORT).await;
    assert_eq!(answer, Registered::new(vec![PORT]));
    let (mut unknown, answer) = master.server_with(3, OTHER_PORT).await;
    assert_eq!(answer, refused(OTHER_PORT, Denied::KeyUnknown));
    let mut client = master.client(9).await;
    client.attach(1, OTHER_PORT).await;
    client.expect_alive().await;
    let mut key = ServiceKey::new(OTHER_PORT, "other");
    key.account = Some(AccountId(3));
    master.change(Changes {
        keys: vec![key],
        ..Changes::default()
    });
    let frames = [unknown.next().await, unknown.next().await];
    assert!(
        frames.contains(&Frame::Registered(Registered::new(vec![OTHER_PORT]))),
        "{frames:?}"
    );
    assert!(
        frames.contains(&attach(1, OTHER_PORT, None, b"first")),
        "the waiting client is not told of the change: {frames:?}"
    );
}

#[tokio::test]
async fn refused_key_id_that_is_withdrawn_is_not_registered_later() {
    let master = start_deciding(policies(Admission::Owned), |_| {});
    let (mut server, answer) = master.server_with(2, PORT).await;
    assert_eq!(answer, refused(PORT, Denied::KeyNotOwned));
    server
        .send(Frame::Unregister(Ports { ports: vec![PORT] }))
        .await;
    server.expect_alive().await;
    master.change(service_key(|key| key.account = Some(AccountId(2))));
    server.expect_alive().await;
    assert_eq!(master.shared.router.registry().key_ids(), 0);
}

#[tokio::test]
async fn two_clients_that_attach_at_once_do_not_exceed_a_limit() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.limits.counts.tunnels = Some(1);
        changes.keys.push(key);
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let (mut first, mut second) = (master.client(9).await, master.client(10).await);
    first.attach(1, PORT).await;
    second.attach(1, PORT).await;
    let mut channels = Vec::new();
    for _ in 0..2 {
        let Frame::Attach { channel, .. } = server.next().await else {
            panic!("an ATTACH was expected")
        };
        channels.push(channel);
    }
    for channel in &channels {
        server.data(*channel, b"answer").await;
    }
    let Frame::Close { channel, notice } = server.next().await else {
        panic!("CLOSE was expected")
    };
    assert!(channels.contains(&channel) && notice.code == Code::Denied);
    let answers = [first.next().await, second.next().await];
    let is_closed = |frame: &&Frame| matches!(frame, Frame::Close { notice, .. } if notice.code == Code::Denied);
    assert_eq!(answers.iter().filter(is_closed).count(), 1, "{answers:?}");
}

#[tokio::test]
async fn key_may_demand_a_credential() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.needs_credential = true;
        changes.keys.push(key);
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut anonymous = master.client(9).await;
    anonymous.attach(1, PORT).await;
    anonymous.expect_close(1, Code::Denied).await;
    let mut named = master.client_with(13).await;
    splice(&mut named, 1, &mut server).await;
}

#[tokio::test]
async fn links_of_an_account_are_limited_and_a_newer_link_of_a_slot_takes_over() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        changes.accounts[1].limits.counts.links = Some(1);
    });
    let (mut first, _) = master.server_with(2, PORT).await;
    let reason = master.denied(2, Role::Server, 21).await;
    assert_eq!(reason, Denied::AccountLinks.to_string());
    let newer = master
        .join_with_key(&secret(2), Role::Server, 2, 2, &[])
        .await;
    assert!(newer.is_ok(), "{:?}", newer.err());
    first.expect_error(Code::Superseded).await;
    let (mut other, _) = master.server_with(3, OTHER_PORT).await;
    other.expect_alive().await;
}

#[tokio::test]
async fn master_key_can_be_absent_or_disabled() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        changes.accounts[0].enabled = false;
    });
    let joined = master.join(Role::Server, 1, 1, &[]).await;
    assert!(
        matches!(&joined, Err(JoinError::Denied(notice)) if notice.reason == Denied::AccountDisabled.to_string()),
        "{:?}",
        joined.err()
    );
    assert!(
        master
            .join_with_key(&secret(2), Role::Server, 2, 1, &[])
            .await
            .is_ok()
    );
    let absent = policies(Admission::Open);
    absent.apply(accounts(), true);
    let master = start_with(|parameters| {
        (parameters.link_key, parameters.policies) = (None, absent);
    });
    let joined = master.join(Role::Server, 1, 1, &[]).await;
    assert!(
        matches!(joined, Err(JoinError::Unauthorized(_))),
        "{:?}",
        joined.err()
    );
    assert!(
        master
            .join_with_key(&secret(2), Role::Server, 2, 1, &[])
            .await
            .is_ok()
    );
}

fn away() -> Option<StoreProblem> {
    Some(StoreProblem {
        cause: "no answer".to_owned(),
        since: START,
        is_away: true,
    })
}

#[tokio::test]
async fn unknown_keys_are_admitted_while_the_database_is_away_if_configured() {
    for (unknown, is_admitted) in [(UnknownKeys::Admit, true), (UnknownKeys::Refuse, false)] {
        let policies = MasterPolicies::new(Admission::Owned, unknown, TestClock::start());
        let master = start_deciding(policies, |changes| {
            let mut key = ServiceKey::new(OTHER_PORT, "of account 3");
            key.account = Some(AccountId(3));
            changes.keys.push(key);
        });
        let (mut server, answer) = master.server_with(2, PORT).await;
        assert_eq!(answer, refused(PORT, Denied::KeyNotOwned));
        let router = &master.shared.router;
        router.set_store_problem(away());
        if is_admitted {
            assert_eq!(
                server.next().await,
                Frame::Registered(Registered::new(vec![PORT]))
            );
        }
        server
            .send(Frame::Register(Ports {
                ports: vec![OTHER_PORT],
            }))
            .await;
        assert_eq!(
            server.next().await,
            Frame::Registered(refused(OTHER_PORT, Denied::KeyNotOwned)),
            "what is known stays in force"
        );
        router.set_store_problem(None);
        if is_admitted {
            assert_eq!(
                server.next().await,
                Frame::Registered(refused(PORT, Denied::KeyNotOwned))
            );
        }
        server.expect_alive().await;
    }
}

#[tokio::test]
async fn degraded_master_is_ready_and_says_since_when() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let observer = MasterObserver(Arc::clone(&master.shared));
    assert_eq!(observer.degraded(), []);
    master.shared.router.set_store_problem(away());
    assert_eq!(observer.missing(), Vec::<String>::new());
    let degraded = observer.degraded();
    assert_eq!(
        (degraded[0].what.as_str(), degraded[0].since),
        ("no answer", START)
    );
    master.shared.router.set_store_problem(None);
    assert_eq!(observer.degraded(), []);
}

#[tokio::test]
async fn tunnels_of_other_masters_count() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.limits.counts.tunnels = Some(2);
        key.limits.counts.attachments_per_minute = Some(5);
        changes.keys.push(key);
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut client = master.client(9).await;
    let set_others = |tunnels, attachments| {
        let live = policy::LiveCounts {
            tunnels,
            attachments,
            ..policy::LiveCounts::default()
        };
        let others = [(policy::LimitSubject::Key(PORT), live)];
        master.shared.router.policies.set_others(others.into());
    };
    set_others(2, 0);
    client.attach(1, PORT).await;
    client.expect_close(1, Code::Denied).await;
    set_others(1, 5);
    client.attach(2, PORT).await;
    client.expect_close(2, Code::Denied).await;
    assert_eq!(master.refusals("attach", Denied::KeyAttachments), 1);
    set_others(1, 4);
    splice(&mut client, 3, &mut server).await;
    // Running tunnels are no new attachments.
    set_others(1, 100);
    master.change(service_key(|key| {
        key.limits.counts.attachments_per_minute = Some(1);
    }));
    client.expect_alive().await;
}

#[tokio::test]
async fn client_with_more_channels_than_lanes_uses_up_the_tunnels_of_a_key() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        let mut key = ServiceKey::new(PORT, "service");
        key.limits.counts.tunnels = Some(1);
        changes.keys.push(key);
    });
    let mut server = master.server(1, &[PORT]).await;
    let mut client = master.client(9).await;
    let lanes = u32::try_from(crate::master::policies::PAIRS_PER_TUNNEL).expect("a small number");
    for channel in 1..=lanes {
        splice(&mut client, channel, &mut server).await;
    }
    client.attach(lanes + 1, PORT).await;
    client.expect_close(lanes + 1, Code::Denied).await;
    assert_eq!(master.refusals("attach", Denied::KeyTunnels), 1);
    // A lane that ended makes room for another.
    client.close(1).await;
    server.expect_close(1, Code::Cancelled).await;
    splice(&mut client, lanes + 2, &mut server).await;
}
