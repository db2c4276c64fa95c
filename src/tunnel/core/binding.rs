//! Decides which attachment carries a tunnel: one at a time, or two during a move, when the old one
//! still delivers data in flight (PROTOCOL 10.3, 10.6).
//!
//! Pure: knows attempt numbers and opened messages. `B` is the handle of a channel.
//!
//! ```text
//!             take_over(resume)             take_over(move)
//!  unbound ────────────────────► attached ────────────────────► moving: old delivers, new sends
//!     ▲                            │  ▲                            │
//!     └──────── closed ────────────┘  └── MOVED sent and received ─┤
//!     └──────── either of them closed ─────────────────────────────┘
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that a move may hold back: the tunnel window of a peer (32 MiB at most) plus overhead. No
/// conforming peer sends more.
const HELD_MAX: usize = 34 * 1024 * 1024;

/// Bytes that each held message counts in addition to its length, because small messages take
/// memory too.
const HELD_MESSAGE: usize = 64;

/// The attachments of one tunnel.
#[derive(Debug)]
pub(super) struct Binding<B> {
    /// Sends. Also receives, except during a move.
    current: Option<BoundAttachment<B>>,
    /// MOVED arrived on the current attachment before this end started its move: the peer's new
    /// link is faster than its old one.
    peer_moved_early: bool,
    moving_from: Option<MovingFrom<B>>,
    /// The attempt that took over last.
    latest: Option<u64>,
}

/// An attachment that has taken the tunnel over.
#[derive(Debug, Clone)]
pub(super) struct BoundAttachment<B> {
    /// Its attempt number.
    pub attempt: u64,
    /// The handle of its channel.
    pub handle: B,
}

/// The old attachment during a move.
#[derive(Debug)]
struct MovingFrom<B> {
    bound: BoundAttachment<B>,
    /// MOVED was sent on it.
    moved_sent: bool,
    /// MOVED was received on it.
    moved_received: bool,
    /// Messages that arrived on the new attachment before MOVED. They are handled after MOVED, to
    /// keep the order.
    held: VecDeque<Bytes>,
    held_bytes: usize,
}

/// How a candidate takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum TakeoverKind {
    /// The tunnel is new, or data in flight on the previous attachment may be lost.
    Resume,
    /// The previous attachment works and delivers everything.
    Move,
}

impl TakeoverKind {
    /// Returns `Move` if `moves` is set, otherwise `Resume`.
    pub(in crate::tunnel) fn of(moves: bool) -> Self {
        if moves {
            TakeoverKind::Move
        } else {
            TakeoverKind::Resume
        }
    }
}

/// Why a candidate cannot take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeOverError {
    /// A newer attempt has taken over.
    Superseded,
    /// No current attachment exists, or another move is in progress.
    NothingToMoveFrom,
}

/// Data that an attachment may send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendAction {
    /// The frames of the mux.
    Mux,
    /// MOVED, and nothing after it.
    Moved,
    /// Nothing.
    Nothing,
}

/// The disposition of a received message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReceiveAction {
    /// Pass it to the mux.
    Handle(Bytes),
    /// Nothing: it is held, or its attachment is no longer bound.
    Nothing,
    /// The peer exceeded the limit of held bytes.
    Overflow,
}

/// The effect of a closed attachment on the tunnel.
#[derive(Debug)]
pub(super) enum Closed<B> {
    /// None: it did not carry the tunnel.
    Nothing,
    /// The tunnel has no attachment left. The caller closes the other one of a move.
    Lost(Option<BoundAttachment<B>>),
}

impl<B: Clone> Binding<B> {
    /// Creates a binding without an attachment.
    pub(super) fn new() -> Self {
        Binding {
            current: None,
            peer_moved_early: false,
            moving_from: None,
            latest: None,
        }
    }

    /// Returns the attachment that sends.
    pub(super) fn current(&self) -> Option<&BoundAttachment<B>> {
        self.current.as_ref()
    }

    fn is_current(&self, attempt: u64) -> bool {
        self.current()
            .is_some_and(|current| current.attempt == attempt)
    }

    /// Returns whether this attempt may still take over.
    pub(super) fn admits(&self, attempt: u64) -> bool {
        self.latest.is_none_or(|latest| attempt > latest)
    }

    /// Binds a candidate that has proven itself. Returns the attachments that it replaces, which
    /// the caller closes; a move replaces none.
    pub(super) fn take_over(
        &mut self,
        bound: BoundAttachment<B>,
        kind: TakeoverKind,
    ) -> Result<Vec<BoundAttachment<B>>, TakeOverError> {
        if !self.admits(bound.attempt) {
            return Err(TakeOverError::Superseded);
        }
        // If set, the peer has already left the attachment that becomes the old one. It does not
        // send MOVED again.
        let received = std::mem::take(&mut self.peer_moved_early);
        match kind {
            TakeoverKind::Resume => {
                self.latest = Some(bound.attempt);
                let moving_from = self.moving_from.take().map(|moving_from| moving_from.bound);
                Ok(self
                    .current
                    .replace(bound)
                    .into_iter()
                    .chain(moving_from)
                    .collect())
            }
            // Only one old attachment can deliver at a time.
            TakeoverKind::Move if self.moving_from.is_some() => {
                Err(TakeOverError::NothingToMoveFrom)
            }
            TakeoverKind::Move => {
                let old = self
                    .current
                    .take()
                    .ok_or(TakeOverError::NothingToMoveFrom)?;
                self.latest = Some(bound.attempt);
                self.current = Some(bound);
                let held = VecDeque::new();
                self.moving_from = Some(MovingFrom {
                    bound: old,
                    moved_sent: false,
                    moved_received: received,
                    held,
                    held_bytes: 0,
                });
                Ok(Vec::new())
            }
        }
    }

    /// Returns the attachment from which the tunnel moves, during a move.
    pub(super) fn moving_from(&self) -> Option<&BoundAttachment<B>> {
        self.moving_from
            .as_ref()
            .map(|moving_from| &moving_from.bound)
    }

    /// Returns what this attachment may send. [`SendAction::Moved`] is returned once.
    pub(super) fn sending(&mut self, attempt: u64) -> SendAction {
        if self.is_current(attempt) {
            return SendAction::Mux;
        }
        match &mut self.moving_from {
            Some(moving_from)
                if moving_from.bound.attempt == attempt && !moving_from.moved_sent =>
            {
                moving_from.moved_sent = true;
                SendAction::Moved
            }
            _ => SendAction::Nothing,
        }
    }

    /// Handles a message that arrived on this attachment.
    pub(super) fn received(&mut self, attempt: u64, message: Bytes) -> ReceiveAction {
        let is_current = self.is_current(attempt);
        match &mut self.moving_from {
            Some(moving_from) if is_current && !moving_from.moved_received => {
                // The old attachment may still deliver earlier data, so this message waits.
                moving_from.held_bytes = moving_from
                    .held_bytes
                    .saturating_add(message.len())
                    .saturating_add(HELD_MESSAGE);
                moving_from.held.push_back(message);
                if moving_from.held_bytes > HELD_MAX {
                    ReceiveAction::Overflow
                } else {
                    ReceiveAction::Nothing
                }
            }
            Some(moving_from)
                if moving_from.bound.attempt == attempt && !moving_from.moved_received =>
            {
                ReceiveAction::Handle(message)
            }
            // After MOVED on the old attachment, or without a move, the order is that of the
            // current one.
            _ if is_current => ReceiveAction::Handle(message),
            _ => ReceiveAction::Nothing,
        }
    }

    /// Handles MOVED on this attachment. Returns the held messages, which the caller handles now.
    pub(super) fn moved(&mut self, attempt: u64) -> VecDeque<Bytes> {
        self.peer_moved_early |= self.is_current(attempt);
        match &mut self.moving_from {
            Some(moving_from)
                if moving_from.bound.attempt == attempt && !moving_from.moved_received =>
            {
                moving_from.moved_received = true;
                moving_from.held_bytes = 0;
                std::mem::take(&mut moving_from.held)
            }
            _ => VecDeque::new(),
        }
    }

    /// Removes the old attachment after MOVED was sent and received on it. It carries nothing any
    /// more.
    pub(super) fn take_finished_move(&mut self) -> Option<BoundAttachment<B>> {
        self.moving_from
            .take_if(|moving_from| moving_from.moved_sent && moving_from.moved_received)
            .map(|moving_from| moving_from.bound)
    }

    /// Handles the end of an attachment.
    pub(super) fn closed(&mut self, attempt: u64) -> Closed<B> {
        let is_current = self.is_current(attempt);
        let is_moving_from = self
            .moving_from()
            .is_some_and(|bound| bound.attempt == attempt);
        if !is_current && !is_moving_from {
            return Closed::Nothing;
        }
        self.peer_moved_early = false;
        let (current, moving_from) = (
            self.current.take(),
            self.moving_from.take().map(|moving_from| moving_from.bound),
        );
        // Data in flight on either attachment may be lost, so the move cannot complete: the tunnel
        // has to be resumed on a third one.
        Closed::Lost(if is_current { moving_from } else { current })
    }

    /// Removes all attachments, because the tunnel has ended.
    pub(super) fn end(&mut self) -> Vec<BoundAttachment<B>> {
        let moving_from = self.moving_from.take().map(|moving_from| moving_from.bound);
        self.current.take().into_iter().chain(moving_from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(attempt: u64) -> BoundAttachment<&'static str> {
        BoundAttachment {
            attempt,
            handle: "channel",
        }
    }

    /// Returns the attempts that the new one replaces.
    fn take_over(
        binding: &mut Binding<&'static str>,
        attempt: u64,
        kind: TakeoverKind,
    ) -> Result<Vec<u64>, TakeOverError> {
        let replaced = binding.take_over(bound(attempt), kind)?;
        Ok(replaced.into_iter().map(|bound| bound.attempt).collect())
    }

    fn attached_binding() -> Binding<&'static str> {
        let mut binding = Binding::new();
        assert_eq!(take_over(&mut binding, 1, TakeoverKind::Resume), Ok(vec![]));
        binding
    }

    fn message(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn only_a_newer_attempt_replaces_the_current_attachment() {
        let mut binding = attached_binding();
        assert_eq!(
            take_over(&mut binding, 3, TakeoverKind::Resume),
            Ok(vec![1])
        );
        for overtaken in [2, 3] {
            assert_eq!(
                take_over(&mut binding, overtaken, TakeoverKind::Resume),
                Err(TakeOverError::Superseded)
            );
        }
        assert_eq!(
            (binding.sending(1), binding.sending(3)),
            (SendAction::Nothing, SendAction::Mux)
        );
        assert_eq!(binding.received(1, message("late")), ReceiveAction::Nothing);
    }

    #[test]
    fn a_move_keeps_the_order_and_releases_the_old_attachment_after_moved_in_both_directions() {
        let mut binding = attached_binding();
        assert_eq!(take_over(&mut binding, 2, TakeoverKind::Move), Ok(vec![]));
        assert_eq!(
            binding.received(2, message("second")),
            ReceiveAction::Nothing
        );
        assert_eq!(
            binding.received(1, message("first")),
            ReceiveAction::Handle(message("first"))
        );
        assert_eq!(
            (binding.sending(1), binding.sending(1)),
            (SendAction::Moved, SendAction::Nothing)
        );
        assert!(
            binding.take_finished_move().is_none(),
            "the peer may still send there"
        );
        assert_eq!(binding.moved(1), VecDeque::from([message("second")]));
        assert_eq!(binding.take_finished_move().unwrap().attempt, 1);
        assert_eq!(
            binding.received(2, message("third")),
            ReceiveAction::Handle(message("third"))
        );
        assert!(
            matches!(binding.closed(1), Closed::Nothing),
            "the old attachment is no longer bound"
        );
    }

    #[test]
    fn moved_may_arrive_before_the_new_attachment() {
        let mut binding = attached_binding();
        assert!(binding.moved(1).is_empty());
        take_over(&mut binding, 2, TakeoverKind::Move).unwrap();
        assert_eq!(
            binding.received(2, message("first")),
            ReceiveAction::Handle(message("first")),
            "no message is held"
        );
        assert_eq!(binding.sending(1), SendAction::Moved);
        assert_eq!(binding.take_finished_move().unwrap().attempt, 1);
    }

    #[test]
    fn a_cut_during_a_move_loses_both_attachments() {
        for (cut, other) in [(1, 2), (2, 1)] {
            let mut binding = attached_binding();
            take_over(&mut binding, 2, TakeoverKind::Move).unwrap();
            let Closed::Lost(left) = binding.closed(cut) else {
                panic!("attempt {cut} was bound")
            };
            assert_eq!(left.unwrap().attempt, other);
            assert!(binding.current().is_none() && binding.admits(3) && !binding.admits(2));
            assert_eq!(
                binding.received(other, message("late")),
                ReceiveAction::Nothing
            );
        }
    }

    #[test]
    fn a_move_needs_a_current_attachment_and_no_other_move() {
        let mut unbound = Binding::new();
        assert_eq!(
            take_over(&mut unbound, 2, TakeoverKind::Move),
            Err(TakeOverError::NothingToMoveFrom)
        );
        let mut binding = attached_binding();
        take_over(&mut binding, 2, TakeoverKind::Move).unwrap();
        assert_eq!(
            take_over(&mut binding, 3, TakeoverKind::Move),
            Err(TakeOverError::NothingToMoveFrom)
        );
        assert_eq!(
            take_over(&mut binding, 3, TakeoverKind::Resume),
            Ok(vec![2, 1]),
            "a resumption replaces both"
        );
    }

    #[test]
    fn held_bytes_are_bounded() {
        let mut binding = attached_binding();
        take_over(&mut binding, 2, TakeoverKind::Move).unwrap();
        let much = Bytes::from(vec![0; HELD_MAX / 4 - HELD_MESSAGE]);
        assert!((0..4).all(|_| binding.received(2, much.clone()) == ReceiveAction::Nothing));
        assert_eq!(binding.received(2, Bytes::new()), ReceiveAction::Overflow);
    }

    #[test]
    fn small_held_messages_count_more_than_their_length() {
        let mut binding = attached_binding();
        take_over(&mut binding, 2, TakeoverKind::Move).unwrap();
        let held = (0..HELD_MAX)
            .take_while(|_| binding.received(2, message("a")) == ReceiveAction::Nothing)
            .count();
        assert_eq!(held, HELD_MAX / (HELD_MESSAGE + 1));
    }
}
