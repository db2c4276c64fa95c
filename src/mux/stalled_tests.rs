//! Applications that do not read, beside one that does: what they take is bounded, and the others move.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    tests::{Pair, carry, read_all},
    *,
};

/// What the roles grant.
const WINDOWS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 16 << 10,
        max: 16 << 20,
    },
    tunnel_window: WindowSize {
        initial: 1 << 20,
        max: 32 << 20,
    },
    streams_max: 5000,
};

/// What local sockets take of a connection whose application never reads, in bytes.
const SOCKETS: usize = 180 << 10;

/// How the application of a stream reads.
#[derive(Debug, Clone, Copy)]
enum Reader {
    /// Not at all: only its sockets take something.
    Never,
    /// As fast as it can until it has this many bytes, then not at all.
    Until(usize),
    /// All.
    Always,
}

/// Writes on `stream` from the server or the client as long as there is room, and lets the application at the other end read. Says how many bytes
/// that consumed in `rounds` round trips.
fn pour(
    pair: &mut Pair,
    stream: StreamId,
    is_download: bool,
    reader: Reader,
    rounds: usize,
) -> usize {
    let most = match reader {
        Reader::Never => SOCKETS,
        Reader::Until(most) => most,
        Reader::Always => usize::MAX,
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
            && let Ok(Read::Data(bytes)) = reading.read(stream)
        {
            // A piece that the sockets take only a part of is not consumed.
            if consumed + bytes.len() > most {
                consumed = most;
                break;
            }
            reading.consume(*now, stream, bytes.len());
            consumed += bytes.len();
        }
        *now += Duration::from_millis(1);
        writer.handle_timeout(*now);
        reading.handle_timeout(*now);
        carry(reading, writer, *now);
        carry(writer, reading, *now);
    }
    consumed
}

/// The credit that one round trip brings a stream whose application reads, after it has had some round trips to show that.
fn active_window(pair: &mut Pair, is_download: bool) -> usize {
    let stream = pair.stream();
    pour(pair, stream, is_download, Reader::Always, 24);
    let most = pour(pair, stream, is_download, Reader::Always, 1);
    pair.client.release(pair.now, stream);
    pair.server.release(pair.now, stream);
    pair.settle();
    most
}

fn stalled(count: usize, is_download: bool, reader: Reader) -> Pair {
    let mut pair = Pair::with(WINDOWS);
    for _ in 0..count {
        let stream = pair.stream();
        pour(&mut pair, stream, is_download, reader, 24);
    }
    pair
}

#[test]
fn readers_that_never_read_leave_a_copy_its_window_and_hold_a_bounded_amount() {
    for is_download in [true, false] {
        let alone = active_window(&mut stalled(0, is_download, Reader::Never), is_download);
        for count in [1, 8, 20, 200, 2000] {
            let mut pair = stalled(count, is_download, Reader::Never);
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
fn readers_that_stop_one_after_the_other_leave_more_than_an_equal_share_of_what_they_had() {
    let alone = active_window(&mut stalled(0, true, Reader::Always), true);
    for count in [1, 3, 8, 20] {
        let mut pair = stalled(count, true, Reader::Until(4 << 20));
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
fn a_stream_opens_and_moves_however_many_readers_have_stopped() {
    let mut pair = stalled(1000, true, Reader::Until(4 << 20));
    let stream = pair.stream();
    pair.server
        .write(stream, Bytes::from(vec![1; 8192]))
        .unwrap();
    pair.client
        .write(stream, Bytes::from(vec![1; 8192]))
        .unwrap();
    pair.settle();
    assert_eq!(read_all(&mut pair.client, pair.now, stream).len(), 8192);
    assert_eq!(read_all(&mut pair.server, pair.now, stream).len(), 8192);
}

#[test]
fn a_keystroke_leaves_although_bulk_has_used_the_tunnels_credit_up() {
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
            on_the_way.extend(super::tests::next_message(&mut pair.client, now));
        }
    }
    while let Some(message) = super::tests::next_message(&mut pair.client, now) {
        on_the_way.push(message);
    }
    assert!(pair.client.unsent_bytes() > 0, "the credit is used up");
    pair.client.write(keys, Bytes::from_static(b"k")).unwrap();
    on_the_way
        .push(super::tests::next_message(&mut pair.client, now).expect("the keystroke leaves"));
    for message in on_the_way {
        pair.server.handle_message(now, message).unwrap();
    }
    assert_eq!(read_all(&mut pair.server, now, keys), b"k");
}

#[test]
fn small_pieces_that_wait_do_not_keep_their_messages_in_memory() {
    let mut pair = Pair::with(WINDOWS);
    let stream = pair.stream();
    let piece = Bytes::from(vec![5; 2049]);
    for offset in 0..4 {
        // The rest of the message is a PING that a later one replaces, over and over.
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
            .handle_message(pair.now, message.clone())
            .unwrap();
        let Ok(Read::Data(read)) = pair.server.read(stream) else {
            panic!("nothing to read")
        };
        assert!(!range.contains(&read.as_ptr()), "a piece is a copy");
    }
}

#[test]
fn tunnels_of_a_process_hold_no_more_than_its_budget_and_the_next_one_still_moves() {
    const BUDGET: u64 = 48 << 20;
    let budget = Arc::new(Budget::new(BUDGET));
    let tunnel = || {
        let mut pair = Pair::with(WINDOWS);
        pair.client = pair.client.charged_to(Arc::clone(&budget));
        pair
    };
    let mut pairs: Vec<_> = (0..12).map(|_| tunnel()).collect();
    let mut floors = 0;
    for pair in &mut pairs {
        for _ in 0..8 {
            let stream = pair.stream();
            pour(pair, stream, true, Reader::Until(4 << 20), 40);
            floors += WINDOWS.stream_window.initial;
        }
    }
    let held: u64 = pairs.iter().map(|pair| pair.client.held_bytes()).sum();
    assert!(held > BUDGET / 4 && held <= BUDGET + floors, "{held}");
    assert!(budget.used() <= BUDGET + floors, "{}", budget.used());
    let mut next = tunnel();
    let stream = next.stream();
    assert!(
        pour(&mut next, stream, true, Reader::Always, 40) >= 40 * (12 << 10),
        "a stream has its floor in any case"
    );
    drop((pairs, next));
    assert_eq!(budget.used(), 0, "what ends holds nothing");
}
