//! The memory of a socket: its buffers grow under load, and shrink afterwards.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::*;
use crate::net::memory;
use report_proto::frame::MAX_MESSAGE;

/// The capacity that one `release_idle_buffers` leaves to an empty socket, in bytes.
const SMALL: usize = 4 * 1024;

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
