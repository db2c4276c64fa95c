//! Binding a tunnel to a channel: the handshake, and then sealing in both directions. An attachment is the channel's [`Lane`].
//!
//! ```text
//!  client:  Offered ──answer accepts──► Attached ──closed──► Over        server:  Attached (answer first) ──closed──► Over
//!              └──refused, closed, does not open──► Over                          Refusing ──answer sent──► Over
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{
    PortParameters, Tunnel,
    offer::{Answer, Grant, Methods, Mismatch, Offer, VERSION},
    shared::Bell,
};
use crate::{
    crypto::{
        HandshakeError,
        handshake::{Initiator, Responder},
        seal::{Opener, Sealer},
    },
    id::Id,
    link::channel::{Code, Lane, Notice, Outbox, Transmit},
    mux::Side,
    random,
};

/// Why an attachment did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The channel was closed before the answer came.
    #[error("the channel was closed: {0}")]
    Closed(Notice),
    /// A handshake message does not open: the peer has another port key, or somebody altered the message.
    #[error("the tunnel handshake failed ({0}): is the port key the same at both ends?")]
    Handshake(String),
    /// Both ends hold the port key, but are configured differently.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The server will not have the tunnel.
    #[error("the server refused the tunnel: {0}")]
    Refused(Code),
}

impl AttachError {
    /// Whether trying again without a change at either end can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, AttachError::Closed(_) | AttachError::Refused(_))
    }

    fn wire_code(&self) -> Code {
        match self {
            AttachError::Closed(notice) => notice.code,
            AttachError::Handshake(_) => Code::Handshake,
            AttachError::Mismatch(_) => Code::Mismatch,
            AttachError::Refused(_) => Code::Refused,
        }
    }
}

impl From<HandshakeError> for AttachError {
    fn from(error: HandshakeError) -> Self {
        AttachError::Handshake(error.to_string())
    }
}

/// One end of a channel that carries a tunnel.
pub struct Attachment {
    phase: Mutex<Phase>,
}

enum Phase {
    Offered(Box<Offered>),
    Attached(Box<Attached>),
    Refusing(Bytes),
    Over,
}

/// A client that waits for the server's answer.
struct Offered {
    initiator: Initiator,
    port: PortParameters,
    bell: Bell,
    tasks: TaskTracker,
    outcome: oneshot::Sender<Result<Tunnel, AttachError>>,
}

/// The handshake is done.
struct Attached {
    tunnel: Tunnel,
    sealer: Sealer,
    opener: Opener,
    /// The server's handshake message, which goes first and unsealed.
    answer: Option<Bytes>,
}

impl Drop for Attached {
    /// A tunnel does not outlive its attachment, however that goes.
    fn drop(&mut self) {
        self.tunnel.shared.end(Notice::new(Code::PeerLost, "the channel is gone"));
    }
}

/// A client's wish for a tunnel.
pub struct Wish {
    /// The channel's end, to be opened at the link.
    pub lane: Arc<Attachment>,
    /// The first handshake message, for ATTACH.
    pub message: Bytes,
    /// The tunnel, or why there is none.
    pub outcome: oneshot::Receiver<Result<Tunnel, AttachError>>,
}

/// Begins an attachment as the client, on `channel` of the link that `outbox` belongs to. The tunnel's driver will run on `tasks`.
///
/// # Errors
/// When the handshake cannot be begun.
pub fn wish(port: &PortParameters, outbox: &Arc<Outbox>, channel: u32, tasks: &TaskTracker) -> Result<Wish, AttachError> {
    let offer = serde_json::to_vec(&Offer::of(port)).unwrap_or_default();
    let (initiator, message) = Initiator::start(&port.keys.psk, port.keys.id, &offer, random::bytes())?;
    let (sender, outcome) = oneshot::channel();
    let offered = Offered {
        initiator,
        port: port.clone(),
        bell: Bell { outbox: Arc::clone(outbox), channel },
        tasks: tasks.clone(),
        outcome: sender,
    };
    let lane = Arc::new(Attachment { phase: Mutex::new(Phase::Offered(Box::new(offered))) });
    Ok(Wish { lane, message: message.into(), outcome })
}

/// A server's answer to an ATTACH.
pub struct Reply {
    /// The channel's end, to be opened at the link and marked ready. When there is no tunnel it has an answer to send all the same: close the
    /// channel once it is drained.
    pub lane: Arc<Attachment>,
    /// The tunnel, or why there is none.
    pub outcome: Result<Tunnel, Mismatch>,
}

/// Answers an attachment as the server `instance`: `message` is the first handshake message.
///
/// # Errors
/// When the message does not open or its content makes no sense. There is nothing to answer then: the channel is to be closed with the notice of
/// [`closing_notice`].
pub fn reply(
    port: &PortParameters,
    instance: Id,
    message: &[u8],
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<Reply, AttachError> {
    let (responder, offer) = Responder::read(&port.keys.psk, port.keys.id, message, random::bytes())?;
    let offer: Offer =
        serde_json::from_slice(&offer).map_err(|error| AttachError::Handshake(format!("the offer cannot be read: {error}")))?;
    if let Err(mismatch) = offer.check(port) {
        let refusal = Answer::Refuse { code: Code::Mismatch, version: VERSION, methods: Methods::of(port) };
        let (answer, _) = responder.finish(&serde_json::to_vec(&refusal).unwrap_or_default())?;
        let lane = Arc::new(Attachment { phase: Mutex::new(Phase::Refusing(answer.into())) });
        return Ok(Reply { lane, outcome: Err(mismatch) });
    }
    let id = Id(random::bytes());
    let accept = Answer::Accept { tunnel: id, instance, grant: Grant::of(port) };
    let (answer, keys) = responder.finish(&serde_json::to_vec(&accept).unwrap_or_default())?;
    let (sealer, opener) = keys.responder(port.encrypt);
    let bell = Bell { outbox: Arc::clone(outbox), channel };
    let tunnel = Tunnel::new(Side::Server, id, port.clone(), offer.grant, bell, tasks);
    let attached = Attached { tunnel: tunnel.clone(), sealer, opener, answer: Some(answer.into()) };
    let lane = Arc::new(Attachment { phase: Mutex::new(Phase::Attached(Box::new(attached))) });
    Ok(Reply { lane, outcome: Ok(tunnel) })
}

/// What the channel of a failed attachment is to be closed with. Says no more than the code: the master reads it.
#[must_use]
pub fn closing_notice(error: &AttachError) -> Notice {
    Notice::new(error.wire_code(), "")
}

impl Offered {
    /// The server's answer.
    fn finish(self, answer: &[u8]) -> Result<Attached, (AttachError, oneshot::Sender<Result<Tunnel, AttachError>>)> {
        let Offered { initiator, port, bell, tasks, outcome } = self;
        match accept(initiator, &port, answer) {
            Ok((id, grant, sealer, opener)) => {
                let tunnel = Tunnel::new(Side::Client, id, port, grant, bell, &tasks);
                // Nobody waits for the outcome when the client is ending; the tunnel is dropped with the link then.
                let _ = outcome.send(Ok(tunnel.clone()));
                Ok(Attached { tunnel, sealer, opener, answer: None })
            }
            Err(error) => Err((error, outcome)),
        }
    }
}

fn accept(initiator: Initiator, port: &PortParameters, answer: &[u8]) -> Result<(Id, Grant, Sealer, Opener), AttachError> {
    let (payload, keys) = initiator.finish(answer)?;
    let answer: Answer = serde_json::from_slice(&payload)
        .map_err(|error| AttachError::Handshake(format!("the answer cannot be read: {error}")))?;
    match answer {
        Answer::Accept { tunnel, grant, .. } => {
            let (sealer, opener) = keys.initiator(port.encrypt);
            Ok((tunnel, grant, sealer, opener))
        }
        Answer::Refuse { code: Code::Mismatch, version, methods } => {
            if version != VERSION {
                return Err(Mismatch::Version { here: VERSION, there: version }.into());
            }
            Methods::of(port).check(&methods)?;
            Err(AttachError::Refused(Code::Mismatch))
        }
        Answer::Refuse { code, .. } => Err(AttachError::Refused(code)),
    }
}

impl Lane for Attachment {
    fn receive(&self, payload: Bytes) -> Result<(), Notice> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *phase {
            Phase::Attached(attached) => {
                let opened = attached.opener.open_bytes(payload).map_err(|error| Notice::new(Code::Seal, error.to_string()));
                let tunnel = attached.tunnel.clone();
                drop(phase);
                let result = opened.and_then(|message| tunnel.shared.receive(message));
                result.inspect_err(|notice| tunnel.shared.end(notice.clone()))
            }
            Phase::Offered(_) => {
                let Phase::Offered(offered) = std::mem::replace(&mut *phase, Phase::Over) else { return Ok(()) };
                match offered.finish(&payload) {
                    Ok(attached) => {
                        *phase = Phase::Attached(Box::new(attached));
                        Ok(())
                    }
                    Err((error, outcome)) => {
                        let notice = closing_notice(&error);
                        let _ = outcome.send(Err(error));
                        Err(notice)
                    }
                }
            }
            Phase::Refusing(_) | Phase::Over => Ok(()),
        }
    }

    fn transmit(&self, out: &mut BytesMut) -> Transmit {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *phase {
            Phase::Attached(attached) => attached.transmit(out),
            Phase::Refusing(answer) => {
                out.extend_from_slice(answer);
                *phase = Phase::Over;
                Transmit::Last
            }
            Phase::Offered(_) | Phase::Over => Transmit::Nothing,
        }
    }

    fn closed(&self, notice: Notice) {
        let phase = std::mem::replace(&mut *self.phase.lock().unwrap_or_else(PoisonError::into_inner), Phase::Over);
        match phase {
            Phase::Attached(attached) => attached.tunnel.shared.end(notice),
            Phase::Offered(offered) => {
                let _ = offered.outcome.send(Err(AttachError::Closed(notice)));
            }
            Phase::Refusing(_) | Phase::Over => {}
        }
    }
}

impl Attached {
    fn transmit(&mut self, out: &mut BytesMut) -> Transmit {
        if let Some(answer) = self.answer.take() {
            out.extend_from_slice(&answer);
            return Transmit::More;
        }
        let start = out.len();
        let transmit = self.tunnel.shared.transmit(out);
        if transmit != Transmit::Nothing && self.sealer.seal(out, start).is_err() {
            // Only after 2^64 messages: the tunnel cannot go on with these keys.
            out.truncate(start);
            self.tunnel.shared.end(Notice::new(Code::Seal, "the keys of the attachment are used up"));
            return Transmit::Nothing;
        }
        transmit
    }
}
