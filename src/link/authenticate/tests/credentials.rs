//! Tests of credentials: right and wrong ones, replays, and masters without the verifier.

use bytes::Bytes;

use super::*;
use report_proto::crypto::{Credential, CredentialSecret, CredentialVerifier};

fn credential(byte: u8) -> Credential {
    Credential::derive(&CredentialSecret::new([byte; 32]))
}

/// Runs a master that accepts every role that proves the credential of `verifier`.
async fn master(
    mut socket: MessageSocket,
    verifier: &CredentialVerifier,
) -> Result<(Hello, MessageSocket), HelloError> {
    let hello = hello(&mut socket, AUTHENTICATION_TIMEOUT).await?;
    if !hello.verify_signature(verifier) {
        refuse(socket, &Notice::new(Code::Unauthorized, "wrong")).await;
        return Err(HelloError::Closed);
    }
    welcome(&mut socket, verifier.welcome_key(), &hello, &TERMS).await?;
    Ok((hello, socket))
}

/// Returns the first message of a role with this credential, and its challenge.
async fn recorded_hello(role: Role, credential: &Credential) -> (Challenge, Bytes) {
    let (mut socket, mut peer) = memory::pair();
    let challenge = Challenge::new([1; 24]);
    let recorded = async {
        peer.feed(Bytes::copy_from_slice(challenge.as_bytes()))
            .await
            .unwrap();
        peer.flush().await.unwrap();
        peer.receive().await.unwrap().unwrap()
    };
    let (secret, role) = (LinkSecret::Credential(credential.clone()), identity(role));
    let message = tokio::select! {
        message = recorded => message,
        joined = join(&mut socket, &secret, &role, &[]) => panic!("{joined:?}"),
    };
    (challenge, message.freeze())
}

/// Returns what a master receives when a peer answers its challenge with this message.
async fn received(message: Bytes) -> Result<Hello, HelloError> {
    let (mut role, mut peer) = memory::pair();
    let send = async {
        role.receive().await.unwrap().unwrap();
        role.feed(message).await.unwrap();
        role.flush().await.unwrap();
    };
    let (received, ()) = tokio::join!(hello(&mut peer, AUTHENTICATION_TIMEOUT), send);
    received
}

#[tokio::test(start_paused = true)]
async fn roles_join_a_master_that_knows_the_verifier() {
    for role in [Role::Server, Role::Client] {
        let (mut socket, peer) = memory::pair();
        let credential = credential(1);
        let verifier = credential.verifier();
        let (secret, role) = (LinkSecret::Credential(credential.clone()), identity(role));
        let (terms, accepted) = tokio::join!(
            join(&mut socket, &secret, &role, &[]),
            master(peer, &verifier)
        );
        assert_eq!(terms.unwrap(), TERMS);
        let (hello, _peer) = accepted.unwrap();
        assert_eq!(hello.credential(), Some(credential.id()));
        assert_eq!(hello.claims.credential, Some(credential.id()));
        assert!(
            !hello.verify_proof(&LinkKey::derive(None)),
            "a signature is no MAC"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_secret_is_refused() {
    let (mut socket, peer) = memory::pair();
    let verifier = credential(2).verifier();
    let (secret, role) = (
        LinkSecret::Credential(credential(1)),
        identity(Role::Server),
    );
    let (joined, _) = tokio::join!(
        join(&mut socket, &secret, &role, &[]),
        master(peer, &verifier)
    );
    let error = joined.unwrap_err();
    assert!(matches!(&error, JoinError::CredentialRefused(_)), "{error}");
    assert!(error.to_string().contains("`credential`") && !error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn client_with_a_credential_detects_a_false_master() {
    for known in [LinkKey::derive(None), credential(2).welcome_key().clone()] {
        let (mut socket, mut peer) = memory::pair();
        let false_master = async {
            let hello = hello(&mut peer, AUTHENTICATION_TIMEOUT).await.unwrap();
            welcome(&mut peer, &known, &hello, &TERMS).await.unwrap();
        };
        let (secret, role) = (
            LinkSecret::Credential(credential(1)),
            identity(Role::Client),
        );
        let (joined, ()) = tokio::join!(join(&mut socket, &secret, &role, &[]), false_master);
        let error = joined.unwrap_err();
        assert!(matches!(error, JoinError::MasterWithoutVerifier), "{error}");
        assert!(error.to_string().contains("false master"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn recorded_signature_fails_on_another_link() {
    let credential = credential(1);
    let (_, message) = recorded_hello(Role::Server, &credential).await;
    let replayed = received(message).await.unwrap();
    assert_eq!(replayed.credential(), Some(credential.id()));
    assert!(!replayed.verify_signature(&credential.verifier()));
}

#[tokio::test(start_paused = true)]
async fn signature_is_for_the_credential_in_the_claims() {
    let (one, other) = (credential(1), credential(2));
    let (mut socket, mut peer) = memory::pair();
    let claims = Frame::decode(recorded_hello(Role::Server, &one).await.1);
    let Ok(Frame::SignedHello { claims, .. }) = claims else {
        panic!("SIGNED_HELLO is expected, not {claims:?}")
    };
    // The other credential signs claims that name the first one.
    let send = async {
        let challenge = Challenge::parse(&socket.receive().await.unwrap().unwrap()).unwrap();
        let signature = other.sign_hello(&challenge, &claims);
        let signed = Frame::SignedHello { signature, claims };
        socket.feed(signed.to_message()).await.unwrap();
        socket.flush().await.unwrap();
    };
    let (received, ()) = tokio::join!(hello(&mut peer, AUTHENTICATION_TIMEOUT), send);
    let received = received.unwrap();
    assert!(!received.verify_signature(&one.verifier()));
    assert!(!received.verify_signature(&other.verifier()));
}

#[tokio::test(start_paused = true)]
async fn signed_claims_without_a_credential_are_malformed() {
    let claims = Frame::decode(recorded_hello(Role::Server, &credential(1)).await.1);
    let Ok(Frame::SignedHello { signature, claims }) = claims else {
        panic!("SIGNED_HELLO is expected, not {claims:?}")
    };
    let text = String::from_utf8(claims.to_vec()).unwrap();
    let without = text.replace("\"credential\"", "\"later\"");
    assert_ne!(text, without);
    let signed = Frame::SignedHello {
        signature,
        claims: without.into(),
    };
    let error = received(signed.to_message()).await.unwrap_err();
    assert!(matches!(error, HelloError::NoCredential), "{error}");
    assert!(
        matches!(error.notice(), Some(notice) if notice.code == Code::Protocol),
        "{error}"
    );
}
