//! Messages of every size, through changes of the buffers.

use super::*;
use crate::link::memory;

async fn carry(from: &mut MessageSocket, to: &mut MessageSocket, length: usize) {
    let message = Bytes::from(vec![length as u8; length]);
    let send = async {
        from.feed(message.clone()).await.unwrap();
        from.flush().await.unwrap();
    };
    let ((), received) = tokio::join!(send, to.receive());
    assert_eq!(received.unwrap().unwrap(), message);
}

#[tokio::test]
async fn a_busy_socket_reads_in_larger_pieces_and_one_at_rest_lets_its_buffers_go() {
    let (mut role, mut master) = memory::pair();
    for (from, to) in [(&mut role, &mut master)] {
        carry(from, to, 100).await;
        assert_eq!(to.pace, Pace::Rest);
        for _ in 0..8 {
            carry(from, to, 60_000).await;
        }
        assert_eq!(to.pace, Pace::Busy);
        to.rest();
        assert_eq!(to.pace, Pace::Busy, "it was busy since it last rested");
        carry(from, to, 100).await;
        to.rest();
        assert_eq!(to.pace, Pace::Rest);
        carry(from, to, 100).await;
    }
    for _ in 0..8 {
        carry(&mut master, &mut role, 60_000).await;
    }
    assert_eq!(role.pace, Pace::Busy);
}

#[tokio::test]
async fn messages_of_every_length_arrive_whole_while_the_buffers_change() {
    let (mut role, mut master) = memory::pair();
    for round in 0..400 {
        for length in [0, 1, 125, 126, 127, 4_090, 4_096, 65_535, 65_536, MAX_MESSAGE] {
            let length = if round % 3 == 0 { length } else { fastrand::usize(..=length) };
            carry(&mut role, &mut master, length).await;
            carry(&mut master, &mut role, length).await;
            if fastrand::bool() {
                master.rest();
                role.rest();
            }
        }
    }
}

#[tokio::test]
async fn buffers_stay_while_a_message_is_in_them() {
    let (mut peer, stream) = tokio::io::duplex(1 << 20);
    let mut socket = MessageSocket::new(stream, Bytes::new(), End::Dialled);
    let write = async |peer: &mut tokio::io::DuplexStream, bytes: &[u8]| {
        tokio::io::AsyncWriteExt::write_all(peer, bytes).await.unwrap();
    };
    for _ in 0..5 {
        let mut frame = vec![0x82, 126, 0xff, 0xff];
        frame.resize(4 + 65_535, 1);
        write(&mut peer, &frame).await;
        assert_eq!(socket.receive().await.unwrap().unwrap().len(), 65_535);
    }
    assert_eq!(socket.pace, Pace::Busy);
    // Half a message, then quiet.
    write(&mut peer, &[0x82, 4, b'h', b'a']).await;
    assert!(socket.receive().now_or_never().is_none());
    socket.rest();
    socket.rest();
    assert_eq!(socket.pace, Pace::Busy);
    write(&mut peer, b"lf").await;
    assert_eq!(socket.receive().await.unwrap().unwrap(), "half");
    // A header longer than it need be: whether the buffer is empty cannot be told from then on.
    write(&mut peer, &[0x82, 126, 0, 1, b'x']).await;
    assert_eq!(socket.receive().await.unwrap().unwrap(), "x");
    socket.rest();
    socket.rest();
    assert_eq!(socket.pace, Pace::Busy);
}

#[tokio::test]
async fn what_was_fed_and_not_flushed_is_not_lost_at_rest() {
    let (mut role, mut master) = memory::pair();
    for _ in 0..8 {
        carry(&mut master, &mut role, 60_000).await;
    }
    role.feed(Bytes::from_static(b"fed")).await.unwrap();
    role.rest();
    role.rest();
    assert_eq!(role.pace, Pace::Busy);
    role.flush().await.unwrap();
    assert_eq!(master.receive().await.unwrap().unwrap(), "fed");
    role.rest();
    assert_eq!(role.pace, Pace::Rest);
}

#[tokio::test]
async fn what_came_with_the_upgrade_is_read_first() {
    let (mut peer, stream) = tokio::io::duplex(1024);
    let mut socket = MessageSocket::new(stream, Bytes::from_static(b"\x82\x05first\x82\x06sec"), End::Dialled);
    tokio::io::AsyncWriteExt::write_all(&mut peer, b"ond").await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "first");
    assert_eq!(socket.receive().await.unwrap().unwrap(), "second");
}
