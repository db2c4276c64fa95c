//! Decodes arbitrary link messages. Valid frames must round-trip, and so must the claims of a HELLO
//! and the texts of credentials.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use report_proto::{
    crypto::{CredentialSecret, CredentialVerifier},
    frame::{Claims, Frame},
};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        credentials(text);
    }
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    if !matches!(frame, Frame::Extension(_)) {
        let again = Frame::decode(out.freeze()).expect("an encoded frame decodes");
        assert_eq!(again, frame);
    }
    if let Frame::Hello { claims: text, .. } | Frame::SignedHello { claims: text, .. } = frame
        && let Ok(claims) = Claims::decode(&text)
    {
        let again = Claims::decode(&claims.encode()).expect("encoded claims decode");
        assert_eq!(again, claims);
    }
});

fn credentials(text: &str) {
    if let Ok(secret) = text.parse::<CredentialSecret>() {
        assert_eq!(*secret.to_text(), text);
    }
    if let Ok(verifier) = text.parse::<CredentialVerifier>() {
        assert_eq!(verifier.to_text(), text);
    }
}
