//! Authenticates links (PROTOCOL 4): challenge, HELLO, proof of the master key or of a credential,
//! throttle. Knows keys and addresses, but not what a link does.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use super::identity::{CredentialLookup, Identity};
use crate::{
    link::authenticate::{self, Hello, HelloError},
    net::websocket::MessageSocket,
    throttle::{LogLimit, Throttle},
};
use report_proto::{
    crypto::LinkKey,
    frame::{Code, Notice, Role},
    id::Id,
};

/// Verifies the HELLO of each new link.
pub(super) struct Authenticator {
    /// The key of servers with the master key. Without it, every server needs a credential.
    server_key: RwLock<Option<LinkKey>>,
    client_key: LinkKey,
    credentials: Arc<dyn CredentialLookup>,
    timeout: Duration,
    throttle: Mutex<Throttle<ProvenInstance>>,
}

/// A process that has proven a secret: its credential, or none for the master key, and its instance.
/// The holder of a credential is not exempt when it tries master keys.
type ProvenInstance = (Option<Id>, Id);

/// A role whose HELLO was verified.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) hello: Hello,
    pub(super) identity: Identity,
    /// The key that WELCOME proves.
    pub(super) welcome_key: LinkKey,
}

/// The reason why a link is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    /// The peer sent no valid HELLO.
    #[error(transparent)]
    NoHello(#[from] HelloError),
    /// Too many wrong proofs came from this address. The master did not verify this one.
    #[error("too many wrong keys from this address")]
    Throttled,
    /// A server's proof is wrong.
    #[error("the proof of the master key is wrong")]
    Unauthorized {
        /// Whether this failure throttles the address.
        throttled: bool,
    },
    /// The credential is unknown, or its signature is wrong. The peer is not told which.
    #[error("the credential is unknown, or its signature is wrong")]
    CredentialRefused {
        /// The credential that the peer claims to hold.
        claimed: Id,
        /// Whether this failure throttles the address.
        throttled: bool,
    },
    /// The peer has proven a credential that is for the other role.
    #[error("the credential is for a {allowed}, not for a {claimed}")]
    WrongRole {
        /// The credential.
        credential: Id,
        /// The role that it is for.
        allowed: Role,
        /// The role that the peer claims.
        claimed: Role,
    },
    /// A client's proof is wrong. Its key is public.
    #[error("the proof does not cover the claims")]
    InvalidProof,
}

impl AuthError {
    /// Returns the reason for the metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            AuthError::NoHello(HelloError::Version { .. }) => "version",
            AuthError::NoHello(_) => "no_hello",
            AuthError::Throttled => "throttled",
            AuthError::Unauthorized { .. } | AuthError::CredentialRefused { .. } => "unauthorized",
            AuthError::WrongRole { .. } => "denied",
            AuthError::InvalidProof => "invalid_proof",
        }
    }

    /// Logs the refusal. Returns whether the limit admitted the line. deploy/fail2ban knows the
    /// words.
    pub(super) fn log(&self, limit: &LogLimit) -> bool {
        match self {
            AuthError::Unauthorized { throttled } => {
                let advice = advice(*throttled, "compare `master_key`");
                limit.log(|left_out| warn!(left_out, "link refused: {self} ({advice})"))
            }
            AuthError::CredentialRefused { claimed, throttled } => {
                let compare = "compare `credential` at the peer with the credentials of the master";
                let advice = advice(*throttled, compare);
                limit.log(|left_out| {
                    warn!(credential = %claimed, left_out, "link refused: {self} ({advice})");
                })
            }
            AuthError::WrongRole { credential, .. } => {
                limit.log(|left_out| warn!(%credential, left_out, "link refused: {self}"))
            }
            // Scanners cause these errors by the thousand.
            AuthError::NoHello(_) | AuthError::Throttled | AuthError::InvalidProof => {
                debug!("link refused: {self}");
                false
            }
        }
    }

    /// Returns the notice for the peer. A peer that does not speak the protocol gets none, so that
    /// a scanner cannot recognise it.
    pub(super) fn notice(&self) -> Option<Notice> {
        let code = match self {
            AuthError::NoHello(HelloError::Version { .. }) => Code::Version,
            AuthError::InvalidProof => Code::Protocol,
            AuthError::NoHello(_) => return None,
            AuthError::Throttled => Code::Throttled,
            AuthError::Unauthorized { .. } | AuthError::CredentialRefused { .. } => {
                Code::Unauthorized
            }
            AuthError::WrongRole { .. } => Code::Denied,
        };
        Some(Notice::new(code, self.to_string()))
    }
}

/// Returns what to do after a wrong secret.
fn advice(throttled: bool, compare: &'static str) -> &'static str {
    if throttled {
        "this address is throttled now"
    } else {
        compare
    }
}

impl Authenticator {
    /// Creates an authenticator with the master key, if it has one, the credentials of accounts, and
    /// the timeout for a HELLO.
    pub(super) fn new(
        server_key: Option<LinkKey>,
        credentials: Arc<dyn CredentialLookup>,
        timeout: Duration,
    ) -> Self {
        Authenticator {
            server_key: RwLock::new(server_key),
            client_key: LinkKey::derive(None),
            credentials,
            timeout,
            throttle: Mutex::default(),
        }
    }

    /// Challenges the peer and verifies its HELLO.
    ///
    /// # Errors
    /// The reason why the peer is refused. The peer has not been notified.
    ///
    /// # Cancel safety
    /// Not safe: a cancelled call leaves the socket in the middle of the authentication.
    pub(super) async fn authenticate(
        &self,
        socket: &mut MessageSocket,
        address: IpAddr,
    ) -> Result<Authenticated, AuthError> {
        let hello = authenticate::hello(socket, self.timeout).await?;
        let (identity, welcome_key) = self.verify(&hello, address, Instant::now())?;
        Ok(Authenticated {
            hello,
            identity,
            welcome_key,
        })
    }

    /// Verifies a HELLO. Returns the identity, and the key that WELCOME proves. An anonymous client
    /// proves no secret, so its HELLO is neither counted nor throttled.
    fn verify(
        &self,
        hello: &Hello,
        address: IpAddr,
        now: Instant,
    ) -> Result<(Identity, LinkKey), AuthError> {
        let role = hello.claims.role;
        let credential = hello.credential();
        let instance = (credential, hello.claims.instance);
        if role == Role::Client && credential.is_none() {
            return if hello.verify_proof(&self.client_key) {
                Ok((Identity::Anonymous, self.client_key.clone()))
            } else {
                Err(AuthError::InvalidProof)
            };
        }
        if self.throttle().refuses(now, address, instance) {
            return Err(AuthError::Throttled);
        }
        let proven = match credential {
            Some(id) => self.verify_credential(hello, id),
            None => {
                let proven = self.server_key().filter(|key| hello.verify_proof(key));
                proven.map(|key| (Identity::MasterKey, role, key))
            }
        };
        let Some((identity, allowed, welcome_key)) = proven else {
            let throttled = self.throttle().record_failure(now, address);
            return Err(match credential {
                Some(claimed) => AuthError::CredentialRefused { claimed, throttled },
                None => AuthError::Unauthorized { throttled },
            });
        };
        self.throttle().record_success(instance);
        match identity.credential() {
            Some(credential) if allowed != role => Err(AuthError::WrongRole {
                credential,
                allowed,
                claimed: role,
            }),
            _ => Ok((identity, welcome_key)),
        }
    }

    /// Verifies the signature of a credential. Returns the identity, the role that the credential
    /// is for, and the key that WELCOME proves. An unknown credential and a wrong signature look
    /// the same.
    fn verify_credential(&self, hello: &Hello, id: Id) -> Option<(Identity, Role, LinkKey)> {
        let known = self.credentials.find(id)?;
        hello.verify_signature(&known.verifier).then(|| {
            let account = known.account;
            let identity = Identity::Credential { id, account };
            (identity, known.role, known.verifier.welcome_key().clone())
        })
    }

    /// Requires another key from the servers that come. Links with the former key stay.
    pub(super) fn set_server_key(&self, server_key: Option<LinkKey>) {
        let current = self.server_key.write();
        *current.unwrap_or_else(PoisonError::into_inner) = server_key;
    }

    fn server_key(&self) -> Option<LinkKey> {
        let key = self.server_key.read();
        key.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle<ProvenInstance>> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
