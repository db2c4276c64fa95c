//! Tests of the codec: vectors, round trips of every frame, no panic on arbitrary bytes.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::{
    frame::{Claims, Code, MAX_PORTS_PER_FRAME, MAX_REASON, Ports, RefusedPort, Role, Terms},
    id::Id,
};

#[derive(Deserialize)]
struct FrameVectors {
    frames: Vec<Value>,
    lenient: Vec<Value>,
    malformed: Vec<Value>,
}

fn vectors() -> FrameVectors {
    serde_json::from_str(include_str!("../../../../tests/vectors/frames.json")).unwrap()
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {vector}"))
}

fn hex(vector: &Value, field: &str) -> Bytes {
    let digits = text(vector, field);
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Builds the frame that a vector describes.
fn expected_frame(vector: &Value) -> Frame {
    let channel = || u32::try_from(vector["channel"].as_u64().unwrap()).unwrap();
    let token = || vector["token"].as_u64().unwrap();
    let proof = || hex(vector, "proof").as_ref().try_into().unwrap();
    let claims = || Bytes::from(text(vector, "claims").to_owned());
    let notice = || Notice {
        retry_after_seconds: vector["retry_after_seconds"].as_u64(),
        ..Notice::new(
            serde_json::from_value(vector["code"].clone()).unwrap(),
            text(vector, "reason"),
        )
    };
    let ports = || serde_json::from_value::<Ports>(vector.clone()).unwrap();
    match text(vector, "frame") {
        "HELLO" => Frame::Hello {
            proof: proof(),
            claims: claims(),
        },
        "SIGNED_HELLO" => Frame::SignedHello {
            signature: hex(vector, "signature").as_ref().try_into().unwrap(),
            claims: claims(),
        },
        "WELCOME" => Frame::Welcome {
            proof: proof(),
            terms: text(vector, "terms").to_owned().into(),
        },
        "REGISTER" => Frame::Register(ports()),
        "UNREGISTER" => Frame::Unregister(ports()),
        "REGISTERED" => Frame::Registered(serde_json::from_value(vector.clone()).unwrap()),
        "ATTACH" => Frame::Attach {
            channel: channel(),
            header: serde_json::from_value(vector.clone()).unwrap(),
            message: hex(vector, "message"),
        },
        "CLOSE" => Frame::Close {
            channel: channel(),
            notice: notice(),
        },
        "PAUSE" => Frame::Pause(channel()),
        "RESUME" => Frame::Resume(channel()),
        "PING" => Frame::Ping(token()),
        "PONG" => Frame::Pong(token()),
        "GOAWAY" => Frame::GoAway(notice()),
        "ERROR" => Frame::Error(notice()),
        "DATA" => Frame::Data {
            channel: channel(),
            payload: hex(vector, "payload"),
        },
        "extension" => Frame::Extension(u8::try_from(vector["type"].as_u64().unwrap()).unwrap()),
        other => panic!("unknown frame {other} in the vectors"),
    }
}

#[test]
fn codec_matches_frame_vectors() {
    let vectors = vectors();
    assert!(vectors.frames.len() >= 15, "every frame has a vector");
    for vector in &vectors.frames {
        let frame = expected_frame(vector);
        assert_eq!(frame.to_message(), hex(vector, "bytes"), "{vector}");
        assert_eq!(
            Frame::decode(hex(vector, "bytes")),
            Ok(frame.clone()),
            "{vector}"
        );
        assert_eq!(frame.name(), text(vector, "frame"));
    }
}

#[test]
fn decode_ignores_additions_of_later_versions() {
    for vector in &vectors().lenient {
        assert_eq!(
            Frame::decode(hex(vector, "bytes")),
            Ok(expected_frame(vector)),
            "{vector}"
        );
    }
}

#[test]
fn decode_truncates_list_of_avoided_servers() {
    let named: Vec<Id> = (0..100).map(|number| Id([number; 16])).collect();
    let header = AttachHeader {
        port: Id([7; 16]),
        instance: None,
        avoid: named.clone(),
    };
    let sent = Frame::Attach {
        channel: 1,
        header,
        message: Bytes::new(),
    };
    let Ok(Frame::Attach { header, .. }) = Frame::decode(sent.to_message()) else {
        panic!("the frame decodes")
    };
    assert_eq!(header.avoid, named[..MAX_AVOIDED]);
}

#[test]
fn decode_classifies_malformed_frames() {
    for vector in &vectors().malformed {
        let error = Frame::decode(hex(vector, "bytes")).expect_err(text(vector, "why"));
        let kind = match error {
            FrameError::Empty => "empty",
            FrameError::UnknownType(_) => "unknown_type",
            FrameError::Length { .. } => "length",
            FrameError::TooLong { .. } => "too_long",
            FrameError::Json { .. } => "json",
        };
        assert_eq!(kind, text(vector, "error"), "{vector}: {error}");
    }
}

#[test]
fn claims_and_terms_match_vectors() {
    for vector in &vectors().frames {
        match expected_frame(vector) {
            Frame::Hello { claims, .. } | Frame::SignedHello { claims, .. } => {
                let read = Claims::decode(&claims).unwrap();
                assert_eq!(
                    (read.role, read.epoch, read.version),
                    (Role::Server, 7, crate::frame::VERSION)
                );
                assert_eq!(
                    read.moves,
                    text(vector, "claims").contains("\"moves\":true"),
                    "absent is false"
                );
                let slot = if text(vector, "claims").contains("\"slot\":3") {
                    3
                } else {
                    0
                };
                assert_eq!(read.slot.number(), slot, "absent is 0");
                let is_signed = text(vector, "frame") == "SIGNED_HELLO";
                assert_eq!(read.credential.is_some(), is_signed, "absent is none");
                assert_eq!(read.encode(), claims);
            }
            Frame::Welcome { terms, .. } => {
                let read = Terms::decode(&terms).unwrap();
                assert_eq!(
                    (read.heartbeat_seconds, read.max_channels, read.max_ports),
                    (20, 1024, 256)
                );
                assert_eq!(read.encode(), terms);
            }
            _ => {}
        }
    }
}

#[test]
fn nonce_requires_64_hex_digits() {
    for text in [
        "",
        "00",
        &"0".repeat(63),
        &"0".repeat(65),
        &"g".repeat(64),
        &"中".repeat(32),
    ] {
        assert!(text.parse::<crate::frame::Nonce>().is_err(), "{text}");
    }
    assert!("0".repeat(64).parse::<crate::frame::Nonce>().is_ok());
}

#[test]
fn decode_rejects_frames_over_size_limit() {
    let long = |kind: u8, length: usize| {
        let mut message = BytesMut::zeroed(length);
        message[0] = kind;
        Frame::decode(message.freeze())
    };
    assert!(matches!(
        long(kind::DATA, MAX_MESSAGE),
        Ok(Frame::Data { .. })
    ));
    assert!(matches!(
        long(kind::DATA, MAX_MESSAGE + 1),
        Err(FrameError::TooLong {
            limit: MAX_MESSAGE,
            ..
        })
    ));
    assert!(matches!(
        long(kind::HELLO, MAX_CONTROL),
        Ok(Frame::Hello { .. })
    ));
    assert!(matches!(
        long(kind::HELLO, MAX_CONTROL + 1),
        Err(FrameError::TooLong {
            limit: MAX_CONTROL,
            ..
        })
    ));
}

#[test]
fn max_ports_per_frame_fit_into_a_frame() {
    let frame = Frame::Register(Ports {
        ports: vec![Id([255; 16]); MAX_PORTS_PER_FRAME],
    });
    assert_eq!(Frame::decode(frame.to_message()), Ok(frame));
}

#[test]
fn encode_truncates_reason_and_keeps_it_on_one_line() {
    let frame = Frame::Error(Notice::new(Code::Limit, "line\r\n中".repeat(30_000)));
    let message = frame.to_message();
    assert!(message.len() <= MAX_CONTROL);
    let Ok(Frame::Error(notice)) = Frame::decode(message) else {
        panic!("the frame decodes")
    };
    assert!(notice.reason.len() <= MAX_REASON && notice.reason.starts_with("line  中line"));
}

prop_compose! {
    fn ids()(ids in prop::collection::vec(any::<[u8; 16]>().prop_map(Id), 0..20)) -> Ports {
        Ports { ports: ids }
    }
}

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), length).prop_map(Bytes::from)
}

fn notices() -> impl Strategy<Value = Notice> {
    let codes = prop::sample::select(vec![
        Code::Protocol,
        Code::PeerLost,
        Code::FlowControl,
        Code::Denied,
        Code::Cancelled,
    ]);
    (codes, "[^\\pC]{0,100}").prop_map(|(code, reason)| Notice::new(code, reason))
}

fn refused() -> impl Strategy<Value = RefusedPort> {
    (any::<[u8; 16]>(), notices()).prop_map(|(port, notice)| RefusedPort {
        port: Id(port),
        notice,
    })
}

fn frames() -> impl Strategy<Value = Frame> {
    let instance = prop::option::of(any::<[u8; 16]>().prop_map(Id));
    let avoid = proptest::collection::vec(any::<[u8; 16]>().prop_map(Id), 0..=MAX_AVOIDED);
    let header = (any::<[u8; 16]>(), instance, avoid);
    let header = header.prop_map(|(port, instance, avoid)| AttachHeader {
        port: Id(port),
        instance,
        avoid,
    });
    prop_oneof![
        (any::<[u8; 32]>(), bytes(0..300))
            .prop_map(|(proof, claims)| Frame::Hello { proof, claims }),
        (any::<[[u8; 32]; 2]>(), bytes(0..300)).prop_map(|([one, other], claims)| {
            let mut signature = [0; SIGNATURE_LENGTH];
            signature[..32].copy_from_slice(&one);
            signature[32..].copy_from_slice(&other);
            Frame::SignedHello { signature, claims }
        }),
        (any::<[u8; 32]>(), bytes(0..300))
            .prop_map(|(proof, terms)| Frame::Welcome { proof, terms }),
        ids().prop_map(Frame::Register),
        ids().prop_map(Frame::Unregister),
        (ids(), prop::collection::vec(refused(), 0..5)).prop_map(|(Ports { ports }, refused)| {
            Frame::Registered(Registered { ports, refused })
        }),
        (any::<u32>(), header, bytes(0..300)).prop_map(|(channel, header, message)| {
            Frame::Attach {
                channel,
                header,
                message,
            }
        }),
        (any::<u32>(), notices()).prop_map(|(channel, notice)| Frame::Close { channel, notice }),
        any::<u32>().prop_map(Frame::Pause),
        any::<u32>().prop_map(Frame::Resume),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        notices().prop_map(Frame::GoAway),
        notices().prop_map(Frame::Error),
        (any::<u32>(), bytes(1..3000))
            .prop_map(|(channel, payload)| Frame::Data { channel, payload }),
        (0x80..=0xffu8).prop_map(Frame::Extension),
    ]
}

proptest! {
    #[test]
    fn frames_round_trip(frame in frames()) {
        prop_assert_eq!(Frame::decode(frame.to_message()), Ok(frame));
    }

    #[test]
    fn decode_does_not_panic_on_arbitrary_bytes(message in bytes(0..200)) {
        let _ = Frame::decode(message);
    }

    #[test]
    fn decode_does_not_panic_on_corrupted_frames(
        frame in frames(), at in any::<prop::sample::Index>(), byte: u8, keep in any::<prop::sample::Index>()
    ) {
        let mut message = BytesMut::from(frame.to_message());
        let at = at.index(message.len());
        message[at] = byte;
        message.truncate(keep.index(message.len() + 1));
        let _ = Frame::decode(message.freeze());
    }
}
