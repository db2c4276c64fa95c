//! Which attachment carries a tunnel: one at a time, but for a move, in which the old one still delivers what it has (PROTOCOL 10.3, 10.6).
//! Knows the numbers of attempts and messages that are opened; `B` is how a channel is reached.
//!
//! ```text
//!             take_over(resume)                take_over(move)
//!  unbound ─────────────────────► carried ──────────────────────► moving: the old one delivers, the new one sends
//!     ▲                             │  ▲                             │
//!     └──────── closed ─────────────┘  └── MOVED passed both ways ───┤
//!     └──────── either of them closed ───────────────────────────────┘
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

/// What a move may hold back, in bytes: what the tunnel's window lets a peer send (32 MiB at most), and what surrounds it. More is
/// no tunnel's.
const HELD_MAX: usize = 34 * 1024 * 1024;

/// What each message that is held counts beside its length, in bytes: small ones take memory too.
const HELD_MESSAGE: usize = 64;

/// Which attachment carries the tunnel.
#[derive(Debug)]
pub struct Binding<B> {
    /// Sends; and receives, but for a move.
    present: Option<Bound<B>>,
    /// MOVED came on the present attachment already: its link is faster than the one that the peer moves to.
    is_left_by_peer: bool,
    leaving: Option<Leaving<B>>,
    /// The attempt that took over last.
    latest: Option<u64>,
}

/// An attachment that has taken over.
#[derive(Debug, Clone)]
pub struct Bound<B> {
    /// Its number.
    pub attempt: u64,
    /// Its channel.
    pub bell: B,
}

/// The attachment before, during a move.
#[derive(Debug)]
struct Leaving<B> {
    bound: Bound<B>,
    /// MOVED went out on it.
    sent: bool,
    /// MOVED came in on it.
    received: bool,
    /// What came on the new attachment before that.
    held: VecDeque<Bytes>,
    held_bytes: usize,
}

/// How a candidate wants to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The tunnel is new, or what was under way on the attachment before may be lost.
    Resume,
    /// The attachment before works, and delivers to its end.
    Move,
}

impl Manner {
    /// That of an attachment that moves, or not.
    pub fn of(moves: bool) -> Self {
        if moves { Manner::Move } else { Manner::Resume }
    }
}

/// Why a candidate does not take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOverError {
    /// A newer one has.
    Superseded,
    /// There is nothing to move from any more.
    NothingToMoveFrom,
}

/// What an attachment may send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// What the mux has.
    Mux,
    /// MOVED, and then nothing any more.
    Moved,
    /// Nothing.
    Nothing,
}

/// What is to be done with a message that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Receiving {
    /// It is given to the mux.
    Handle(Bytes),
    /// Nothing: it is held, or its attachment is no more.
    Nothing,
    /// The peer sent more than any tunnel may.
    TooMuch,
}

/// What the end of an attachment means to the tunnel.
#[derive(Debug)]
pub enum Closed<B> {
    /// Nothing: it did not carry the tunnel.
    Nothing,
    /// The tunnel has no attachment any more. The other one of a move is to be closed.
    Lost(Option<Bound<B>>),
}

impl<B: Clone> Binding<B> {
    /// No attachment yet.
    pub fn new() -> Self {
        Binding {
            present: None,
            is_left_by_peer: false,
            leaving: None,
            latest: None,
        }
    }

    /// The attachment that sends.
    pub fn present(&self) -> Option<&Bound<B>> {
        self.present.as_ref()
    }

    /// Whether an attachment with this number may still take over.
    pub fn admits(&self, attempt: u64) -> bool {
        self.latest.is_none_or(|latest| attempt > latest)
    }

    /// A candidate has proven itself. Answers the attachments that it replaces, which are to be closed; none in a move.
    pub fn take_over(
        &mut self,
        bound: Bound<B>,
        manner: Manner,
    ) -> Result<Vec<Bound<B>>, TakeOverError> {
        if !self.admits(bound.attempt) {
            return Err(TakeOverError::Superseded);
        }
        let received = std::mem::take(&mut self.is_left_by_peer);
        match manner {
            Manner::Resume => {
                self.latest = Some(bound.attempt);
                let leaving = self.leaving.take().map(|leaving| leaving.bound);
                Ok(self
                    .present
                    .replace(bound)
                    .into_iter()
                    .chain(leaving)
                    .collect())
            }
            // A move in the middle of another one waits for no two.
            Manner::Move if self.leaving.is_some() => Err(TakeOverError::NothingToMoveFrom),
            Manner::Move => {
                let old = self
                    .present
                    .take()
                    .ok_or(TakeOverError::NothingToMoveFrom)?;
                self.latest = Some(bound.attempt);
                self.present = Some(bound);
                let held = VecDeque::new();
                self.leaving = Some(Leaving {
                    bound: old,
                    sent: false,
                    received,
                    held,
                    held_bytes: 0,
                });
                Ok(Vec::new())
            }
        }
    }

    /// The attachment from which the tunnel moves, while it does.
    pub fn leaving(&self) -> Option<&Bound<B>> {
        self.leaving.as_ref().map(|leaving| &leaving.bound)
    }

    /// What this attachment may send. [`Sending::Moved`] is answered once.
    pub fn sending(&mut self, attempt: u64) -> Sending {
        if self
            .present
            .as_ref()
            .is_some_and(|present| present.attempt == attempt)
        {
            return Sending::Mux;
        }
        match &mut self.leaving {
            Some(leaving) if leaving.bound.attempt == attempt && !leaving.sent => {
                leaving.sent = true;
                Sending::Moved
            }
            _ => Sending::Nothing,
        }
    }

    /// A message came on this attachment.
    pub fn received(&mut self, attempt: u64, message: Bytes) -> Receiving {
        let is_present = self
            .present
            .as_ref()
            .is_some_and(|present| present.attempt == attempt);
        match &mut self.leaving {
            Some(leaving) if is_present && !leaving.received => {
                leaving.held_bytes = leaving
                    .held_bytes
                    .saturating_add(message.len())
                    .saturating_add(HELD_MESSAGE);
                leaving.held.push_back(message);
                if leaving.held_bytes > HELD_MAX {
                    Receiving::TooMuch
                } else {
                    Receiving::Nothing
                }
            }
            Some(leaving) if leaving.bound.attempt == attempt && !leaving.received => {
                Receiving::Handle(message)
            }
            _ if is_present => Receiving::Handle(message),
            _ => Receiving::Nothing,
        }
    }

    /// MOVED came on this attachment. Answers what was held and is to be handled now.
    pub fn moved(&mut self, attempt: u64) -> VecDeque<Bytes> {
        self.is_left_by_peer |= self
            .present
            .as_ref()
            .is_some_and(|present| present.attempt == attempt);
        match &mut self.leaving {
            Some(leaving) if leaving.bound.attempt == attempt && !leaving.received => {
                leaving.received = true;
                leaving.held_bytes = 0;
                std::mem::take(&mut leaving.held)
            }
            _ => VecDeque::new(),
        }
    }

    /// The old attachment of a move through which MOVED has passed both ways: it carries nothing any more, and is forgotten.
    pub fn take_left(&mut self) -> Option<Bound<B>> {
        self.leaving
            .take_if(|leaving| leaving.sent && leaving.received)
            .map(|leaving| leaving.bound)
    }

    /// An attachment ended.
    pub fn closed(&mut self, attempt: u64) -> Closed<B> {
        let is_present = self
            .present
            .as_ref()
            .is_some_and(|present| present.attempt == attempt);
        let is_leaving = self
            .leaving
            .as_ref()
            .is_some_and(|leaving| leaving.bound.attempt == attempt);
        if !is_present && !is_leaving {
            return Closed::Nothing;
        }
        self.is_left_by_peer = false;
        let (present, leaving) = (
            self.present.take(),
            self.leaving.take().map(|leaving| leaving.bound),
        );
        Closed::Lost(if is_present { leaving } else { present })
    }

    /// Forgets every attachment: the tunnel is over.
    pub fn end(&mut self) -> Vec<Bound<B>> {
        let leaving = self.leaving.take().map(|leaving| leaving.bound);
        self.present.take().into_iter().chain(leaving).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(attempt: u64) -> Bound<&'static str> {
        Bound {
            attempt,
            bell: "channel",
        }
    }

    fn carried() -> Binding<&'static str> {
        let mut binding = Binding::new();
        assert_eq!(
            binding.take_over(bound(1), Manner::Resume).unwrap().len(),
            0
        );
        binding
    }

    fn message(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_newer_attachment_replaces_the_one_before_and_an_older_or_equal_one_does_not() {
        let mut binding = carried();
        let replaced = binding.take_over(bound(3), Manner::Resume).unwrap();
        assert_eq!(
            replaced
                .iter()
                .map(|bound| bound.attempt)
                .collect::<Vec<_>>(),
            [1]
        );
        assert_eq!(
            binding.take_over(bound(2), Manner::Resume).unwrap_err(),
            TakeOverError::Superseded
        );
        assert_eq!(
            binding.take_over(bound(3), Manner::Resume).unwrap_err(),
            TakeOverError::Superseded
        );
        assert_eq!(
            (binding.sending(1), binding.sending(3)),
            (Sending::Nothing, Sending::Mux)
        );
        assert_eq!(binding.received(1, message("late")), Receiving::Nothing);
    }

    #[test]
    fn a_move_keeps_the_order_and_lets_the_old_attachment_go_when_both_have_moved() {
        let mut binding = carried();
        assert!(
            binding
                .take_over(bound(2), Manner::Move)
                .unwrap()
                .is_empty()
        );
        assert_eq!(binding.received(2, message("second")), Receiving::Nothing);
        assert_eq!(
            binding.received(1, message("first")),
            Receiving::Handle(message("first"))
        );
        assert_eq!(
            (binding.sending(1), binding.sending(1)),
            (Sending::Moved, Sending::Nothing)
        );
        assert!(
            binding.take_left().is_none(),
            "the peer may still send there"
        );
        assert_eq!(binding.moved(1), VecDeque::from([message("second")]));
        assert_eq!(binding.take_left().unwrap().attempt, 1);
        assert_eq!(
            binding.received(2, message("third")),
            Receiving::Handle(message("third"))
        );
        assert!(
            matches!(binding.closed(1), Closed::Nothing),
            "it is not missed"
        );
    }

    #[test]
    fn a_peer_whose_old_link_is_faster_than_its_new_one_has_left_before_it_is_here() {
        let mut binding = carried();
        assert!(binding.moved(1).is_empty());
        binding.take_over(bound(2), Manner::Move).unwrap();
        assert_eq!(
            binding.received(2, message("first")),
            Receiving::Handle(message("first")),
            "nothing is waited for"
        );
        assert_eq!(binding.sending(1), Sending::Moved);
        assert_eq!(binding.take_left().unwrap().attempt, 1);
    }

    #[test]
    fn a_move_that_is_cut_loses_both_attachments() {
        for (cut, other) in [(1, 2), (2, 1)] {
            let mut binding = carried();
            binding.take_over(bound(2), Manner::Move).unwrap();
            let Closed::Lost(left) = binding.closed(cut) else {
                panic!("{cut} was part of it")
            };
            assert_eq!(left.unwrap().attempt, other);
            assert!(binding.present().is_none() && binding.admits(3) && !binding.admits(2));
            assert_eq!(binding.received(other, message("late")), Receiving::Nothing);
        }
    }

    #[test]
    fn there_is_no_move_from_nothing_and_none_within_another() {
        let mut unbound = Binding::new();
        assert_eq!(
            unbound.take_over(bound(2), Manner::Move).unwrap_err(),
            TakeOverError::NothingToMoveFrom
        );
        let mut binding = carried();
        binding.take_over(bound(2), Manner::Move).unwrap();
        assert_eq!(
            binding.take_over(bound(3), Manner::Move).unwrap_err(),
            TakeOverError::NothingToMoveFrom
        );
        assert_eq!(
            binding.take_over(bound(3), Manner::Resume).unwrap().len(),
            2,
            "but a resumption replaces both"
        );
    }

    #[test]
    fn what_a_move_holds_is_bounded() {
        let mut binding = carried();
        binding.take_over(bound(2), Manner::Move).unwrap();
        let much = Bytes::from(vec![0; HELD_MAX / 4 - HELD_MESSAGE]);
        assert!((0..4).all(|_| binding.received(2, much.clone()) == Receiving::Nothing));
        assert_eq!(binding.received(2, Bytes::new()), Receiving::TooMuch);
    }

    #[test]
    fn small_messages_that_a_move_holds_count_more_than_their_length() {
        let mut binding = carried();
        binding.take_over(bound(2), Manner::Move).unwrap();
        let held = (0..HELD_MAX)
            .take_while(|_| binding.received(2, message("a")) == Receiving::Nothing)
            .count();
        assert_eq!(held, HELD_MAX / (HELD_MESSAGE + 1));
    }
}
