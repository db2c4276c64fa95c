//! Tests of streams: their bytes, resets and ends.

use super::*;
use crate::net::local_stream::reset_on_close;

#[tokio::test(flavor = "multi_thread")]
async fn every_method_delivers_all_bytes_in_both_directions() {
    for encrypt in EncryptMethod::ALL {
        for compress in CompressMethod::ALL {
            let bed = TunnelTestbed::new();
            let tunnels = bed.tunnels(encrypt, compress).await;
            let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
            let sent = text(3_000_000);
            let copy = sent.clone();
            bed.tasks.spawn(async move {
                let mut received = Vec::new();
                service.read_to_end(&mut received).await.unwrap();
                assert!(
                    received == copy,
                    "{} bytes of {}",
                    received.len(),
                    copy.len()
                );
                service.write_all(&received).await.unwrap();
            });
            application.write_all(&sent).await.unwrap();
            application.shutdown().await.unwrap();
            let mut answer = Vec::new();
            application.read_to_end(&mut answer).await.unwrap();
            assert!(
                answer == sent,
                "{encrypt} {compress}: {} bytes of {}",
                answer.len(),
                sent.len()
            );
            drop(tunnels);
            bed.end().await;
        }
    }
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_in_both_directions() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, service) = spliced_sockets(&bed, &tunnels).await;
    reset_on_close(&service);
    drop(service);
    let error = application.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (application, mut service) = spliced_sockets(&bed, &tunnels).await;
    reset_on_close(&application);
    drop(application);
    let error = service.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    bed.end().await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_fails_a_writer() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Zstd)
        .await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
    service.shutdown().await.unwrap();
    assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
    reset_on_close(&service);
    drop(service);
    let error = async {
        loop {
            if let Err(error) = application.write_all(&[0; 1000]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), error)
        .await
        .unwrap();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    bed.end().await;
}

#[tokio::test]
async fn an_expired_tunnel_resets_its_streams() {
    let bed = TunnelTestbed::new();
    let port = PortParameters {
        resume_timeout: Duration::from_millis(50),
        ..port(EncryptMethod::Chacha20Poly1305, CompressMethod::S2)
    };
    let tunnels = bed.tunnels_of(port).await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
    service
        .write_all(b"the beginning of a download")
        .await
        .unwrap();
    application.read_exact(&mut [0; 27]).await.unwrap();
    bed.link_pair.cut.cancel();
    assert_eq!(
        application.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        service.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        tunnels.0.port().process_shared.counters.expired.get(),
        2,
        "one at each end: both ends share the counters here"
    );
    bed.end().await;
}

#[tokio::test]
async fn incomplete_chunks_of_many_streams_do_not_exhaust_a_small_window() {
    let bed = TunnelTestbed::new();
    let small = WindowSize {
        initial: 64 * 1024,
        max: 64 * 1024,
    };
    let port = PortParameters {
        stream_window: small,
        tunnel_window: small,
        ..port(EncryptMethod::Aes128Gcm, CompressMethod::S2)
    };
    let tunnels = bed.tunnels_of(port).await;
    // Compresses to somewhat more than half, so that a chunk needs several windows.
    let sent: Vec<u8> = (0..300_000)
        .map(|at| if at % 1000 < 600 { fastrand::u8(..) } else { 0 })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..8 {
        pairs.push(spliced_sockets(&bed, &tunnels).await);
    }
    let moved = async {
        let mut copies = JoinSet::new();
        for (mut application, mut service) in pairs {
            let sent = sent.clone();
            copies.spawn(async move {
                let mut received = vec![0; sent.len()];
                let (written, read) = tokio::join!(
                    application.write_all(&sent),
                    service.read_exact(&mut received)
                );
                assert!(written.is_ok() && read.is_ok() && received == sent);
            });
        }
        copies.join_all().await;
    };
    tokio::time::timeout(Duration::from_secs(20), moved)
        .await
        .unwrap();
    bed.end().await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_detected_without_a_write() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
    service.shutdown().await.unwrap();
    assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
    reset_on_close(&service);
    drop(service);
    let reset = application.ready(tokio::io::Interest::ERROR);
    tokio::time::timeout(Duration::from_secs(10), reset)
        .await
        .unwrap()
        .unwrap();
    bed.end().await;
}

#[tokio::test]
async fn a_splice_ends_after_the_peer_has_acknowledged_everything() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::S2)
        .await;
    let (mut application, client) = sockets().await;
    let (server, mut service) = sockets().await;
    bed.tasks.spawn(splice(
        client,
        tunnels.0.open(Bytes::new()),
        CompressMethod::S2,
    ));
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    let mut served = bed
        .tasks
        .spawn(splice(server, accepted, CompressMethod::S2));
    bed.link_pair.client.control(&Frame::Pause(1));
    application.shutdown().await.unwrap();
    let sent = text(100_000);
    assert_eq!(
        service.read(&mut [0]).await.unwrap(),
        0,
        "and the channel was paused before"
    );
    service.write_all(&sent).await.unwrap();
    drop(service);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut served).await;
    assert!(
        early.is_err(),
        "the peer has acknowledged nothing yet: {early:?}"
    );
    bed.link_pair.client.control(&Frame::Resume(1));
    assert!(served.await.unwrap().error.is_none());
    bed.link_pair.cut.cancel();
    let mut received = Vec::new();
    application.read_to_end(&mut received).await.unwrap();
    assert!(
        received == sent,
        "{} bytes of {}",
        received.len(),
        sent.len()
    );
    bed.end().await;
}

#[tokio::test]
async fn a_message_without_a_frame_ends_the_tunnel() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    tunnels
        .1
        .shared
        .update(|core| {
            core.receive(
                crate::suspend::Moment::now(),
                core::FIRST_ATTEMPT,
                Bytes::new(),
            )
        })
        .unwrap();
    assert_eq!(tunnels.1.notice().unwrap().code, Code::Protocol);
    bed.end().await;
}

#[tokio::test]
async fn a_local_reset_wakes_a_task_that_waits_for_failure() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let stream = Arc::new(tunnels.0.open(Bytes::new()));
    let waiting = Arc::clone(&stream);
    let failed = bed
        .tasks
        .spawn(async move { waiting.failed().await.reset_code() });
    tokio::task::yield_now().await;
    stream.reset(ResetCode::Corrupt);
    let code = tokio::time::timeout(Duration::from_secs(10), failed)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code, Some(ResetCode::Corrupt));
    drop(stream);
    bed.end().await;
}
