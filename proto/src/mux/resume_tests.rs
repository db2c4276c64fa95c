//! Tests of resumption: two muxes whose attachments are cut manually, one property per test.

use bytes::{Bytes, BytesMut};

use super::{
    ack_queue::{ACK_DELAY, ACK_DELAY_LITTLE},
    frame::FRAME_MAX,
    tests::{PARAMETERS, Pair, carry, message, next_message, read_all},
    transmit::INTERACTIVE_RESERVE,
    *,
};

/// The size of a message.
const ROOM: usize = 65_536;

pub(super) fn list(mux: &mut Mux, room: usize) -> Bytes {
    let mut out = BytesMut::new();
    mux.write_resume(&mut out, room);
    out.freeze()
}

pub(super) fn frames(mut message: Bytes) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| (!message.is_empty()).then(|| TunnelFrame::decode(&mut message).unwrap()))
        .collect()
}

/// Returns all frames that the mux sends now.
pub(super) fn all_frames(mux: &mut Mux, now: Instant) -> Vec<TunnelFrame> {
    std::iter::from_fn(|| next_message(mux, now))
        .flat_map(frames)
        .collect()
}

pub(super) fn drain(mux: &mut Mux) -> Vec<MuxEvent> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

impl Pair {
    /// Drops everything that the mux sends now. Returns the number of bytes.
    pub(super) fn drop_outgoing(mux: &mut Mux, now: Instant) -> usize {
        std::iter::from_fn(|| next_message(mux, now))
            .map(|message| message.len())
            .sum()
    }

    /// Establishes a new attachment whose candidates take over at once.
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
fn only_lost_data_is_sent_again() {
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
    Pair::drop_outgoing(&mut pair.client, pair.now);
    pair.attach();
    assert_eq!(
        drain(&mut pair.client),
        [MuxEvent::Resumed {
            streams: 1,
            again_bytes: 9
        }]
    );
    pair.run_until_idle();
    assert_eq!(
        read_all(&mut pair.server, pair.now, stream),
        b"arrives, is lost, "
    );
    assert_eq!(pair.server.read(stream), Ok(StreamRead::End));
    assert_eq!(
        pair.client.tunnel_sent, 18,
        "a retransmission takes no credit"
    );
}

#[test]
fn no_data_is_sent_before_the_peer_list_is_complete() {
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
fn lost_opens_are_sent_again_in_order_before_new_ones() {
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
    Pair::drop_outgoing(&mut pair.client, pair.now);
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
fn reset_after_fin_is_sent_again_although_the_fin_is_acknowledged() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client.finish(stream);
    pair.run_until_idle();
    pair.client.reset(pair.now, stream, ResetCode::Reset);
    pair.client.release(pair.now, stream);
    Pair::drop_outgoing(&mut pair.client, pair.now);
    pair.attach();
    pair.run_until_idle();
    assert_eq!(
        pair.server.read(stream),
        Err(StreamError::Reset(ResetCode::Reset))
    );
}

#[test]
fn answer_piggybacks_the_acknowledgement() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from_static(b"before"))
        .unwrap();
    pair.run_until_idle();
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
        "the acknowledgement is delayed"
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
fn stream_forgotten_by_the_peer_counts_as_delivered() {
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
    Pair::drop_outgoing(&mut pair.server, pair.now);
    assert_eq!(
        (pair.server.streams(), pair.client.is_delivered(stream)),
        (0, Ok(false))
    );
    drain(&mut pair.client);
    pair.attach();
    assert_eq!(pair.client.is_delivered(stream), Ok(true));
    assert_eq!(drain(&mut pair.client)[0], MuxEvent::Writable(stream));
    assert_eq!(pair.client.send_totals.retained, 0);
    pair.client.release(pair.now, stream);
    assert_eq!(pair.client.streams(), 0);
}

#[test]
fn list_is_repeated_only_if_it_is_outdated() {
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
fn list_of_another_candidate_does_not_count() {
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
        "both lists are current"
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
        "only the last candidate remains"
    );
}

#[test]
fn lost_end_needs_no_credit_after_its_data_arrived() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..5).map(|_| pair.stream()).collect();
    let late = list(&mut pair.server, ROOM);
    for &stream in &streams {
        // The credit suffices for a little of one stream and most of the others.
        let length = if stream == streams[0] {
            1000
        } else {
            pair.client.write_room(stream).unwrap()
        };
        pair.client
            .write(stream, Bytes::from(vec![1; length]))
            .unwrap();
    }
    Pair::drop_outgoing(&mut pair.client, pair.now);
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
    Pair::drop_outgoing(&mut pair.client, pair.now);
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
fn late_list_repeats_the_end_at_most_once() {
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
    assert!(drain(&mut pair.client).contains(&MuxEvent::Writable(stream)));
    assert_eq!(pair.client.is_delivered(stream), Ok(true));
    let repeated =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Data { .. } | TunnelFrame::Fin { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(repeated));
}

#[test]
fn retransmissions_do_not_wait_for_credit() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..6).map(|_| pair.stream()).collect();
    for &stream in &streams {
        let room = pair.client.write_room(stream).unwrap();
        pair.client
            .write(stream, Bytes::from(vec![1; room]))
            .unwrap();
    }
    Pair::drop_outgoing(&mut pair.client, pair.now);
    assert_eq!(
        pair.client.tunnel_limit - pair.client.tunnel_sent,
        INTERACTIVE_RESERVE
    );
    let waits = pair.client.open(Bytes::new());
    pair.client
        .write(waits, Bytes::from(vec![2; 4096]))
        .unwrap();
    pair.attach();
    let resend = pair.client.send_totals.resend;
    assert_eq!(resend, pair.client.tunnel_sent);
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
        resend,
        "all retransmissions and nothing else"
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
fn long_list_takes_several_messages_and_precedes_everything() {
    let mut pair = Pair::with(Parameters {
        streams_max: 3000,
        ..PARAMETERS
    });
    let streams: Vec<_> = (0..2000).map(|_| pair.client.open(Bytes::new())).collect();
    pair.run_until_idle();
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
fn candidate_list_does_not_change_the_state() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    pair.client
        .write(stream, Bytes::from(vec![1; 20_000]))
        .unwrap();
    carry(&mut pair.client, &mut pair.server, pair.now);
    read_all(&mut pair.server, pair.now, stream);
    let state = |mux: &Mux| format!("{:?} {:?} {:?}", mux.streams, mux.window, mux.ack_queue);
    let before = state(&pair.server);
    let first = list(&mut pair.server, ROOM);
    assert_eq!(
        (state(&pair.server), list(&mut pair.server, ROOM)),
        (before, first)
    );
}

#[test]
fn pings_of_the_previous_attachment_are_forgotten() {
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
        "a new PING need not wait for the previous answer: {sent:?}"
    );
}

#[test]
fn tunnel_end_precedes_everything_and_nothing_follows() {
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
        [MuxEvent::Closed(ResetCode::Shutdown)]
    );
    assert!(!pair.server.has_transmit() && next_message(&mut pair.server, pair.now).is_none());
    assert!(
        pair.server
            .handle_message(pair.now, message(&[TunnelFrame::Ping { token: 0 }]))
            .is_err()
    );
}

#[test]
fn possibly_lost_tunnel_end_is_sent_again() {
    let mut pair = Pair::new();
    pair.client.close(ResetCode::Expired);
    Pair::drop_outgoing(&mut pair.client, pair.now);
    pair.client.resume(pair.now);
    assert_eq!(
        all_frames(&mut pair.client, pair.now),
        [TunnelFrame::End {
            code: ResetCode::Expired
        }]
    );
}

#[test]
fn detached_mux_passes_deadlines_once_and_bounds_its_queues() {
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
        // Room for the list, and for nothing after it.
        let rooms = [2 * FRAME_MAX, FRAME_MAX];
        assert!(rooms.iter().all(|&room| pair.server.poll_transmit(
            pair.now,
            &mut BytesMut::new(),
            room
        )));
        assert!(!pair.server.resume_state.is_list_due());
        assert!(
            pair.server.ack_queue.due.len() + pair.server.ack_queue.pending.len() <= 1,
            "in round {round}"
        );
    }
}
