//! The events and actions of the state machine of a port.

use std::time::Duration;

use crate::{link::LinkId, suspend::Moment};
use report_proto::{frame::Code, id::Id};

/// Counts the attach requests of a port.
pub(super) type RequestNumber = u64;

/// An event of a port.
#[derive(Debug)]
pub(super) enum PortEvent {
    /// A link of the first slot is being established. Requests on it travel in its first flight.
    LinkBegins(LinkId),
    /// A link of the first slot is established.
    LinkUp(LinkId),
    /// A link of another slot is being established. It gets lanes when it is up.
    FurtherLinkBegins { slot: usize, link: LinkId },
    /// A link of another slot is established.
    FurtherLinkUp { slot: usize, link: LinkId },
    /// A link of another slot will be closed.
    FurtherLinkRetiring(LinkId),
    /// A link has ended.
    LinkEnded(LinkId),
    /// The state of a tunnel. It may be the same as before.
    TunnelChanged { tunnel: Id, view: TunnelView },
    /// The server asks to move the tunnel to another channel.
    MoveRequested { tunnel: Id },
    /// The outcome of an attach request. `jitter` is a random number between 0 and 1.
    AttachDone {
        request: RequestNumber,
        result: AttachResult,
        jitter: f64,
    },
    /// The service behind the server of the tunnel refused a connection.
    ServiceRefused { tunnel: Id, server: Id },
    /// The client is shutting down.
    ShuttingDown,
    /// Another port takes the new streams, or the port was removed.
    Retired,
    /// A deadline has passed.
    Timeout,
}

/// An action that the port has to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortAction {
    /// Open a channel on the link and send ATTACH. The outcome is reported with
    /// [`PortEvent::AttachDone`].
    Attach {
        request: RequestNumber,
        link: LinkId,
        purpose: AttachPurpose,
        /// The servers that a new tunnel avoids.
        avoid: Vec<Id>,
    },
    /// Close the channel of a request. Its outcome is still reported.
    CancelAttach { request: RequestNumber },
    /// Report the changes of the new tunnel from now on.
    Adopt { tunnel: Id },
    /// Leave the lanes of the tunnel on this link.
    LeaveLink { tunnel: Id, link: LinkId },
    /// Leave the lanes of the tunnel on all links that will be closed, as far as others carry on.
    LeaveRetiringLinks { tunnel: Id },
    /// Leave the newest lanes of the tunnel until `keep` remain, and one on each link.
    LeaveLanes { tunnel: Id, keep: usize },
    /// End the tunnel.
    EndTunnel { tunnel: Id, reason: EndTunnelReason },
    /// Drop the tunnel, which has ended.
    Forget { tunnel: Id },
    /// Publish the tunnel that takes new streams.
    SetReady(Option<Id>),
}

/// The state of a tunnel, as the machine needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TunnelView {
    pub phase: TunnelPhase,
    /// The slots other than the first whose newest link that is up carries a lane.
    pub further_lanes: Slots,
    /// Further lanes can join, at both ends.
    pub accepts_lanes: bool,
    /// The number of lanes that are not being left.
    pub lanes: usize,
    /// The number of lanes that the server asks for.
    pub requested_lanes: usize,
    /// A lane on a link that will be closed is not being left, and others can carry on.
    pub has_lane_to_leave: bool,
    /// A move is in progress.
    pub is_moving: bool,
    /// Its end was requested.
    pub is_ending: bool,
    pub has_streams: bool,
}

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slots(u64);

impl Slots {
    /// Returns whether the slot is in the set.
    pub(super) fn contains(self, slot: usize) -> bool {
        self.0.checked_shr(slot as u32).unwrap_or(0) & 1 == 1
    }
}

impl FromIterator<usize> for Slots {
    fn from_iter<I: IntoIterator<Item = usize>>(slots: I) -> Self {
        let bit = |slot: usize| 1_u64.checked_shl(slot as u32).unwrap_or(0);
        Slots(slots.into_iter().map(bit).fold(0, |all, bit| all | bit))
    }
}

/// The phase of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TunnelPhase {
    /// The first attachment has not proven itself yet.
    Unconfirmed,
    /// Attachments carry the tunnel, one of them on this link of the first slot.
    Attached { link: Option<LinkId> },
    /// The tunnel waits for its next attachment.
    Lost { since: Moment, code: Code },
    /// The tunnel has ended.
    Ended,
}

/// Why an attach request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttachPurpose {
    /// The port needs a tunnel.
    New,
    /// The service of this server refused a connection, so the port asks for another one.
    Alternative { refused: Id },
    /// This tunnel is resumed or moved.
    Resume { tunnel: Id },
    /// This tunnel gets a further lane.
    Lane { tunnel: Id },
    /// This tunnel gets a lane that its server asks for, on any link.
    RequestedLane { tunnel: Id },
}

/// The outcome of an attach request.
#[derive(Debug)]
pub(super) enum AttachResult {
    /// A new tunnel.
    New(NewTunnel),
    /// The tunnel was resumed or moved.
    Resumed,
    /// The master had no server in time.
    Expired,
    /// The request failed.
    Failed { is_retryable: bool },
    /// A policy of the master's operator forbids the tunnel.
    Denied,
    /// The channel was closed at this end, without an answer.
    Unanswered,
    /// The request was not sent.
    NotSent,
}

/// A new tunnel, as its server reported it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewTunnel {
    pub tunnel: Id,
    /// The instance id of the server.
    pub server: Id,
    /// Uptime of the server.
    pub server_age: Duration,
    /// The lowest client stream id that the server never saw of the tunnel that was to be resumed.
    pub seen: Option<u64>,
    pub view: TunnelView,
}

/// Why the port ends a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndTunnelReason {
    /// The port has another tunnel. This one carried no stream.
    Redundant,
    /// The last stream has ended, and another tunnel takes the new streams.
    Unused,
    /// Another process has replaced the server.
    ServerRestarted,
    /// The server does not know the tunnel. It never saw streams from this id on.
    UnknownAtServer { seen: Option<u64> },
}
