//! Generated messages and bytes, and another implementation at the other end.

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::*;
use report_proto::frame::MAX_MESSAGE;

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
