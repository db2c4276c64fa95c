//! Decodes arbitrary link messages. Valid frames must round-trip, and so must the claims of a HELLO.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report_proto::frame::{Claims, Frame};

fuzz_target!(|data: &[u8]| {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    if !matches!(frame, Frame::Extension(_)) {
        let again = Frame::decode(out.freeze()).expect("an encoded frame decodes");
        assert_eq!(again, frame);
    }
    if let Frame::Hello { claims: text, .. } = frame
        && let Ok(claims) = Claims::decode(&text)
    {
        let again = Claims::decode(&claims.encode()).expect("encoded claims decode");
        assert_eq!(again, claims);
    }
});
