//! Tests of both ends of the authentication against each other, and of each end against a faulty
//! peer.

mod credentials;

use bytes::Bytes;

use super::*;
use crate::net::{
    memory,
    websocket::{MessageSocket, SocketError},
};
use report_proto::{
    crypto::{Challenge, LinkKey},
    frame::{Code, Frame, Notice, Ports, Role, Slot, Terms},
    id::Id,
};

const TERMS: Terms = Terms {
    version: 1,
    heartbeat_seconds: 20,
    max_channels: 9,
    max_ports: 8,
    retry_within_ms: 7_500,
};

fn identity(role: Role) -> RoleIdentity {
    RoleIdentity {
        role,
        instance: Id([7; 16]),
        slot: Slot::new(5).expect("a slot"),
        epoch: 3,
        moves: false,
        agent: "test".to_owned(),
    }
}

fn keys() -> (LinkKey, LinkKey) {
    (
        LinkKey::derive(Some("rePortserver")),
        LinkKey::derive(Some("another key")),
    )
}

/// Runs a master that accepts every role that proves `key`.
async fn master(
    mut socket: MessageSocket,
    key: &LinkKey,
) -> Result<(Hello, MessageSocket), HelloError> {
    let hello = match hello(&mut socket, AUTHENTICATION_TIMEOUT).await {
        Ok(hello) => hello,
        Err(error) => {
            if let Some(notice) = error.notice() {
                refuse(socket, &notice).await;
            }
            return Err(error);
        }
    };
    if !hello.verify_proof(key) {
        refuse(
            socket,
            &Notice::new(Code::Unauthorized, "the proof is wrong"),
        )
        .await;
        return Err(HelloError::Closed);
    }
    welcome(&mut socket, key, &hello, &TERMS).await?;
    Ok((hello, socket))
}

/// Returns the error of a role whose master sends `messages` and then nothing.
async fn join_scripted(messages: &[&[u8]], role: Role) -> JoinError {
    let (mut socket, mut master) = memory::pair();
    for message in messages {
        master.feed(Bytes::copy_from_slice(message)).await.unwrap();
    }
    master.flush().await.unwrap();
    let secret = match role {
        Role::Server => LinkSecret::MasterKey(LinkKey::derive(None)),
        Role::Client => LinkSecret::Anonymous,
    };
    let role = identity(role);
    let joined = async {
        join(&mut socket, &secret, &role, &[])
            .await
            .expect_err("the peer is not a master")
    };
    let silent = async { while let Ok(Some(_)) = master.receive().await {} };
    tokio::select! { error = joined => error, () = silent => unreachable!("the role waits") }
}

#[tokio::test(start_paused = true)]
async fn server_joins_master_with_same_key_in_one_flight() {
    let (mut socket, peer) = memory::pair();
    let (key, _) = keys();
    let secret = LinkSecret::from(key.clone());
    let register = Frame::Register(Ports {
        ports: vec![Id([1; 16])],
    });
    let role = identity(Role::Server);
    let (terms, taken) = tokio::join!(
        join(&mut socket, &secret, &role, std::slice::from_ref(&register)),
        master(peer, &key)
    );
    let (hello, mut peer) = taken.unwrap();
    assert_eq!(terms.unwrap(), TERMS);
    assert_eq!(
        (hello.claims.role, hello.claims.instance, hello.claims.epoch),
        (Role::Server, Id([7; 16]), 3)
    );
    assert_eq!(hello.claims.slot.number(), 5);
    assert_eq!(hello.claims.agent, "test");
    assert_eq!(
        Frame::decode(peer.receive().await.unwrap().unwrap().freeze()),
        Ok(register),
        "sent in the same flight"
    );
}

#[tokio::test(start_paused = true)]
async fn frames_after_welcome_stay_readable() {
    let (mut socket, peer) = memory::pair();
    let key = LinkKey::derive(None);
    let role = identity(Role::Client);
    let behind = async {
        let (_, mut peer) = master(peer, &key).await.unwrap();
        for token in 0..3 {
            peer.feed(Frame::Ping(token).to_message()).await.unwrap();
        }
        peer.flush().await.unwrap();
        peer
    };
    let secret = LinkSecret::Anonymous;
    let (terms, _peer) = tokio::join!(join(&mut socket, &secret, &role, &[]), behind);
    terms.unwrap();
    for token in 0..3 {
        assert_eq!(
            Frame::decode(socket.receive().await.unwrap().unwrap().freeze()),
            Ok(Frame::Ping(token))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn server_with_wrong_master_key_gets_unauthorized() {
    let (mut socket, peer) = memory::pair();
    let (key, other) = keys();
    let role = identity(Role::Server);
    let secret = LinkSecret::from(other);
    let (joined, _) = tokio::join!(join(&mut socket, &secret, &role, &[]), master(peer, &key));
    let error = joined.unwrap_err();
    assert!(matches!(&error, JoinError::Unauthorized(_)), "{error}");
    assert!(error.to_string().contains("`master_key`") && !error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn master_without_key_is_refused() {
    let (mut socket, mut peer) = memory::pair();
    let (key, other) = keys();
    let role = identity(Role::Server);
    let false_master = async {
        let hello = hello(&mut peer, AUTHENTICATION_TIMEOUT).await.unwrap();
        welcome(&mut peer, &other, &hello, &TERMS).await.unwrap();
    };
    let secret = LinkSecret::from(key);
    let (joined, ()) = tokio::join!(join(&mut socket, &secret, &role, &[]), false_master);
    assert!(matches!(joined.unwrap_err(), JoinError::FalseMaster));
}

#[tokio::test(start_paused = true)]
async fn recorded_hello_fails_on_another_link() {
    let (mut socket, mut peer) = memory::pair();
    let (key, _) = keys();
    let (secret, role) = (LinkSecret::from(key.clone()), identity(Role::Server));
    let recorded = async {
        peer.feed(Bytes::copy_from_slice(Challenge::new([1; 24]).as_bytes()))
            .await
            .unwrap();
        peer.flush().await.unwrap();
        peer.receive().await.unwrap().unwrap()
    };
    let recorded = tokio::select! {
        message = recorded => message,
        joined = join(&mut socket, &secret, &role, &[]) => panic!("{joined:?}"),
    };
    let (mut thief, mut peer) = memory::pair();
    let replay = async {
        thief.receive().await.unwrap().unwrap();
        thief.feed(recorded.freeze()).await.unwrap();
        thief.flush().await.unwrap();
    };
    let (received, ()) = tokio::join!(hello(&mut peer, AUTHENTICATION_TIMEOUT), replay);
    assert!(!received.unwrap().verify_proof(&key));
}

#[tokio::test(start_paused = true)]
async fn unexpected_answers_map_to_distinct_errors() {
    assert!(matches!(
        join_scripted(&[b"hello, this is a chat"], Role::Client).await,
        JoinError::NotAMaster
    ));
    assert!(matches!(
        join_scripted(&[&[0; 32]], Role::Client).await,
        JoinError::NotAMaster
    ));
    let challenge = Challenge::new([5; 24]);
    assert!(matches!(
        join_scripted(&[challenge.as_bytes(), b"\x00"], Role::Client).await,
        JoinError::Protocol(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn unexpected_frames_after_the_challenge_map_to_distinct_errors() {
    let challenge = Challenge::new([5; 24]);
    let after = async |frame: Frame, role| {
        join_scripted(&[challenge.as_bytes(), &frame.to_message()], role).await
    };
    let error = |code| Frame::Error(Notice::new(code, "from the master"));
    assert!(matches!(
        after(error(Code::Unauthorized), Role::Server).await,
        JoinError::Unauthorized(_)
    ));
    assert!(matches!(
        after(error(Code::Throttled), Role::Server).await,
        JoinError::Throttled(_)
    ));
    assert!(matches!(
        after(error(Code::Superseded), Role::Server).await,
        JoinError::Superseded(_)
    ));
    assert!(matches!(
        after(error(Code::Limit), Role::Client).await,
        JoinError::Limit(_)
    ));
    assert!(matches!(
        after(error(Code::Version), Role::Client).await,
        JoinError::Refused(_)
    ));
    assert!(matches!(
        after(Frame::Ping(1), Role::Client).await,
        JoinError::Protocol(_)
    ));
    assert!(matches!(
        after(
            Frame::Welcome {
                proof: [0; 32],
                terms: "{}".into()
            },
            Role::Client
        )
        .await,
        JoinError::FalseMaster
    ));
}

#[tokio::test(start_paused = true)]
async fn silent_master_times_out_after_ten_seconds() {
    let start = tokio::time::Instant::now();
    assert!(matches!(
        join_scripted(&[], Role::Client).await,
        JoinError::TimedOut {
            awaited: "challenge",
            ..
        }
    ));
    assert_eq!(start.elapsed(), AUTHENTICATION_TIMEOUT);
    let start = tokio::time::Instant::now();
    let challenge = Challenge::new([5; 24]);
    assert!(matches!(
        join_scripted(&[challenge.as_bytes()], Role::Client).await,
        JoinError::TimedOut {
            awaited: "WELCOME",
            ..
        }
    ));
    assert_eq!(start.elapsed(), AUTHENTICATION_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn master_that_closes_differs_from_silent_one() {
    let (mut socket, peer) = memory::pair();
    let (secret, role) = (LinkSecret::Anonymous, identity(Role::Client));
    let (joined, ()) = tokio::join!(
        join(&mut socket, &secret, &role, &[]),
        peer.close(Duration::from_secs(1))
    );
    assert!(matches!(
        joined.unwrap_err(),
        JoinError::Closed {
            awaited: "challenge"
        }
    ));
}

/// Returns the master's error for a peer that sends `message` instead of HELLO, and the reply to
/// the peer.
async fn hello_scripted(message: Option<&[u8]>) -> (HelloError, Option<Frame>) {
    let (mut socket, peer) = memory::pair();
    let key = LinkKey::derive(None);
    let role = async {
        Challenge::parse(&socket.receive().await.unwrap().unwrap()).unwrap();
        if let Some(message) = message {
            socket.feed(Bytes::copy_from_slice(message)).await.unwrap();
            socket.flush().await.unwrap();
        }
        socket
            .receive()
            .await
            .unwrap()
            .map(|message| Frame::decode(message.freeze()).unwrap())
    };
    let (taken, reply) = tokio::join!(master(peer, &key), role);
    (taken.expect_err("the peer is not a role"), reply)
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_send_hello_gets_error() {
    let claims = r#"{"version":2,"role":"client","instance":"00000000000000000000000000000000","epoch":1,"nonce":"0000000000000000000000000000000000000000000000000000000000000000"}"#;
    let version = Frame::Hello {
        proof: [0; 32],
        claims: claims.into(),
    }
    .to_message();
    let shapeless = Frame::Hello {
        proof: [0; 32],
        claims: "{}".into(),
    }
    .to_message();
    for (message, code) in [
        (Some(&b"\x0a12345678"[..]), Code::Protocol),
        (Some(b"\x10\x00\x00\x00\x01x"), Code::Protocol),
        (Some(b"what?"), Code::Protocol),
        (Some(&shapeless), Code::Protocol),
        (Some(&version), Code::Version),
        (None, Code::Timeout),
    ] {
        let (error, reply) = hello_scripted(message).await;
        assert!(
            matches!(reply, Some(Frame::Error(notice)) if notice.code == code),
            "{error} for {message:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slot_that_does_not_exist_is_a_protocol_error_that_names_the_field() {
    let claims = r#"{"version":1,"role":"client","instance":"00000000000000000000000000000000","slot":16,"epoch":1,"nonce":"0000000000000000000000000000000000000000000000000000000000000000"}"#;
    let answer = async |claims: String| {
        let proof = [0; 32];
        let hello = Frame::Hello {
            proof,
            claims: claims.into(),
        };
        hello_scripted(Some(&hello.to_message())).await
    };
    let (_, reply) = answer(claims.to_owned()).await;
    let Some(Frame::Error(notice)) = reply else {
        panic!("an ERROR is expected, not {reply:?}")
    };
    assert_eq!(notice.code, Code::Protocol);
    assert!(notice.reason.contains("`slot`"), "{notice}");
    let (_, reply) = answer(claims.replace(":16,", ":15,")).await;
    assert!(
        matches!(&reply, Some(Frame::Error(notice)) if notice.code == Code::Unauthorized),
        "only the proof is wrong: {reply:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn peer_that_leaves_before_hello_gets_no_notice() {
    let (socket, mut peer) = memory::pair();
    drop(socket);
    let error = hello(&mut peer, AUTHENTICATION_TIMEOUT).await.unwrap_err();
    assert!(error.notice().is_none(), "{error}");
}

/// Returns the challenge of version 1 in the protocol vectors.
fn challenge_of_version_1() -> Vec<u8> {
    let vectors = include_str!("../../../../tests/vectors/link.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let challenges = vectors["challenges"].as_array().unwrap();
    let of_version_1 = challenges.iter().find(|vector| vector["version"] == 1);
    let text = of_version_1.unwrap()["challenge"].as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn role_answers_a_challenge_of_version_1_with_claims_of_version_1() {
    let (mut socket, mut master) = memory::pair();
    master.feed(challenge_of_version_1().into()).await.unwrap();
    master.flush().await.unwrap();
    let (secret, role) = (
        LinkSecret::MasterKey(LinkKey::derive(None)),
        identity(Role::Server),
    );
    let answer = tokio::select! {
        answer = master.receive() => answer.unwrap().unwrap(),
        result = join(&mut socket, &secret, &role, &[]) => panic!("the master is silent: {result:?}"),
    };
    let answer = Frame::decode(answer.freeze());
    let Ok(Frame::Hello { claims, .. }) = answer else {
        panic!("HELLO is expected, not {answer:?}")
    };
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["version"], 1);
}

#[tokio::test(start_paused = true)]
async fn master_sends_a_challenge_of_version_1() {
    let (mut role, mut master) = memory::pair();
    let challenge = tokio::select! {
        challenge = role.receive() => challenge.unwrap().unwrap(),
        _ = hello(&mut master, AUTHENTICATION_TIMEOUT) => panic!("the role is silent"),
    };
    let (nonce, rest) = challenge.split_at(24);
    let hashed = [&b"rePort link"[..], &[1], nonce].concat();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &hashed);
    assert_eq!(rest, &hash.as_ref()[..8], "PROTOCOL 4.1");
}

#[tokio::test(start_paused = true)]
async fn oversized_first_message_is_rejected() {
    let (mut role, mut master) = crate::net::memory::pair();
    let send = async {
        role.feed(vec![1; 5_000].into()).await.expect("fed");
        role.flush().await.expect("sent");
    };
    let (answer, ()) = tokio::join!(hello(&mut master, AUTHENTICATION_TIMEOUT), send);
    assert!(
        matches!(
            answer,
            Err(HelloError::Socket(SocketError::TooLong {
                size: 5_000,
                max_length: 4_096
            }))
        ),
        "{answer:?}"
    );
}
