//! Who is let in (PROTOCOL 4): challenge, HELLO, the proof of the master key, the throttle. Knows keys and addresses; not what a link does.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::throttle::Throttle;
use crate::{
    crypto::LinkKey,
    frame::{Code, Notice, Role},
    link::{
        MessageSocket,
        authenticate::{self, Hello, HelloError},
    },
};

/// Judges who wants in.
pub(super) struct Gate {
    server_key: LinkKey,
    client_key: LinkKey,
    timeout: Duration,
    throttle: Mutex<Throttle>,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It did not get as far as a HELLO.
    #[error(transparent)]
    NoHello(#[from] HelloError),
    /// Too many wrong proofs came from its address; its own was not looked at.
    #[error("too many wrong keys came from this address")]
    Throttled,
    /// A server's proof is wrong.
    #[error("the proof of the master key is wrong")]
    Unauthorized {
        /// Its address is throttled from now on.
        throttled: bool,
    },
    /// A client's proof, whose key everybody knows, is wrong.
    #[error("the proof does not cover the claims")]
    Garbled,
}

impl Refused {
    /// What it is told. Who is no peer of ours is told nothing: to a stranger there is no protocol here.
    pub(super) fn notice(&self) -> Option<Notice> {
        let code = match self {
            Refused::NoHello(HelloError::Version { .. }) => Code::Version,
            Refused::Garbled => Code::Protocol,
            Refused::NoHello(_) => return None,
            Refused::Throttled => Code::Throttled,
            Refused::Unauthorized { .. } => Code::Unauthorized,
        };
        Some(Notice::new(code, self.to_string()))
    }
}

impl Gate {
    /// A gate that knows the master key and waits so long for a HELLO.
    pub(super) fn new(server_key: LinkKey, timeout: Duration) -> Self {
        Gate {
            server_key,
            client_key: LinkKey::derive(None),
            timeout,
            throttle: Mutex::default(),
        }
    }

    /// The key of a role.
    pub(super) fn key(&self, role: Role) -> &LinkKey {
        match role {
            Role::Server => &self.server_key,
            Role::Client => &self.client_key,
        }
    }

    /// Challenges the peer and judges its HELLO.
    ///
    /// # Errors
    /// Why the peer is not let in; it has not been told.
    ///
    /// # Cancel safety
    /// Not safe: the socket is in the middle of the authentication then.
    pub(super) async fn admit(
        &self,
        socket: &mut MessageSocket,
        address: IpAddr,
    ) -> Result<Hello, Refused> {
        let hello = authenticate::hello(socket, self.timeout).await?;
        self.judge(&hello, address, Instant::now())?;
        Ok(hello)
    }

    /// Only servers prove a secret: a client's HELLO is no attempt at it, and neither counted nor throttled.
    fn judge(&self, hello: &Hello, address: IpAddr, now: Instant) -> Result<(), Refused> {
        let claims = &hello.claims;
        if claims.role == Role::Client {
            return if hello.proven(&self.client_key) {
                Ok(())
            } else {
                Err(Refused::Garbled)
            };
        }
        if self.throttle().refuses(now, address, claims.instance) {
            return Err(Refused::Throttled);
        }
        if hello.proven(&self.server_key) {
            self.throttle().authenticated(claims.instance);
            Ok(())
        } else {
            Err(Refused::Unauthorized {
                throttled: self.throttle().failed(now, address),
            })
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
