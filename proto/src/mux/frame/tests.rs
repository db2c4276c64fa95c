//! Tests of the codec, against arbitrary frames and `tests/vectors/tunnel_frames.json`.

use proptest::prelude::*;

use super::*;

fn any_frame() -> impl Strategy<Value = TunnelFrame> {
    // The weights are the numbers of frame types.
    prop_oneof![5 => any_stream_frame(), 8 => any_tunnel_frame(), 5 => any_flow_frame()]
}

/// Returns any frame about one stream.
fn any_stream_frame() -> impl Strategy<Value = TunnelFrame> {
    let id = (0..varint::MAX).prop_map(StreamId);
    let value = 0..varint::MAX;
    let bytes = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        (id.clone(), value.clone(), bytes.clone()).prop_map(|(stream, window, details)| {
            TunnelFrame::Open {
                stream,
                window,
                details,
            }
        }),
        (id.clone(), value.clone(), bytes).prop_map(|(stream, offset, bytes)| {
            TunnelFrame::Data {
                stream,
                offset,
                bytes,
            }
        }),
        (id.clone(), value.clone()).prop_map(|(stream, final_offset)| TunnelFrame::Fin {
            stream,
            final_offset
        }),
        (id.clone(), value.clone(), 0..10_u64).prop_map(|(stream, final_offset, code)| {
            TunnelFrame::Reset {
                stream,
                final_offset,
                code: ResetCode::from_wire(code),
            }
        }),
        (id, value.clone(), value).prop_map(|(stream, received, limit)| {
            TunnelFrame::Window {
                stream,
                received,
                limit,
            }
        }),
    ]
}

/// Returns any frame about flows of datagrams.
fn any_flow_frame() -> impl Strategy<Value = TunnelFrame> {
    let flow = (0..=varint::MAX).prop_map(FlowId);
    let value = 0..=varint::MAX;
    let bytes = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        (flow.clone(), value.clone(), bytes.clone())
            .prop_map(|(flow, sent, bytes)| TunnelFrame::Datagram { flow, sent, bytes }),
        (flow.clone(), bytes).prop_map(|(flow, details)| TunnelFrame::OpenFlow { flow, details }),
        flow.clone().prop_map(|flow| TunnelFrame::Flow { flow }),
        (flow, 0..10_u64).prop_map(|(flow, code)| TunnelFrame::EndFlow {
            flow,
            code: ResetCode::from_wire(code),
        }),
        (value.clone(), value).prop_map(|(lane, bytes)| TunnelFrame::DatagramsReceived {
            lane: LaneId(lane),
            bytes,
        }),
    ]
}

/// Returns any frame about the tunnel or one of its lanes.
fn any_tunnel_frame() -> impl Strategy<Value = TunnelFrame> {
    let value = 0..varint::MAX;
    prop_oneof![
        value
            .clone()
            .prop_map(|limit| TunnelFrame::TunnelWindow { limit }),
        value.clone().prop_map(|token| TunnelFrame::Ping { token }),
        value.clone().prop_map(|token| TunnelFrame::Pong { token }),
        value
            .clone()
            .prop_map(|lane| TunnelFrame::Lost { lane: LaneId(lane) }),
        (value.clone(), value.clone()).prop_map(|(lane, bytes)| TunnelFrame::Received {
            lane: LaneId(lane),
            bytes
        }),
        (value.clone(), value.clone())
            .prop_map(|(number, lanes)| TunnelFrame::Lanes { number, lanes }),
        (value.clone(), value).prop_map(|(seen, opened)| TunnelFrame::Resume { seen, opened }),
        Just(TunnelFrame::Resumed),
        (0..10_u64).prop_map(|code| TunnelFrame::End {
            code: ResetCode::from_wire(code)
        }),
    ]
}

proptest! {
    #[test]
    fn every_frame_round_trips_and_no_prefix_decodes(frame in any_frame()) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        let whole = out.freeze();
        for cut in 0..whole.len() {
            prop_assert!(TunnelFrame::decode(&mut whole.slice(..cut)).is_err());
        }
        let mut message = whole.clone();
        prop_assert_eq!(TunnelFrame::decode(&mut message), Ok(frame));
        prop_assert!(message.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut message = Bytes::from(bytes);
        while !message.is_empty() && TunnelFrame::decode(&mut message).is_ok() {}
    }
}

#[derive(serde::Deserialize)]
struct FrameVector {
    name: String,
    hex: String,
}

/// Returns the frames of the vectors, in their order.
fn vector_frames() -> Vec<TunnelFrame> {
    [
        stream_vector_frames(),
        tunnel_vector_frames(),
        flow_vector_frames(),
    ]
    .concat()
}

/// Returns the first frames of the vectors, which are about one stream.
fn stream_vector_frames() -> Vec<TunnelFrame> {
    let stream = StreamId(4);
    vec![
        TunnelFrame::Open {
            stream,
            window: 262_144,
            details: Bytes::from_static(b"{}"),
        },
        TunnelFrame::Open {
            stream: StreamId(6),
            window: 262_144,
            details: Bytes::from_static(
                br#"{"source":"203.0.113.9:40312","destination":"192.0.2.7:13389"}"#,
            ),
        },
        TunnelFrame::Data {
            stream,
            offset: 70_000,
            bytes: Bytes::from_static(b"hello"),
        },
        TunnelFrame::Fin {
            stream,
            final_offset: 70_005,
        },
        TunnelFrame::Reset {
            stream: StreamId(5),
            final_offset: 0,
            code: ResetCode::Refused,
        },
        TunnelFrame::Window {
            stream,
            received: 16_384,
            limit: 1_073_741_824,
        },
    ]
}

/// Returns the next frames of the vectors, which are about the tunnel or one of its lanes.
fn tunnel_vector_frames() -> Vec<TunnelFrame> {
    let end = |code| TunnelFrame::End { code };
    vec![
        TunnelFrame::TunnelWindow { limit: 1_048_576 },
        TunnelFrame::Ping { token: 63 },
        TunnelFrame::Pong { token: 64 },
        TunnelFrame::Resume {
            seen: 6,
            opened: 16_385,
        },
        TunnelFrame::Resumed,
        end(ResetCode::Shutdown),
        end(ResetCode::Protocol),
        end(ResetCode::Expired),
        TunnelFrame::Lost { lane: LaneId(300) },
        TunnelFrame::Received {
            lane: LaneId(3),
            bytes: 65_536,
        },
        TunnelFrame::Lanes {
            number: 2,
            lanes: 8,
        },
        TunnelFrame::Lanes {
            number: 16_384,
            lanes: 17,
        },
    ]
}

/// Returns the last frames of the vectors, which are about flows of datagrams.
fn flow_vector_frames() -> Vec<TunnelFrame> {
    let flow = FlowId(3);
    vec![
        TunnelFrame::Datagram {
            flow,
            sent: 15_293,
            bytes: Bytes::from_static(b"hello"),
        },
        TunnelFrame::Datagram {
            flow: FlowId(16_384),
            sent: 0,
            bytes: Bytes::new(),
        },
        TunnelFrame::OpenFlow {
            flow,
            details: Bytes::from_static(b"{}"),
        },
        TunnelFrame::Flow { flow },
        TunnelFrame::EndFlow {
            flow,
            code: ResetCode::Limit,
        },
        TunnelFrame::EndFlow {
            flow: FlowId(64),
            code: ResetCode::Cancelled,
        },
        TunnelFrame::DatagramsReceived {
            lane: LaneId(3),
            bytes: 65_536,
        },
    ]
}

#[test]
fn frames_encode_to_the_protocol_vectors() {
    let vectors: Vec<FrameVector> =
        serde_json::from_str(include_str!("../../../../tests/vectors/tunnel_frames.json")).unwrap();
    let frames = vector_frames();
    let alone = [MOVED, MOVE];
    assert_eq!(vectors.len(), frames.len() + alone.len());
    let (of_the_mux, of_the_tunnel) = vectors.split_at(frames.len());
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    for (vector, frame) in of_the_mux.iter().zip(&frames) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(hex(&out), vector.hex, "{}", vector.name);
    }
    for (vector, frame_type) in of_the_tunnel.iter().zip(alone) {
        assert_eq!(hex(&[frame_type]), vector.hex, "{}", vector.name);
        assert!(
            TunnelFrame::decode(&mut Bytes::copy_from_slice(&[frame_type])).is_err(),
            "{}",
            vector.name
        );
    }
}
