//! Messages of every size, split at any point, across buffer changes, and against another
//! implementation of RFC 6455.

mod buffers;
mod properties;
mod protocol;

use tokio::io::DuplexStream;

use super::*;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

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
