//! What attachments do to a tunnel: take it over, carry its messages, lose it, leave it; and the end of the tunnel itself. Decides with
//! [`binding`](super::binding), under the lock; what follows from it outside of the tunnel is collected in [`Effects`] and done without.

use std::{
    sync::{Arc, MutexGuard},
    task::Waker,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use tracing::{info, warn};

use super::{
    attach::FIRST_ATTEMPT,
    binding::{Bound, Closed, Manner, Receiving, Sending, TakeOverError},
    handle::Standing,
    shared::{Bell, Shared, State, Uncarried},
};
use crate::{
    link::channel::{Code, Notice, Outbox},
    mux::{self, MuxError, ResetCode, Side},
    suspend::Moment,
};

/// The largest tunnel message before sealing, in bytes (PROTOCOL 12).
pub const MAX_PAYLOAD: usize = 65_536;

/// How long a move may take (PROTOCOL 12): what comes on the new attachment is held until the peer has left the old one.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What small frames may take beside the data of a message, and its tag, in bytes.
const SMALL_FRAMES: usize = 512;

/// Makes room for a message with so many bytes of data, or for the two that are written together. Those before have mostly been written by then, and
/// their memory, which is near, is used again.
fn reserve(out: &mut BytesMut, data: u64) {
    let needed = usize::try_from(data)
        .unwrap_or(MAX_PAYLOAD)
        .min(MAX_PAYLOAD)
        + SMALL_FRAMES;
    if out.capacity() < needed {
        out.reserve(if needed < MAX_PAYLOAD {
            needed
        } else {
            2 * needed
        });
    }
}

/// What is to be done when the state is unlocked.
#[derive(Default)]
pub struct Effects {
    pub wakers: SmallVec<[Waker; 2]>,
    /// The present channel has something to send.
    pub ring: Option<Bell>,
    /// The one that the tunnel moves from has its last message to send.
    pub ring_leaving: Option<Bell>,
    /// Channels that are to be closed once what they have is sent.
    pub closes: Vec<(Bell, Notice)>,
    /// The flow goes on after a loss: so many streams, and bytes that are sent again.
    pub resumed: Option<(usize, u64)>,
    /// The peer sent END.
    pub ended_by_peer: Option<ResetCode>,
    /// A move is complete.
    pub has_moved: bool,
    /// The tunnel is over, and nobody is left to be told.
    pub is_over: bool,
}

/// What was appended to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A message, and there is more.
    More,
    /// A message, and no more now.
    Last,
    Nothing,
}

/// The code of a notice about a tunnel that ended with `code`.
pub fn notice_code(code: ResetCode) -> Code {
    match code {
        ResetCode::Shutdown => Code::Shutdown,
        ResetCode::Protocol => Code::Protocol,
        ResetCode::Expired | ResetCode::Timeout => Code::Timeout,
        _ => Code::Cancelled,
    }
}

impl Shared {
    /// An attachment has proven itself: from now on it carries the tunnel.
    ///
    /// # Errors
    /// With which notice its channel is to be closed instead.
    pub fn take_over(&self, attempt: u64, bell: Bell, manner: Manner) -> Result<(), Notice> {
        let now = Instant::now();
        let mut state = self.state();
        if state.over.is_some() {
            return Err(Notice::new(Code::Cancelled, ""));
        }
        let replaced = state
            .binding
            .take_over(Bound { attempt, bell }, manner)
            .map_err(|error| match error {
                TakeOverError::Superseded => Notice::new(Code::Superseded, ""),
                TakeOverError::NothingToMoveFrom => Notice::new(Code::PeerLost, ""),
            })?;
        let is_first = attempt == FIRST_ATTEMPT;
        if manner == Manner::Resume && !is_first {
            state.mux.resume(now);
        }
        let mut effects = Effects::default();
        effects.closes.extend(
            replaced
                .into_iter()
                .map(|bound| (bound.bell, Notice::new(Code::Superseded, ""))),
        );
        effects.ring_leaving = state.binding.leaving().map(|leaving| leaving.bell.clone());
        effects.ring = state.binding.present().map(|present| present.bell.clone());
        state.rung = true;
        state.carried_since = now;
        state.move_until = if manner == Manner::Move {
            now.checked_add(MOVE_TIMEOUT)
        } else {
            None
        };
        if let Some(uncarried) = state.uncarried.take().filter(|_| !is_first) {
            state.waited = Some(Moment::now().since(uncarried.since));
        }
        self.standing.send_replace(Standing::Attached);
        self.settle_with(state, effects);
        Ok(())
    }

    /// Appends the first message of a candidate.
    pub fn greet(&self, attempt: u64, manner: Manner, out: &mut BytesMut) {
        let mut state = self.state();
        match manner {
            Manner::Resume if attempt != FIRST_ATTEMPT => state.mux.write_resume(out, MAX_PAYLOAD),
            Manner::Resume | Manner::Move => state.mux.write_ping(Instant::now(), out),
        }
    }

    /// Takes an opened message that came on this attachment.
    ///
    /// # Errors
    /// With which notice the channel is to be closed.
    pub fn receive(&self, attempt: u64, message: Bytes) -> Result<(), Notice> {
        if message.is_empty() {
            self.end(
                ResetCode::Protocol,
                Notice::new(Code::Protocol, "a message without a frame"),
            );
            return Ok(());
        }
        let mut state = self.state();
        let mut effects = Effects::default();
        let now = Instant::now();
        let result = match message[..] {
            [mux::MOVED] => {
                let held = state.binding.moved(attempt);
                self.take_left(&mut state, &mut effects);
                held.into_iter()
                    .try_for_each(|message| state.mux.handle_message(now, message))
            }
            [mux::MOVE] => {
                self.asked_to_move
                    .send_modify(|count| *count = count.wrapping_add(1));
                return Ok(());
            }
            _ => match state.binding.received(attempt, message) {
                Receiving::Handle(message) => state.mux.handle_message(now, message),
                Receiving::Nothing => return Ok(()),
                Receiving::TooMuch => {
                    return Err(Notice::new(
                        Code::FlowControl,
                        "too much was sent during a move",
                    ));
                }
            },
        };
        self.settle_with(state, effects);
        if let Err(error) = result {
            let code = if let MuxError::FlowControl(_) = error {
                Code::FlowControl
            } else {
                Code::Protocol
            };
            self.end(ResetCode::Protocol, Notice::new(code, error.to_string()));
        }
        Ok(())
    }

    /// Appends the next message of this attachment to be sealed.
    pub fn transmit(&self, attempt: u64, out: &mut BytesMut) -> Sent {
        let mut state = self.state();
        match state.binding.sending(attempt) {
            Sending::Nothing => Sent::Nothing,
            Sending::Moved => {
                out.put_u8(mux::MOVED);
                let mut effects = Effects::default();
                self.take_left(&mut state, &mut effects);
                self.unlock(state, effects);
                Sent::Last
            }
            Sending::Mux if std::mem::take(&mut state.move_due) => {
                out.put_u8(mux::MOVE);
                Sent::More
            }
            Sending::Mux => self.transmit_mux(state, out),
        }
    }

    fn transmit_mux(&self, mut state: MutexGuard<'_, State>, out: &mut BytesMut) -> Sent {
        reserve(out, state.mux.unsent_bytes());
        let any = state.mux.poll_transmit(Instant::now(), out, MAX_PAYLOAD);
        let more = any && state.mux.has_transmit();
        // The link asks again by itself as long as there is more, and otherwise only when the next `settle` rings.
        state.rung = more;
        let effects = Effects {
            is_over: state.mux.is_end_of_tunnel_sent(),
            ..Effects::default()
        };
        self.unlock(state, effects);
        match (any, more) {
            (false, _) => Sent::Nothing,
            (true, false) => Sent::Last,
            (true, true) => Sent::More,
        }
    }

    /// Lets the old attachment of a move go once MOVED has passed it both ways. The client closes its channel.
    fn take_left(&self, state: &mut State, effects: &mut Effects) {
        let Some(left) = state.binding.take_left() else {
            return;
        };
        effects.has_moved = true;
        state.move_until = None;
        if self.side == Side::Client {
            effects
                .closes
                .push((left.bell, Notice::new(Code::Cancelled, "")));
        }
    }

    /// An attachment ended, whether it carried the tunnel or not.
    pub fn lost(&self, attempt: u64, why: Notice) {
        let mut state = self.state();
        let Closed::Lost(other) = state.binding.closed(attempt) else {
            return;
        };
        let mut effects = Effects::default();
        effects
            .closes
            .extend(other.map(|bound| (bound.bell, Notice::new(Code::PeerLost, ""))));
        state.rung = false;
        state.move_until = None;
        if state.over.is_some() {
            effects.is_over = true;
            return self.unlock(state, effects);
        }
        let (since, streams) = (Moment::now(), state.mux.streams());
        let carried_s = since
            .awake
            .saturating_duration_since(state.carried_since)
            .as_secs_f32();
        state.uncarried = Some(Uncarried {
            since,
            time: self.port.resume_timeout,
        });
        self.standing.send_replace(Standing::Lost {
            since,
            why: why.clone(),
        });
        self.unlock(state, effects);
        self.port.commons.counts.lost.add(1);
        if streams == 0 {
            info!(tunnel = %self.id, carried_s, "the tunnel lost its link and waits for another: {why}");
        } else {
            warn!(tunnel = %self.id, carried_s, streams, "the tunnel lost its link and waits for another: {why}");
        }
    }

    /// The time of the driver's deadline has come.
    pub fn handle_timeout(&self, now: Moment) {
        let mut state = self.state();
        state.mux.handle_timeout(now.awake);
        let left_behind = state
            .move_until
            .filter(|until| *until <= now.awake)
            .and_then(|_| state.binding.leaving().cloned());
        let expired = state
            .uncarried
            .is_some_and(|uncarried| uncarried.is_expired(now));
        self.settle(state);
        if let Some(Bound { attempt, bell }) = left_behind {
            let notice = Notice::new(
                Code::Timeout,
                format!("the move took longer than {MOVE_TIMEOUT:?}"),
            );
            self.lost(attempt, notice.clone());
            bell.outbox
                .close_after_drain(bell.channel, &Notice::new(notice.code, ""));
        }
        if expired {
            self.port.commons.counts.expired.add(1);
            let waited = self.port.resume_timeout;
            self.end(
                ResetCode::Expired,
                Notice::new(
                    Code::Timeout,
                    format!("nothing carried the tunnel for {waited:?}"),
                ),
            );
        }
    }

    /// Ends the tunnel. The peer is told when something carries it.
    pub fn end(&self, code: ResetCode, notice: Notice) {
        let mut state = self.state();
        if state.over.is_some() {
            return;
        }
        let mut effects = Effects::default();
        state.mux.close(code);
        match state.binding.present().map(|present| present.bell.clone()) {
            Some(bell) => {
                effects.ring = Some(bell.clone());
                effects.closes.push((bell, Notice::new(notice.code, "")));
            }
            None => effects.is_over = true,
        }
        effects.closes.extend(
            state
                .binding
                .leaving()
                .map(|leaving| (leaving.bell.clone(), Notice::new(notice.code, ""))),
        );
        state.finish(notice, &mut effects);
        self.unlock(state, effects);
    }

    /// Asks the client to attach the tunnel anew, if it is attached there.
    pub fn ask_to_move(&self, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        let is_there = state
            .binding
            .present()
            .is_some_and(|present| Arc::ptr_eq(&present.bell.outbox, outbox));
        state.move_due |= is_there && state.over.is_none();
        self.settle(state);
    }

    /// Does what was decided under the lock.
    pub(super) fn carry_out(&self, effects: Effects) {
        let Effects {
            wakers,
            ring,
            ring_leaving,
            closes,
            resumed,
            has_moved,
            is_over,
            ..
        } = effects;
        wakers.into_iter().for_each(Waker::wake);
        for bell in ring_leaving.into_iter().chain(ring) {
            bell.outbox.ready(bell.channel);
        }
        for (bell, notice) in closes {
            bell.outbox.close_after_drain(bell.channel, &notice);
        }
        if let Some((streams, again_bytes)) = resumed {
            let waited_ms = self.state().waited.take().unwrap_or_default().as_millis() as u64;
            self.port.commons.counts.resumed.add(1);
            self.port.commons.counts.again_bytes.add(again_bytes);
            info!(tunnel = %self.id, waited_ms, streams, again_bytes, "the tunnel goes on");
        }
        if has_moved {
            self.port.commons.counts.moved.add(1);
            info!(tunnel = %self.id, "the tunnel has moved to another link");
        }
        if is_over {
            self.standing.send_replace(Standing::Over);
        }
    }
}
