//! Tests of peers that break the protocol, do not read, or do not complete a message.

use bytes::Bytes;

use super::*;

#[tokio::test(start_paused = true)]
async fn malformed_frames_end_link_with_protocol() {
    for message in [
        &b""[..],
        b"\x00",
        b"\x7f",
        b"\x08\x00",
        b"\x10\x00\x00\x00\x01",
        b"\x05{",
        b"\x01",
    ] {
        let (mut fixture, mut peer) = Fixture::with_peer();
        let (_channel_end, mut events) = fixture.open(1, 0);
        peer.feed(Bytes::from_static(message)).await.unwrap();
        peer.flush().await.unwrap();
        assert!(
            matches!(
                receive(&mut peer).await,
                Frame::Error(Notice {
                    code: Code::Protocol,
                    ..
                })
            ),
            "{message:?}"
        );
        assert_eq!(peer.receive().await.unwrap(), None);
        assert!(matches!(
            fixture.end().await,
            EndReason::ProtocolViolation(_)
        ));
        assert!(matches!(
            events.recv().await,
            Some(ChannelEvent::Closed(Notice {
                code: Code::Protocol,
                ..
            }))
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn text_and_oversized_messages_end_link_with_protocol() {
    let oversized = tungstenite::Message::binary(vec![0x10; MAX_MESSAGE + 1]);
    for message in [tungstenite::Message::text("hello"), oversized] {
        let (mut fixture, stream) = raw_peer();
        let mut peer = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        // The link does not read the rest of an oversized message.
        let _ = tokio::time::timeout(Duration::from_secs(1), peer.send(message)).await;
        let EndReason::ProtocolViolation(notice) = fixture.end().await else {
            panic!("the peer broke the protocol")
        };
        assert_eq!(notice.code, Code::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_other_than_websocket_end_link_with_protocol() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n"[..],
        &[0x82, 0x01, 0x08],
        &[0xff; 64],
        &[0xc2, 0x80, 0, 0, 0, 0],
    ] {
        let (mut fixture, mut peer) = raw_peer();
        peer.write_all(garbage).await.unwrap();
        assert!(
            matches!(
                fixture.end().await,
                EndReason::ProtocolViolation(Notice {
                    code: Code::Protocol,
                    ..
                })
            ),
            "{garbage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn websocket_pongs_do_not_pile_up_for_peer_that_does_not_read() {
    let (_bed, stream) = raw_peer();
    let config = tungstenite::protocol::WebSocketConfig::default().write_buffer_size(0);
    let mut peer = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
    for _ in 0..10_000 {
        peer.send(tungstenite::Message::Ping(vec![1; 125].into()))
            .await
            .unwrap();
    }
    let pongs = async {
        let mut pongs = 0;
        while let Some(Ok(message)) = peer.next().await {
            pongs += usize::from(message.is_pong());
            if message.is_binary() {
                break;
            }
        }
        pongs
    };
    // The keep-alive's PING follows all of them.
    let held = pongs.await * 127;
    assert!(held < 2 * BULK + 3 * MAX_MESSAGE, "{held} bytes");
}

#[tokio::test(start_paused = true)]
async fn handler_that_refuses_frame_ends_link() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    send(&mut peer, Frame::Unregister(Ports { ports: vec![] })).await;
    assert_eq!(
        receive(&mut peer).await,
        Frame::Error(Notice::new(Code::Protocol, "not from you"))
    );
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Requested(_)));
}

/// A handler that answers each frame with a frame.
struct AnsweringHandler(Arc<Outbox>, Arc<AtomicUsize>);

impl Handler for AnsweringHandler {
    fn on_frame(&mut self, _: Frame) -> Result<(), Notice> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.control(&Frame::Registered(Registered::default()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_is_not_read_until_it_does() {
    let (mut peer, master) = memory::pair_with_capacity(8 * 1024);
    let (outbox, handled) = (Outbox::new(), Arc::new(AtomicUsize::new(0)));
    let mut task = JoinSet::new();
    let link = Link::new(master, outbox.clone(), KeepAliveTiming::default());
    let mut handler = AnsweringHandler(outbox.clone(), handled.clone());
    task.spawn(async move { link.run(&mut handler, std::future::pending()).await.reason });
    let message = Frame::Register(Ports { ports: vec![] }).to_message();
    let flood = async {
        loop {
            peer.feed(message.clone()).await.unwrap();
            peer.flush().await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), flood)
            .await
            .is_err()
    );
    assert!(
        outbox.queued_control_bytes() <= 32 * 1024,
        "{} bytes are queued",
        outbox.queued_control_bytes()
    );
    let before = handled.load(Ordering::Relaxed);
    // The peer reads, so the link continues.
    let reading = async {
        while handled.load(Ordering::Relaxed) == before || outbox.queued_control_bytes() > 0 {
            receive(&mut peer).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), reading)
        .await
        .expect("the link reads again");
    // The peer stops reading again but still sends: the timeout ends the link.
    let flood =
        async { while peer.feed(message.clone()).await.is_ok() && peer.flush().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), flood)
        .await
        .expect("the link has ended");
    assert!(matches!(
        task.join_next().await,
        Some(Ok(EndReason::TimedOut(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn message_that_never_completes_ends_link_of_master() {
    let (mut stream, accepted) = duplex(BULK);
    let socket = MessageSocket::new(accepted, Bytes::new(), SocketEnd::Accepted);
    let mut fixture = Fixture::run(socket);
    let start = Instant::now();
    // A frame of 128 KiB, masked with zeros, of which a byte arrives every nine seconds.
    stream
        .write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    stream.write_all(&[0x10; 8 * 1024]).await.unwrap();
    let dripping = async {
        while stream.write_all(&[0x10]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
    };
    let end = tokio::select! { end = fixture.end() => end, () = dripping => panic!("the link ends first") };
    assert!(
        matches!(
            end,
            EndReason::Requested(Notice {
                code: Code::Timeout,
                ..
            })
        ),
        "{end}"
    );
    let seconds = start.elapsed().as_secs();
    assert!((120..=145).contains(&seconds), "{seconds} s");
}
