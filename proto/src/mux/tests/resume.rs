//! Tests of resumption: two muxes whose attachments are cut manually, one property per test.

use bytes::{Bytes, BytesMut};

use super::{Pair, ROOM, all_frames, carry, drain, frames, list, message, next_message, read_all};
use crate::mux::{ack_queue::ACK_DELAY, window::INTERACTIVE_RESERVE, *};

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
    pair.client.resume(pair.now, LaneId::FIRST);
    let flows =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Open { .. } | TunnelFrame::Data { .. });
    assert!(!all_frames(&mut pair.client, pair.now).iter().any(flows));
    let from_server = list(&mut pair.server, ROOM);
    pair.client
        .handle_message(pair.now, LaneId::FIRST, from_server)
        .unwrap();
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
    pair.server.handle_timeout(pair.now).unwrap();
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

/// Returns the server's list of five streams of the client.
fn list_of(streams: &[StreamId], received: &[u64]) -> Vec<TunnelFrame> {
    let windows = streams
        .iter()
        .zip(received)
        .map(|(&stream, &received)| TunnelFrame::Window {
            stream,
            received,
            limit: 0,
        });
    [TunnelFrame::Resume {
        seen: 10,
        opened: 1,
    }]
    .into_iter()
    .chain(windows)
    .chain([TunnelFrame::Resumed])
    .collect()
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
    pair.client.resume(pair.now, LaneId::FIRST);
    pair.client
        .handle_message(pair.now, LaneId::FIRST, late)
        .unwrap();
    let list = list_of(&streams, &received);
    pair.client
        .handle_message(pair.now, LaneId::FIRST, message(&list))
        .unwrap();
    let is_end =
        |frame: &TunnelFrame| matches!(frame, TunnelFrame::Fin { stream, .. } if *stream == whole);
    assert!(all_frames(&mut pair.client, pair.now).iter().any(is_end));
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
        .handle_message(pair.now, LaneId::FIRST, message(&[more]))
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
fn pings_of_the_previous_attachment_are_forgotten() {
    let mut pair = Pair::new();
    let stream = pair.stream();
    let owed = TunnelFrame::Ping { token: 7 };
    pair.client
        .handle_message(pair.now, LaneId::FIRST, message(&[owed]))
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
    pair.client.resume(pair.now, LaneId::FIRST);
    pair.client.close(ResetCode::Shutdown);
    pair.client.close(ResetCode::Cancelled);
    assert!(pair.client.has_transmit(LaneId::FIRST) && !pair.client.is_end_of_tunnel_sent());
    let end = next_message(&mut pair.client, pair.now).unwrap();
    assert_eq!(
        frames(end.clone()),
        [TunnelFrame::End {
            code: ResetCode::Shutdown
        }]
    );
    assert!(pair.client.is_end_of_tunnel_sent() && !pair.client.has_transmit(LaneId::FIRST));
    assert_eq!(next_message(&mut pair.client, pair.now), None);
    pair.server.resume(pair.now, LaneId::FIRST);
    pair.server
        .handle_message(pair.now, LaneId::FIRST, end)
        .unwrap();
    assert_eq!(
        drain(&mut pair.server),
        [MuxEvent::Closed(ResetCode::Shutdown)]
    );
    assert!(
        !pair.server.has_transmit(LaneId::FIRST)
            && next_message(&mut pair.server, pair.now).is_none()
    );
    assert!(
        pair.server
            .handle_message(
                pair.now,
                LaneId::FIRST,
                message(&[TunnelFrame::Ping { token: 0 }])
            )
            .is_err()
    );
}

#[test]
fn possibly_lost_tunnel_end_is_sent_again() {
    let mut pair = Pair::new();
    pair.client.close(ResetCode::Expired);
    Pair::drop_outgoing(&mut pair.client, pair.now);
    pair.client.resume(pair.now, LaneId::FIRST);
    assert_eq!(
        all_frames(&mut pair.client, pair.now),
        [TunnelFrame::End {
            code: ResetCode::Expired
        }]
    );
}
