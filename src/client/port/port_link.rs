//! A link of the client, as its ports use it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tracing::{error, info};

use crate::{
    link::{LinkId, Outbox},
    supervisor::MoveRequests,
};
use report_proto::frame::CHANNEL_RENEWAL_THRESHOLD;

/// A link of the client, as its ports use it.
#[derive(Clone)]
pub(in crate::client) struct PortLink {
    pub(super) outbox: Arc<Outbox>,
    /// The slot of the link; 0 is the first.
    pub(super) slot: usize,
    /// Whether the link is established. Until then it replaces no other one.
    pub(super) is_up: bool,
    /// Whether the lanes of this link are to be left.
    pub(super) is_retiring: bool,
    /// Number of channels allocated so far. The counter cannot wrap, unlike a channel number.
    channels: Arc<AtomicU64>,
    /// Requests another link before the channel numbers are used up.
    move_requests: MoveRequests,
}

impl PortLink {
    /// Creates the handle of a link that is being established.
    pub(in crate::client) fn new(
        outbox: &Arc<Outbox>,
        slot: usize,
        move_requests: &MoveRequests,
    ) -> Self {
        PortLink {
            outbox: Arc::clone(outbox),
            slot,
            is_up: false,
            is_retiring: false,
            channels: Arc::default(),
            move_requests: move_requests.clone(),
        }
    }

    /// Returns the sending side of the link.
    pub(in crate::client) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Returns the number of the link.
    pub(super) fn id(&self) -> LinkId {
        self.outbox.id()
    }

    /// Returns whether the link has ended.
    pub(in crate::client) fn has_ended(&self) -> bool {
        self.outbox.ended().is_some()
    }

    /// Returns whether the link carries new lanes.
    pub(super) fn is_usable(&self) -> bool {
        !self.has_ended() && !self.is_retiring
    }

    /// Returns whether this link is up and newer than `other` of the same slot.
    pub(super) fn has_replaced(&self, other: &PortLink) -> bool {
        self.is_up && self.slot == other.slot && self.id() > other.id()
    }

    /// Allocates an unused channel number, while there is one.
    pub(super) fn next_channel(&self) -> Option<u32> {
        let channel = u32::try_from(self.channels.fetch_add(1, Ordering::Relaxed)).ok();
        // Replace the link long before its numbers run out: the tunnels move without a pause.
        if channel == Some(CHANNEL_RENEWAL_THRESHOLD) {
            info!("half of the channel numbers of this link are used up: requesting another link");
            self.move_requests.request_new_link();
        }
        if channel.is_none() {
            error!("no channel numbers left on this link: the attachment waits for another link");
        }
        channel
    }
}

/// Returns the retiring links whose lanes of a tunnel can be left. `links` are all links, each with
/// whether a lane of the tunnel uses it that is not being left.
///
/// Such a lane waits for the one on the link that has replaced its own. Without such a link, any
/// lane on another link that stays can carry on.
pub(super) fn links_to_leave(links: &[(&PortLink, bool)]) -> Vec<LinkId> {
    let usable = || links.iter().filter(|(link, _)| link.is_usable());
    if !usable().any(|(_, carries)| *carries) {
        return Vec::new();
    }
    let can_leave = |link: &PortLink| {
        let mut replacements = usable()
            .filter(|(other, _)| other.has_replaced(link))
            .peekable();
        replacements.peek().is_none() || replacements.any(|(_, carries)| *carries)
    };
    links
        .iter()
        .filter(|(link, carries)| *carries && link.is_retiring && can_leave(link))
        .map(|(link, _)| link.id())
        .collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn channel_numbers_are_unique_and_the_link_is_replaced_in_time() {
        let move_requests = MoveRequests::default();
        let link = PortLink::new(&Outbox::new(), 0, &move_requests);
        assert_eq!(link.next_channel(), Some(0));
        link.channels
            .store(u64::from(CHANNEL_RENEWAL_THRESHOLD) - 1, Ordering::Relaxed);
        let is_asked = || move_requests.new_link_requested().now_or_never().is_some();
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD - 1));
        assert!(!is_asked());
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD));
        assert!(is_asked());
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD + 1));
        assert!(!is_asked(), "once");
        link.channels.store(u64::from(u32::MAX), Ordering::Relaxed);
        assert_eq!(link.next_channel(), Some(u32::MAX));
        for _ in 0..3 {
            assert_eq!(link.next_channel(), None);
        }
    }

    fn link(slot: usize, is_retiring: bool) -> PortLink {
        PortLink {
            is_retiring,
            ..PortLink::new(&Outbox::new(), slot, &MoveRequests::default())
        }
    }

    #[test]
    fn retiring_link_is_left_when_a_lane_that_stays_carries_on() {
        let (first, surplus, other) = (link(0, false), link(1, true), link(2, true));
        let left = |lane_on_first| {
            links_to_leave(&[(&first, lane_on_first), (&surplus, true), (&other, true)])
        };
        assert_eq!(left(false), [], "the other lanes are on retiring links");
        assert_eq!(left(true), [surplus.id(), other.id()]);
        let without_lane = links_to_leave(&[(&first, true), (&surplus, false)]);
        assert_eq!(without_lane, []);
    }

    #[test]
    fn replaced_link_is_left_when_its_replacement_has_a_lane() {
        let (first, old, mut new) = (link(0, false), link(1, true), link(1, false));
        new.is_up = true;
        let left = |new: &PortLink, lane_on_new| {
            links_to_leave(&[(&first, true), (&old, true), (new, lane_on_new)])
        };
        assert_eq!(left(&new, false), [], "its lane is under way");
        assert_eq!(left(&new, true), [old.id()]);
        new.is_retiring = true;
        assert_eq!(left(&new, false), [old.id()], "no lane will come");
        assert_eq!(left(&new, true), [old.id(), new.id()]);
    }

    #[test]
    fn surplus_link_does_not_wait_for_one_that_is_being_established() {
        // The slot is wanted again. The new link may never be up.
        let (first, surplus, new) = (link(0, false), link(1, true), link(1, false));
        let left = links_to_leave(&[(&first, true), (&surplus, true), (&new, false)]);
        assert_eq!(left, [surplus.id()]);
    }
}
