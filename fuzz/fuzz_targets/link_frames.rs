//! Any message of a link: it decodes or it does not, and what decodes is written as it was read.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report::frame::Frame;

fuzz_target!(|data: &[u8]| {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else { return };
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    if !matches!(frame, Frame::Extension(_)) {
        let again = Frame::decode(out.freeze()).expect("what was written can be read");
        assert_eq!(again, frame);
    }
});
