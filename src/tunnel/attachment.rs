//! One end of a channel that carries a tunnel, or wants to: sealing in both directions. An attachment is the channel's [`Lane`].
//!
//! ```text
//!  client:  Offered ──answer──► Attached: candidate ──peer's first message opens──► it takes the tunnel over ──closed──► Over
//!              └──refused, closed, does not open──► Over                                       ▲
//!  server:                      Attached: candidate (answer first) ─────────────────────────────┘
//!                               Refusing ──answer sent──► Over
//! ```
//! A candidate says its own first message at once, and touches nothing of the tunnel before the peer's has opened (PROTOCOL 7.5, 10.3).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Tunnel,
    attach::{AttachError, FIRST_ATTEMPT, Offered, Outcome, OutcomeSender, closing_notice},
    binding::Manner,
    carriage::Sent,
    shared::Bell,
};
use crate::{
    crypto::seal::{Opener, Sealer},
    link::channel::{Body, Code, Lane, Notice, Transmit},
    mux::ResetCode,
};

/// How long a candidate may stay one (PROTOCOL 7.5, `AUTHENTICATION_TIMEOUT`).
pub const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of a channel that carries a tunnel, or wants to.
pub struct Attachment {
    phase: Mutex<Phase>,
}

enum Phase {
    Offered(Box<Offered>),
    Attached(Box<Attached>),
    Refusing(Bytes),
    Over,
}

/// The handshake is done.
pub struct Attached {
    /// Shared with the messages that are being taken in.
    claim: Arc<Claim>,
    sealer: Sealer,
    opener: Opener,
    /// The server's handshake message, which goes first and unsealed.
    answer: Option<Bytes>,
    has_greeted: bool,
    /// Until the peer's first message has opened.
    candidate: Option<Candidate>,
}

/// What an attachment is to carry.
pub struct Claim {
    pub tunnel: Tunnel,
    pub attempt: u64,
    pub manner: Manner,
    pub bell: Bell,
}

/// What an attachment has as long as it is a candidate.
struct Candidate {
    /// Who waits for it, at the client.
    outcome: Option<(OutcomeSender, Outcome)>,
    /// Ends the wait for the proof.
    _unproven: DropGuard,
}

/// Closes the channel of a candidate that is still one after [`CANDIDATE_TIMEOUT`].
fn await_proof(bell: Bell, tasks: &TaskTracker) -> DropGuard {
    let unproven = CancellationToken::new();
    let over = unproven.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(CANDIDATE_TIMEOUT) => bell.outbox.close(bell.channel, &Notice::new(Code::Timeout, "")),
        }
    });
    unproven.drop_guard()
}

impl Attachment {
    /// A client's, which waits for the server's answer.
    pub(super) fn offering(offered: Offered) -> Arc<Self> {
        Arc::new(Attachment {
            phase: Mutex::new(Phase::Offered(Box::new(offered))),
        })
    }

    /// A server's, which begins with its handshake message.
    pub(super) fn answering(
        claim: Claim,
        keys: (Sealer, Opener),
        answer: Vec<u8>,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let attached = Attached::candidate(claim, keys, Some(answer.into()), None, tasks);
        Arc::new(Attachment {
            phase: Mutex::new(Phase::Attached(Box::new(attached))),
        })
    }

    /// A server's that says no.
    pub(super) fn refusing(answer: Vec<u8>) -> Arc<Self> {
        Arc::new(Attachment {
            phase: Mutex::new(Phase::Refusing(answer.into())),
        })
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's answer came.
    fn answered(&self, offered: Offered, payload: &[u8]) -> Result<(), Notice> {
        match offered.finish(payload) {
            Ok(attached) => {
                let bell = attached.claim.bell.clone();
                *self.phase() = Phase::Attached(Box::new(attached));
                bell.outbox.ready(bell.channel);
                Ok(())
            }
            Err((error, outcome)) => {
                let notice = closing_notice(&error);
                let _ = outcome.send(Err(error));
                Err(notice)
            }
        }
    }
}

impl Lane for Attachment {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        let mut phase = self.phase();
        match std::mem::replace(&mut *phase, Phase::Over) {
            Phase::Offered(offered) => {
                drop(phase);
                self.answered(*offered, &payload)
            }
            Phase::Attached(mut attached) => {
                let opened = attached.open(payload);
                let claim = Arc::clone(&attached.claim);
                *phase = Phase::Attached(attached);
                drop(phase);
                let result = opened.and_then(|(message, proven)| claim.receive(message, proven));
                result.inspect_err(|notice| claim.tunnel.shared.lost(claim.attempt, notice.clone()))
            }
            other => {
                *phase = other;
                Ok(())
            }
        }
    }

    fn transmit(&self, memory: &mut BytesMut) -> Transmit {
        let mut phase = self.phase();
        match &mut *phase {
            Phase::Attached(attached) => attached.transmit(memory),
            Phase::Refusing(answer) => {
                let answer = std::mem::take(answer);
                *phase = Phase::Over;
                Transmit::Last(Body::Shared(answer))
            }
            Phase::Offered(_) | Phase::Over => Transmit::Nothing,
        }
    }

    fn closed(&self, notice: Notice) {
        let phase = std::mem::replace(&mut *self.phase(), Phase::Over);
        match phase {
            Phase::Attached(mut attached) => attached.closed(notice),
            Phase::Offered(offered) => offered.closed(notice),
            Phase::Refusing(_) | Phase::Over => {}
        }
    }
}

impl Claim {
    /// A message has opened; with the first one the attachment takes the tunnel over.
    fn receive(&self, message: Bytes, proven: Option<Candidate>) -> Result<(), Notice> {
        if let Some(Candidate { outcome, .. }) = proven {
            self.tunnel
                .shared
                .take_over(self.attempt, self.bell.clone(), self.manner)?;
            if let Some((sender, outcome)) = outcome {
                // Nobody waits for it when the client is ending.
                let _ = sender.send(Ok(outcome));
            }
        }
        self.tunnel.shared.receive(self.attempt, message)
    }
}

impl Attached {
    /// An attachment whose handshake is done. The `outcome` is for a client that waits for it.
    pub fn candidate(
        claim: Claim,
        (sealer, opener): (Sealer, Opener),
        answer: Option<Bytes>,
        outcome: Option<(OutcomeSender, Outcome)>,
        tasks: &TaskTracker,
    ) -> Self {
        let candidate = Candidate {
            outcome,
            _unproven: await_proof(claim.bell.clone(), tasks),
        };
        Attached {
            claim: Arc::new(claim),
            sealer,
            opener,
            answer,
            has_greeted: false,
            candidate: Some(candidate),
        }
    }

    /// Opens a message, and says whether it is the first.
    fn open(&mut self, mut payload: BytesMut) -> Result<(Bytes, Option<Candidate>), Notice> {
        self.opener
            .open(&mut payload)
            .map_err(|error| Notice::new(Code::Seal, error.to_string()))?;
        Ok((payload.freeze(), self.candidate.take()))
    }

    fn transmit(&mut self, memory: &mut BytesMut) -> Transmit {
        if let Some(answer) = self.answer.take() {
            return Transmit::More(Body::Shared(answer));
        }
        let shared = &self.claim.tunnel.shared;
        let sending = if std::mem::replace(&mut self.has_greeted, true) {
            shared.transmit(self.claim.attempt, memory)
        } else {
            shared.greet(self.claim.attempt, self.claim.manner, memory);
            Sent::More
        };
        if sending == Sent::Nothing {
            return Transmit::Nothing;
        }
        if self.sealer.seal(memory, 0).is_err() {
            // Only after 2^64 messages: the tunnel cannot go on with these keys.
            memory.clear();
            self.claim.tunnel.shared.lost(
                self.claim.attempt,
                Notice::new(Code::Seal, "the keys of the attachment are used up"),
            );
            return Transmit::Nothing;
        }
        let payload = Body::Own(memory.split());
        if sending == Sent::More {
            Transmit::More(payload)
        } else {
            Transmit::Last(payload)
        }
    }

    fn closed(&mut self, notice: Notice) {
        let shared = &self.claim.tunnel.shared;
        match self.candidate.take() {
            Some(Candidate { outcome, .. }) => {
                if self.claim.attempt == FIRST_ATTEMPT {
                    // Nobody can come back to it: nothing was confirmed.
                    shared.end(ResetCode::Cancelled, notice.clone());
                }
                if let Some((sender, _)) = outcome {
                    let _ = sender.send(Err(AttachError::Closed(notice)));
                }
            }
            None => shared.lost(self.claim.attempt, notice),
        }
    }
}

impl Drop for Attached {
    /// The channel was closed here, or the link is gone.
    fn drop(&mut self) {
        self.closed(Notice::new(Code::PeerLost, "the channel is gone"));
    }
}
