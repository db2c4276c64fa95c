//! Attaches a new or a resumed tunnel to a channel, for the roles: a client requests it, a server
//! replies. Both sides then hold an [`Attachment`], the end of a channel.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub use super::{
    attach_error::{AttachError, closing_notice},
    attachment::Attachment,
    candidate::AttachOutcome,
    handshake::ServerInfo,
};
use super::{
    attachment::{AttachTarget, PendingOffer, Resuming},
    core::{AdmitError, Channel, FIRST_ATTEMPT, TakeoverKind},
    handle::Tunnel,
    handshake::{self, ReceivedOffer},
    offer::{Mismatch, ResumeRequest},
    parameters::PortParameters,
    shared::TunnelShared,
};
use crate::{
    link::{LinkId, Outbox},
    random,
    suspend::Moment,
};
use report_proto::frame::Code;
use report_proto::{id::Id, mux::TunnelSide};

/// A client's request for an attachment.
pub struct AttachRequest {
    /// The end of the channel. The caller opens it at the link.
    pub attachment: Arc<Attachment>,
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
    offer(port, None, outbox.handle(channel), tasks)
}

/// Starts an attachment of an existing `tunnel`. It joins the present lanes if that is possible,
/// and replaces those on the links of `replaces`. Otherwise it resumes the tunnel.
///
/// # Errors
/// When the handshake cannot be started.
pub fn request_resume(
    tunnel: &Tunnel,
    replaces: Vec<LinkId>,
    outbox: &Arc<Outbox>,
    channel: u32,
    tasks: &TaskTracker,
) -> Result<AttachRequest, AttachError> {
    let resumption = {
        let mut core = tunnel.shared.core();
        ResumeRequest {
            tunnel: tunnel.id(),
            attempt: core.next_attempt(),
            joins: core.can_join(),
        }
    };
    let resuming = Resuming {
        tunnel: Arc::clone(&tunnel.shared),
        attempt: resumption.attempt,
        replaces,
    };
    offer(
        tunnel.port(),
        Some((resuming, resumption)),
        outbox.handle(channel),
        tasks,
    )
}

fn offer(
    port: &PortParameters,
    resume: Option<(Resuming, ResumeRequest)>,
    channel: Channel,
    tasks: &TaskTracker,
) -> Result<AttachRequest, AttachError> {
    let (resuming, resumption) = resume.unzip();
    let (initiator, message) = handshake::offer(port, resumption, random::bytes())?;
    let (sender, outcome) = oneshot::channel();
    let pending = PendingOffer {
        initiator,
        port: port.clone(),
        resuming,
        channel,
        tasks: tasks.clone(),
        outcome: sender,
    };
    Ok(AttachRequest {
        attachment: Attachment::offering(pending),
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
    /// The end of the channel. The caller opens it at the link and marks it ready. After a refusal
    /// it still sends an answer: close the channel after it has drained.
    pub attachment: Arc<Attachment>,
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
    let offer = handshake::read_offer(port, message, random::bytes())?;
    // An unknown tunnel is not an error: the server offers a new one, which tells the client that
    // the old one is lost.
    let known = offer
        .resume_request()
        .and_then(|resumption| Some(((context.find)(resumption.tunnel)?, resumption)));
    // A tunnel belongs to one port: another port key must not reach it by its id.
    let known = known.filter(|(tunnel, _)| tunnel.port().keys.id == port.keys.id);
    // A tunnel keeps its methods when those of its port change.
    let expected = known.as_ref().map_or(port, |(tunnel, _)| tunnel.port());
    if let Err(mismatch) = offer.check(expected) {
        return Ok(Reply {
            attachment: Attachment::refusing(offer.refuse(port)?),
            outcome: Err(mismatch),
        });
    }
    let channel = outbox.handle(channel);
    match known {
        Some((tunnel, resumption)) => resume(tunnel, resumption, offer, channel, context),
        None if !(context.is_open)() => Err(AttachError::Refused(Code::Refused)),
        None => begin(port, offer, channel, context),
    }
}

/// Answers with RESUME for a tunnel that this server holds.
fn resume(
    tunnel: Tunnel,
    resumption: ResumeRequest,
    offer: ReceivedOffer,
    channel: Channel,
    context: &AcceptContext<'_>,
) -> Result<Reply, AttachError> {
    let tunnel = tunnel.shared;
    let ResumeRequest { attempt, joins, .. } = resumption;
    let kind = tunnel
        .core()
        .admit(attempt, joins)
        .map_err(|error| match error {
            AdmitError::Superseded => AttachError::Superseded,
            AdmitError::TooManyLanes => AttachError::Refused(Code::Limit),
        })?;
    let (answer, keys) = offer.resume(
        kind == TakeoverKind::Join,
        &tunnel.identity.secret,
        tunnel.port.encrypt,
    )?;
    let target = AttachTarget {
        tunnel,
        attempt,
        kind,
        replaces: Vec::new(),
        channel,
    };
    Ok(Reply {
        attachment: Attachment::answering(target, keys, answer, context.tasks),
        outcome: Ok(None),
    })
}

/// Answers with ACCEPT and creates a new tunnel.
fn begin(
    port: &PortParameters,
    offer: ReceivedOffer,
    channel: Channel,
    context: &AcceptContext<'_>,
) -> Result<Reply, AttachError> {
    let server_info = ServerInfo {
        age: context.started.elapsed(),
        bench: Some(context.bench),
        addresses: context.addresses,
        seen: offer
            .resume_request()
            .and_then(|resumption| (context.seen)(port.keys.id, resumption.tunnel)),
    };
    let id = Id(random::bytes());
    let (answer, new, keys) = offer.accept(port, id, context.instance, server_info)?;
    let shared = TunnelShared::start(TunnelSide::Server, new, port.clone(), context.tasks);
    let target = AttachTarget {
        tunnel: Arc::clone(&shared),
        attempt: FIRST_ATTEMPT,
        kind: TakeoverKind::Resume,
        replaces: Vec::new(),
        channel,
    };
    Ok(Reply {
        attachment: Attachment::answering(target, keys, answer, context.tasks),
        outcome: Ok(Some(Tunnel { shared })),
    })
}
