//! Tests this layer against `tests/vectors/`, which an independent implementation generated.

use bytes::BytesMut;
use serde::Deserialize;

use super::{
    Challenge, ChallengeError, Credential, CredentialSecret, CredentialVerifier, LinkKey, PortKeys,
    Psk,
    handshake::{Initiator, Responder},
    seal::{DirectionKeys, Opener, Sealer},
};
use crate::id::Id;

/// Bytes that the vectors encode in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hex(Vec<u8>);

impl Hex {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0
            .as_slice()
            .try_into()
            .unwrap_or_else(|_| panic!("{N} bytes, not {}", self.0.len()))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        Ok(Hex(digits
            .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits"))
            .collect()))
    }
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> T {
    serde_json::from_str(text).expect("the vectors have the expected fields")
}

#[test]
fn keys_match_vectors() {
    #[derive(Deserialize)]
    struct Keys {
        port_keys: Vec<PortKeyVector>,
        link_keys: Vec<LinkKeyVector>,
    }
    #[derive(Deserialize)]
    struct PortKeyVector {
        port_key: String,
        id: Id,
        psk: Hex,
    }
    #[derive(Deserialize)]
    struct LinkKeyVector {
        master_key: Option<String>,
        link_key: Hex,
    }
    let keys: Keys = read(include_str!("../../../tests/vectors/keys.json"));
    for port in &keys.port_keys {
        let derived = PortKeys::derive(&port.port_key);
        assert_eq!(
            (derived.id, derived.psk.0),
            (port.id, port.psk.array()),
            "{}",
            port.port_key
        );
    }
    for link in &keys.link_keys {
        assert_eq!(
            LinkKey::derive(link.master_key.as_deref()).0,
            link.link_key.array(),
            "{:?}",
            link.master_key
        );
    }
    assert!(
        keys.port_keys.len() >= 3 && keys.link_keys.iter().any(|link| link.master_key.is_none())
    );
}

#[test]
fn credentials_match_vectors() {
    #[derive(Deserialize)]
    struct Keys {
        credentials: Vec<CredentialVector>,
    }
    #[derive(Deserialize)]
    struct CredentialVector {
        secret: String,
        public_key: Hex,
        welcome_key: Hex,
        id: Id,
        verifier: String,
    }
    let keys: Keys = read(include_str!("../../../tests/vectors/keys.json"));
    for vector in &keys.credentials {
        let secret: CredentialSecret = vector.secret.parse().unwrap();
        assert_eq!(*secret.to_text(), vector.secret);
        let credential = Credential::derive(&secret);
        let verifier = credential.verifier();
        assert_eq!(credential.id(), vector.id);
        assert_eq!(
            verifier.parts(),
            (&vector.public_key.array(), &vector.welcome_key.array())
        );
        assert_eq!(verifier.to_text(), vector.verifier);
        let read: CredentialVerifier = vector.verifier.parse().unwrap();
        assert_eq!(read.parts(), verifier.parts());
    }
    assert!(keys.credentials.len() >= 3);
}

#[test]
fn signed_hellos_match_vectors() {
    #[derive(Deserialize)]
    struct LinkVectors {
        signed: Vec<SignedVector>,
    }
    #[derive(Deserialize)]
    struct SignedVector {
        secret: String,
        challenge: Hex,
        claims: String,
        signature: Hex,
        nonce: Hex,
        terms: String,
        welcome: Hex,
    }
    let link: LinkVectors = read(include_str!("../../../tests/vectors/link.json"));
    for vector in &link.signed {
        let credential = Credential::derive(&vector.secret.parse().unwrap());
        let challenge = Challenge::parse(&vector.challenge.0).unwrap();
        let (claims, terms) = (vector.claims.as_bytes(), vector.terms.as_bytes());
        let signature = credential.sign_hello(&challenge, claims);
        assert_eq!(signature, vector.signature.array());
        assert!(
            credential
                .verifier()
                .verify_hello(&challenge, claims, &signature)
        );
        let nonce = vector.nonce.array();
        let welcome = credential
            .welcome_key()
            .prove_welcome(&challenge, &nonce, terms);
        assert_eq!(welcome, vector.welcome.array());
    }
    assert_eq!(link.signed.len(), 2);
}

#[test]
fn challenges_and_proofs_match_vectors() {
    #[derive(Deserialize)]
    struct LinkVectors {
        challenges: Vec<ChallengeVector>,
        proofs: Vec<ProofVector>,
    }
    #[derive(Deserialize)]
    struct ChallengeVector {
        version: u8,
        nonce: Hex,
        challenge: Hex,
    }
    #[derive(Deserialize)]
    struct ProofVector {
        link_key: Hex,
        challenge: Hex,
        claims: String,
        hello: Hex,
        nonce: Hex,
        terms: String,
        welcome: Hex,
    }
    let link: LinkVectors = read(include_str!("../../../tests/vectors/link.json"));
    for vector in &link.challenges {
        let parsed = Challenge::parse(&vector.challenge.0);
        if vector.version == super::challenge::VERSION {
            assert_eq!(parsed, Ok(Challenge::new(vector.nonce.array())));
        } else {
            assert_eq!(parsed, Err(ChallengeError::Version(vector.version)));
        }
    }
    for proof in &link.proofs {
        let key = LinkKey(proof.link_key.array());
        let challenge = Challenge::parse(&proof.challenge.0).unwrap();
        let (claims, terms, nonce) = (
            proof.claims.as_bytes(),
            proof.terms.as_bytes(),
            proof.nonce.array(),
        );
        assert_eq!(key.prove_hello(&challenge, claims), proof.hello.array());
        assert_eq!(
            key.prove_welcome(&challenge, &nonce, terms),
            proof.welcome.array()
        );
        assert!(key.verify_hello(&challenge, claims, &proof.hello.array()));
        assert!(key.verify_welcome(&challenge, &nonce, terms, &proof.welcome.array()));
    }
    assert!(link.challenges.len() >= 2 && !link.proofs.is_empty());
}

#[derive(Deserialize)]
struct Handshakes {
    handshakes: Vec<HandshakeVector>,
}

#[derive(Deserialize)]
struct HandshakeVector {
    id: Id,
    psk: Hex,
    initiator_ephemeral: Hex,
    responder_ephemeral: Hex,
    offer: Hex,
    first: Hex,
    answer: Hex,
    second: Hex,
    hash: Hex,
    from_initiator: Hex,
    from_responder: Hex,
    tunnel_secret: Hex,
    /// The client's first message on an attachment with these keys, sealed with aes-128-gcm.
    /// The attachment resumes the tunnel with `tunnel_secret`.
    resumed: Hex,
}

#[test]
fn handshakes_match_vectors() {
    let vectors: Handshakes = read(include_str!("../../../tests/vectors/handshake.json"));
    for vector in &vectors.handshakes {
        let psk = Psk(vector.psk.array());
        let (initiator, first) = Initiator::start(
            &psk,
            vector.id,
            &vector.offer.0,
            vector.initiator_ephemeral.array(),
        )
        .unwrap();
        assert_eq!(first, vector.first.0);
        let (responder, offer) =
            Responder::read(&psk, vector.id, &first, vector.responder_ephemeral.array()).unwrap();
        assert_eq!(offer, vector.offer.0);
        let (second, server) = responder.finish(&vector.answer.0).unwrap();
        assert_eq!(second, vector.second.0);
        let (answer, client) = initiator.finish(&second).unwrap();
        assert_eq!(answer, vector.answer.0);
        let expected = (
            vector.hash.array(),
            vector.from_initiator.array(),
            vector.from_responder.array(),
        );
        assert_eq!(client.parts(), expected);
        assert_eq!(server.parts(), expected);
        let secret = client.tunnel_secret();
        assert_eq!(secret.bytes(), vector.tunnel_secret.array::<32>());
        let mut message = BytesMut::from(&b"resumed"[..]);
        client
            .with_tunnel_secret(&secret)
            .initiator(super::EncryptMethod::Aes128Gcm)
            .0
            .seal(&mut message, 0)
            .unwrap();
        assert_eq!(message, vector.resumed.0);
    }
    assert!(vectors.handshakes.len() >= 2);
}

#[test]
fn sealed_messages_match_vectors() {
    #[derive(Deserialize)]
    struct Sealed {
        directions: Vec<DirectionVector>,
    }
    #[derive(Deserialize)]
    struct DirectionVector {
        method: String,
        hash: Hex,
        key: Hex,
        messages: Vec<MessageVector>,
    }
    #[derive(Deserialize)]
    struct MessageVector {
        clear: Hex,
        sealed: Hex,
    }
    let sealed: Sealed = read(include_str!("../../../tests/vectors/sealed.json"));
    assert_eq!(sealed.directions.len(), super::EncryptMethod::ALL.len());
    for one in &sealed.directions {
        let direction =
            || DirectionKeys::derive(one.method.parse().unwrap(), &one.hash.array(), &one.key.0);
        let (mut sealer, mut opener) = (Sealer::new(direction()), Opener::new(direction()));
        for message in &one.messages {
            let mut buffer = BytesMut::from(&b"header"[..]);
            buffer.extend_from_slice(&message.clear.0);
            sealer.seal(&mut buffer, 6).unwrap();
            assert_eq!(buffer[6..], message.sealed.0, "{}", one.method);
            let mut opened = BytesMut::from(&message.sealed.0[..]);
            opener.open(&mut opened).unwrap();
            assert_eq!(opened, message.clear.0, "{}", one.method);
        }
    }
}
