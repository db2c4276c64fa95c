//! Tests of the limits of channels: pauses, memory, timeouts and misbehaviour.

use super::*;
use crate::master::{
    attach_queue::{PENDING_TIMEOUT, WAITING_TIMEOUT},
    channel_queue::CHANNEL_HIGH_WATER,
    router::{MAINTENANCE_INTERVAL, MAX_FIRST_MESSAGE},
};
use report_proto::frame::{Code, Notice};

#[tokio::test]
async fn waiting_attaches_are_limited_to_an_eighth_of_the_memory() {
    let master = start_with(|parameters| parameters.limits.memory_bytes = 4 * 1024 * 1024);
    let (mut client, mut server) = connected_pair(&master).await;
    let mut unproven_clients = Vec::new();
    for instance in 10..14 {
        let mut unproven_client = master.client(instance).await;
        for channel in 0..1_000 {
            unproven_client
                .send(attach(channel, Id([instance; 16]), None, &[0; 4_000]))
                .await;
            if channel % 100 == 99 {
                let mut answer = unproven_client.ping(channel.into()).await;
                while !matches!(answer, Frame::Pong(_)) {
                    assert!(matches!(answer, Frame::Close { .. }), "{answer:?}");
                    answer = unproven_client.next().await;
                }
            }
        }
        unproven_clients.push(unproven_client);
    }
    let used = master.shared.router.used_bytes();
    assert!((256 * 1024..=512 * 1024).contains(&used), "{used}");
    let mut late = master.client(20).await;
    late.attach(1, PORT).await;
    assert_eq!(server.answer().await, 2);
    late.expect_data(1, b"answer").await;
    late.attach(2, OTHER_PORT).await;
    late.expect_alive().await;
    server
        .send(Frame::Register(Ports {
            ports: vec![OTHER_PORT],
        }))
        .await;
    client.data(1, b"unaffected").await;
    let frames = [
        server.next().await,
        server.next().await,
        server.next().await,
    ];
    assert!(
        frames.contains(&attach(3, OTHER_PORT, None, b"first")),
        "a late request is assigned among them: {frames:?}"
    );
    drop((unproven_clients, late, client, server));
    until("the memory is given back", || {
        master.shared.router.used_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn link_with_repeated_handshake_failures_is_ended_and_others_continue() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let mut unproven_client = master.client(9).await;
    for channel in 0..40 {
        unproven_client.attach(channel, PORT).await;
    }
    for _ in 0..40 {
        if let Frame::Attach { channel, .. } = server.next().await {
            server
                .send(Frame::Close {
                    channel,
                    notice: Notice::new(Code::Handshake, ""),
                })
                .await;
        }
    }
    let mut refused = 0;
    loop {
        match unproven_client.next().await {
            Frame::Close { notice, .. } => refused += usize::from(notice.code == Code::Handshake),
            Frame::Error(notice) => break assert_eq!(notice.code, Code::Limit, "{notice}"),
            other => panic!("CLOSE or ERROR was expected, not {other:?}"),
        }
    }
    assert!((20..=40).contains(&refused), "{refused}");
    client.data(1, b"unaffected").await;
    loop {
        // CLOSE frames of the other client's channels may precede.
        if server.next().await
            == (Frame::Data {
                channel: 1,
                payload: Bytes::from_static(b"unaffected"),
            })
        {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_attaches_time_out() {
    let router = Router::new(&MasterLimits::default(), MasterPolicies::open());
    let client = enter_link(&router, 1, Role::Client);
    let server = enter_link(&router, 2, Role::Server);
    router.register(&server, &[PORT]);
    let _maintenance = maintenance(&router);
    for (channel, port) in [(1, PORT), (2, OTHER_PORT)] {
        let header = AttachHeader {
            port,
            instance: None,
            avoid: Vec::new(),
        };
        router
            .attach(&client, channel, header, Bytes::from_static(b"first"))
            .expect("no protocol violation");
    }
    assert_eq!((client.outbox.len(), server.outbox.len()), (2, 1));
    tokio::time::sleep(PENDING_TIMEOUT + 2 * MAINTENANCE_INTERVAL).await;
    assert_eq!(
        (client.outbox.len(), server.outbox.len()),
        (1, 0),
        "the unanswered request has expired"
    );
    tokio::time::sleep(WAITING_TIMEOUT).await;
    assert_eq!(client.outbox.len(), 0);
}

/// Runs the maintenance of a router until the result is dropped.
fn maintenance(router: &Arc<Router>) -> JoinSet<()> {
    let router = Arc::clone(router);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { router.run_maintenance().await });
    tasks
}

#[tokio::test(start_paused = true)]
async fn link_that_ends_because_of_its_memory_is_counted_as_evicted() {
    const UNPROVEN: usize = 64 * 1024;
    let limits = MasterLimits {
        memory_bytes: 8 * UNPROVEN,
        ..MasterLimits::default()
    };
    let router = Router::new(&limits, MasterPolicies::open());
    let link = enter_link(&router, 1, Role::Client);
    while router.used_bytes() <= UNPROVEN {
        link.outbox.control(&Frame::Close {
            channel: 1,
            notice: Notice::new(Code::Refused, "not read"),
        });
    }
    let _maintenance = maintenance(&router);
    tokio::time::sleep(2 * MAINTENANCE_INTERVAL).await;
    assert!(link.outbox.is_end_requested());
    assert_eq!(router.refusals.all().get(&("link", "evicted")), Some(&1));
}

/// Sends on `channel` until the master sends PAUSE. Returns the number of bytes sent.
async fn send_until_paused(server: &mut TestPeer, channel: u32) -> usize {
    let payload = vec![5; 64 * 1024];
    let mut sent = 0;
    loop {
        server.data(channel, &payload).await;
        sent += payload.len();
        // The master sends a PAUSE before the PONG.
        server.send(Frame::Ping(1)).await;
        match server.next().await {
            Frame::Pong(1) => {}
            Frame::Pause(paused) => {
                assert_eq!((paused, server.next().await), (channel, Frame::Pong(1)));
                return sent;
            }
            other => panic!("PAUSE was expected, not {other:?}"),
        }
        assert!(sent < 64 * 1024 * 1024, "no PAUSE after {sent} bytes");
    }
}

/// Receives this many bytes of DATA.
async fn receive(client: &mut TestPeer, bytes: usize) {
    let mut received = 0;
    while received < bytes {
        let Frame::Data { payload, .. } = client.next().await else {
            panic!("DATA was expected")
        };
        received += payload.len();
    }
}

#[tokio::test]
async fn stalled_reader_is_paused_and_blocks_no_other_channel() {
    let master = start();
    let (mut stalled, mut server) = connected_pair(&master).await;
    let mut other = master.client(3).await;
    other.attach(1, PORT).await;
    let beside = server.answer().await;
    other.expect_data(1, b"answer").await;

    let sent = send_until_paused(&mut server, 1).await;
    let held = master.shared.router.used_bytes();
    assert!(
        held < CHANNEL_HIGH_WATER + 128 * 1024,
        "{held} bytes are held"
    );
    // The same link and direction on another channel: far more than any buffer on the path.
    let payload = vec![6; 64 * 1024];
    for _ in 0..256 {
        server.data(beside, &payload).await;
        other.expect_data(1, &payload).await;
    }
    assert!(master.shared.router.used_bytes() < CHANNEL_HIGH_WATER + 256 * 1024);

    receive(&mut stalled, sent).await;
    assert_eq!(server.next().await, Frame::Resume(1));
}

#[tokio::test]
async fn receiver_pause_reaches_the_sender_when_the_queue_is_full() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    client.send(Frame::Pause(1)).await;
    client.expect_alive().await;
    let sent = send_until_paused(&mut server, 1).await;
    assert!(
        sent <= CHANNEL_HIGH_WATER + 64 * 1024,
        "nothing left the queue, and {sent} bytes were taken"
    );
    client.expect_alive().await;
    client.send(Frame::Resume(1)).await;
    receive(&mut client, sent).await;
    assert_eq!(server.next().await, Frame::Resume(1));
}

#[tokio::test]
async fn sender_that_ignores_pause_loses_only_that_channel() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    client.attach(2, PORT).await;
    assert_eq!(server.answer().await, 2);
    client.expect_data(2, b"answer").await;
    client.send(Frame::Pause(1)).await;
    client.expect_alive().await;
    let payload = vec![5; 64 * 1024];
    let mut closed = false;
    for _ in 0..34 * 16 + 1 {
        server.data(1, &payload).await;
    }
    while !closed {
        match server.next().await {
            Frame::Pause(1) => {}
            Frame::Close { channel: 1, notice } => closed = notice.code == Code::Overflow,
            other => panic!("CLOSE was expected, not {other:?}"),
        }
    }
    client.expect_close(1, Code::Overflow).await;
    client.data(2, b"continues").await;
    server.expect_data(2, b"continues").await;
}

#[tokio::test]
async fn total_channel_memory_is_bounded() {
    const BUDGET: usize = 4 * 1024 * 1024;
    let master = start_with(|parameters| parameters.limits.memory_bytes = BUDGET);
    let (mut client, mut server) = connected_pair(&master).await;
    for channel in 2..=20 {
        client.attach(channel, PORT).await;
        assert_eq!(server.answer().await, channel);
        client.expect_data(channel, b"answer").await;
    }
    for channel in 1..=20 {
        client.send(Frame::Pause(channel)).await;
    }
    client.expect_alive().await;
    for channel in 1..=20 {
        send_until_paused(&mut server, channel).await;
        let used = master.shared.router.used_bytes();
        assert!(
            used < BUDGET + BUDGET / 4,
            "{used} bytes after channel {channel}"
        );
    }
}

#[tokio::test]
async fn channels_beyond_the_link_limit_are_refused_until_one_closes() {
    let master = start_with(|parameters| parameters.limits.channels_per_link = 2);
    let mut client = master.client(2).await;
    assert_eq!(client.terms.max_channels, 2);
    client.attach(1, PORT).await;
    client.attach(2, PORT).await;
    client.attach(3, PORT).await;
    client.expect_close(3, Code::Limit).await;
    client.close(1).await;
    client.attach(4, PORT).await;
    client.expect_alive().await;
}

#[tokio::test]
async fn slow_server_keeps_its_link_when_new_channels_are_refused() {
    let master = start();
    let (mut server, mut client) = (master.server(1, &[PORT]).await, master.client(2).await);
    let first = vec![1; MAX_FIRST_MESSAGE];
    for channel in 1..=4000 {
        with_timeout(
            client
                .socket
                .feed(attach(channel, PORT, None, &first).to_message()),
        )
        .await
        .expect("sent");
        client.close(channel).await;
    }
    client.send(Frame::Ping(1)).await;
    let mut refused = 0;
    loop {
        match client.next().await {
            Frame::Close { notice, .. } if notice.code == Code::Refused => refused += 1,
            Frame::Pong(1) => break,
            other => panic!("CLOSE or PONG was expected, not {other:?}"),
        }
    }
    assert!(refused > 0, "the server took all of them");
    server.send(Frame::Ping(2)).await;
    while server.next().await != Frame::Pong(2) {}
}

#[tokio::test]
async fn early_data_closes_the_channel_and_keeps_the_link() {
    let master = start();
    let (mut server, mut client) = (master.server(1, &[PORT]).await, master.client(2).await);
    client.attach(1, OTHER_PORT).await;
    client.data(1, b"too early").await;
    client.expect_close(1, Code::Protocol).await;
    client.attach(2, PORT).await;
    client.data(2, b"too early").await;
    client.expect_close(2, Code::Protocol).await;
    assert_eq!(server.next().await, attach(1, PORT, None, b"first"));
    server.expect_close(1, Code::Protocol).await;
}

#[tokio::test]
async fn frames_in_the_wrong_state_end_only_their_link() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let ports = || Ports { ports: vec![PORT] };
    let of_client = [
        Frame::Register(ports()),
        Frame::Unregister(ports()),
        Frame::Registered(Registered::new(vec![PORT])),
        Frame::Hello {
            proof: [0; 32],
            claims: Bytes::from_static(b"{}"),
        },
        Frame::SignedHello {
            signature: [0; 64],
            claims: Bytes::from_static(b"{}"),
        },
        Frame::Welcome {
            proof: [0; 32],
            terms: Bytes::from_static(b"{}"),
        },
        attach(9, PORT, None, &[0; MAX_FIRST_MESSAGE + 1]),
    ];
    for (instance, frame) in (10..).zip(of_client) {
        let mut bad = master.client(instance).await;
        bad.send(frame).await;
        bad.expect_error(Code::Protocol).await;
    }
    let mut bad = master.server(30, &[OTHER_PORT]).await;
    bad.attach(1, PORT).await;
    bad.expect_error(Code::Protocol).await;
    let mut bad = master.client(31).await;
    bad.attach(1, OTHER_PORT).await;
    bad.attach(1, OTHER_PORT).await;
    bad.expect_error(Code::Protocol).await;
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}
