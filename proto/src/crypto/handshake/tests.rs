//! Tests of the handshake and of the keys that it yields.

use bytes::BytesMut;

use super::*;
use crate::crypto::{EncryptMethod, Opener, Sealer};

const ID: Id = Id([7; 16]);

fn psk() -> Psk {
    Psk([42; 32])
}

fn first() -> (Initiator, Vec<u8>) {
    Initiator::start(&psk(), ID, b"offer", [1; 32]).unwrap()
}

#[test]
fn both_ends_derive_same_keys_and_exchange_messages() {
    for method in EncryptMethod::ALL {
        let (initiator, first) = first();
        let (responder, offer) = Responder::read(&psk(), ID, &first, [2; 32]).unwrap();
        assert_eq!(offer, b"offer");
        let (second, server) = responder.finish(b"answer").unwrap();
        let (answer, client) = initiator.finish(&second).unwrap();
        assert_eq!(answer, b"answer");
        let (mut client, mut server) = (client.initiator(method), server.responder(method));
        for (sealer, opener) in [
            (&mut client.0, &mut server.1),
            (&mut server.0, &mut client.1),
        ] {
            let mut buffer = BytesMut::from(&b"hello"[..]);
            sealer.seal(&mut buffer, 0).unwrap();
            opener.open(&mut buffer).unwrap();
            assert_eq!(&buffer[..], b"hello");
        }
    }
}

/// Runs a handshake and returns the keys of both ends.
fn session() -> (SessionKeys, SessionKeys) {
    let (initiator, first) = first();
    let (second, server) = Responder::read(&psk(), ID, &first, [2; 32])
        .unwrap()
        .0
        .finish(b"")
        .unwrap();
    (initiator.finish(&second).unwrap().1, server)
}

#[test]
fn resumed_attachment_requires_tunnel_secret() {
    let (client, server) = session();
    let secret = client.tunnel_secret();
    assert_eq!(secret, server.tunnel_secret());
    let other = TunnelSecret::from_bytes([9; 32]);
    for method in EncryptMethod::ALL {
        let sealed = || {
            let mut buffer = BytesMut::from(&b"hello"[..]);
            session()
                .0
                .with_tunnel_secret(&secret)
                .initiator(method)
                .0
                .seal(&mut buffer, 0)
                .unwrap();
            buffer
        };
        let opens = |keys: SessionKeys| keys.responder(method).1.open(&mut sealed()).is_ok();
        assert!(opens(session().1.with_tunnel_secret(&secret)), "{method}");
        assert!(
            !opens(session().1.with_tunnel_secret(&other)),
            "{method}: another secret"
        );
        assert!(!opens(session().1), "{method}: no secret");
    }
}

#[test]
fn directions_and_methods_have_distinct_keys() {
    let seal = |role: fn(SessionKeys, EncryptMethod) -> (Sealer, Opener), method| {
        let (responder, _) = Responder::read(&psk(), ID, &first().1, [2; 32]).unwrap();
        let mut buffer = BytesMut::from(&[0; 64][..]);
        role(responder.finish(b"").unwrap().1, method)
            .0
            .seal(&mut buffer, 0)
            .unwrap();
        buffer[64..].to_vec()
    };
    let mut tags: Vec<Vec<u8>> = EncryptMethod::ALL
        .into_iter()
        .flat_map(|method| {
            [
                seal(SessionKeys::initiator, method),
                seal(SessionKeys::responder, method),
            ]
        })
        .collect();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 8);
}

#[test]
fn read_rejects_first_message_for_another_key_or_port() {
    let (_, first) = first();
    let other_key = Responder::read(&Psk([43; 32]), ID, &first, [2; 32]);
    let other_port = Responder::read(&psk(), Id([8; 16]), &first, [2; 32]);
    assert!(matches!(other_key, Err(HandshakeError::KeyMismatch)));
    assert!(matches!(other_port, Err(HandshakeError::KeyMismatch)));
}

#[test]
fn handshake_rejects_altered_messages() {
    let (_, first) = first();
    for index in 0..first.len() {
        let mut altered = first.clone();
        altered[index] ^= 1;
        assert!(
            Responder::read(&psk(), ID, &altered, [2; 32]).is_err(),
            "byte {index}"
        );
    }
    let (responder, _) = Responder::read(&psk(), ID, &first, [2; 32]).unwrap();
    let (second, _) = responder.finish(b"answer").unwrap();
    for index in 0..second.len() {
        // X25519 ignores the highest bit of a public key (RFC 7748), but the bit is hashed.
        let mut altered = second.clone();
        altered[index] ^= 0x80;
        let (initiator, _) = self::first();
        assert!(initiator.finish(&altered).is_err(), "byte {index}");
    }
}

#[test]
fn read_rejects_too_short_and_too_long_messages() {
    let (_, first) = first();
    for length in 0..OVERHEAD {
        let read = Responder::read(&psk(), ID, &first[..length], [2; 32]);
        assert!(matches!(read, Err(HandshakeError::Length(got)) if got == length));
    }
    for length in OVERHEAD..first.len() {
        assert!(Responder::read(&psk(), ID, &first[..length], [2; 32]).is_err());
    }
    let endless = vec![0; MAX_MESSAGE + 1];
    assert!(matches!(
        Responder::read(&psk(), ID, &endless, [2; 32]),
        Err(HandshakeError::Length(_))
    ));
}

#[test]
fn payload_is_limited_to_message_size() {
    let fits = vec![5; MAX_MESSAGE - OVERHEAD];
    let (_, message) = Initiator::start(&psk(), ID, &fits, [1; 32]).unwrap();
    assert_eq!(message.len(), MAX_MESSAGE);
    assert_eq!(
        Responder::read(&psk(), ID, &message, [2; 32]).unwrap().1,
        fits
    );
    let long = vec![5; MAX_MESSAGE - OVERHEAD + 1];
    assert!(matches!(
        Initiator::start(&psk(), ID, &long, [1; 32]),
        Err(HandshakeError::Payload(_))
    ));
}

#[test]
fn replayed_first_message_yields_fresh_keys() {
    let (_, first) = first();
    let keys = |ephemeral| {
        let (responder, _) = Responder::read(&psk(), ID, &first, ephemeral).unwrap();
        responder.finish(b"").unwrap().1.parts()
    };
    assert_ne!(keys([2; 32]), keys([3; 32]));
}

#[test]
fn one_time_random_returns_key_once() {
    let mut ephemeral = OneTimeRandom(Some(Zeroizing::new([9; 32])));
    let mut to = [0; 32];
    assert!(ephemeral.try_fill_bytes(&mut to).is_ok());
    assert_eq!(to, [9; 32]);
    assert!(ephemeral.try_fill_bytes(&mut to).is_err());
}

#[test]
fn debug_output_hides_secrets() {
    let (initiator, _) = first();
    let printed = format!(
        "{:?} {initiator:?} {:?}",
        psk(),
        TunnelSecret::from_bytes([42; 32])
    );
    assert!(
        !printed.contains("42") && !printed.contains("2a"),
        "{printed}"
    );
}
