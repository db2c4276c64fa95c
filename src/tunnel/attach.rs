//! The handshake that binds a new or a resumed tunnel to a channel.
//!
//! The client sends an offer, the server answers, and both sides then hold an [`Attachment`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub use super::attachment::Attachment;
use super::{
    PortParameters, Tunnel,
    attachment::{AttachTarget, EstablishedAttachment},
    binding::TakeoverKind,
    offer::{AttachAnswer, Grant, Methods, Mismatch, Offer, ResumeRequest, VERSION},
    shared::{ChannelHandle, Identity, TunnelShared},
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    link::Outbox,
    random,
    suspend::Moment,
};
use report_proto::frame::{Code, Notice};
use report_proto::{
    crypto::{
        HandshakeError, SessionKeys,
        handshake::{Initiator, Responder},
    },
    id::Id,
    mux::TunnelSide,
};

/// Number of the attempt that created the tunnel. Attempts to resume it count up from here.
pub(super) const FIRST_ATTEMPT: u64 = 0;

/// Why an attachment failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The channel was closed before the server answered.
    #[error("the channel was closed: {0}")]
    Closed(Notice),
    /// A handshake message does not open: the peer has another port key, or the message was
    /// altered.
    #[error("the tunnel handshake failed: {0} (check that the port key is the same at both ends)")]
    Handshake(String),
    /// Both ends hold the port key, but their configurations differ.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The server refuses the tunnel.
    #[error("the server refused the tunnel: {0}")]
    Refused(Code),
    /// A newer attempt carries the tunnel, or this attempt is a replay.
    #[error("a newer attempt has already resumed the tunnel")]
    Superseded,
}

impl AttachError {
    /// Returns whether a retry can succeed without a change at either end.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            AttachError::Closed(_) | AttachError::Refused(_) | AttachError::Superseded
        )
    }

    /// Returns the code for logs and the doctor.
    #[must_use]
    pub fn diagnosis_code(&self) -> DiagnosisCode {
        match self {
            AttachError::Closed(_) => DiagnosisCode::ChannelClosed,
            AttachError::Handshake(_) => DiagnosisCode::PortKeyMismatch,
            AttachError::Mismatch(_) => DiagnosisCode::MethodMismatch,
            AttachError::Refused(_) => DiagnosisCode::TunnelRefused,
            AttachError::Superseded => DiagnosisCode::TunnelSuperseded,
        }
    }

    /// Returns the evidence, the likely cause and the remedy of a refusal that a retry does not
    /// change.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        Diagnosis::new(
            self.diagnosis_code(),
            self.to_string(),
            "both ends know the port, but their configurations differ",
            "compare `port_key`, `encrypt_method` and `compress_method` at both ends",
        )
    }

    fn wire_code(&self) -> Code {
        match self {
            AttachError::Closed(notice) => notice.code,
            AttachError::Handshake(_) => Code::Handshake,
            AttachError::Mismatch(_) => Code::Mismatch,
            AttachError::Refused(_) => Code::Refused,
            AttachError::Superseded => Code::Superseded,
        }
    }
}

impl From<HandshakeError> for AttachError {
    fn from(error: HandshakeError) -> Self {
        AttachError::Handshake(error.to_string())
    }
}

/// Properties of a server, reported when it accepts a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerInfo {
    /// Uptime of the server process.
    pub age: Duration,
    /// Whether the server serves benchmark streams (PROTOCOL 9.10); `None` if it does not know
    /// them.
    pub bench: Option<bool>,
    /// Whether the server requests the addresses of connections (PROTOCOL 9.11).
    pub addresses: bool,
    /// The lowest client stream id that the server never saw of the tunnel that the client tried to
    /// resume. Only set when that tunnel has ended and the server still knows the number.
    pub seen: Option<u64>,
}

/// The result of a successful attach request.
pub enum AttachOutcome {
    /// A new tunnel on this server.
    New(Tunnel, ServerInfo),
    /// The tunnel was resumed.
    Resumed,
}

/// A client attachment that waits for the server's answer.
pub(super) struct PendingOffer {
    initiator: Initiator,
    port: PortParameters,
    resuming: Option<(Tunnel, u64)>,
    handle: ChannelHandle,
    tasks: TaskTracker,
    outcome: OutcomeSender,
}

/// A client's request for an attachment.
pub struct AttachRequest {
    /// The channel's lane. The caller opens it at the link.
    pub lane: Arc<Attachment>,
    /// The first handshake message, the payload of ATTACH.
    pub message: Bytes,
    /// Receives the tunnel, or the reason for the failure.
    pub outcome: oneshot::Receiver<Result<AttachOutcome, AttachError>>,
}

/// Starts an attachment for a new tunnel, as the client, on `channel` of the link of `outbox`. The
/// driver of the tunnel runs on `tasks`.
///
/// # Errors
/// When the handshake cannot be started.
pub fn request(
    port: &PortParameters,
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<AttachRequest, AttachError> {
    offer(
        port,
        None,
        ChannelHandle {
            outbox: Arc::clone(outbox),
            channel,
        },
        tasks,
    )
}

/// Starts an attachment that resumes `tunnel`. Set `moves` while the previous attachment still
/// works.
///
/// # Errors
/// When the handshake cannot be started.
pub fn request_resume(
    tunnel: &Tunnel,
    moves: bool,
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<AttachRequest, AttachError> {
    let resumption = ResumeRequest {
        tunnel: tunnel.id(),
        attempt: tunnel.next_attempt(),
        moves,
    };
    offer(
        tunnel.port(),
        Some((tunnel, resumption)),
        ChannelHandle {
            outbox: Arc::clone(outbox),
            channel,
        },
        tasks,
    )
}

fn offer(
    port: &PortParameters,
    resume: Option<(&Tunnel, ResumeRequest)>,
    handle: ChannelHandle,
    tasks: &TaskTracker,
) -> Result<AttachRequest, AttachError> {
    let offer = Offer {
        resume: resume.map(|(_, resumption)| resumption),
        ..Offer::of(port)
    };
    let offer = serde_json::to_vec(&offer).unwrap_or_default();
    let (initiator, message) =
        Initiator::start(&port.keys.psk, port.keys.id, &offer, random::bytes())?;
    let (sender, outcome) = oneshot::channel();
    let offered = PendingOffer {
        initiator,
        port: port.clone(),
        resuming: resume.map(|(tunnel, resumption)| (tunnel.clone(), resumption.attempt)),
        handle,
        tasks: tasks.clone(),
        outcome: sender,
    };
    Ok(AttachRequest {
        lane: Attachment::offering(offered),
        message: message.into(),
        outcome,
    })
}

/// The state of a server that [`reply`] needs to answer an ATTACH.
pub struct AcceptContext<'a> {
    /// Id of this process.
    pub instance: Id,
    /// When the process started.
    pub started: Moment,
    /// Finds a live tunnel by its id.
    pub find: &'a dyn Fn(Id) -> Option<Tunnel>,
    /// Returns the lowest client stream id that an ended tunnel never saw, by key id and tunnel id;
    /// `None` if unknown.
    pub seen: &'a dyn Fn(Id, Id) -> Option<u64>,
    /// Returns whether the server accepts new tunnels.
    pub is_open: &'a dyn Fn() -> bool,
    /// Whether the server serves benchmark streams.
    pub bench: bool,
    /// Whether the port requests the addresses of connections.
    pub addresses: bool,
    /// Runs the drivers of the tunnels.
    pub tasks: &'a TaskTracker,
}

/// A server's answer to an ATTACH.
pub struct Reply {
    /// The channel's lane. The caller opens it at the link and marks it ready. After a refusal it
    /// still sends an answer: close the channel after it has drained.
    pub lane: Arc<Attachment>,
    /// The tunnel if it is new, or the reason for the refusal.
    pub outcome: Result<Option<Tunnel>, Mismatch>,
}

/// Answers an ATTACH for `port`. `message` is the first handshake message.
///
/// # Errors
/// When the message does not open or its content is invalid. The server has nothing to answer then.
/// The caller closes the channel with the notice of [`closing_notice`].
pub fn reply(
    port: &PortParameters,
    context: &AcceptContext<'_>,
    message: &[u8],
    outbox: &Arc<Outbox>,
    channel: u32,
) -> Result<Reply, AttachError> {
    let (responder, offer) =
        Responder::read(&port.keys.psk, port.keys.id, message, random::bytes())?;
    let offer: Offer = serde_json::from_slice(&offer)
        .map_err(|error| AttachError::Handshake(format!("cannot parse the offer: {error}")))?;
    if let Err(mismatch) = offer.check(port) {
        let refusal = AttachAnswer::Refuse {
            code: Code::Mismatch,
            version: VERSION,
            methods: Methods::of(port),
        };
        let (answer, _) = responder.finish(&serde_json::to_vec(&refusal).unwrap_or_default())?;
        return Ok(Reply {
            lane: Attachment::refusing(answer),
            outcome: Err(mismatch),
        });
    }
    let handle = ChannelHandle {
        outbox: Arc::clone(outbox),
        channel,
    };
    // An unknown tunnel is not an error: the server offers a new one, which tells the client that
    // the old one is lost.
    let known = offer
        .resume
        .and_then(|resumption| Some(((context.find)(resumption.tunnel)?, resumption)));
    // A tunnel belongs to one port: another port key must not reach it by its id.
    match known.filter(|(tunnel, _)| tunnel.port().keys.id == port.keys.id) {
        Some((tunnel, resumption)) => resume(tunnel, resumption, responder, handle, context),
        None if !(context.is_open)() => Err(AttachError::Refused(Code::Refused)),
        None => begin(port, &offer, responder, handle, context),
    }
}

/// Answers with RESUME for a tunnel that this server holds.
fn resume(
    tunnel: Tunnel,
    resumption: ResumeRequest,
    responder: Responder,
    handle: ChannelHandle,
    context: &AcceptContext<'_>,
) -> Result<Reply, AttachError> {
    let ResumeRequest { attempt, moves, .. } = resumption;
    let moves = {
        let state = tunnel.shared.state();
        // A replayed or overtaken attempt must not replace the current attachment.
        if attempt == FIRST_ATTEMPT || !state.binding.admits(attempt) {
            return Err(AttachError::Superseded);
        }
        // Only one move at a time: both ends hold one old attachment at most.
        if moves && state.binding.moving_from().is_some() {
            return Err(AttachError::Refused(Code::Refused));
        }
        // Without a current attachment there is nothing to move from; the answer turns the move
        // into a resumption.
        moves && state.binding.current().is_some()
    };
    let (answer, keys) = responder
        .finish(&serde_json::to_vec(&AttachAnswer::Resume { moves }).unwrap_or_default())?;
    let keys = keys
        .with_tunnel_secret(&tunnel.shared.secret)
        .responder(tunnel.port().encrypt);
    let target = AttachTarget {
        tunnel,
        attempt,
        kind: TakeoverKind::of(moves),
        handle,
    };
    Ok(Reply {
        lane: Attachment::answering(target, keys, answer, context.tasks),
        outcome: Ok(None),
    })
}

/// Answers with ACCEPT and creates a new tunnel.
fn begin(
    port: &PortParameters,
    offer: &Offer,
    responder: Responder,
    handle: ChannelHandle,
    context: &AcceptContext<'_>,
) -> Result<Reply, AttachError> {
    let id = Id(random::bytes());
    let age_ms = u64::try_from(context.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let accept = AttachAnswer::Accept {
        tunnel: id,
        instance: context.instance,
        age_ms,
        bench: Some(context.bench),
        addresses: context.addresses,
        seen: offer
            .resume
            .and_then(|resumption| (context.seen)(port.keys.id, resumption.tunnel)),
        grant: Grant::of(port),
    };
    let (answer, keys) = responder.finish(&serde_json::to_vec(&accept).unwrap_or_default())?;
    let identity = Identity {
        side: TunnelSide::Server,
        id,
        instance: context.instance,
        secret: keys.tunnel_secret(),
    };
    let tunnel = Tunnel {
        shared: TunnelShared::start(identity, port.clone(), offer.grant, context.tasks),
    };
    let target = AttachTarget {
        tunnel: tunnel.clone(),
        attempt: FIRST_ATTEMPT,
        kind: TakeoverKind::Resume,
        handle,
    };
    let lane = Attachment::answering(target, keys.responder(port.encrypt), answer, context.tasks);
    Ok(Reply {
        lane,
        outcome: Ok(Some(tunnel)),
    })
}

/// Returns the notice that closes the channel of a failed attachment. It carries the code alone,
/// because the master can read it.
#[must_use]
pub fn closing_notice(error: &AttachError) -> Notice {
    Notice::new(error.wire_code(), "")
}

/// Reports the outcome of an attach request to the client.
pub(super) type OutcomeSender = oneshot::Sender<Result<AttachOutcome, AttachError>>;

impl PendingOffer {
    /// Reports that the channel was closed before the server answered.
    pub(super) fn closed(self, notice: Notice) {
        let _ = self.outcome.send(Err(AttachError::Closed(notice)));
    }

    /// Processes the server's answer.
    pub(super) fn finish(
        self,
        answer: &[u8],
    ) -> Result<EstablishedAttachment, (AttachError, OutcomeSender)> {
        let PendingOffer {
            initiator,
            port,
            resuming,
            handle,
            tasks,
            outcome,
        } = self;
        let (target, keys, found) = match read_answer(initiator, &port, answer) {
            Ok((
                AttachAnswer::Accept {
                    tunnel,
                    instance,
                    age_ms,
                    bench,
                    addresses,
                    seen,
                    grant,
                },
                keys,
            )) => {
                let identity = Identity {
                    side: TunnelSide::Client,
                    id: tunnel,
                    instance,
                    secret: keys.tunnel_secret(),
                };
                let keys = keys.initiator(port.encrypt);
                let tunnel = Tunnel {
                    shared: TunnelShared::start(identity, port, grant, &tasks),
                };
                let server_info = ServerInfo {
                    age: Duration::from_millis(age_ms),
                    bench,
                    addresses,
                    seen,
                };
                let found = AttachOutcome::New(tunnel.clone(), server_info);
                (
                    AttachTarget {
                        tunnel,
                        attempt: FIRST_ATTEMPT,
                        kind: TakeoverKind::Resume,
                        handle,
                    },
                    keys,
                    found,
                )
            }
            Ok((AttachAnswer::Resume { moves }, keys)) => {
                let Some((tunnel, attempt)) = resuming else {
                    return Err((
                        AttachError::Handshake(
                            "the server resumes a tunnel that the client did not ask for"
                                .to_owned(),
                        ),
                        outcome,
                    ));
                };
                let keys = keys
                    .with_tunnel_secret(&tunnel.shared.secret)
                    .initiator(port.encrypt);
                (
                    AttachTarget {
                        tunnel,
                        attempt,
                        kind: TakeoverKind::of(moves),
                        handle,
                    },
                    keys,
                    AttachOutcome::Resumed,
                )
            }
            Ok((AttachAnswer::Refuse { code, .. }, _)) => {
                return Err((AttachError::Refused(code), outcome));
            }
            Err(error) => return Err((error, outcome)),
        };
        Ok(EstablishedAttachment::candidate(
            target,
            keys,
            None,
            Some((outcome, found)),
            &tasks,
        ))
    }
}

fn read_answer(
    initiator: Initiator,
    port: &PortParameters,
    answer: &[u8],
) -> Result<(AttachAnswer, SessionKeys), AttachError> {
    let (payload, keys) = initiator.finish(answer)?;
    let answer: AttachAnswer = serde_json::from_slice(&payload)
        .map_err(|error| AttachError::Handshake(format!("cannot parse the answer: {error}")))?;
    if let AttachAnswer::Refuse {
        code: Code::Mismatch,
        version,
        methods,
    } = &answer
    {
        if *version != VERSION {
            return Err(Mismatch::Version {
                here: VERSION,
                there: *version,
            }
            .into());
        }
        Methods::of(port).check(methods)?;
    }
    Ok((answer, keys))
}
