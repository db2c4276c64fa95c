//! Frames in and out of order, pings, and the closing handshake.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::memory;
use report_proto::frame::MAX_MESSAGE;

#[tokio::test]
async fn bytes_received_with_the_upgrade_are_read_first() {
    let (mut peer, stream) = tokio::io::duplex(1024);
    let mut socket = MessageSocket::new(
        stream,
        Bytes::from_static(b"\x82\x05first\x82\x06sec"),
        SocketEnd::Dialled,
    );
    peer.write_all(b"ond").await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "first"[..]);
    assert_eq!(socket.receive().await.unwrap().unwrap(), "second"[..]);
}

#[tokio::test]
async fn activity_counts_messages_and_not_pings() {
    let (mut peer, mut socket) = raw(SocketEnd::Accepted);
    for byte in frame(PING, 125, true) {
        tokio::task::yield_now().await;
        peer.write_all(&[byte]).await.unwrap();
        assert!(socket.receive().now_or_never().is_none());
        assert_eq!(socket.take_activity(), ReceiveActivity::default());
    }
    for (count, byte) in (1..).zip(frame(BINARY, 300, true)) {
        tokio::task::yield_now().await;
        peer.write_all(&[byte]).await.unwrap();
        let _ = socket.receive().now_or_never();
        assert_eq!(
            socket.take_activity(),
            ReceiveActivity {
                any: true,
                long: count >= 8
            },
            "once its length is known"
        );
        let _ = socket.receive().now_or_never();
        assert_eq!(
            socket.take_activity(),
            ReceiveActivity::default(),
            "each byte counts once"
        );
    }
    for byte in frame(BINARY, 9, true) {
        tokio::task::yield_now().await;
        peer.write_all(&[byte]).await.unwrap();
        let _ = socket.receive().now_or_never();
        assert_eq!(
            socket.take_activity(),
            ReceiveActivity {
                any: true,
                long: false
            }
        );
    }
}

#[tokio::test]
async fn protocol_violations_end_the_socket_with_a_reason() {
    let masked_too_long = frame(BINARY, MAX_MESSAGE + 1, true);
    let in_parts = [
        &[0x02, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
        &vec![0; 65_536][..],
    ]
    .concat();
    let endless = [&in_parts[..], &in_parts[..1], &in_parts[1..]].concat();
    for (bytes, expected) in [
        (frame(TEXT, 5, true), "a text message"),
        (frame(BINARY, 5, false), "a mask"),
        (frame(0, 5, true), "a continuation of no message"),
        (endless, "a message within another"),
        (masked_too_long[..14].to_vec(), "a message of 131073 bytes"),
        (frame(3, 5, true), "an opcode"),
    ] {
        let (mut peer, mut socket) = raw(SocketEnd::Accepted);
        peer.write_all(&bytes).await.unwrap();
        let error = socket.receive().await.unwrap_err();
        assert!(
            error.to_string().contains(expected) && error.is_violation(),
            "{error} for {expected}"
        );
    }
    let (peer, mut socket) = raw(SocketEnd::Dialled);
    drop(peer);
    assert!(matches!(socket.receive().await, Err(SocketError::Cut)));
}

#[tokio::test]
async fn fragmented_message_respects_the_limit() {
    let (mut peer, mut socket) = raw(SocketEnd::Dialled);
    let mut part = frame(BINARY, 65_536, false);
    part[0] = 0x02;
    for opcode in [0x02, 0x00, 0x00] {
        part[0] = opcode;
        peer.write_all(&part).await.unwrap();
    }
    assert!(matches!(
        socket.receive().await,
        Err(SocketError::TooLong { size: 196_608, .. })
    ));
}

#[tokio::test]
async fn ping_flood_is_answered_once_and_takes_no_memory() {
    let (mut peer, mut socket) = raw(SocketEnd::Dialled);
    for count in 0..100_u8 {
        peer.write_all(&[0x89, 1, count]).await.unwrap();
    }
    assert!(socket.receive().now_or_never().is_none());
    let mut pong = [0; 7];
    peer.read_exact(&mut pong).await.unwrap();
    assert_eq!(
        (pong[..2].to_vec(), pong[6] ^ pong[2]),
        (vec![0x8a, 0x81], 99)
    );
    assert!(peer.read(&mut pong).now_or_never().is_none(), "one pong");
}

#[tokio::test]
async fn either_end_can_close_gracefully() {
    for initiator in [SocketEnd::Dialled, SocketEnd::Accepted] {
        let (role, master) = memory::pair();
        let (closes, mut other) = if initiator == SocketEnd::Dialled {
            (role, master)
        } else {
            (master, role)
        };
        let answers = async {
            assert!(other.receive().await.unwrap().is_none());
            assert!(matches!(
                other.feed(Bytes::new()).await,
                Err(SocketError::Closed)
            ));
            other.flush().await.unwrap();
        };
        tokio::join!(closes.close(Duration::from_secs(60)), answers);
    }
}
