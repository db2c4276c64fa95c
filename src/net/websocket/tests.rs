//! Messages of every size, split at any point, across buffer changes, and against another
//! implementation of RFC 6455.

use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::*;
use crate::net::memory;
use report_proto::frame::MAX_MESSAGE;

/// The capacity that one `release_idle_buffers` leaves to an empty socket, in bytes.
const SMALL: usize = 4 * 1024;

async fn carry(from: &mut MessageSocket, to: &mut MessageSocket, length: usize) {
    let message = Bytes::from(vec![length as u8; length]);
    let send = async {
        from.feed(message.clone()).await.unwrap();
        from.flush().await.unwrap();
    };
    let ((), received) = tokio::join!(send, to.receive());
    assert_eq!(received.unwrap().unwrap(), message);
}

/// Returns a socket and the stream at its other end.
fn raw(end: SocketEnd) -> (DuplexStream, MessageSocket) {
    let (peer, stream) = tokio::io::duplex(1 << 20);
    (peer, MessageSocket::new(stream, Bytes::new(), end))
}

#[tokio::test]
async fn busy_socket_reads_more_and_idle_socket_releases_buffers() {
    let (mut role, mut master) = memory::pair();
    carry(&mut role, &mut master, 100).await;
    assert!(master.receive().now_or_never().is_none());
    assert_eq!(master.inbound.buffer_capacity(), 0, "no buffer is kept");
    for _ in 0..20 {
        carry(&mut role, &mut master, 60_000).await;
    }
    assert!(master.receive().now_or_never().is_none());
    assert!(
        master.inbound.buffer_capacity() > 30_000,
        "{}",
        master.inbound.buffer_capacity()
    );
    master.release_idle_buffers();
    assert!(
        master.inbound.buffer_capacity() > 30_000,
        "it was busy since the last release"
    );
    carry(&mut role, &mut master, 100).await;
    master.release_idle_buffers();
    assert!(master.receive().now_or_never().is_none());
    assert_eq!(master.inbound.buffer_capacity(), 0);
    carry(&mut role, &mut master, 100).await;
    assert!(master.inbound.buffer_capacity() <= SMALL);
}

/// A stream that repeats its bytes forever, and records the buffer room of each read.
struct Endless {
    bytes: Vec<u8>,
    next: usize,
    rooms: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.rooms.lock().unwrap().push(buffer.remaining());
        while buffer.remaining() > 0 {
            let length = buffer.remaining().min(self.bytes.len() - self.next);
            buffer.put_slice(&self.bytes[self.next..self.next + length]);
            self.next = (self.next + length) % self.bytes.len();
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn run_of_full_messages_moves_few_bytes() {
    for length in [10_000, 65_000, 65_536] {
        let (bytes, rooms) = (frame(0x2, length, false), Arc::default());
        let whole = bytes.len();
        let stream = tokio::io::join(
            Endless {
                bytes,
                next: 0,
                rooms: Arc::clone(&rooms),
            },
            tokio::io::sink(),
        );
        let mut socket = MessageSocket::new(stream, Bytes::new(), SocketEnd::Dialled);
        for _ in 0..100 {
            assert_eq!(socket.receive().await.unwrap().unwrap().len(), length);
        }
        // Each read moves the bytes of the message that initiator at its end.
        let mut read = 0;
        let rooms = rooms.lock().unwrap();
        let moved: Vec<usize> = rooms
            .iter()
            .map(|room| (read += room, read % whole).1)
            .collect();
        let (first, last) = moved.split_at(moved.len() / 2);
        assert!(
            first.iter().any(|moved| *moved > 1000),
            "{whole}: {first:?}"
        );
        assert!(last.iter().all(|moved| *moved < 4200), "{whole}: {last:?}");
    }
}

#[tokio::test]
async fn messages_of_every_length_survive_buffer_changes() {
    let (mut role, mut master) = memory::pair();
    for round in 0..400 {
        for length in [
            0,
            1,
            125,
            126,
            127,
            2_047,
            2_048,
            4_090,
            4_096,
            65_535,
            65_536,
            MAX_MESSAGE,
        ] {
            let length = if round % 3 == 0 {
                length
            } else {
                fastrand::usize(..=length)
            };
            carry(&mut role, &mut master, length).await;
            carry(&mut master, &mut role, length).await;
            if fastrand::bool() {
                master.release_idle_buffers();
                role.release_idle_buffers();
            }
        }
    }
}

#[tokio::test]
async fn releasing_buffers_keeps_their_contents() {
    let (mut peer, mut socket) = raw(SocketEnd::Dialled);
    peer.write_all(&[0x82, 4, b'h', b'a']).await.unwrap();
    assert!(socket.receive().now_or_never().is_none());
    socket.release_idle_buffers();
    peer.write_all(b"lf\x82").await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "half"[..]);
    socket.release_idle_buffers();
    peer.write_all(b"\x01x").await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "x"[..]);
    socket.feed(Bytes::from_static(b"fed")).await.unwrap();
    socket.release_idle_buffers();
    socket.flush().await.unwrap();
    let mut received = [0; 9];
    peer.read_exact(&mut received).await.unwrap();
    assert_eq!(received[..2], [0x82, 0x83]);
}

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

/// Returns a frame with this opcode and a constant payload, masked or not.
fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match length {
        0..=125 => frame.push(mask | length as u8),
        126..=65_535 => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    // A mask whose bytes look like the beginning of a control frame.
    frame.extend(if masked { &[0x89, 0, 0x8a, 0][..] } else { &[] });
    frame.resize(frame.len() + length, 0x89);
    frame
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

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

#[tokio::test]
async fn unauthenticated_peer_cannot_grow_the_buffers() {
    let (mut peer, mut socket) = raw(SocketEnd::Accepted);
    let flood = || {
        (0..1000)
            .flat_map(|_| frame(BINARY, 9, true))
            .chain(frame(BINARY, 100_000, true))
            .collect::<Vec<u8>>()
    };
    for _ in 0..20 {
        peer.write_all(&flood()).await.unwrap();
        while socket.receive().now_or_never().is_some() {
            assert!(socket.inbound.buffer_capacity() <= 2 * 100_000);
        }
        assert_eq!(socket.inbound.buffer_capacity(), 0);
    }
    socket.allow_large_reads();
    for _ in 0..20 {
        peer.write_all(&flood()).await.unwrap();
        while socket.receive().now_or_never().is_some() {}
    }
    assert!(socket.inbound.buffer_capacity() > 30_000);
}

#[tokio::test]
async fn closing_socket_discards_messages() {
    const CLOSE: u8 = 8;
    let (mut peer, mut socket) = raw(SocketEnd::Accepted);
    let long = frame(BINARY, 100_000, true);
    let (begun, rest) = long.split_at(60_000);
    peer.write_all(begun).await.unwrap();
    assert!(socket.receive().now_or_never().is_none());
    assert!(socket.partial_message_bytes() > 50_000);
    socket.discard();
    assert_eq!(
        (
            socket.partial_message_bytes(),
            socket.inbound.buffer_capacity()
        ),
        (0, 0)
    );
    let mut parted = frame(BINARY, 20_000, true);
    parted[0] &= 0x7f;
    for bytes in [rest, &parted, &frame(0, 20_000, true), &begun[..30_000]] {
        peer.write_all(bytes).await.unwrap();
        assert!(
            socket.receive().now_or_never().is_none(),
            "nothing is delivered"
        );
        assert_eq!(socket.partial_message_bytes(), 0);
        assert!(
            socket.inbound.buffer_capacity() <= 2 * SMALL,
            "{}",
            socket.inbound.buffer_capacity()
        );
    }
    peer.write_all(&long[30_000..]).await.unwrap();
    peer.write_all(&frame(CLOSE, 0, true)).await.unwrap();
    assert!(socket.receive().await.unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tungstenite_interoperates(
        messages in proptest::collection::vec(prop_oneof![0_usize..300, 2000_usize..2100, 65_000..66_000_usize], 1..12),
        dialled in any::<bool>(), held in 1_usize..100_000, pings in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(held);
            let (end, role) = if dialled { (SocketEnd::Dialled, Role::Server) } else { (SocketEnd::Accepted, Role::Client) };
            let mut ours = MessageSocket::new(ours, Bytes::new(), end);
            let config = WebSocketConfig::default().write_buffer_size(0).max_write_buffer_size(1 << 20);
            let mut theirs = WebSocketStream::from_raw_socket(theirs, role, Some(config)).await;
            for length in messages {
                let message = Bytes::from((0..length).map(|index| index as u8).collect::<Vec<_>>());
                let outgoing = async {
                    ours.feed(message.clone()).await.unwrap();
                    ours.flush().await.unwrap();
                };
                let ((), received) = tokio::join!(outgoing, theirs.next());
                assert_eq!(received.unwrap().unwrap().into_data(), message);
                let incoming = async {
                    if pings {
                        theirs.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
                    }
                    theirs.send(Message::Binary(message.clone())).await.unwrap();
                    if pings {
                        assert_eq!(theirs.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
                    }
                };
                let answer = async {
                    let received = ours.receive().await.unwrap().unwrap();
                    ours.flush().await.unwrap();
                    received
                };
                let ((), received) = tokio::join!(incoming, answer);
                assert_eq!(received, message);
            }
            let closing = async {
                theirs.close(None).await.unwrap();
                while let Some(Ok(_)) = theirs.next().await {}
            };
            let closed = async {
                assert!(ours.receive().await.unwrap().is_none());
                ours.flush().await.unwrap();
                drop(ours);
            };
            tokio::join!(closing, closed);
        });
    }

    #[test]
    fn messages_survive_any_split_of_the_stream(
        lengths in proptest::collection::vec(prop_oneof![0_usize..300, 65_000..66_000_usize], 1..8), piece in 1_usize..3000, parts in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut peer, mut socket) = raw(SocketEnd::Accepted);
            for length in lengths {
                let mut stream = Vec::new();
                for part in 0..parts {
                    let mut bytes = frame(if part == 0 { BINARY } else { 0 }, length, true);
                    bytes[0] &= if part + 1 == parts { 0xff } else { 0x7f };
                    stream.extend(bytes);
                    stream.extend(frame(PING, length % 126, true));
                }
                let write = async {
                    for piece in stream.chunks(piece) {
                        peer.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                };
                if length * parts > MAX_MESSAGE {
                    break;
                }
                let ((), received) = tokio::join!(write, socket.receive());
                assert_eq!(received.unwrap().unwrap().len(), length * parts);
            }
        });
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), dialled in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut peer, mut socket) = raw(if dialled { SocketEnd::Dialled } else { SocketEnd::Accepted });
            peer.write_all(&bytes).await.unwrap();
            drop(peer);
            while let Ok(Some(_)) = socket.receive().await {}
        });
    }
}
