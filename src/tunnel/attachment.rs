//! One end of a channel that carries a tunnel or waits to carry one. An attachment is the channel's
//! [`ChannelEnd`] and seals in both directions.
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
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use tokio_util::task::TaskTracker;

use super::{
    attach_error::{AttachError, closing_notice},
    candidate::{AttachOutcome, Candidate, OutcomeSender},
    core::{Channel, FIRST_ATTEMPT, TakeoverKind, TransmitResult},
    handle::Tunnel,
    handshake::{self, Agreement, AttachmentKeys},
    parameters::PortParameters,
    shared::TunnelShared,
};
use crate::{
    link::{ChannelEnd, LinkId, Transmit},
    net::websocket::MessageBody,
    suspend::Moment,
};
use report_proto::frame::{Code, Notice};
use report_proto::{
    crypto::{
        handshake::Initiator,
        seal::{Opener, Sealer},
    },
    mux::{ResetCode, TunnelSide},
};

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

/// A client attachment that waits for the server's answer.
pub(super) struct PendingOffer {
    pub initiator: Initiator,
    pub port: PortParameters,
    /// The tunnel to resume.
    pub resuming: Option<Resuming>,
    pub channel: Channel,
    pub tasks: TaskTracker,
    pub outcome: OutcomeSender,
}

/// The tunnel that a client attaches again.
pub(super) struct Resuming {
    pub tunnel: Arc<TunnelShared>,
    /// The number of the attempt.
    pub attempt: u64,
    /// The links whose lanes the attachment replaces.
    pub replaces: Vec<LinkId>,
}

/// The tunnel that an attachment binds, and the channel that it binds it to.
pub(super) struct AttachTarget {
    pub tunnel: Arc<TunnelShared>,
    pub attempt: u64,
    pub kind: TakeoverKind,
    /// The links whose lanes the attachment replaces, at a client.
    pub replaces: Vec<LinkId>,
    pub channel: Channel,
}

/// An attachment whose handshake is complete.
struct EstablishedAttachment {
    target: AttachTarget,
    sealer: Sealer,
    opener: Opener,
    /// The server's handshake message. It goes first and unsealed.
    answer: Option<Bytes>,
    first_message_sent: bool,
    /// Set until the peer's first message has opened.
    candidate: Option<Candidate>,
}

impl Attachment {
    fn new(phase: AttachmentPhase) -> Arc<Self> {
        Arc::new(Attachment {
            phase: Mutex::new(phase),
        })
    }

    /// Creates a client attachment that waits for the server's answer.
    pub(super) fn offering(pending: PendingOffer) -> Arc<Self> {
        Attachment::new(AttachmentPhase::Offered(Box::new(pending)))
    }

    /// Creates a server attachment that starts with its handshake message.
    pub(super) fn answering(
        target: AttachTarget,
        keys: AttachmentKeys,
        answer: Vec<u8>,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let attached =
            EstablishedAttachment::candidate(target, keys, Some(answer.into()), None, tasks);
        Attachment::new(AttachmentPhase::Attached(Box::new(attached)))
    }

    /// Creates a server attachment that sends a refusal.
    pub(super) fn refusing(answer: Vec<u8>) -> Arc<Self> {
        Attachment::new(AttachmentPhase::Refusing(answer.into()))
    }

    /// Locks the phase. Only the link's task uses it, so the lock never waits, and a call into the
    /// tunnel may run under it.
    fn phase(&self) -> MutexGuard<'_, AttachmentPhase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChannelEnd for Attachment {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        let mut phase = self.phase();
        match std::mem::replace(&mut *phase, AttachmentPhase::Closed) {
            AttachmentPhase::Attached(mut attached) => {
                let result = attached.receive(payload);
                *phase = AttachmentPhase::Attached(attached);
                result
            }
            AttachmentPhase::Offered(pending) => {
                let attached = pending.finish(&payload)?;
                let channel = Arc::clone(&attached.target.channel);
                *phase = AttachmentPhase::Attached(Box::new(attached));
                drop(phase);
                channel.ready();
                Ok(())
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
            AttachmentPhase::Offered(pending) => {
                let _ = pending.outcome.send(Err(AttachError::Closed(notice)));
            }
            AttachmentPhase::Refusing(_) | AttachmentPhase::Closed => {}
        }
    }
}

impl PendingOffer {
    /// Processes the server's answer.
    ///
    /// # Errors
    /// With the notice that closes the channel.
    fn finish(self, answer: &[u8]) -> Result<EstablishedAttachment, Notice> {
        let PendingOffer {
            initiator,
            port,
            resuming,
            channel,
            tasks,
            outcome,
        } = self;
        let agreed = handshake::read_answer(initiator, &port, answer)
            .and_then(|agreement| agree(agreement, port, resuming, &tasks));
        match agreed {
            Ok(Agreed {
                tunnel,
                attempt,
                kind,
                replaces,
                keys,
                found,
            }) => {
                let target = AttachTarget {
                    tunnel,
                    attempt,
                    kind,
                    replaces,
                    channel,
                };
                let outcome = Some((outcome, found));
                Ok(EstablishedAttachment::candidate(
                    target, keys, None, outcome, &tasks,
                ))
            }
            Err(error) => {
                let notice = closing_notice(&error);
                let _ = outcome.send(Err(error));
                Err(notice)
            }
        }
    }
}

/// The tunnel and the keys that a client binds after the server's answer.
struct Agreed {
    tunnel: Arc<TunnelShared>,
    attempt: u64,
    kind: TakeoverKind,
    replaces: Vec<LinkId>,
    keys: AttachmentKeys,
    found: AttachOutcome,
}

/// Creates the tunnel of an agreement, or finds the one that the client asked to resume.
fn agree(
    agreement: Agreement,
    port: PortParameters,
    resuming: Option<Resuming>,
    tasks: &TaskTracker,
) -> Result<Agreed, AttachError> {
    match agreement {
        Agreement::New(new, server_info, keys) => {
            let shared = TunnelShared::start(TunnelSide::Client, new, port, tasks);
            let tunnel = Tunnel {
                shared: Arc::clone(&shared),
            };
            Ok(Agreed {
                tunnel: shared,
                attempt: FIRST_ATTEMPT,
                kind: TakeoverKind::Resume,
                replaces: Vec::new(),
                keys,
                found: AttachOutcome::New(tunnel, server_info),
            })
        }
        Agreement::Resumed { joins, keys } => {
            let Resuming {
                tunnel,
                attempt,
                replaces,
            } = resuming.ok_or_else(|| {
                AttachError::Handshake(
                    "the server resumes a tunnel that the client did not ask for".to_owned(),
                )
            })?;
            let keys = keys
                .with_tunnel_secret(&tunnel.identity.secret)
                .initiator(port.encrypt);
            Ok(Agreed {
                tunnel,
                attempt,
                kind: TakeoverKind::of(joins),
                replaces,
                keys,
                found: AttachOutcome::Resumed,
            })
        }
    }
}

impl EstablishedAttachment {
    /// Creates an attachment whose handshake is complete. `outcome` is set at a client, whose
    /// caller waits for it.
    fn candidate(
        target: AttachTarget,
        (sealer, opener): AttachmentKeys,
        answer: Option<Bytes>,
        outcome: Option<(OutcomeSender, AttachOutcome)>,
        tasks: &TaskTracker,
    ) -> Self {
        let candidate = Candidate::new(Arc::clone(&target.channel), outcome, tasks);
        EstablishedAttachment {
            target,
            sealer,
            opener,
            answer,
            first_message_sent: false,
            candidate: Some(candidate),
        }
    }

    fn receive(&mut self, payload: BytesMut) -> Result<(), Notice> {
        let result = self.open(payload);
        // A candidate may be the replay of a lane on another channel, which continues.
        if let (Err(notice), None) = (&result, &self.candidate) {
            self.target.lost(notice.clone());
        }
        result
    }

    /// Opens a message and passes it to the tunnel. The first one makes the attachment take the
    /// tunnel over.
    fn open(&mut self, mut payload: BytesMut) -> Result<(), Notice> {
        self.opener
            .open(&mut payload)
            .map_err(|error| Notice::new(Code::Seal, error.to_string()))?;
        if let Some(candidate) = self.candidate.take() {
            self.target.take_over()?;
            candidate.succeed();
        }
        let (attempt, message) = (self.target.attempt, payload.freeze());
        self.target
            .tunnel
            .update(|core| core.receive(Moment::now(), attempt, message))
    }

    fn transmit(&mut self, memory: &mut BytesMut) -> Transmit {
        if let Some(answer) = self.answer.take() {
            return Transmit::More(MessageBody::Shared(answer));
        }
        // The first message proves possession of the keys.
        let sending = if std::mem::replace(&mut self.first_message_sent, true) {
            self.target.tunnel.transmit(self.target.attempt, memory)
        } else {
            self.target.write_first_message(memory);
            TransmitResult::More
        };
        if sending == TransmitResult::Nothing {
            return Transmit::Nothing;
        }
        if self.sealer.seal(memory, 0).is_err() {
            // Only after 2^64 messages: these keys cannot carry the tunnel any longer.
            memory.clear();
            self.target.lost(Notice::new(
                Code::Seal,
                "the keys of the attachment are used up",
            ));
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
        let Some(candidate) = self.candidate.take() else {
            return self.target.lost(notice);
        };
        if self.target.attempt == FIRST_ATTEMPT {
            // The peer has not confirmed the new tunnel, so no end can resume it.
            let notice = notice.clone();
            self.target
                .tunnel
                .update(|core| core.end(ResetCode::Cancelled, notice));
        }
        candidate.fail(notice);
    }
}

impl AttachTarget {
    fn take_over(&self) -> Result<(), Notice> {
        let channel = Arc::clone(&self.channel);
        let now = Moment::now();
        self.tunnel.update(|core| {
            core.take_over(now, self.attempt, channel, self.kind)?;
            core.leave_replaced(now, self.attempt, &self.replaces);
            Ok(())
        })
    }

    fn write_first_message(&self, out: &mut BytesMut) {
        let mut core = self.tunnel.core();
        core.write_first_message(Instant::now(), self.attempt, self.kind, out);
    }

    /// Reports the end of the attachment to the tunnel.
    fn lost(&self, why: Notice) {
        self.tunnel
            .update(|core| core.attachment_lost(Moment::now(), self.attempt, why));
    }
}

impl Drop for EstablishedAttachment {
    /// The channel was closed locally, or the link is gone.
    fn drop(&mut self) {
        self.closed(Notice::new(Code::PeerLost, "the channel is gone"));
    }
}
