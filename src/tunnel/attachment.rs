//! One end of a channel that carries a tunnel or waits to carry one. An attachment is the channel's
//! [`Lane`] and seals in both directions.
//!
//! ```text
//!  client:  Offered ──answer──► candidate ──first message opens──► carries the tunnel ──► Closed
//!              └──refused, closed, does not open──► Closed                ▲
//!  server:                      candidate (answer first) ─────────────────┘
//!                               Refusing ──answer sent──► Closed
//! ```
//!
//! A candidate is an `Attached` phase whose peer has not proven itself. It sends its own first
//! message at once. It changes nothing in the tunnel until the peer's first message has opened
//! (PROTOCOL 7.5, 10.3).

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
    attach::{
        AttachError, AttachOutcome, FIRST_ATTEMPT, OutcomeSender, PendingOffer, closing_notice,
    },
    binding::TakeoverKind,
    lifecycle::TransmitResult,
    shared::ChannelHandle,
};
use crate::{
    link::channel::{Lane, Transmit},
    net::websocket::MessageBody,
};
use report_proto::frame::{Code, Notice};
use report_proto::{
    crypto::seal::{Opener, Sealer},
    mux::ResetCode,
};

/// How long an attachment may remain a candidate (PROTOCOL 7.5, `AUTHENTICATION_TIMEOUT`).
pub(crate) const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of a channel that carries a tunnel or waits to carry one.
pub struct Attachment {
    phase: Mutex<AttachmentPhase>,
}

enum AttachmentPhase {
    Offered(Box<PendingOffer>),
    Attached(Box<EstablishedAttachment>),
    Refusing(Bytes),
    Closed,
}

/// An attachment whose handshake is complete.
pub(super) struct EstablishedAttachment {
    /// Shared with receive calls that are in progress.
    target: Arc<AttachTarget>,
    sealer: Sealer,
    opener: Opener,
    /// The server's handshake message. It goes first and unsealed.
    answer: Option<Bytes>,
    first_message_sent: bool,
    /// Set until the peer's first message has opened.
    candidate: Option<Candidate>,
}

/// The tunnel that an attachment binds, and the channel that it binds it to.
pub(super) struct AttachTarget {
    pub tunnel: Tunnel,
    pub attempt: u64,
    pub kind: TakeoverKind,
    pub handle: ChannelHandle,
}

/// The extra state of a candidate.
struct Candidate {
    /// At the client, the caller that waits for the outcome.
    outcome: Option<(OutcomeSender, AttachOutcome)>,
    /// Cancels the proof timeout when dropped.
    _unproven: DropGuard,
}

/// Closes the channel of an attachment that is still a candidate after [`CANDIDATE_TIMEOUT`].
fn await_proof(handle: ChannelHandle, tasks: &TaskTracker) -> DropGuard {
    let unproven = CancellationToken::new();
    let proven = unproven.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = proven.cancelled() => {}
            () = tokio::time::sleep(CANDIDATE_TIMEOUT) => handle.outbox.close(handle.channel, &Notice::new(Code::Timeout, "")),
        }
    });
    unproven.drop_guard()
}

impl Attachment {
    /// Creates a client attachment that waits for the server's answer.
    pub(super) fn offering(offered: PendingOffer) -> Arc<Self> {
        Arc::new(Attachment {
            phase: Mutex::new(AttachmentPhase::Offered(Box::new(offered))),
        })
    }

    /// Creates a server attachment that starts with its handshake message.
    pub(super) fn answering(
        target: AttachTarget,
        keys: (Sealer, Opener),
        answer: Vec<u8>,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let attached =
            EstablishedAttachment::candidate(target, keys, Some(answer.into()), None, tasks);
        Arc::new(Attachment {
            phase: Mutex::new(AttachmentPhase::Attached(Box::new(attached))),
        })
    }

    /// Creates a server attachment that sends a refusal.
    pub(super) fn refusing(answer: Vec<u8>) -> Arc<Self> {
        Arc::new(Attachment {
            phase: Mutex::new(AttachmentPhase::Refusing(answer.into())),
        })
    }

    fn phase(&self) -> MutexGuard<'_, AttachmentPhase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the server's answer.
    fn answered(&self, offered: PendingOffer, payload: &[u8]) -> Result<(), Notice> {
        match offered.finish(payload) {
            Ok(attached) => {
                let handle = attached.target.handle.clone();
                *self.phase() = AttachmentPhase::Attached(Box::new(attached));
                handle.outbox.ready(handle.channel);
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
        // Take the phase out: the calls below must not run under this lock, because they call into
        // the tunnel and the link.
        match std::mem::replace(&mut *phase, AttachmentPhase::Closed) {
            AttachmentPhase::Offered(offered) => {
                drop(phase);
                self.answered(*offered, &payload)
            }
            AttachmentPhase::Attached(mut attached) => {
                let opened = attached.open(payload);
                let target = Arc::clone(&attached.target);
                *phase = AttachmentPhase::Attached(attached);
                drop(phase);
                // The tunnel has its own lock, and closing a channel calls back into this lane.
                let result = opened.and_then(|(message, proven)| target.receive(message, proven));
                result.inspect_err(|notice| {
                    target
                        .tunnel
                        .shared
                        .attachment_lost(target.attempt, notice.clone())
                })
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
            AttachmentPhase::Attached(attached) => attached.transmit(memory),
            AttachmentPhase::Refusing(answer) => {
                let answer = std::mem::take(answer);
                *phase = AttachmentPhase::Closed;
                Transmit::Last(MessageBody::Shared(answer))
            }
            AttachmentPhase::Offered(_) | AttachmentPhase::Closed => Transmit::Nothing,
        }
    }

    fn closed(&self, notice: Notice) {
        let phase = std::mem::replace(&mut *self.phase(), AttachmentPhase::Closed);
        match phase {
            AttachmentPhase::Attached(mut attached) => attached.closed(notice),
            AttachmentPhase::Offered(offered) => offered.closed(notice),
            AttachmentPhase::Refusing(_) | AttachmentPhase::Closed => {}
        }
    }
}

impl AttachTarget {
    /// Passes an opened message to the tunnel. The first one makes the attachment take the tunnel
    /// over.
    fn receive(&self, message: Bytes, proven: Option<Candidate>) -> Result<(), Notice> {
        if let Some(Candidate { outcome, .. }) = proven {
            self.tunnel
                .shared
                .take_over(self.attempt, self.handle.clone(), self.kind)?;
            if let Some((sender, outcome)) = outcome {
                // The receiver is gone when the client is shutting down.
                let _ = sender.send(Ok(outcome));
            }
        }
        self.tunnel.shared.receive(self.attempt, message)
    }
}

impl EstablishedAttachment {
    /// Creates an attachment whose handshake is complete. `outcome` is set at a client, whose
    /// caller waits for it.
    pub(super) fn candidate(
        target: AttachTarget,
        (sealer, opener): (Sealer, Opener),
        answer: Option<Bytes>,
        outcome: Option<(OutcomeSender, AttachOutcome)>,
        tasks: &TaskTracker,
    ) -> Self {
        let candidate = Candidate {
            outcome,
            _unproven: await_proof(target.handle.clone(), tasks),
        };
        EstablishedAttachment {
            target: Arc::new(target),
            sealer,
            opener,
            answer,
            first_message_sent: false,
            candidate: Some(candidate),
        }
    }

    /// Opens a message. Returns the candidate state with the first one.
    fn open(&mut self, mut payload: BytesMut) -> Result<(Bytes, Option<Candidate>), Notice> {
        self.opener
            .open(&mut payload)
            .map_err(|error| Notice::new(Code::Seal, error.to_string()))?;
        Ok((payload.freeze(), self.candidate.take()))
    }

    fn transmit(&mut self, memory: &mut BytesMut) -> Transmit {
        if let Some(answer) = self.answer.take() {
            return Transmit::More(MessageBody::Shared(answer));
        }
        let shared = &self.target.tunnel.shared;
        // The first message proves possession of the keys. It bypasses the binding, which does not
        // know a candidate.
        let sending = if std::mem::replace(&mut self.first_message_sent, true) {
            shared.transmit(self.target.attempt, memory)
        } else {
            shared.write_first_message(self.target.attempt, self.target.kind, memory);
            TransmitResult::More
        };
        if sending == TransmitResult::Nothing {
            return Transmit::Nothing;
        }
        if self.sealer.seal(memory, 0).is_err() {
            // Only after 2^64 messages: these keys cannot carry the tunnel any longer.
            memory.clear();
            self.target.tunnel.shared.attachment_lost(
                self.target.attempt,
                Notice::new(Code::Seal, "the keys of the attachment are used up"),
            );
            return Transmit::Nothing;
        }
        let payload = MessageBody::Owned(memory.split());
        if sending == TransmitResult::More {
            Transmit::More(payload)
        } else {
            Transmit::Last(payload)
        }
    }

    fn closed(&mut self, notice: Notice) {
        let shared = &self.target.tunnel.shared;
        match self.candidate.take() {
            Some(Candidate { outcome, .. }) => {
                if self.target.attempt == FIRST_ATTEMPT {
                    // The peer has not confirmed the new tunnel, so no end can resume it.
                    shared.end(ResetCode::Cancelled, notice.clone());
                }
                if let Some((sender, _)) = outcome {
                    let _ = sender.send(Err(AttachError::Closed(notice)));
                }
            }
            None => shared.attachment_lost(self.target.attempt, notice),
        }
    }
}

impl Drop for EstablishedAttachment {
    /// The channel was closed locally, or the link is gone.
    fn drop(&mut self) {
        self.closed(Notice::new(Code::PeerLost, "the channel is gone"));
    }
}
