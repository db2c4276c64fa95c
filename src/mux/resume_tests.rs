//! What resumption promises, one promise a test: two muxes whose attachments are cut by hand.

use bytes::{Bytes, BytesMut};

use super::{
    tests::{PARAMETERS, Pair, carry, message, next_message, read_all},
    *,
};

/// What fits into a message.
const ROOM: usize = 65_536;

fn list(mux: &mut Mux, room: usize) -> Bytes {
    let mut out = BytesMut::new();
    mux.write_resume(&mut out, room);
    out.freeze()
}

fn frames(mut message: Bytes) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| (!message.is_empty()).then(|| TunnelFrame::decode(&mut message).unwrap())).collect()
}

/// Everything that the mux wants to send now.
fn all_frames(mux: &mut Mux, now: Instant) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| next_message(mux, now)).flat_map(frames).collect()
}

fn drain(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

impl Pair {
    /// What one end sends from now on is lost.
    fn lose(mux: &mut Mux, now: Instant) -> usize {
        std::iter::from_fn(|| next_message(mux, now)).map(|message| message.len()).sum()
    }

    /// A new attachment, whose candidates meet at once.
    fn attach(&mut self) {
        let (from_client, from_server) = (list(&mut self.client, ROOM), list(&mut self.server, ROOM));
        self.client.resume(self.now);
        self.client.handle_message(self.now, from_server).unwrap();
        self.server.resume(self.now);
        self.server.handle_message(self.now, from_client).unwrap();
    }
}

#[test]
fn what_was_lost_with_an_attachment_is_sent_again_and_only_that() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, Bytes::from_static(b"arrives, ")).unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    pair.client.write(stream, Bytes::from_static(b"is lost, ")).unwrap();
    pair.client.finish(stream);
    Pair::lose(&mut pair.client, pair.now);
    pair.attach();
    assert_eq!(drain(&mut pair.client), [Event::Resumed { streams: 1, again_bytes: 9 }]);
    pair.settle();
    assert_eq!(read_all(&mut pair.server, pair.now, stream), b"arrives, is lost, ");
    assert_eq!(pair.server.read(stream), Ok(Read::End));
    assert_eq!(pair.client.tunnel_sent, 18, "what is sent again takes no credit");
}

#[test]
fn nothing_flows_before_the_list_of_the_peer_is_complete() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.write(stream, Bytes::from_static(b"bytes")).unwrap();
    pair.client.open(Bytes::new());
    pair.client.resume(pair.now);
    let flows = |frame: &TunnelFrame| matches!(frame, TunnelFrame::Open { .. } | TunnelFrame::Data { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(flows));
    let from_server = list(&mut pair.server, ROOM);
    pair.client.handle_message(pair.now, from_server).unwrap();
    assert_eq!(all_frames(&mut pair.client, pair.now).iter().filter(|frame| flows(frame)).count(), 2);
}

#[test]
fn lists_that_cannot_be_end_the_tunnel() {
    let resume = |seen, opened| TunnelFrame::Resume { seen, opened };
    let window = |stream, received| TunnelFrame::Window { stream: StreamId(stream), received, limit: 0 };
    let done = TunnelFrame::Resumed;
    let again = [resume(2, 1), done.clone()];
    let cases: [(&str, Vec<TunnelFrame>); 12] = [
        ("the end of a list that has not begun", vec![done.clone()]),
        ("a frame before the list", vec![TunnelFrame::Ping { token: 1 }]),
        ("an update before the list", vec![window(0, 0)]),
        ("a frame in the list", vec![resume(2, 1), TunnelFrame::Pong { token: 1 }]),
        ("more seen than opened", vec![resume(4, 1)]),
        ("the numbers of the wrong side", vec![resume(1, 2)]),
        ("a stream that was never opened here", vec![resume(2, 1), window(2, 0)]),
        ("a stream that was never opened there", vec![resume(2, 3), window(3, 0)]),
        ("what was never sent", vec![resume(2, 1), window(0, 6)]),
        ("a stream forgotten before its end", vec![resume(2, 1), done.clone()]),
        ("a list three times", [resume(0, 1), done.clone(), resume(0, 1), done.clone(), resume(0, 1)].to_vec()),
        ("a list in the midst of the flow", [&[resume(0, 1), done.clone(), TunnelFrame::Ping { token: 1 }], &again[..]].concat()),
    ];
    for (name, frames) in cases {
        let mut pair = Pair::with(PARAMETERS);
        let stream = pair.client.open(Bytes::new());
        pair.client.write(stream, Bytes::from_static(b"sent!")).unwrap();
        Pair::lose(&mut pair.client, pair.now);
        pair.client.resume(pair.now);
        let result = pair.client.handle_message(pair.now, message(&frames));
        assert!(matches!(result, Err(MuxError::Protocol(_))), "{name}: {result:?}");
    }
}
