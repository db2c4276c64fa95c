//! Tests of applications that do not read, beside one that does: their memory is bounded, and other
//! streams make progress.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{Pair, WINDOWS, carry, next_message, read_all};
use crate::mux::*;

/// The bytes that local sockets hold for an application that never reads.
const SOCKETS: usize = 180 << 10;

/// The reading behavior of an application.
#[derive(Debug, Clone, Copy)]
enum ReaderBehavior {
    /// Reads nothing: only its sockets take data.
    Never,
    /// Reads at full speed up to this many bytes, and then stops.
    Until(usize),
    /// Reads everything.
    Always,
}

/// Transfers data on `stream` for `rounds` round trips: one end writes while it has room, and the
/// application at the other end reads. Returns how many bytes the application consumed.
fn transfer(
    pair: &mut Pair,
    stream: StreamId,
    is_download: bool,
    reader: ReaderBehavior,
    rounds: usize,
) -> usize {
    let most = match reader {
        ReaderBehavior::Never => SOCKETS,
        ReaderBehavior::Until(most) => most,
        ReaderBehavior::Always => usize::MAX,
    };
    let mut consumed = 0;
    for _ in 0..rounds {
        let Pair {
            client,
            server,
            now,
        } = pair;
        let (writer, reading) = if is_download {
            (server, client)
        } else {
            (client, server)
        };
        while let Ok(room @ 1..) = writer.write_room(stream) {
            writer.write(stream, Bytes::from(vec![7; room])).unwrap();
            carry(writer, reading, *now);
        }
        while consumed < most
            && let Ok(StreamRead::Data(bytes)) = reading.read(stream)
        {
            // A piece that the sockets take only partly is not consumed.
            if consumed + bytes.len() > most {
                consumed = most;
                break;
            }
            reading.consume(*now, stream, bytes.len());
            consumed += bytes.len();
        }
        *now += Duration::from_millis(1);
        writer.handle_timeout(*now).unwrap();
        reading.handle_timeout(*now).unwrap();
        carry(reading, writer, *now);
        carry(writer, reading, *now);
    }
    consumed
}

/// Returns the credit that one round trip brings to a reading stream, after some round trips in
/// which it proves that it reads.
fn active_window(pair: &mut Pair, is_download: bool) -> usize {
    let stream = pair.stream();
    transfer(pair, stream, is_download, ReaderBehavior::Always, 24);
    let most = transfer(pair, stream, is_download, ReaderBehavior::Always, 1);
    pair.client.release(pair.now, stream);
    pair.server.release(pair.now, stream);
    pair.run_until_idle();
    most
}

fn pair_with_readers(count: usize, is_download: bool, reader: ReaderBehavior) -> Pair {
    let mut pair = Pair::with(WINDOWS);
    for _ in 0..count {
        let stream = pair.stream();
        transfer(&mut pair, stream, is_download, reader, 24);
    }
    pair
}

#[test]
fn idle_readers_hold_bounded_memory_and_leave_others_their_window() {
    for is_download in [true, false] {
        let alone = active_window(
            &mut pair_with_readers(0, is_download, ReaderBehavior::Never),
            is_download,
        );
        for count in [1, 8, 20, 200, 2000] {
            let mut pair = pair_with_readers(count, is_download, ReaderBehavior::Never);
            let held = pair.client.held_bytes() + pair.server.held_bytes();
            let most =
                (count as u64) * WINDOWS.stream_window.initial + WINDOWS.tunnel_window.max / 4;
            assert!(held <= most, "{held} bytes are held for {count}");
            let beside = active_window(&mut pair, is_download);
            assert!(
                beside * 3 > alone * 2,
                "download {is_download}, {count} stalled readers: {beside} of {alone} bytes"
            );
        }
    }
}

#[test]
fn readers_that_stop_one_by_one_leave_more_than_an_equal_share() {
    let alone = active_window(
        &mut pair_with_readers(0, true, ReaderBehavior::Always),
        true,
    );
    for count in [1, 3, 8, 20] {
        let mut pair = pair_with_readers(count, true, ReaderBehavior::Until(4 << 20));
        let beside = active_window(&mut pair, true);
        assert!(
            beside > alone / (count + 2),
            "{count} readers stopped: {beside} of {alone} bytes"
        );
        assert!(
            beside > alone / 4,
            "{count} readers stopped: {beside} of {alone} bytes"
        );
    }
}

#[test]
fn stream_makes_progress_beside_a_thousand_stopped_readers() {
    let mut pair = pair_with_readers(1000, true, ReaderBehavior::Until(4 << 20));
    let stream = pair.stream();
    pair.server
        .write(stream, Bytes::from(vec![1; 8192]))
        .unwrap();
    pair.client
        .write(stream, Bytes::from(vec![1; 8192]))
        .unwrap();
    pair.run_until_idle();
    assert_eq!(read_all(&mut pair.client, pair.now, stream).len(), 8192);
    assert_eq!(read_all(&mut pair.server, pair.now, stream).len(), 8192);
}

#[test]
fn keystroke_is_sent_after_bulk_used_up_the_tunnel_credit() {
    let mut pair = Pair::with(WINDOWS);
    let (bulk, keys) = (pair.stream(), pair.stream());
    let copies: Vec<_> = std::iter::once(bulk)
        .chain((0..200).map(|_| pair.stream()))
        .collect();
    let mut now = pair.now;
    let mut on_the_way = Vec::new();
    for stream in copies {
        while let Ok(room @ 1..) = pair.client.write_room(stream) {
            pair.client
                .write(stream, Bytes::from(vec![1; room]))
                .unwrap();
            now += Duration::from_micros(1);
            on_the_way.extend(next_message(&mut pair.client, now));
        }
    }
    while let Some(message) = next_message(&mut pair.client, now) {
        on_the_way.push(message);
    }
    assert!(pair.client.unsent_bytes() > 0, "the credit is used up");
    pair.client.write(keys, Bytes::from_static(b"k")).unwrap();
    on_the_way.push(next_message(&mut pair.client, now).expect("the keystroke is sent"));
    for message in on_the_way {
        pair.server
            .handle_message(now, LaneId::FIRST, message)
            .unwrap();
    }
    assert_eq!(read_all(&mut pair.server, now, keys), b"k");
}

#[test]
fn unread_small_pieces_do_not_retain_their_messages() {
    let mut pair = Pair::with(WINDOWS);
    let stream = pair.stream();
    let piece = Bytes::from(vec![5; 2049]);
    for offset in 0..4 {
        // PINGs fill the rest of the message; each replaces the one before.
        let mut message = BytesMut::new();
        frame::TunnelFrame::Data {
            stream,
            offset: offset * 2049,
            bytes: piece.clone(),
        }
        .encode(&mut message);
        while message.len() < 60_000 {
            frame::TunnelFrame::Ping { token: 1 }.encode(&mut message);
        }
        let message = message.freeze();
        let range = message.as_ptr_range();
        pair.server
            .handle_message(pair.now, LaneId::FIRST, message.clone())
            .unwrap();
        let Ok(StreamRead::Data(read)) = pair.server.read(stream) else {
            panic!("nothing to read")
        };
        assert!(!range.contains(&read.as_ptr()), "a piece is a copy");
    }
}

#[test]
fn tunnels_stay_within_the_budget_and_a_new_one_makes_progress() {
    const BUDGET: u64 = 48 << 20;
    let budget = Arc::new(MemoryBudget::new(BUDGET));
    let tunnel = || {
        let mut pair = Pair::with(WINDOWS);
        pair.client = pair.client.with_budget(Arc::clone(&budget));
        pair
    };
    let mut pairs: Vec<_> = (0..12).map(|_| tunnel()).collect();
    let mut floors = 0;
    for pair in &mut pairs {
        for _ in 0..8 {
            let stream = pair.stream();
            transfer(pair, stream, true, ReaderBehavior::Until(4 << 20), 40);
            floors += WINDOWS.stream_window.initial;
        }
    }
    let held: u64 = pairs.iter().map(|pair| pair.client.held_bytes()).sum();
    assert!(held > BUDGET / 4 && held <= BUDGET + floors, "{held}");
    assert!(budget.used() <= BUDGET + floors, "{}", budget.used());
    let mut next = tunnel();
    let stream = next.stream();
    assert!(
        transfer(&mut next, stream, true, ReaderBehavior::Always, 40) >= 40 * (12 << 10),
        "a stream always has its floor"
    );
    drop((pairs, next));
    assert_eq!(budget.used(), 0, "dropped tunnels refund everything");
}
