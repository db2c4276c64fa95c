//! Tests with a peer that violates the resumption protocol: the result is an error, and nothing
//! worse.

use bytes::Bytes;

use super::{
    resume_tests::{all_frames, drain},
    tests::{PARAMETERS, Pair, message},
    *,
};

#[test]
fn invalid_lists_are_protocol_errors() {
    let resume = |seen, opened| TunnelFrame::Resume { seen, opened };
    let window = |stream, received| TunnelFrame::Window {
        stream: StreamId(stream),
        received,
        limit: 0,
    };
    let done = TunnelFrame::Resumed;
    let again = [resume(2, 1), done.clone()];
    let cases: [(&str, Vec<TunnelFrame>); 12] = [
        ("RESUMED without RESUME", vec![done.clone()]),
        (
            "a frame before the list",
            vec![TunnelFrame::Ping { token: 1 }],
        ),
        ("an update before the list", vec![window(0, 0)]),
        (
            "a frame in the list",
            vec![resume(2, 1), TunnelFrame::Pong { token: 1 }],
        ),
        ("seen beyond the opened streams", vec![resume(4, 1)]),
        ("the numbers of the wrong side", vec![resume(1, 2)]),
        (
            "a stream that was never opened here",
            vec![resume(2, 1), window(2, 0)],
        ),
        (
            "a stream that was never opened there",
            vec![resume(2, 3), window(3, 0)],
        ),
        (
            "an acknowledgement of data that was never sent",
            vec![resume(2, 1), window(0, 6)],
        ),
        (
            "a stream forgotten before its end",
            vec![resume(2, 1), done.clone()],
        ),
        (
            "a list three times",
            [
                resume(0, 1),
                done.clone(),
                resume(0, 1),
                done.clone(),
                resume(0, 1),
            ]
            .to_vec(),
        ),
        (
            "a list after other frames",
            [
                &[resume(0, 1), done.clone(), TunnelFrame::Ping { token: 1 }],
                &again[..],
            ]
            .concat(),
        ),
    ];
    for (name, frames) in cases {
        let mut pair = Pair::with(PARAMETERS);
        let stream = pair.client.open(Bytes::new());
        pair.client
            .write(stream, Bytes::from_static(b"sent!"))
            .unwrap();
        Pair::drop_outgoing(&mut pair.client, pair.now);
        pair.client.resume(pair.now);
        let result = pair.client.handle_message(pair.now, message(&frames));
        assert!(
            matches!(result, Err(MuxError::Protocol(_))),
            "{name}: {result:?}"
        );
    }
}

#[test]
fn second_list_must_not_omit_an_acknowledged_stream() {
    let mut pair = Pair::new();
    pair.stream();
    let update = TunnelFrame::Window {
        stream: StreamId(0),
        received: 0,
        limit: 0,
    };
    pair.client
        .handle_message(pair.now, message(&[update]))
        .unwrap();
    pair.client.resume(pair.now);
    let unseen = [
        TunnelFrame::Resume { seen: 0, opened: 1 },
        TunnelFrame::Resumed,
    ];
    assert_eq!(
        pair.client.handle_message(pair.now, message(&unseen)),
        Ok(()),
        "a first list may be late"
    );
    assert!(
        pair.client
            .handle_message(pair.now, message(&unseen))
            .is_err(),
        "a second one cannot"
    );
}

/// Returns a random frame of a malicious peer. Its numbers are close to valid ones.
fn any_frame(rng: &mut fastrand::Rng) -> TunnelFrame {
    let stream = StreamId(rng.u64(0..6));
    let number = rng.u64(0..12);
    match rng.u32(0..24) {
        0 => TunnelFrame::Open {
            stream,
            window: number,
            details: Bytes::new(),
        },
        1..4 => TunnelFrame::Data {
            stream,
            offset: number / 2,
            bytes: Bytes::from_static(b"12345"),
        },
        4 => TunnelFrame::Fin {
            stream,
            final_offset: number,
        },
        5 => TunnelFrame::Reset {
            stream,
            final_offset: number,
            code: ResetCode::Reset,
        },
        6..11 => TunnelFrame::Window {
            stream,
            received: number,
            limit: number * 1000,
        },
        11 => TunnelFrame::TunnelWindow {
            limit: number * 30_000,
        },
        12 => TunnelFrame::Ping { token: number },
        13..18 => TunnelFrame::Resume {
            seen: number & !1,
            opened: stream.0 | 1,
        },
        18..23 => TunnelFrame::Resumed,
        _ => TunnelFrame::End {
            code: ResetCode::Cancelled,
        },
    }
}

#[test]
fn malicious_acknowledgements_keep_the_ledgers_consistent() {
    let mut rng = fastrand::Rng::with_seed(10);
    let mut resumed = 0;
    for _ in 0..20_000 {
        let mut pair = Pair::new();
        let streams = [0; 3].map(|_| pair.stream());
        pair.server.open(Bytes::new());
        for _ in 0..12 {
            let stream = streams[rng.usize(0..3)];
            let _ = pair.client.write(stream, Bytes::from_static(b"bytes"));
            let mut malice = Vec::new();
            match rng.u32(0..12) {
                0 => pair.client.finish(stream),
                1 => pair.client.reset(pair.now, stream, ResetCode::Reset),
                2 => pair.client.release(pair.now, stream),
                3..6 => drop(all_frames(&mut pair.client, pair.now)),
                6..9 => {
                    pair.client.resume(pair.now);
                    malice.push(TunnelFrame::Resume {
                        seen: 2 * rng.u64(0..4),
                        opened: 1 + 2 * rng.u64(0..2),
                    });
                    let window = |stream| TunnelFrame::Window {
                        stream,
                        received: rng.u64(0..12),
                        limit: 0,
                    };
                    malice.extend(streams.map(window));
                    malice.truncate(rng.usize(1..5));
                    malice.push(TunnelFrame::Resumed);
                }
                _ => {}
            }
            malice.extend((0..rng.usize(0..3)).map(|_| any_frame(&mut rng)));
            if pair
                .client
                .handle_message(pair.now, message(&malice))
                .is_err()
            {
                break;
            }
            resumed += drain(&mut pair.client)
                .iter()
                .filter(|event| matches!(event, MuxEvent::Resumed { .. }))
                .count();
            assert!(
                pair.client.streams() <= 100
                    && pair.client.held_bytes() <= PARAMETERS.tunnel_window.max
            );
        }
    }
    assert!(resumed > 200, "{resumed}");
}
