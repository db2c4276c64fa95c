//! Tests of credentials at the master: accepted, refused, and throttled links.

use super::*;
use crate::{
    master::serve_link::log_link,
    policy::{self, Account, AccountId, Changes, CredentialId, CredentialRecord, Verifier},
    throttle::THROTTLE_BURST,
};
use report_proto::crypto::{Challenge, Credential, CredentialSecret};

fn credential(byte: u8) -> Credential {
    Credential::derive(&CredentialSecret::new([byte; 32]))
}

pub(super) fn secret(byte: u8) -> LinkSecret {
    LinkSecret::Credential(credential(byte))
}

/// Starts a master that knows these credentials, each for a role.
fn start_knowing(known: &[(u8, Role)]) -> RunningMaster {
    let policies = MasterPolicies::open();
    let accounts = known.iter().map(|(byte, _)| AccountId((*byte).into()));
    let changes = Changes {
        accounts: accounts
            .map(|id| Account::new(id, format!("account {id}")))
            .collect(),
        credentials: known.iter().map(|one| record(*one)).collect(),
        ..Changes::default()
    };
    policies.apply(changes, false);
    start_with(|parameters| parameters.policies = policies)
}

/// Returns the record of a credential, whose account has the same number.
pub(super) fn record((byte, role): (u8, Role)) -> CredentialRecord {
    let verifier = credential(byte).verifier();
    let (public_key, welcome_key) = verifier.parts();
    CredentialRecord {
        credential: policy::Credential {
            id: CredentialId(credential(byte).id()),
            account: AccountId(byte.into()),
            name: format!("credential {byte}"),
            role,
            not_before: None,
            expires: None,
            revoked: false,
        },
        verifier: Verifier {
            public_key: *public_key,
            welcome_key: *welcome_key,
        },
    }
}

#[tokio::test]
async fn server_and_client_with_credentials_are_spliced() {
    let master = start_knowing(&[(1, Role::Server), (2, Role::Client)]);
    let register = Frame::Register(Ports { ports: vec![PORT] });
    let mut server = master
        .join_with_key(&secret(1), Role::Server, 1, 1, &[register])
        .await
        .expect("joined");
    assert_eq!(
        server.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    let mut client = master
        .join_with_key(&secret(2), Role::Client, 2, 1, &[])
        .await
        .expect("joined");
    client.attach(1, PORT).await;
    server.answer().await;
    client.expect_data(1, b"answer").await;
    let identities: Vec<Identity> = master
        .shared
        .router
        .registry()
        .handles()
        .map(|(_, link)| link.peer.identity)
        .collect();
    for byte in [1, 2] {
        let identity = Identity::Credential {
            id: credential(byte).id(),
            account: AccountId(byte.into()),
        };
        assert!(identities.contains(&identity), "{identities:?}");
    }
}

#[tokio::test]
async fn master_key_works_beside_credentials() {
    let master = start_knowing(&[(1, Role::Server)]);
    let mut server = master.server(1, &[PORT]).await;
    server.expect_alive().await;
    let mut client = master.client(2).await;
    client.expect_alive().await;
}

#[tokio::test]
async fn unknown_credential_is_refused_without_a_hint_and_other_links_continue() {
    let master = start_knowing(&[(1, Role::Server)]);
    let (mut client, mut server) = connected_pair(&master).await;
    for role in [Role::Server, Role::Client] {
        let key = secret(9);
        let refused = master.join_with_key(&key, role, 9, 1, &[]).await;
        let Err(JoinError::CredentialRefused(notice)) = refused else {
            panic!("a refusal is expected, not {:?}", refused.err())
        };
        assert_eq!(notice.code, Code::Unauthorized);
    }
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}

/// Sends claims that name the credential of `claimed`, signed with another one. Returns the
/// master's answer.
async fn forged(master: &RunningMaster, claimed: &Credential, signer: &Credential) -> Frame {
    let mut socket = master.upgraded().await;
    let challenge = with_timeout(socket.receive())
        .await
        .expect("up")
        .expect("a challenge");
    let challenge = Challenge::parse(&challenge).expect("a challenge");
    let claims = format!(
        r#"{{"version":1,"role":"server","instance":"{}","epoch":1,"nonce":"{}","credential":"{}"}}"#,
        Id([9; 16]),
        "00".repeat(32),
        claimed.id()
    );
    let signature = signer.sign_hello(&challenge, claims.as_bytes());
    let mut peer = TestPeer {
        socket,
        terms: Terms {
            version: 1,
            heartbeat_seconds: 0,
            max_channels: 0,
            max_ports: 0,
            retry_within_ms: 0,
        },
    };
    peer.send(Frame::SignedHello {
        signature,
        claims: claims.into(),
    })
    .await;
    peer.next().await
}

#[tokio::test]
async fn wrong_signature_and_unknown_credential_get_the_same_answer() {
    let master = start_knowing(&[(1, Role::Server)]);
    let wrong = forged(&master, &credential(1), &credential(2)).await;
    let unknown = forged(&master, &credential(2), &credential(2)).await;
    assert!(
        matches!(&wrong, Frame::Error(notice) if notice.code == Code::Unauthorized),
        "{wrong:?}"
    );
    assert_eq!(wrong, unknown);
    let right = forged(&master, &credential(1), &credential(1)).await;
    assert!(matches!(right, Frame::Welcome { .. }), "{right:?}");
}

#[tokio::test]
async fn credential_of_another_role_is_denied_with_the_reason() {
    let master = start_knowing(&[(1, Role::Server), (2, Role::Client)]);
    for (byte, role, allowed) in [(1, Role::Client, "server"), (2, Role::Server, "client")] {
        let key = secret(byte);
        let denied = master.join_with_key(&key, role, 9, 1, &[]).await;
        let Err(JoinError::Denied(notice)) = denied else {
            panic!("a denial is expected, not {:?}", denied.err())
        };
        assert!(
            notice.reason.contains(&format!("for a {allowed}")),
            "{notice}"
        );
    }
}

#[tokio::test]
async fn wrong_credentials_throttle_both_roles_but_no_anonymous_client() {
    let master = start_knowing(&[(1, Role::Server), (2, Role::Client)]);
    drop(
        master
            .join_with_key(&secret(1), Role::Server, 1, 1, &[])
            .await
            .expect("joined"),
    );
    for attempt in 0..THROTTLE_BURST {
        // Wrong credentials of both roles and wrong master keys count together.
        let wrong = match attempt % 2 {
            0 => secret(9),
            _ => LinkKey::derive(None).into(),
        };
        let refused = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
        assert!(
            matches!(
                refused,
                Err(JoinError::CredentialRefused(_) | JoinError::Unauthorized(_))
            ),
            "{:?}",
            refused.err()
        );
    }
    for (byte, role) in [(1, Role::Server), (2, Role::Client)] {
        let key = secret(byte);
        let throttled = master.join_with_key(&key, role, 8, 1, &[]).await;
        assert!(
            matches!(throttled, Err(JoinError::Throttled(_))),
            "the master does not verify its signature: {:?}",
            throttled.err()
        );
    }
    let known = master
        .join_with_key(&secret(1), Role::Server, 1, 2, &[])
        .await;
    assert!(known.is_ok(), "{:?}", known.err());
    assert!(master.join(Role::Client, 7, 1, &[]).await.is_ok());
}

#[tokio::test]
async fn the_holder_of_a_credential_cannot_guess_master_keys_without_the_throttle() {
    let master = start_knowing(&[(1, Role::Client)]);
    let key = secret(1);
    let holder = master.join_with_key(&key, Role::Client, 9, 1, &[]);
    drop(holder.await.expect("joined"));
    let wrong = LinkSecret::from(LinkKey::derive(None));
    for _ in 0..THROTTLE_BURST {
        let refused = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
        assert!(
            matches!(refused, Err(JoinError::Unauthorized(_))),
            "{:?}",
            refused.err()
        );
    }
    let throttled = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
    assert!(
        matches!(throttled, Err(JoinError::Throttled(_))),
        "{:?}",
        throttled.err()
    );
    let key = secret(1);
    let again = master.join_with_key(&key, Role::Client, 9, 2, &[]);
    assert!(again.await.is_ok(), "its own credential works");
}

#[tokio::test]
async fn recorded_signature_is_refused() {
    let master = start_knowing(&[(1, Role::Server)]);
    let (mut role, mut recorder) = crate::net::memory::pair();
    let (secret, introduction) = (secret(1), identity(Role::Server, 1, 1));
    let challenge = Challenge::new([1; 24]);
    recorder
        .feed(Bytes::copy_from_slice(challenge.as_bytes()))
        .await
        .expect("fed");
    recorder.flush().await.expect("sent");
    let recorded = tokio::select! {
        message = recorder.receive() => message.expect("up").expect("a message").freeze(),
        joined = authenticate::join(&mut role, &secret, &introduction, &[]) => panic!("{joined:?}"),
    };
    let mut socket = master.upgraded().await;
    with_timeout(socket.receive())
        .await
        .expect("up")
        .expect("a challenge");
    with_timeout(socket.feed(recorded)).await.expect("sent");
    with_timeout(socket.flush()).await.expect("sent");
    let answer = with_timeout(socket.receive())
        .await
        .expect("up")
        .expect("an answer");
    assert!(
        matches!(Frame::decode(answer.freeze()), Ok(Frame::Error(notice)) if notice.code == Code::Unauthorized)
    );
}

#[tokio::test]
async fn log_lines_of_an_account_are_limited_and_keep_no_other_out() {
    let master = start();
    let credential = |account| Identity::Credential {
        id: Id([1; 16]),
        account: AccountId(account),
    };
    let logged = |identity| {
        let lines = (0..10_000).filter(|_| log_link(&master.shared, identity, |_| {}));
        lines.count()
    };
    let noisy = logged(credential(2));
    assert!((200..5_000).contains(&noisy), "{noisy}");
    let other = logged(credential(3));
    assert!((200..5_000).contains(&other), "{other}");
    let strangers = logged(Identity::Anonymous);
    assert!((200..5_000).contains(&strangers), "{strangers}");
    assert_eq!(logged(Identity::MasterKey), 10_000);
}
