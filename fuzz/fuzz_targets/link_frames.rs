//! Decodes arbitrary link messages. Valid frames must round-trip.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report_proto::frame::Frame;

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
});
