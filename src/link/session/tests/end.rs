//! Tests of the end of a link.

use super::*;
use crate::link::session::write::CLOSE_DEADLINE;
use crate::net::websocket::SocketError;

#[tokio::test(start_paused = true)]
async fn cut_connection_ends_link_and_channel_ends() {
    let (mut fixture, peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    drop(peer);
    assert!(matches!(
        fixture.end().await,
        EndReason::ConnectionLost(SocketError::Cut)
    ));
    assert!(matches!(
        events.recv().await,
        Some(ChannelEvent::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn truncated_message_never_reaches_channel_end() {
    let (mut fixture, mut peer) = raw_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    // A header that announces 100 bytes, and 8 of them.
    peer.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 1, 1, 1])
        .await
        .unwrap();
    drop(peer);
    assert!(matches!(
        fixture.end().await,
        EndReason::ConnectionLost(SocketError::Cut)
    ));
    assert!(matches!(events.recv().await, Some(ChannelEvent::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn graceful_close_from_peer_is_answered() {
    let (mut fixture, peer) = Fixture::with_peer();
    let start = Instant::now();
    peer.close(Duration::from_secs(60)).await;
    assert!(matches!(fixture.end().await, EndReason::PeerClosed));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn requested_end_sends_error_to_peer() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let notice = Notice::new(Code::Superseded, "a newer link took over");
    fixture.outbox.control(&Frame::GoAway(notice.clone()));
    fixture.outbox.end(notice.clone());
    assert_eq!(receive(&mut peer).await, Frame::GoAway(notice.clone()));
    assert_eq!(receive(&mut peer).await, Frame::Error(notice.clone()));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Requested(received) if received == notice));
}

#[tokio::test(start_paused = true)]
async fn error_from_peer_ends_link() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let notice = Notice::new(Code::Limit, "too many");
    send(&mut peer, Frame::Error(notice.clone())).await;
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(fixture.end().await, EndReason::PeerError(received) if received == notice));
}

#[tokio::test(start_paused = true)]
async fn cancelled_link_sends_control_frames_and_closes_gracefully() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    fixture.outbox.control(&Frame::Pause(1));
    fixture.outbox.control(&Frame::Close {
        channel: 3,
        notice: Notice::new(Code::Shutdown, ""),
    });
    fixture.cancel.cancel();
    assert_eq!(receive(&mut peer).await, Frame::Pause(1));
    assert!(matches!(
        receive(&mut peer).await,
        Frame::Close { channel: 3, .. }
    ));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
    assert!(matches!(
        events.recv().await,
        Some(ChannelEvent::Closed(Notice {
            code: Code::Shutdown,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_does_not_delay_end() {
    let (role, _peer) = memory::pair_with_capacity(1024);
    let mut fixture = Fixture::run(role);
    let (_channel_end, mut events) = fixture.open(1, 100);
    tokio::task::yield_now().await;
    let start = Instant::now();
    fixture.cancel.cancel();
    assert!(matches!(events.recv().await, Some(ChannelEvent::Closed(_))));
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the channel ends are closed at once"
    );
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
    assert!(
        start.elapsed() <= CLOSE_DEADLINE + Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_link_closes_its_channel_ends() {
    let (mut fixture, _peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    tokio::task::yield_now().await;
    fixture.task.abort_all();
    assert!(matches!(
        events.recv().await,
        Some(ChannelEvent::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}
