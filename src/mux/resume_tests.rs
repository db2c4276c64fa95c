//! What resumption promises, one promise a test: two muxes whose attachments are cut by hand.

use bytes::{Bytes, BytesMut};

use super::{
    frame::FRAME_MAX,
    tests::{PARAMETERS, Pair, carry, message, next_message, read_all},
    transmit::INTERACTIVE_RESERVE,
    updates::{ACK_DELAY, ACK_DELAY_LITTLE},
    *,
};

/// What fits into a message.
const ROOM: usize = 65_536;

pub fn list(mux: &mut Mux, room: usize) -> Bytes {
    let mut out = BytesMut::new();
    mux.write_resume(&mut out, room);
    out.freeze()
}

pub fn frames(mut message: Bytes) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| (!message.is_empty()).then(|| TunnelFrame::decode(&mut message).unwrap()))
        .collect()
}

/// Everything that the mux wants to send now.
pub fn all_frames(mux: &mut Mux, now: Instant) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| next_message(mux, now))
        .flat_map(frames)
        .collect()
}

pub fn drain(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

impl Pair {
    /// What one end sends from now on is lost.
    pub fn lose(mux: &mut Mux, now: Instant) -> usize {
        std::iter::from_fn(|| next_message(mux, now))
            .map(|message| message.len())
            .sum()
    }

    /// A new attachment, whose candidates meet at once.
    fn attach(&mut self) {
        let (from_client, from_server) =
            (list(&mut self.client, ROOM), list(&mut self.server, ROOM));
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
    pair.client
        .write(stream, Bytes::from_static(b"arrives, "))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    pair.client
        .write(stream, Bytes::from_static(b"is lost, "))
        .unwrap();
    pair.client.finish(stream);
    Pair::lose(&mut pair.client, pair.now);
    pair.attach();
    assert_eq!(
        drain(&mut pair.client),
        [Event::Resumed {
            streams: 1,
            again_bytes: 9
        }]
    );
    pair.settle();
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        b"arrives, is lost, "
    );
    assert_eq!(pair.server.read(stream), Ok(Read::End));
    assert_eq!(
        pair.client.tunnel_sent, 18,
        "what is sent again takes no credit"
    );
}

#[test]
fn nothing_flows_before_the_list_of_the_peer_is_complete() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from_static(b"bytes"))
        .unwrap();
    pair.client.open(Bytes::new());
    pair.client.resume(pair.now);
    let flows =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Open { .. } | TunnelFrame::Data { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(flows));
    let from_server = list(&mut pair.server, ROOM);
    pair.client.handle_message(pair.now, from_server).unwrap();
    assert_eq!(
        all_frames(&mut pair.client, pair.now)
            .iter()
            .filter(|frame| flows(frame))
            .count(),
        2
    );
}

#[test]
fn openings_that_were_lost_are_sent_again_in_order_and_before_new_ones() {
    let mut pair = Pair::new();
    let seen = pair.stream();
    let lost: Vec<_> = (0..5)
        .map(|_| pair.client.open(Bytes::from_static(b"[1]")))
        .collect();
    lost.iter().for_each(|&stream| {
        pair.client
            .write(stream, Bytes::from_static(b"first"))
            .unwrap()
    });
    Pair::lose(&mut pair.client, pair.now);
    let new = pair.client.open(Bytes::from_static(b"[2]"));
    pair.attach();
    let mut sent = all_frames(&mut pair.client, pair.now).into_iter();
    let opens: Vec<_> = sent.by_ref().take(6).collect();
    for (open, &stream) in opens.iter().zip(lost.iter().chain([&new])) {
        assert!(
            matches!(open, TunnelFrame::Open { stream: opened, .. } if *opened == stream),
            "{open:?}"
        );
    }
    assert!(matches!(&opens[0], TunnelFrame::Open { details, .. } if details == "[1]"));
    assert!(
        sent.all(|frame| !matches!(
            frame,
            TunnelFrame::Open { .. }
                | TunnelFrame::Data {
                    stream: StreamId(0),
                    ..
                }
        )),
        "{seen:?}"
    );
}

#[test]
fn a_reset_that_followed_a_fin_is_sent_again_though_the_fin_is_acknowledged() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.finish(stream);
    pair.settle();
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    Pair::lose(&mut pair.client, pair.now);
    pair.attach();
    pair.settle();
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
}

#[test]
fn an_answer_carries_what_was_received_and_no_message_follows_for_it() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from_static(b"before"))
        .unwrap();
    pair.settle();
    pair.client
        .write(stream, Bytes::from_static(b"request"))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        b"beforerequest"
    );
    assert_eq!(
        next_message(&mut pair.server, pair.now),
        None,
        "it can wait"
    );
    pair.server
        .write(stream, Bytes::from_static(b"answer"))
        .unwrap();
    let answer = all_frames(&mut pair.server, pair.now);
    let is_update = |frame: &TunnelFrame| matches!(frame, TunnelFrame::Window { received: 13, .. });
    assert!(answer.iter().any(is_update), "{answer:?}");
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn a_stream_that_the_peer_has_forgotten_has_been_delivered() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.server.finish(stream);
    carry(&mut pair.server, &mut pair.client, pair.now);
    pair.client
        .write(stream, Bytes::from_static(b"all"))
        .unwrap();
    pair.client.finish(stream);
    carry(&mut pair.client, &mut pair.server, pair.now);
    assert_eq!(read_all(&mut pair.server, pair.now, stream), b"all");
    pair.server.release(pair.now, stream);
    pair.now += ACK_DELAY;
    pair.server.handle_timeout(pair.now);
    Pair::lose(&mut pair.server, pair.now);
    assert_eq!(
        (pair.server.streams(), pair.client.is_delivered(stream)),
        (0, Ok(false))
    );
    drain(&mut pair.client);
    pair.attach();
    assert_eq!(pair.client.is_delivered(stream), Ok(true));
    assert_eq!(drain(&mut pair.client)[0], Event::Writable(stream));
    assert_eq!(pair.client.load.kept, 0);
    pair.client.release(pair.now, stream);
    assert_eq!(pair.client.streams(), 0);
}

#[test]
fn a_list_is_repeated_when_it_is_not_true_any_more_and_only_then() {
    for (stale, sent_again) in [(false, false), (true, true)] {
        let mut pair = Pair::new();
        let stream = pair.stream();
        let from_server = list(&mut pair.server, ROOM);
        if stale {
            pair.client
                .write(stream, Bytes::from_static(b"late"))
                .unwrap();
            carry(&mut pair.client, &mut pair.server, pair.now);
        }
        pair.client.resume(pair.now);
        pair.client.handle_message(pair.now, from_server).unwrap();
        pair.server.resume(pair.now);
        let first = next_message(&mut pair.server, pair.now)
            .map(frames)
            .unwrap_or_default();
        assert_eq!(
            matches!(
                first[..],
                [TunnelFrame::Resume { .. }, .., TunnelFrame::Resumed]
            ),
            sent_again,
            "{first:?}"
        );
    }
}

#[test]
fn a_list_that_another_candidate_carried_is_not_taken_for_the_one_that_counts() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    list(&mut pair.server, ROOM);
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now);
    let from_client = list(&mut pair.client, ROOM);
    pair.server.handle_message(pair.now, from_client).unwrap();
    assert_eq!(
        all_frames(&mut pair.server, pair.now),
        [],
        "both lists were true"
    );
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now);
    let first = next_message(&mut pair.server, pair.now)
        .map(frames)
        .unwrap();
    assert!(
        matches!(first[0], TunnelFrame::Resume { .. }),
        "the second of {stream:?} may be the one: {first:?}"
    );
    pair.server.drop_candidates();
    list(&mut pair.server, ROOM);
    pair.server.resume(pair.now);
    assert_eq!(
        all_frames(&mut pair.server, pair.now),
        [],
        "only the last one is left"
    );
}

#[test]
fn an_end_that_was_lost_needs_no_credit_when_what_stands_before_it_came() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..5).map(|_| pair.stream()).collect();
    let late = list(&mut pair.server, ROOM);
    for &stream in &streams {
        // The credit is for a little of one and most of the others.
        let length = if stream == streams[0] {
            1000
        } else {
            pair.client.write_room(stream).unwrap()
        };
        pair.client
            .write(stream, Bytes::from(vec![1; length]))
            .unwrap();
    }
    Pair::lose(&mut pair.client, pair.now);
    assert!(pair.client.tunnel_limit - pair.client.tunnel_sent <= INTERACTIVE_RESERVE);
    let received: Vec<u64> = streams
        .iter()
        .map(|stream| pair.client.streams[stream].send.sent())
        .collect();
    let whole = *streams
        .iter()
        .find(|stream| pair.client.streams[stream].send.unsent() == 0)
        .unwrap();
    pair.client.finish(whole);
    Pair::lose(&mut pair.client, pair.now);
    pair.client.resume(pair.now);
    pair.client.handle_message(pair.now, late).unwrap();
    let windows = streams
        .iter()
        .zip(received)
        .map(|(&stream, received)| TunnelFrame::Window {
            stream,
            received,
            limit: 0,
        });
    let list: Vec<_> = [TunnelFrame::Resume {
        seen: 10,
        opened: 1,
    }]
    .into_iter()
    .chain(windows)
    .chain([TunnelFrame::Resumed])
    .collect();
    pair.client
        .handle_message(pair.now, message(&list))
        .unwrap();
    let is_end =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Fin { stream, .. } if *stream == whole);
    assert!(all_frames(&mut pair.client, pair.now).iter().any(is_end));
}

#[test]
fn a_list_that_is_late_has_the_end_sent_again_at_most_once() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    let late = list(&mut pair.server, ROOM);
    pair.client
        .write(stream, Bytes::from_static(b"came"))
        .unwrap();
    pair.client.finish(stream);
    carry(&mut pair.client, &mut pair.server, pair.now);
    assert_eq!(pair.client.is_delivered(stream), Ok(false));
    pair.client.resume(pair.now);
    pair.client.handle_message(pair.now, late).unwrap();
    pair.server.resume(pair.now);
    let second = next_message(&mut pair.server, pair.now).unwrap();
    pair.client.handle_message(pair.now, second).unwrap();
    assert!(drain(&mut pair.client).contains(&Event::Writable(stream)));
    assert_eq!(pair.client.is_delivered(stream), Ok(true));
    let repeated =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Data { .. } | TunnelFrame::Fin { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(repeated));
}

#[test]
fn what_is_sent_again_waits_for_no_credit_and_for_no_stream_that_does() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..6).map(|_| pair.stream()).collect();
    for &stream in &streams {
        let room = pair.client.write_room(stream).unwrap();
        pair.client
            .write(stream, Bytes::from(vec![1; room]))
            .unwrap();
    }
    Pair::lose(&mut pair.client, pair.now);
    assert_eq!(
        pair.client.tunnel_limit - pair.client.tunnel_sent,
        INTERACTIVE_RESERVE
    );
    let waits = pair.client.open(Bytes::new());
    pair.client
        .write(waits, Bytes::from(vec![2; 4096]))
        .unwrap();
    pair.attach();
    let again = pair.client.load.again;
    assert_eq!(again, pair.client.tunnel_sent);
    let sent = all_frames(&mut pair.client, pair.now);
    let bytes = |frame: &TunnelFrame| {
        if let TunnelFrame::Data { bytes, .. } = frame {
            bytes.len() as u64
        } else {
            0
        }
    };
    assert_eq!(
        sent.iter().map(bytes).sum::<u64>(),
        again,
        "all of that, and nothing else"
    );
    let more = TunnelFrame::TunnelWindow {
        limit: pair.client.tunnel_limit + 4096,
    };
    pair.client
        .handle_message(pair.now, message(&[more]))
        .unwrap();
    assert_eq!(
        all_frames(&mut pair.client, pair.now)
            .iter()
            .map(bytes)
            .sum::<u64>(),
        4096,
        "new credit is used at once"
    );
}

#[test]
fn a_list_takes_as_many_messages_as_it_needs_and_goes_before_everything_else() {
    let mut pair = Pair::with(Parameters {
        streams_max: 3000,
        ..PARAMETERS
    });
    let streams: Vec<_> = (0..2000).map(|_| pair.client.open(Bytes::new())).collect();
    pair.settle();
    let part = list(&mut pair.server, 4096);
    assert!(part.len() <= 4096 && !frames(part.clone()).contains(&TunnelFrame::Resumed));
    let from_client = list(&mut pair.client, ROOM);
    pair.server
        .write(streams[0], Bytes::from_static(b"after it"))
        .unwrap();
    pair.server.resume(pair.now);
    pair.server.handle_message(pair.now, from_client).unwrap();
    let mut named = 0;
    loop {
        let mut out = BytesMut::new();
        assert!(pair.server.poll_transmit(pair.now, &mut out, 4096) && out.len() <= 4096);
        let part = frames(out.freeze());
        named += part
            .iter()
            .filter(|frame| matches!(frame, TunnelFrame::Window { .. }))
            .count();
        let data = part
            .iter()
            .position(|frame| matches!(frame, TunnelFrame::Data { .. }));
        match part.iter().position(|frame| *frame == TunnelFrame::Resumed) {
            Some(end) => break assert!(data.is_none_or(|data| data > end)),
            None => assert_eq!(data, None),
        }
    }
    assert_eq!(named, 2000);
}

#[test]
fn a_list_for_a_candidate_changes_nothing() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![1; 20_000]))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    read_all(&mut pair.server, pair.now, stream);
    let state = |mux: &Mux| format!("{:?} {:?} {:?}", mux.streams, mux.window, mux.updates);
    let before = state(&pair.server);
    let first = list(&mut pair.server, ROOM);
    assert_eq!(
        (state(&pair.server), list(&mut pair.server, ROOM)),
        (before, first)
    );
}

#[test]
fn pings_and_answers_of_the_attachment_before_are_void() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    let owed = TunnelFrame::Ping { token: 7 };
    pair.client
        .handle_message(pair.now, message(&[owed]))
        .unwrap();
    let mut lost = BytesMut::new();
    pair.client.write_ping(pair.now, &mut lost);
    pair.attach();
    pair.client.write(stream, Bytes::from_static(b"x")).unwrap();
    let sent = all_frames(&mut pair.client, pair.now);
    assert!(
        !sent
            .iter()
            .any(|frame| matches!(frame, TunnelFrame::Pong { .. })),
        "{sent:?}"
    );
    let is_new = |frame: &TunnelFrame| {
        matches!(frame, TunnelFrame::Ping { .. }) && message(std::slice::from_ref(frame)) != lost
    };
    assert!(
        sent.iter().any(is_new),
        "one need not wait for the answer to the one before: {sent:?}"
    );
}

#[test]
fn the_end_of_a_tunnel_goes_before_everything_and_nothing_follows_it() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from_static(b"never sent"))
        .unwrap();
    pair.client.resume(pair.now);
    pair.client.close(ResetCode::Shutdown);
    pair.client.close(ResetCode::Cancelled);
    assert!(pair.client.has_transmit() && !pair.client.is_end_of_tunnel_sent());
    let end = next_message(&mut pair.client, pair.now).unwrap();
    assert_eq!(
        frames(end.clone()),
        [TunnelFrame::End {
            code: ResetCode::Shutdown
        }]
    );
    assert!(pair.client.is_end_of_tunnel_sent() && !pair.client.has_transmit());
    assert_eq!(next_message(&mut pair.client, pair.now), None);
    pair.server.resume(pair.now);
    pair.server.handle_message(pair.now, end).unwrap();
    assert_eq!(
        drain(&mut pair.server),
        [Event::Closed(ResetCode::Shutdown)]
    );
    assert!(!pair.server.has_transmit() && next_message(&mut pair.server, pair.now).is_none());
    assert!(
        pair.server
            .handle_message(pair.now, message(&[TunnelFrame::Ping { token: 0 }]))
            .is_err()
    );
}

#[test]
fn an_end_of_the_tunnel_that_may_be_lost_is_sent_again() {
    let mut pair = Pair::new();
    pair.client.close(ResetCode::Expired);
    Pair::lose(&mut pair.client, pair.now);
    pair.client.resume(pair.now);
    assert_eq!(
        all_frames(&mut pair.client, pair.now),
        [TunnelFrame::End {
            code: ResetCode::Expired
        }]
    );
}

#[test]
fn without_an_attachment_deadlines_pass_once_and_queues_do_not_grow() {
    let mut pair = Pair::new();
    let [stream, ..] = [0; 3].map(|_| pair.stream());
    for round in 0..100 {
        pair.client
            .write(stream, Bytes::from_static(b"more"))
            .unwrap();
        carry(&mut pair.client, &mut pair.server, pair.now);
        pair.now += ACK_DELAY_LITTLE;
        pair.server.handle_timeout(pair.now);
        assert_eq!(pair.server.poll_timeout(), None);
        let from_client = list(&mut pair.client, ROOM);
        pair.server.resume(pair.now);
        pair.server.handle_message(pair.now, from_client).unwrap();
        // Room for the list, and for nothing behind it.
        let rooms = [2 * FRAME_MAX, FRAME_MAX];
        assert!(rooms.iter().all(|&room| pair.server.poll_transmit(
            pair.now,
            &mut BytesMut::new(),
            room
        )));
        assert!(!pair.server.resumption.is_list_due());
        assert!(
            pair.server.updates.due.len() + pair.server.updates.pending.len() <= 1,
            "in round {round}"
        );
    }
}
