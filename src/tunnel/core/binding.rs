//! Decides which attachments carry a tunnel: its lanes (PROTOCOL 10.3, 10.6).
//!
//! Pure: knows attempt numbers. `B` is the handle of a channel.
//!
//! ```text
//!             take_over(resume, join)        leave             MOVED sent         MOVED received
//!  candidate ────────────────────────► active ────► leave due ───────────► left ─────────────────► gone
//!                                        └──────────────┴─ closed, lost ────┴────────────────────► gone
//! ```
//! A lane that an end has left sends nothing more, and still delivers.

use std::collections::BTreeSet;

/// The maximum number of lanes of a tunnel (PROTOCOL 12, `LANES_MAX`): one for each slot of a role's
/// links, and one that replaces another.
pub(crate) const LANES_MAX: usize = 17;

/// The attempts after the last resumption that are remembered. An older one is refused like a
/// replay.
const JOINED_MAX: usize = 1024;

/// The attachments of one tunnel.
#[derive(Debug)]
pub(super) struct Binding<B> {
    /// In the order in which they joined.
    lanes: Vec<BoundLane<B>>,
    /// The attempt that created or resumed the tunnel last. Older ones are void.
    resumed_by: Option<u64>,
    /// The attempts that have joined since.
    joined: BTreeSet<u64>,
}

/// An attachment that carries the tunnel.
#[derive(Debug, Clone)]
pub(super) struct BoundAttachment<B> {
    /// Its attempt number.
    pub attempt: u64,
    /// The handle of its channel.
    pub handle: B,
}

/// A lane, and how far this end has left it.
#[derive(Debug, Clone)]
pub(super) struct BoundLane<B> {
    pub bound: BoundAttachment<B>,
    pub state: LaneState,
    /// The channel is marked ready, and the link has not asked for data since.
    pub transmit_requested: bool,
    /// At a server: the next message asks the client to leave this lane.
    pub move_request_due: bool,
    /// At a client: the server asks to leave this lane.
    pub is_move_requested: bool,
    /// At a server: the client has left this lane.
    pub peer_has_left: bool,
    /// The next message is a PING, which the peer answers as soon as it has taken over too.
    pub ping_due: bool,
    /// A message has arrived on it.
    pub has_received: bool,
}

/// How far this end has left a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneState {
    /// It sends on it.
    Active,
    /// MOVED is to be sent on it, and nothing after that.
    LeaveDue,
    /// MOVED was sent on it.
    Left,
}

/// How a candidate takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum TakeoverKind {
    /// The tunnel is new, or all its lanes are lost: this is the only one.
    Resume,
    /// The other lanes continue.
    Join,
}

impl TakeoverKind {
    /// Returns `Join` if `joins` is set, otherwise `Resume`.
    pub(in crate::tunnel) fn of(joins: bool) -> Self {
        if joins {
            TakeoverKind::Join
        } else {
            TakeoverKind::Resume
        }
    }
}

/// Data that an attachment may send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendAction {
    /// The frames of the mux.
    Mux,
    /// MOVED, and nothing after it.
    Moved,
    /// MOVE.
    Move,
    /// PING.
    Ping,
    /// Nothing.
    Nothing,
}

impl<B: Clone> Binding<B> {
    /// Creates a binding without an attachment.
    pub(super) fn new() -> Self {
        Binding {
            lanes: Vec::new(),
            resumed_by: None,
            joined: BTreeSet::new(),
        }
    }

    /// Returns all lanes.
    pub(super) fn lanes(&self) -> &[BoundLane<B>] {
        &self.lanes
    }

    /// Returns all lanes, to mark them.
    pub(super) fn lanes_mut(&mut self) -> &mut [BoundLane<B>] {
        &mut self.lanes
    }

    /// Returns the lanes on which this end sends.
    pub(super) fn active(&self) -> impl Iterator<Item = &BoundAttachment<B>> {
        let active = |lane: &&BoundLane<B>| lane.state == LaneState::Active;
        self.lanes.iter().filter(active).map(|lane| &lane.bound)
    }

    /// Returns the lane of this attempt.
    pub(super) fn lane_mut(&mut self, attempt: u64) -> Option<&mut BoundLane<B>> {
        self.lanes
            .iter_mut()
            .find(|lane| lane.bound.attempt == attempt)
    }

    /// Returns whether this attempt may still take over.
    pub(super) fn admits(&self, attempt: u64) -> bool {
        let is_newer = self.resumed_by.is_none_or(|resumed| attempt > resumed);
        let is_remembered = self.joined.len() < JOINED_MAX
            || self.joined.first().is_none_or(|oldest| attempt > *oldest);
        is_newer && is_remembered && !self.joined.contains(&attempt)
    }

    /// Binds a candidate that has proven itself. Returns the attachments that it replaces, which
    /// the caller closes; one that joins replaces none. `None`: the attempt is void.
    pub(super) fn take_over(
        &mut self,
        bound: BoundAttachment<B>,
        kind: TakeoverKind,
    ) -> Option<Vec<BoundAttachment<B>>> {
        if !self.admits(bound.attempt) {
            return None;
        }
        let mut replaced = Vec::new();
        match kind {
            TakeoverKind::Resume => {
                replaced = self.take_all();
                self.resumed_by = Some(bound.attempt);
                self.joined.clear();
            }
            TakeoverKind::Join => {
                if self.joined.len() >= JOINED_MAX {
                    self.joined.pop_first();
                }
                self.joined.insert(bound.attempt);
            }
        }
        self.lanes.push(BoundLane {
            bound,
            state: LaneState::Active,
            transmit_requested: true,
            move_request_due: false,
            is_move_requested: false,
            peer_has_left: false,
            ping_due: false,
            has_received: false,
        });
        Some(replaced)
    }

    /// Leaves a lane. Returns whether it was active.
    pub(super) fn leave(&mut self, attempt: u64) -> bool {
        let lane = self.lane_mut(attempt);
        let Some(lane) = lane.filter(|lane| lane.state == LaneState::Active) else {
            return false;
        };
        lane.state = LaneState::LeaveDue;
        lane.transmit_requested = true;
        true
    }

    /// Returns what this attachment may send. [`SendAction::Moved`], [`SendAction::Move`] and
    /// [`SendAction::Ping`] are returned once.
    pub(super) fn sending(&mut self, attempt: u64) -> SendAction {
        let Some(lane) = self.lane_mut(attempt) else {
            return SendAction::Nothing;
        };
        match lane.state {
            LaneState::Active if std::mem::take(&mut lane.ping_due) => SendAction::Ping,
            LaneState::Active if std::mem::take(&mut lane.move_request_due) => SendAction::Move,
            LaneState::Active => SendAction::Mux,
            LaneState::LeaveDue => {
                lane.state = LaneState::Left;
                SendAction::Moved
            }
            LaneState::Left => SendAction::Nothing,
        }
    }

    /// Removes a lane. Returns it if it was bound.
    pub(super) fn remove(&mut self, attempt: u64) -> Option<BoundLane<B>> {
        let index = self
            .lanes
            .iter()
            .position(|lane| lane.bound.attempt == attempt)?;
        Some(self.lanes.remove(index))
    }

    /// Removes all lanes.
    pub(super) fn take_all(&mut self) -> Vec<BoundAttachment<B>> {
        std::mem::take(&mut self.lanes)
            .into_iter()
            .map(|lane| lane.bound)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the attempts that the new one replaces.
    fn take_over(
        binding: &mut Binding<&'static str>,
        attempt: u64,
        kind: TakeoverKind,
    ) -> Option<Vec<u64>> {
        let handle = "channel";
        let replaced = binding.take_over(BoundAttachment { attempt, handle }, kind)?;
        Some(replaced.into_iter().map(|bound| bound.attempt).collect())
    }

    fn attached_binding() -> Binding<&'static str> {
        let mut binding = Binding::new();
        let replaced = take_over(&mut binding, 1, TakeoverKind::Resume);
        assert_eq!(replaced, Some(vec![]));
        binding
    }

    #[test]
    fn lanes_join_in_any_order_of_their_attempts_and_each_once() {
        let mut binding = attached_binding();
        for attempt in [4, 3, 7] {
            let replaced = take_over(&mut binding, attempt, TakeoverKind::Join);
            assert_eq!(replaced, Some(vec![]), "{attempt}");
        }
        for attempt in [0, 1, 3, 4, 7] {
            assert!(!binding.admits(attempt), "{attempt} is a replay");
        }
        let attempts: Vec<_> = binding.active().map(|bound| bound.attempt).collect();
        assert_eq!(attempts, [1, 4, 3, 7]);
    }

    #[test]
    fn a_resumption_replaces_all_lanes_and_voids_older_attempts() {
        let mut binding = attached_binding();
        take_over(&mut binding, 2, TakeoverKind::Join).unwrap();
        let replaced = take_over(&mut binding, 5, TakeoverKind::Resume);
        assert_eq!(replaced, Some(vec![1, 2]));
        assert_eq!(take_over(&mut binding, 4, TakeoverKind::Join), None);
        assert_eq!(take_over(&mut binding, 4, TakeoverKind::Resume), None);
        assert_eq!(take_over(&mut binding, 6, TakeoverKind::Join), Some(vec![]));
    }

    #[test]
    fn a_lane_that_is_left_sends_moved_once_and_nothing_after_it() {
        let mut binding = attached_binding();
        take_over(&mut binding, 2, TakeoverKind::Join).unwrap();
        assert!(binding.leave(1) && !binding.leave(1));
        assert_eq!(binding.sending(1), SendAction::Moved);
        assert_eq!(binding.sending(1), SendAction::Nothing);
        assert_eq!(binding.sending(2), SendAction::Mux);
        assert_eq!(
            binding.remove(1).map(|lane| lane.state),
            Some(LaneState::Left)
        );
        assert_eq!(binding.sending(1), SendAction::Nothing);
    }

    #[test]
    fn only_so_many_joined_attempts_are_remembered() {
        let mut binding = attached_binding();
        for attempt in 2..2 + 2 * JOINED_MAX as u64 {
            take_over(&mut binding, attempt, TakeoverKind::Join).unwrap();
            binding.remove(attempt);
        }
        assert_eq!(binding.joined.len(), JOINED_MAX);
        assert!(!binding.admits(2), "forgotten, and refused nevertheless");
    }
}
