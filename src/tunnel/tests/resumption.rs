//! Tests of attachments that are lost, moved, replayed or stolen, and of the end of a tunnel.

use super::*;
use crate::{link::ChannelEnd, suspend::Moment, tunnel::core::TakeoverKind};

/// Transfers bytes in both directions over a stream until `during` is done, and verifies them.
async fn while_bytes_flow(
    bed: &TunnelTestbed,
    tunnels: &(Tunnel, Tunnel),
    during: impl Future<Output = ()>,
) {
    let (mut application, mut service) = spliced_sockets(bed, tunnels).await;
    let sent = text(8_000_000);
    let copy = sent.clone();
    let served = bed.tasks.spawn(async move {
        let mut received = vec![0; copy.len()];
        service.read_exact(&mut received).await.unwrap();
        assert!(received == copy, "the service received what was sent");
        service.write_all(&received).await.unwrap();
    });
    let client_result = async {
        application.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        application.read_exact(&mut received).await.unwrap();
        assert!(received == sent, "the application received what was sent");
    };
    tokio::join!(client_result, during);
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_resumes_over_the_next_link_after_a_cut_with_every_method() {
    for encrypt in EncryptMethod::ALL {
        let bed = TunnelTestbed::new();
        let tunnels = bed.tunnels(encrypt, CompressMethod::Zstd).await;
        let cuts = async {
            let mut cut = bed.link_pair.cut.clone();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                cut.cancel();
                let is_lost = |status: &TunnelStatus| *status != TunnelStatus::Attached;
                tunnels.0.status().wait_for(is_lost).await.unwrap();
                let link_pair = bed.new_link_pair();
                let (client_result, served) =
                    bed.reattach(&link_pair, 1, &tunnels.0, Vec::new()).await;
                assert!(
                    served.is_none() && matches!(client_result, Ok(attach::AttachOutcome::Resumed)),
                    "{encrypt}"
                );
                cut = link_pair.cut.clone();
            }
        };
        while_bytes_flow(&bed, &tunnels, cuts).await;
        let counters = &tunnels.0.port().process_shared.counters;
        assert!(counters.resumed.get() >= 10, "{counters:?}");
        bed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_retransmits_nothing() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Cfb, CompressMethod::Null)
        .await;
    let moves = async {
        let mut old = bed.link_pair.client.clone();
        for moves in 1..=10 {
            let link_pair = bed.new_link_pair();
            let (client_result, _) = bed
                .reattach(&link_pair, 1, &tunnels.0, vec![old.id()])
                .await;
            assert!(matches!(client_result, Ok(attach::AttachOutcome::Resumed)));
            let left = async {
                old.wait_until_empty().await;
                while tunnels.0.port().process_shared.counters.moved.get() < 2 * moves {
                    tokio::task::yield_now().await;
                }
            };
            let left = tokio::time::timeout(Duration::from_secs(10), left).await;
            assert!(
                left.is_ok(),
                "the old channel is closed after MOVED in both directions"
            );
            old = link_pair.client.clone();
        }
    };
    while_bytes_flow(&bed, &tunnels, moves).await;
    let counters = &tunnels.0.port().process_shared.counters;
    assert_eq!((counters.lost.get(), counters.resent_bytes.get()), (0, 0));
    bed.end().await;
}

#[tokio::test]
async fn a_lane_that_the_peer_does_not_leave_is_lost_after_a_while() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let client = &tunnels.0.shared;
    let elsewhere = Outbox::new().handle(1);
    let start = Moment::now();
    client
        .update(|core| core.take_over(start, 7, elsewhere, TakeoverKind::Join))
        .unwrap();
    let old = bed.link_pair.client.id();
    client.update(|core| core.leave_replaced(start, 7, &[old]));
    let after = |time| Moment {
        awake: start.awake + time,
        ..start
    };
    client.update(|core| core.handle_timeout(after(MOVE_TIMEOUT / 2)));
    let is_leaving = tunnels.0.is_moving();
    client.update(|core| core.handle_timeout(after(MOVE_TIMEOUT * 2)));
    assert!(
        !tunnels.0.is_moving() && tunnels.0.is_attached(),
        "{is_leaving}"
    );
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_flow_over_lanes_that_are_added_and_cut() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let lanes = async {
        let mut cuts = std::collections::VecDeque::from([bed.link_pair.cut.clone()]);
        for _ in 0..20 {
            let link_pair = bed.new_link_pair();
            let (client_result, _) = bed.reattach(&link_pair, 1, &tunnels.0, Vec::new()).await;
            assert!(matches!(client_result, Ok(attach::AttachOutcome::Resumed)));
            cuts.push_back(link_pair.cut.clone());
            tokio::time::sleep(Duration::from_millis(2)).await;
            if cuts.len() > 4 {
                cuts.pop_front().unwrap().cancel();
            }
        }
    };
    while_bytes_flow(&bed, &tunnels, lanes).await;
    let counters = &tunnels.0.port().process_shared.counters;
    assert_eq!(counters.lost.get(), 0, "other lanes carried the tunnel");
    bed.end().await;
}

#[tokio::test]
async fn resume_timeout_includes_suspend() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let server = &tunnels.1.shared;
    let start = Moment::now();
    server.update(|core| core.attachment_lost(start, 0, Notice::new(Code::PeerLost, "")));
    let after_a_sleep = |seconds| Moment {
        suspended: start.suspended + Duration::from_secs(seconds),
        ..start
    };
    server.update(|core| core.handle_timeout(after_a_sleep(110)));
    assert!(tunnels.1.notice().is_none(), "the client may still resume");
    server.update(|core| core.handle_timeout(after_a_sleep(120)));
    assert_eq!(
        tunnels.1.notice().map(|notice| notice.code),
        Some(Code::Timeout)
    );
    bed.end().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_tunnel_creates_a_new_one() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    bed.tunnels.lock().unwrap().clear();
    let (client_result, served) = bed
        .reattach(&bed.link_pair, 3, &tunnels.0, Vec::new())
        .await;
    let Ok(attach::AttachOutcome::New(new, _)) = client_result else {
        panic!("a new tunnel")
    };
    assert!(new.id() != tunnels.0.id() && served.unwrap().id() == new.id());
    for tunnel in [&tunnels.0, &tunnels.1, &new] {
        tunnel.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, ""));
    }
    bed.end().await;
}

/// Puts a client connection into a tunnel that the server then discards, after it has seen the
/// streams below `seen`. Returns the application's socket and the outcome of the splice.
///
/// Without a `server` the link is cut before the stream is opened. With one, the server has
/// accepted the stream and read all of it.
async fn reclaimed(
    bed: &TunnelTestbed,
    tunnel: &Tunnel,
    server: Option<&Tunnel>,
    seen: Option<u64>,
) -> (
    TcpStream,
    Result<splice::Spliced, reclaim::ReclaimedConnection>,
) {
    let (mut application, client) = sockets().await;
    if server.is_none() {
        bed.link_pair.cut.cancel();
        tunnel
            .status()
            .wait_for(|status| matches!(status, TunnelStatus::Lost { .. }))
            .await
            .unwrap();
    }
    let connection = reclaim::ReclaimedConnection {
        socket: client.into(),
        unsent: Bytes::from_static(b"read before, "),
    };
    let stream = tunnel.open(Bytes::new());
    let splicing = reclaim::splice_or_reclaim(connection, stream, tunnel.port().compress);
    let ended = async {
        application.write_all(&text(40_000)).await.unwrap();
        application.shutdown().await.unwrap();
        if let Some(server) = server {
            let (accepted, _) = server.accept().await.unwrap();
            while accepted.read().await.unwrap().is_some() {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        tunnel.end_unknown_at_server(seen, Notice::new(Code::PeerLost, ""));
    };
    let (spliced, ()) = tokio::join!(splicing, ended);
    (application, spliced)
}

#[tokio::test]
async fn the_next_tunnel_carries_a_connection_that_the_server_never_saw() {
    for compress in CompressMethod::ALL {
        let bed = TunnelTestbed::new();
        let tunnels = bed.tunnels(EncryptMethod::Plain, compress).await;
        let (mut application, spliced) = reclaimed(&bed, &tunnels.0, None, None).await;
        let connection = spliced.expect_err("its OPEN was never sent");
        let link_pair = bed.new_link_pair();
        let request = attach::request(tunnels.0.port(), &link_pair.client, 1, &bed.tasks).unwrap();
        let (next, served) = bed.answer(&link_pair, 1, request, tunnels.0.port()).await;
        let Ok(attach::AttachOutcome::New(next, _)) = next else {
            panic!("a new tunnel")
        };
        let (server, mut service) = sockets().await;
        let opened = next.open(Bytes::new());
        bed.tasks.spawn(async move {
            reclaim::splice_or_reclaim(connection, opened, compress)
                .await
                .unwrap()
        });
        let (accepted, _) = served.unwrap().accept().await.unwrap();
        bed.tasks.spawn(splice(server, accepted, compress));
        let mut received = Vec::new();
        service.read_to_end(&mut received).await.unwrap();
        assert!(
            received == [b"read before, ", &text(40_000)[..]].concat(),
            "{compress}: {} bytes",
            received.len()
        );
        service.write_all(b"all of it").await.unwrap();
        drop(service);
        let mut answer = Vec::new();
        application.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"all of it");
        next.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, ""));
        bed.end().await;
    }
}

#[tokio::test]
async fn a_connection_that_the_server_may_have_seen_is_reset() {
    // Sent, and the server reports nothing; below the lowest unseen id; acknowledged, whatever the
    // server reports.
    for seen in [None, Some(2), Some(0)] {
        let bed = TunnelTestbed::new();
        let tunnels = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let (mut application, spliced) = reclaimed(&bed, &tunnels.0, Some(&tunnels.1), seen).await;
        let error = spliced.expect("the connection is not reclaimed").error;
        assert!(error.is_some());
        assert_eq!(
            application.read(&mut [0]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset,
            "{seen:?}"
        );
        bed.end().await;
    }
}

/// Lets a server's lane answer, and verifies that it refuses a message without the keys.
fn assert_forgery_is_refused(end: &impl ChannelEnd) {
    let mut out = BytesMut::new();
    end.transmit(&mut out);
    end.transmit(&mut out);
    assert!(end.receive(BytesMut::from(&[7; 40][..])).is_err());
}

#[tokio::test]
async fn a_replayed_attempt_does_not_change_the_tunnel() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let again =
        attach::request_resume(&tunnels.0, Vec::new(), &bed.link_pair.client, 3, &bed.tasks)
            .unwrap();
    let recorded = again.message.clone();
    let find = |_| Some(tunnels.1.clone());
    // The master replays the attempt before the client's own ATTACH arrives. It cannot send the
    // first sealed message.
    let context = accept_context(&bed.tasks, &find);
    let replay = |channel| {
        let port = tunnels.1.port();
        attach::reply(port, &context, &recorded, &bed.link_pair.server, channel)
    };
    assert_forgery_is_refused(&*replay(7).unwrap().attachment);
    assert!(
        tunnels.1.is_attached() && tunnels.1.notice().is_none(),
        "the tunnel is unchanged"
    );
    let (client_result, _) = bed.answer(&bed.link_pair, 3, again, tunnels.1.port()).await;
    assert!(
        matches!(client_result, Ok(attach::AttachOutcome::Resumed)),
        "the client's own attempt resumes the tunnel"
    );
    // A replay after the attempt has taken over.
    let mut status = tunnels.1.status();
    status
        .wait_for(|status| *status == TunnelStatus::Attached)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while replay(9).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the replay is refused after the attempt has taken over");
    assert!(tunnels.1.is_attached());
    bed.end().await;
}

#[tokio::test]
async fn a_client_without_the_tunnel_secret_cannot_resume_the_tunnel() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Chacha20Poly1305, CompressMethod::Null)
        .await;
    let others = bed
        .reattach(&bed.link_pair, 11, &tunnels.0, Vec::new())
        .await;
    drop(others);
    // Another client of the same port that knows everything about the tunnel except its secret.
    let thief = tunnels.0.with_another_secret(&bed.tasks);
    let request =
        attach::request_resume(&thief, Vec::new(), &bed.link_pair.client, 13, &bed.tasks).unwrap();
    let (stolen, _) = bed
        .answer(&bed.link_pair, 13, request, tunnels.1.port())
        .await;
    assert!(
        matches!(stolen, Err(AttachError::Closed(_))),
        "{:?}",
        stolen.err()
    );
    assert!(tunnels.0.is_attached() && tunnels.1.is_attached());
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
    service.write_all(b"undisturbed").await.unwrap();
    application.read_exact(&mut [0; 11]).await.unwrap();
    thief.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, ""));
    bed.end().await;
}

#[tokio::test]
async fn ending_a_tunnel_ends_it_at_the_peer() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, _service) = spliced_sockets(&bed, &tunnels).await;
    tunnels.1.end(
        ResetCode::Shutdown,
        Notice::new(Code::Shutdown, "the server is shutting down"),
    );
    tokio::time::timeout(Duration::from_secs(10), tunnels.1.end_delivered())
        .await
        .expect("END was sent");
    tokio::time::timeout(Duration::from_secs(10), tunnels.0.closed())
        .await
        .expect("END was received");
    assert_eq!(tunnels.0.notice().unwrap().code, Code::Shutdown);
    assert_eq!(
        application.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    bed.end().await;
}
