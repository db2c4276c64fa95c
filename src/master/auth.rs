//! Authenticates links (PROTOCOL 4): challenge, HELLO, proof of the master key, throttle. Knows
//! keys and addresses, but not what a link does.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    link::authenticate::{self, Hello, HelloError},
    net::websocket::MessageSocket,
    throttle::Throttle,
};
use report_proto::{
    crypto::LinkKey,
    frame::{Code, Notice, Role},
};

/// Verifies the HELLO of each new link.
pub(super) struct Authenticator {
    server_key: LinkKey,
    client_key: LinkKey,
    timeout: Duration,
    throttle: Mutex<Throttle>,
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
            AuthError::Unauthorized { .. } => "unauthorized",
            AuthError::InvalidProof => "invalid_proof",
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
            AuthError::Unauthorized { .. } => Code::Unauthorized,
        };
        Some(Notice::new(code, self.to_string()))
    }
}

impl Authenticator {
    /// Creates an authenticator with the master key and the timeout for a HELLO.
    pub(super) fn new(server_key: LinkKey, timeout: Duration) -> Self {
        Authenticator {
            server_key,
            client_key: LinkKey::derive(None),
            timeout,
            throttle: Mutex::default(),
        }
    }

    /// Returns the key of a role.
    pub(super) fn key(&self, role: Role) -> &LinkKey {
        match role {
            Role::Server => &self.server_key,
            Role::Client => &self.client_key,
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
    ) -> Result<Hello, AuthError> {
        let hello = authenticate::hello(socket, self.timeout).await?;
        self.verify(&hello, address, Instant::now())?;
        Ok(hello)
    }

    /// Verifies a HELLO. Only servers prove a secret, so a client's HELLO is neither counted nor
    /// throttled.
    fn verify(&self, hello: &Hello, address: IpAddr, now: Instant) -> Result<(), AuthError> {
        let claims = &hello.claims;
        if claims.role == Role::Client {
            return if hello.verify_proof(&self.client_key) {
                Ok(())
            } else {
                Err(AuthError::InvalidProof)
            };
        }
        if self.throttle().refuses(now, address, claims.instance) {
            return Err(AuthError::Throttled);
        }
        if hello.verify_proof(&self.server_key) {
            self.throttle().record_success(claims.instance);
            Ok(())
        } else {
            Err(AuthError::Unauthorized {
                throttled: self.throttle().record_failure(now, address),
            })
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
