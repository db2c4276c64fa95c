//! Attachments that come and go under a tunnel: cut, moved, played again, stolen; and the end of the tunnel itself.

use super::*;
use crate::{
    suspend::Moment,
    tunnel::{binding::Manner, carriage::MOVE_TIMEOUT, shared::Bell},
};

/// Carries bytes both ways over a stream until `during` is done, and checks what came out.
async fn while_bytes_flow(bed: &Bed, tunnels: &(Tunnel, Tunnel), during: impl Future<Output = ()>) {
    let (mut application, mut service) = joined(bed, tunnels).await;
    let sent = text(8_000_000);
    let copy = sent.clone();
    let served = bed.tasks.spawn(async move {
        let mut received = vec![0; copy.len()];
        service.read_exact(&mut received).await.unwrap();
        assert!(received == copy, "what came is what was sent");
        service.write_all(&received).await.unwrap();
    });
    let visited = async {
        application.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        application.read_exact(&mut received).await.unwrap();
        assert!(received == sent, "what came back is what was sent");
    };
    tokio::join!(visited, during);
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_goes_on_over_the_next_link_when_one_is_cut_with_every_method() {
    for encrypt in EncryptMethod::ALL {
        let bed = Bed::new();
        let tunnels = bed.tunnels(encrypt, CompressMethod::Zstd).await;
        let cuts = async {
            let mut cut = bed.joint.cut.clone();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                cut.cancel();
                let joint = bed.another_joint();
                let (visited, served) = bed.attach_again(&joint, 1, &tunnels.0, false).await;
                assert!(
                    served.is_none() && matches!(visited, Ok(attach::Outcome::Resumed)),
                    "{encrypt}"
                );
                cut = joint.cut.clone();
            }
        };
        while_bytes_flow(&bed, &tunnels, cuts).await;
        let counts = &tunnels.0.port().commons.counts;
        assert!(counts.resumed.get() >= 10, "{counts:?}");
        bed.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_moves_sends_nothing_twice() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Cfb, CompressMethod::Null)
        .await;
    let moves = async {
        let mut old = bed.joint.client.clone();
        for moves in 1..=10 {
            let joint = bed.another_joint();
            let (visited, _) = bed.attach_again(&joint, 1, &tunnels.0, true).await;
            assert!(matches!(visited, Ok(attach::Outcome::Resumed)));
            let left = async {
                old.vacant().await;
                while tunnels.0.port().commons.counts.moved.get() < 2 * moves {
                    tokio::task::yield_now().await;
                }
            };
            let left = tokio::time::timeout(Duration::from_secs(10), left).await;
            assert!(
                left.is_ok(),
                "the channel before is closed when both have moved"
            );
            old = joint.client.clone();
        }
    };
    while_bytes_flow(&bed, &tunnels, moves).await;
    let counts = &tunnels.0.port().commons.counts;
    assert_eq!((counts.lost.get(), counts.again_bytes.get()), (0, 0));
    bed.end().await;
}

#[tokio::test]
async fn a_move_that_the_other_end_does_not_complete_ends_in_time() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let server = &tunnels.1.shared;
    let elsewhere = Bell {
        outbox: crate::link::Outbox::new(),
        channel: 1,
    };
    server.take_over(7, elsewhere, Manner::Move).unwrap();
    let start = Moment::now();
    let after = |time| Moment {
        awake: start.awake + time,
        ..start
    };
    server.handle_timeout(after(MOVE_TIMEOUT / 2));
    assert!(
        tunnels.1.is_moving() && tunnels.1.is_attached(),
        "the client may still say MOVED"
    );
    server.handle_timeout(after(MOVE_TIMEOUT * 2));
    assert!(!tunnels.1.is_moving() && !tunnels.1.is_attached());
    bed.end().await;
}

#[tokio::test]
async fn the_time_without_an_attachment_includes_suspend() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let server = &tunnels.1.shared;
    server.lost(0, Notice::new(Code::PeerLost, ""));
    let start = Moment::now();
    let after_a_sleep = |seconds| Moment {
        suspended: start.suspended + Duration::from_secs(seconds),
        ..start
    };
    server.handle_timeout(after_a_sleep(110));
    assert!(
        tunnels.1.notice().is_none(),
        "the client may still come back"
    );
    server.handle_timeout(after_a_sleep(120));
    assert_eq!(
        tunnels.1.notice().map(|notice| notice.code),
        Some(Code::Timeout)
    );
    bed.end().await;
}

#[tokio::test]
async fn a_server_that_does_not_know_the_tunnel_offers_a_new_one() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    bed.tunnels.lock().unwrap().clear();
    let (visited, served) = bed.attach_again(&bed.joint, 3, &tunnels.0, false).await;
    let Ok(attach::Outcome::New(new, _)) = visited else {
        panic!("a new tunnel")
    };
    assert!(new.id() != tunnels.0.id() && served.unwrap().id() == new.id());
    for tunnel in [&tunnels.0, &tunnels.1, &new] {
        tunnel.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, ""));
    }
    bed.end().await;
}

/// A client's connection in a tunnel whose server has given it up after it saw the streams below `seen`: the application, and what became of the
/// connection. The link is cut before the stream is opened when nobody is the `server`; else that has accepted the stream and read all of it.
async fn taken_back(
    bed: &Bed,
    tunnel: &Tunnel,
    server: Option<&Tunnel>,
    seen: Option<u64>,
) -> (TcpStream, Result<splice::Spliced, take_back::TakenBack>) {
    let (mut application, visitor) = sockets().await;
    if server.is_none() {
        bed.joint.cut.cancel();
        tunnel
            .standing()
            .wait_for(|standing| matches!(standing, Standing::Lost { .. }))
            .await
            .unwrap();
    }
    let connection = take_back::TakenBack {
        socket: visitor,
        unsent: Bytes::from_static(b"read before, "),
    };
    let stream = tunnel.open(Bytes::new());
    let splicing = take_back::splice_or_take_back(connection, stream, tunnel.port().compress);
    let ended = async {
        application.write_all(&text(40_000)).await.unwrap();
        application.shutdown().await.unwrap();
        if let Some(server) = server {
            let (accepted, _) = server.accept().await.unwrap();
            while accepted.read().await.unwrap().is_some() {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        tunnel.given_up(seen, Notice::new(Code::PeerLost, ""));
    };
    let (spliced, ()) = tokio::join!(splicing, ended);
    (application, spliced)
}

#[tokio::test]
async fn a_connection_that_the_server_never_saw_goes_to_the_next_tunnel_with_every_compression() {
    for compress in CompressMethod::ALL {
        let bed = Bed::new();
        let tunnels = bed.tunnels(EncryptMethod::Plain, compress).await;
        let (mut application, spliced) = taken_back(&bed, &tunnels.0, None, None).await;
        let connection = spliced.expect_err("its OPEN has never left");
        let joint = bed.another_joint();
        let wish = attach::wish(tunnels.0.port(), &joint.client, 1, &bed.tasks).unwrap();
        let (next, served) = bed.answer(&joint, 1, wish, tunnels.0.port()).await;
        let Ok(attach::Outcome::New(next, _)) = next else {
            panic!("a new tunnel")
        };
        let (agent, mut service) = sockets().await;
        let opened = next.open(Bytes::new());
        bed.tasks.spawn(async move {
            take_back::splice_or_take_back(connection, opened, compress)
                .await
                .unwrap()
        });
        let (accepted, _) = served.unwrap().accept().await.unwrap();
        bed.tasks.spawn(splice(agent, accepted, compress));
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
    // Sent, and nothing is known; below what was seen; acknowledged, whatever the server says.
    for seen in [None, Some(2), Some(0)] {
        let bed = Bed::new();
        let tunnels = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let (mut application, spliced) = taken_back(&bed, &tunnels.0, Some(&tunnels.1), seen).await;
        let error = spliced.expect("it is not given back").error;
        assert!(error.is_some());
        assert_eq!(
            application.read(&mut [0]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset,
            "{seen:?}"
        );
        bed.end().await;
    }
}

#[tokio::test]
async fn an_attempt_that_is_played_again_does_not_touch_the_tunnel() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let again = attach::wish_again(&tunnels.0, false, &bed.joint.client, 3, &bed.tasks).unwrap();
    let recorded = again.message.clone();
    let find = |_| Some(tunnels.1.clone());
    // The master plays the attempt before the client's own arrives: whoever plays it cannot say the first word.
    let host = host(&bed.tasks, &find);
    let early = attach::reply(tunnels.1.port(), &host, &recorded, &bed.joint.server, 7).unwrap();
    use crate::link::Lane;
    let mut out = bytes::BytesMut::new();
    early.lane.transmit(&mut out);
    early.lane.transmit(&mut out);
    assert!(
        early
            .lane
            .receive(bytes::BytesMut::from(&[7; 40][..]))
            .is_err()
    );
    drop(early);
    assert!(
        tunnels.1.is_attached() && tunnels.1.notice().is_none(),
        "nothing happened to it"
    );
    let (visited, _) = bed.answer(&bed.joint, 3, again, tunnels.1.port()).await;
    assert!(
        matches!(visited, Ok(attach::Outcome::Resumed)),
        "the client's own goes on"
    );
    // And after it.
    let mut standing = tunnels.1.standing();
    standing
        .wait_for(|standing| *standing == Standing::Attached)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while attach::reply(tunnels.1.port(), &host, &recorded, &bed.joint.server, 9).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("refused once the attempt has taken over");
    assert!(tunnels.1.is_attached());
    bed.end().await;
}

#[tokio::test]
async fn who_holds_the_port_key_and_not_the_secret_of_the_tunnel_cannot_resume_it() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Chacha20Poly1305, CompressMethod::Null)
        .await;
    let others = bed.attach_again(&bed.joint, 11, &tunnels.0, false).await;
    drop(others);
    // Another client of the same port that has learned the tunnel's name, and everything but its secret.
    let thief = tunnels.0.with_another_secret(&bed.tasks);
    let wish = attach::wish_again(&thief, false, &bed.joint.client, 13, &bed.tasks).unwrap();
    let (stolen, _) = bed.answer(&bed.joint, 13, wish, tunnels.1.port()).await;
    assert!(
        matches!(stolen, Err(AttachError::Closed(_))),
        "{:?}",
        stolen.err()
    );
    assert!(tunnels.0.is_attached() && tunnels.1.is_attached());
    let (mut application, mut service) = joined(&bed, &tunnels).await;
    service.write_all(b"undisturbed").await.unwrap();
    application.read_exact(&mut [0; 11]).await.unwrap();
    thief.end(ResetCode::Cancelled, Notice::new(Code::Cancelled, ""));
    bed.end().await;
}

#[tokio::test]
async fn the_end_of_a_tunnel_is_told_to_the_other_end() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, _service) = joined(&bed, &tunnels).await;
    tunnels.1.end(
        ResetCode::Shutdown,
        Notice::new(Code::Shutdown, "the server ends"),
    );
    tokio::time::timeout(Duration::from_secs(10), tunnels.1.ended())
        .await
        .expect("END has left");
    tokio::time::timeout(Duration::from_secs(10), tunnels.0.closed())
        .await
        .expect("and has come");
    assert_eq!(tunnels.0.notice().unwrap().code, Code::Shutdown);
    assert_eq!(
        application.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    bed.end().await;
}
