//! The handshake that binds a tunnel to a channel, a new one or one that goes on: what the client offers, and what the server answers. What
//! comes of it is an [`Attachment`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub use super::attachment::Attachment;
use super::{
    PortParameters, Tunnel,
    attachment::{Attached, Claim},
    binding::Manner,
    offer::{Answer, Grant, Methods, Mismatch, Offer, Resumption, VERSION},
    shared::{Bell, Identity, Shared},
};
use crate::{
    crypto::{
        HandshakeError, SessionKeys,
        handshake::{Initiator, Responder},
    },
    id::Id,
    link::channel::{Code, Notice, Outbox},
    mux::Side,
    random,
    suspend::Moment,
};

/// The number of the attempt that made the tunnel; those that resume it count on from there.
pub(super) const FIRST_ATTEMPT: u64 = 0;

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
    /// A newer attempt has the tunnel, or this one was played again by somebody.
    #[error("a newer attempt has resumed the tunnel already")]
    Superseded,
}

impl AttachError {
    /// Whether trying again without a change at either end can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            AttachError::Closed(_) | AttachError::Refused(_) | AttachError::Superseded
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

/// What a server says of itself when it takes a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taker {
    /// For how long its process has been running.
    pub age: Duration,
    /// Whether it takes measuring streams (PROTOCOL 9.10); nothing from one that does not know them.
    pub bench: Option<bool>,
    /// Whether it wants to be told where connections come from (PROTOCOL 9.11).
    pub addresses: bool,
    /// Of the tunnel that was to resume and is over there: the lowest number of the client's streams that it has never seen, if it knows.
    pub seen: Option<u64>,
}

/// What became of a client's wish.
pub enum Outcome {
    /// There is a new tunnel, on this server.
    New(Tunnel, Taker),
    /// The tunnel goes on.
    Resumed,
}

/// A client that waits for the server's answer.
pub(super) struct Offered {
    initiator: Initiator,
    port: PortParameters,
    resuming: Option<(Tunnel, u64)>,
    bell: Bell,
    tasks: TaskTracker,
    outcome: OutcomeSender,
}

/// A client's wish for a tunnel.
pub struct Wish {
    /// The channel's end, to be opened at the link.
    pub lane: Arc<Attachment>,
    /// The first handshake message, for ATTACH.
    pub message: Bytes,
    /// The tunnel, or why there is none.
    pub outcome: oneshot::Receiver<Result<Outcome, AttachError>>,
}

/// Begins an attachment as the client, on `channel` of the link that `outbox` belongs to. The tunnel's driver will run on `tasks`.
///
/// # Errors
/// When the handshake cannot be begun.
pub fn wish(
    port: &PortParameters,
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<Wish, AttachError> {
    offer(
        port,
        None,
        Bell {
            outbox: Arc::clone(outbox),
            channel,
        },
        tasks,
    )
}

/// The same, to go on with `tunnel`. To be tried with `moves` as long as the attachment before works.
///
/// # Errors
/// When the handshake cannot be begun.
pub fn wish_again(
    tunnel: &Tunnel,
    moves: bool,
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<Wish, AttachError> {
    let resumption = Resumption {
        tunnel: tunnel.id(),
        attempt: tunnel.next_attempt(),
        moves,
    };
    offer(
        tunnel.port(),
        Some((tunnel, resumption)),
        Bell {
            outbox: Arc::clone(outbox),
            channel,
        },
        tasks,
    )
}

fn offer(
    port: &PortParameters,
    resume: Option<(&Tunnel, Resumption)>,
    bell: Bell,
    tasks: &TaskTracker,
) -> Result<Wish, AttachError> {
    let offer = Offer {
        resume: resume.map(|(_, resumption)| resumption),
        ..Offer::of(port)
    };
    let offer = serde_json::to_vec(&offer).unwrap_or_default();
    let (initiator, message) =
        Initiator::start(&port.keys.psk, port.keys.id, &offer, random::bytes())?;
    let (sender, outcome) = oneshot::channel();
    let offered = Offered {
        initiator,
        port: port.clone(),
        resuming: resume.map(|(tunnel, resumption)| (tunnel.clone(), resumption.attempt)),
        bell,
        tasks: tasks.clone(),
        outcome: sender,
    };
    Ok(Wish {
        lane: Attachment::offering(offered),
        message: message.into(),
        outcome,
    })
}

/// A server, as it presents itself to its clients.
pub struct Host<'a> {
    /// This process.
    pub instance: Id,
    /// When it started.
    pub started: Moment,
    /// Finds a tunnel by its name.
    pub find: &'a dyn Fn(Id) -> Option<Tunnel>,
    /// What has been seen of a tunnel of this key id that is over, if that is known: the lowest number of the client's streams that never came.
    pub seen: &'a dyn Fn(Id, Id) -> Option<u64>,
    /// Whether new tunnels are taken.
    pub is_open: &'a dyn Fn() -> bool,
    /// Whether measuring streams are taken.
    pub bench: bool,
    /// Whether the port's clients are to say where their connections come from.
    pub addresses: bool,
    /// Where drivers run.
    pub tasks: &'a TaskTracker,
}

/// A server's answer to an ATTACH.
pub struct Reply {
    /// The channel's end, to be opened at the link and marked ready. When there is no tunnel it has an answer to send all the same: close the
    /// channel once it is drained.
    pub lane: Arc<Attachment>,
    /// The tunnel if it is a new one, or why there is none.
    pub outcome: Result<Option<Tunnel>, Mismatch>,
}

/// Answers an attachment of `port`: `message` is the first handshake message.
///
/// # Errors
/// When the message does not open or its content makes no sense. There is nothing to answer then: the channel is to be closed with the notice of
/// [`closing_notice`].
pub fn reply(
    port: &PortParameters,
    host: &Host<'_>,
    message: &[u8],
    outbox: &Arc<Outbox>,
    channel: u32,
) -> Result<Reply, AttachError> {
    let (responder, offer) =
        Responder::read(&port.keys.psk, port.keys.id, message, random::bytes())?;
    let offer: Offer = serde_json::from_slice(&offer)
        .map_err(|error| AttachError::Handshake(format!("the offer cannot be read: {error}")))?;
    if let Err(mismatch) = offer.check(port) {
        let refusal = Answer::Refuse {
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
    let bell = Bell {
        outbox: Arc::clone(outbox),
        channel,
    };
    let known = offer
        .resume
        .and_then(|resumption| Some(((host.find)(resumption.tunnel)?, resumption)));
    match known.filter(|(tunnel, _)| tunnel.port().keys.id == port.keys.id) {
        Some((tunnel, resumption)) => resume(tunnel, resumption, responder, bell, host),
        None if !(host.is_open)() => Err(AttachError::Refused(Code::Refused)),
        None => begin(port, &offer, responder, bell, host),
    }
}

/// The server has the tunnel that the client asks for.
fn resume(
    tunnel: Tunnel,
    resumption: Resumption,
    responder: Responder,
    bell: Bell,
    host: &Host<'_>,
) -> Result<Reply, AttachError> {
    let Resumption { attempt, moves, .. } = resumption;
    let moves = {
        let state = tunnel.shared.state();
        if attempt == FIRST_ATTEMPT || !state.binding.admits(attempt) {
            return Err(AttachError::Superseded);
        }
        if moves && state.binding.leaving().is_some() {
            return Err(AttachError::Refused(Code::Refused));
        }
        moves && state.binding.present().is_some()
    };
    let (answer, keys) =
        responder.finish(&serde_json::to_vec(&Answer::Resume { moves }).unwrap_or_default())?;
    let keys = keys
        .resuming(&tunnel.shared.secret)
        .responder(tunnel.port().encrypt);
    let claim = Claim {
        tunnel,
        attempt,
        manner: Manner::of(moves),
        bell,
    };
    Ok(Reply {
        lane: Attachment::answering(claim, keys, answer, host.tasks),
        outcome: Ok(None),
    })
}

/// A new tunnel.
fn begin(
    port: &PortParameters,
    offer: &Offer,
    responder: Responder,
    bell: Bell,
    host: &Host<'_>,
) -> Result<Reply, AttachError> {
    let id = Id(random::bytes());
    let age_ms = u64::try_from(host.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let accept = Answer::Accept {
        tunnel: id,
        instance: host.instance,
        age_ms,
        bench: Some(host.bench),
        addresses: host.addresses,
        seen: offer
            .resume
            .and_then(|resumption| (host.seen)(port.keys.id, resumption.tunnel)),
        grant: Grant::of(port),
    };
    let (answer, keys) = responder.finish(&serde_json::to_vec(&accept).unwrap_or_default())?;
    let identity = Identity {
        side: Side::Server,
        id,
        instance: host.instance,
        secret: keys.tunnel_secret(),
    };
    let tunnel = Tunnel {
        shared: Shared::start(identity, port.clone(), offer.grant, host.tasks),
    };
    let claim = Claim {
        tunnel: tunnel.clone(),
        attempt: FIRST_ATTEMPT,
        manner: Manner::Resume,
        bell,
    };
    let lane = Attachment::answering(claim, keys.responder(port.encrypt), answer, host.tasks);
    Ok(Reply {
        lane,
        outcome: Ok(Some(tunnel)),
    })
}

/// What the channel of a failed attachment is to be closed with. Says no more than the code: the master reads it.
#[must_use]
pub fn closing_notice(error: &AttachError) -> Notice {
    Notice::new(error.wire_code(), "")
}

/// Tells a client what became of its wish.
pub(super) type OutcomeSender = oneshot::Sender<Result<Outcome, AttachError>>;

impl Offered {
    /// The channel was closed before the answer came.
    pub(super) fn closed(self, notice: Notice) {
        let _ = self.outcome.send(Err(AttachError::Closed(notice)));
    }

    /// The server's answer.
    pub(super) fn finish(self, answer: &[u8]) -> Result<Attached, (AttachError, OutcomeSender)> {
        let Offered {
            initiator,
            port,
            resuming,
            bell,
            tasks,
            outcome,
        } = self;
        let (claim, keys, found) = match read_answer(initiator, &port, answer) {
            Ok((
                Answer::Accept {
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
                    side: Side::Client,
                    id: tunnel,
                    instance,
                    secret: keys.tunnel_secret(),
                };
                let keys = keys.initiator(port.encrypt);
                let tunnel = Tunnel {
                    shared: Shared::start(identity, port, grant, &tasks),
                };
                let taker = Taker {
                    age: Duration::from_millis(age_ms),
                    bench,
                    addresses,
                    seen,
                };
                let found = Outcome::New(tunnel.clone(), taker);
                (
                    Claim {
                        tunnel,
                        attempt: FIRST_ATTEMPT,
                        manner: Manner::Resume,
                        bell,
                    },
                    keys,
                    found,
                )
            }
            Ok((Answer::Resume { moves }, keys)) => {
                let Some((tunnel, attempt)) = resuming else {
                    return Err((
                        AttachError::Handshake(
                            "the server goes on with what nobody asked for".to_owned(),
                        ),
                        outcome,
                    ));
                };
                let keys = keys.resuming(&tunnel.shared.secret).initiator(port.encrypt);
                (
                    Claim {
                        tunnel,
                        attempt,
                        manner: Manner::of(moves),
                        bell,
                    },
                    keys,
                    Outcome::Resumed,
                )
            }
            Ok((Answer::Refuse { code, .. }, _)) => {
                return Err((AttachError::Refused(code), outcome));
            }
            Err(error) => return Err((error, outcome)),
        };
        Ok(Attached::candidate(
            claim,
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
) -> Result<(Answer, SessionKeys), AttachError> {
    let (payload, keys) = initiator.finish(answer)?;
    let answer: Answer = serde_json::from_slice(&payload)
        .map_err(|error| AttachError::Handshake(format!("the answer cannot be read: {error}")))?;
    if let Answer::Refuse {
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
