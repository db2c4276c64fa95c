//! The effects of transitions outside the core.

use std::{sync::Arc, task::Waker, time::Duration};

use smallvec::SmallVec;

use crate::{link::ChannelHandle, suspend::Moment};
use report_proto::frame::Notice;

/// A handle of the channel of an attachment.
pub(in crate::tunnel) type Channel = Arc<dyn ChannelHandle>;

/// The status of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelStatus {
    /// The first attachment has not proven itself yet.
    Unconfirmed,
    /// An attachment carries the tunnel.
    Attached,
    /// The tunnel waits for its next attachment.
    Lost {
        /// When the previous attachment ended.
        since: Moment,
        /// Why it ended.
        why: Notice,
    },
    /// The tunnel has ended, and END was sent if an attachment existed.
    Ended,
}

/// A change of a tunnel that is counted, logged or reported to its role.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::tunnel) enum TunnelEvent {
    /// The tunnel lost its attachment.
    Lost {
        /// How long the attachment had carried the tunnel.
        carried: Duration,
        /// The number of streams that wait for the next one.
        streams: usize,
        /// Why the attachment ended.
        why: Notice,
    },
    /// A lane ended, and others carry on.
    LaneLost {
        /// How many are left.
        lanes: usize,
        why: Notice,
    },
    /// The tunnel was resumed after a loss.
    Resumed {
        /// How long it had no attachment.
        waited: Duration,
        streams: usize,
        resent_bytes: u64,
    },
    /// A lane was left without a loss.
    Moved,
    /// The peer asks for a move.
    MoveRequested,
    /// The server asks for another number of lanes.
    LanesRequested,
    /// The tunnel had no attachment for too long.
    Expired,
}

/// Actions to run after the core is released.
#[derive(Default)]
pub(in crate::tunnel) struct Effects {
    /// The deadline is earlier than the one that the driver waits for.
    pub deadline_moved: bool,
    /// The tunnel has ended.
    pub ended: bool,
    pub wakers: SmallVec<[Waker; 2]>,
    /// The channels that have something to send.
    pub ready: SmallVec<[Channel; 2]>,
    /// Channels to close after they have drained.
    pub closes: Vec<(Channel, Notice)>,
    /// The new status, except [`TunnelStatus::Ended`]. It is published before the core is released,
    /// so that its changes arrive in order.
    pub status: Option<TunnelStatus>,
    pub events: Vec<TunnelEvent>,
    /// At a client: further lanes can join from now on.
    pub accepts_lanes: bool,
    /// The tunnel has ended and nothing is left to send to the peer.
    pub is_finished: bool,
}
