//! The transitions of a tunnel: an attachment takes it over, carries its messages, is lost or
//! moves; and the tunnel ends.
//!
//! [`binding`](super::binding) decides under the lock. Effects outside the tunnel are collected in
//! [`Effects`] and run after the lock is released.

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
    binding::{BoundAttachment, Closed, ReceiveAction, SendAction, TakeOverError, TakeoverKind},
    handle::TunnelStatus,
    shared::{ChannelHandle, Detached, TunnelShared, TunnelState},
};
use crate::{link::Outbox, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{self, MuxError, ResetCode, TunnelSide};

/// Maximum length of a tunnel message before sealing, in bytes (PROTOCOL 12).
pub(super) const MAX_PAYLOAD: usize = 65_536;

/// How long a move may take (PROTOCOL 12). Messages on the new attachment are held until the peer
/// has left the old one.
pub(crate) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that small frames may take in addition to the data of a message and its tag.
const SMALL_FRAMES: usize = 512;

/// Reserves memory for a message with `data` bytes, or for two messages if they are written
/// together. The link has usually written the previous messages by now, so their memory, still in
/// the cache, is reused.
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

/// Actions to run after the state is unlocked.
#[derive(Default)]
pub(super) struct Effects {
    pub wakers: SmallVec<[Waker; 2]>,
    /// The channel that now has something to send.
    pub transmit_ready: Option<ChannelHandle>,
    /// The old channel of a move, which has its last message to send.
    pub transmit_ready_old: Option<ChannelHandle>,
    /// Channels to close after they have drained.
    pub closes: Vec<(ChannelHandle, Notice)>,
    /// The tunnel was resumed after a loss: the number of streams, and of retransmitted bytes.
    pub resumed: Option<(usize, u64)>,
    /// The peer sent END.
    pub ended_by_peer: Option<ResetCode>,
    /// A move is complete.
    pub has_moved: bool,
    /// The tunnel has ended and nothing is left to send to the peer.
    pub is_finished: bool,
}

/// What [`TunnelShared::transmit`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransmitResult {
    /// A message, and more messages follow.
    More,
    /// A message, and no more for now.
    Last,
    Nothing,
}

/// Returns the notice code for a tunnel that ended with `code`.
pub(super) fn notice_code(code: ResetCode) -> Code {
    match code {
        ResetCode::Shutdown => Code::Shutdown,
        ResetCode::Protocol => Code::Protocol,
        ResetCode::Expired | ResetCode::Timeout => Code::Timeout,
        _ => Code::Cancelled,
    }
}

impl TunnelShared {
    /// Binds an attachment that has proven itself: from now on it carries the tunnel.
    ///
    /// # Errors
    /// With the notice that closes its channel instead.
    pub(super) fn take_over(
        &self,
        attempt: u64,
        handle: ChannelHandle,
        kind: TakeoverKind,
    ) -> Result<(), Notice> {
        let now = Instant::now();
        let mut state = self.state();
        if state.end_notice.is_some() {
            return Err(Notice::new(Code::Cancelled, ""));
        }
        let replaced = state
            .binding
            .take_over(BoundAttachment { attempt, handle }, kind)
            .map_err(|error| match error {
                TakeOverError::Superseded => Notice::new(Code::Superseded, ""),
                TakeOverError::NothingToMoveFrom => Notice::new(Code::PeerLost, ""),
            })?;
        let is_first = attempt == FIRST_ATTEMPT;
        // Data in flight on the previous attachment may be lost, so the mux retransmits what the
        // peer has not acknowledged. After a move nothing is lost.
        if kind == TakeoverKind::Resume && !is_first {
            state.mux.resume(now);
        }
        let mut effects = Effects::default();
        effects.closes.extend(
            replaced
                .into_iter()
                .map(|bound| (bound.handle, Notice::new(Code::Superseded, ""))),
        );
        // MOVED goes out on the old attachment: the peer then knows that nothing follows there.
        effects.transmit_ready_old = state
            .binding
            .moving_from()
            .map(|moving_from| moving_from.handle.clone());
        effects.transmit_ready = state
            .binding
            .current()
            .map(|current| current.handle.clone());
        state.transmit_requested = true;
        state.attached_since = now;
        // A peer that never sends MOVED must not make this end hold messages indefinitely.
        state.move_deadline = if kind == TakeoverKind::Move {
            now.checked_add(MOVE_TIMEOUT)
        } else {
            None
        };
        if let Some(detached) = state.detached.take().filter(|_| !is_first) {
            state.detached_for = Some(Moment::now().since(detached.since));
        }
        self.status.send_replace(TunnelStatus::Attached);
        self.publish_with(state, effects);
        Ok(())
    }

    /// Appends the first message of a candidate.
    pub(super) fn write_first_message(&self, attempt: u64, kind: TakeoverKind, out: &mut BytesMut) {
        let mut state = self.state();
        match kind {
            // A resumption starts with what this end has received; any other attachment has nothing
            // to report and sends PING as its proof.
            TakeoverKind::Resume if attempt != FIRST_ATTEMPT => {
                state.mux.write_resume(out, MAX_PAYLOAD)
            }
            TakeoverKind::Resume | TakeoverKind::Move => state.mux.write_ping(Instant::now(), out),
        }
    }

    /// Handles an opened message of this attachment.
    ///
    /// # Errors
    /// With the notice that closes the channel.
    pub(super) fn receive(&self, attempt: u64, message: Bytes) -> Result<(), Notice> {
        if message.is_empty() {
            self.end(
                ResetCode::Protocol,
                Notice::new(Code::Protocol, "the message contains no frame"),
            );
            return Ok(());
        }
        let mut state = self.state();
        let mut effects = Effects::default();
        let now = Instant::now();
        let result = match message[..] {
            // MOVED and MOVE concern the attachment, not the streams, so they bypass the mux.
            [mux::MOVED] => {
                let held = state.binding.moved(attempt);
                self.take_finished_move(&mut state, &mut effects);
                held.into_iter()
                    .try_for_each(|message| state.mux.handle_message(now, message))
            }
            [mux::MOVE] => {
                self.move_requests
                    .send_modify(|count| *count = count.wrapping_add(1));
                return Ok(());
            }
            _ => match state.binding.received(attempt, message) {
                ReceiveAction::Handle(message) => state.mux.handle_message(now, message),
                ReceiveAction::Nothing => return Ok(()),
                ReceiveAction::Overflow => {
                    return Err(Notice::new(
                        Code::FlowControl,
                        "more data was sent during a move than the receiver may hold",
                    ));
                }
            },
        };
        self.publish_with(state, effects);
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

    /// Appends the next message of this attachment, before sealing.
    pub(super) fn transmit(&self, attempt: u64, out: &mut BytesMut) -> TransmitResult {
        let mut state = self.state();
        match state.binding.sending(attempt) {
            SendAction::Nothing => TransmitResult::Nothing,
            SendAction::Moved => {
                out.put_u8(mux::MOVED);
                let mut effects = Effects::default();
                self.take_finished_move(&mut state, &mut effects);
                self.unlock(state, effects);
                TransmitResult::Last
            }
            SendAction::Mux if std::mem::take(&mut state.move_request_due) => {
                out.put_u8(mux::MOVE);
                TransmitResult::More
            }
            SendAction::Mux => self.transmit_mux(state, out),
        }
    }

    fn transmit_mux(
        &self,
        mut state: MutexGuard<'_, TunnelState>,
        out: &mut BytesMut,
    ) -> TransmitResult {
        reserve(out, state.mux.unsent_bytes());
        let any = state.mux.poll_transmit(Instant::now(), out, MAX_PAYLOAD);
        let more = any && state.mux.has_transmit();
        // While more data waits, the link asks again without a notification. Otherwise it asks only
        // after the next `publish` has marked the channel ready.
        state.transmit_requested = more;
        let effects = Effects {
            is_finished: state.mux.is_end_of_tunnel_sent(),
            ..Effects::default()
        };
        self.unlock(state, effects);
        match (any, more) {
            (false, _) => TransmitResult::Nothing,
            (true, false) => TransmitResult::Last,
            (true, true) => TransmitResult::More,
        }
    }

    /// Releases the old attachment of a move after MOVED was sent and received on it. The client
    /// closes its channel.
    fn take_finished_move(&self, state: &mut TunnelState, effects: &mut Effects) {
        let Some(left) = state.binding.take_finished_move() else {
            return;
        };
        effects.has_moved = true;
        state.move_deadline = None;
        if self.side == TunnelSide::Client {
            effects
                .closes
                .push((left.handle, Notice::new(Code::Cancelled, "")));
        }
    }

    /// Handles the end of an attachment, whether it carried the tunnel or not.
    pub(super) fn attachment_lost(&self, attempt: u64, why: Notice) {
        let mut state = self.state();
        let Closed::Lost(other) = state.binding.closed(attempt) else {
            return;
        };
        let mut effects = Effects::default();
        effects
            .closes
            .extend(other.map(|bound| (bound.handle, Notice::new(Code::PeerLost, ""))));
        state.transmit_requested = false;
        state.move_deadline = None;
        if state.end_notice.is_some() {
            effects.is_finished = true;
            return self.unlock(state, effects);
        }
        let (since, streams) = (Moment::now(), state.mux.streams());
        let carried_s = since
            .awake
            .saturating_duration_since(state.attached_since)
            .as_secs_f32();
        state.detached = Some(Detached {
            since,
            timeout: self.port.resume_timeout,
        });
        self.status.send_replace(TunnelStatus::Lost {
            since,
            why: why.clone(),
        });
        self.unlock(state, effects);
        self.port.process_shared.counters.lost.add(1);
        if streams == 0 {
            info!(tunnel = %self.id, carried_s, reason = %why, "tunnel lost its link");
        } else {
            warn!(tunnel = %self.id, carried_s, streams, reason = %why, "tunnel lost its link");
        }
    }

    /// Handles the deadline of the driver.
    pub(super) fn handle_timeout(&self, now: Moment) {
        let mut state = self.state();
        state.mux.handle_timeout(now.awake);
        let overdue_move = state
            .move_deadline
            .filter(|until| *until <= now.awake)
            .and_then(|_| state.binding.moving_from().cloned());
        let expired = state
            .detached
            .is_some_and(|detached| detached.is_expired(now));
        self.publish(state);
        if let Some(BoundAttachment { attempt, handle }) = overdue_move {
            let notice = Notice::new(
                Code::Timeout,
                format!("the move took longer than {MOVE_TIMEOUT:?}"),
            );
            self.attachment_lost(attempt, notice.clone());
            handle
                .outbox
                .close_after_drain(handle.channel, &Notice::new(notice.code, ""));
        }
        if expired {
            self.port.process_shared.counters.expired.add(1);
            let waited = self.port.resume_timeout;
            self.end(
                ResetCode::Expired,
                Notice::new(
                    Code::Timeout,
                    format!("the tunnel had no attachment for {waited:?}"),
                ),
            );
        }
    }

    /// Ends the tunnel. The peer receives END if an attachment carries the tunnel.
    pub(super) fn end(&self, code: ResetCode, notice: Notice) {
        let mut state = self.state();
        if state.end_notice.is_some() {
            return;
        }
        let mut effects = Effects::default();
        state.mux.close(code);
        match state
            .binding
            .current()
            .map(|current| current.handle.clone())
        {
            Some(handle) => {
                effects.transmit_ready = Some(handle.clone());
                effects.closes.push((handle, Notice::new(notice.code, "")));
            }
            // Without an attachment the peer cannot receive END. It expires on its own.
            None => effects.is_finished = true,
        }
        effects.closes.extend(
            state
                .binding
                .moving_from()
                .map(|moving_from| (moving_from.handle.clone(), Notice::new(notice.code, ""))),
        );
        state.finish(notice, &mut effects);
        self.unlock(state, effects);
    }

    /// Asks the client to reattach the tunnel, if it is attached through `outbox`.
    pub(super) fn request_move(&self, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        // A tunnel that has left this link already does not have to move.
        let is_there = state
            .binding
            .current()
            .is_some_and(|current| Arc::ptr_eq(&current.handle.outbox, outbox));
        state.move_request_due |= is_there && state.end_notice.is_none();
        self.publish(state);
    }

    /// Runs the effects that were collected under the lock.
    pub(super) fn run_effects(&self, effects: Effects) {
        let Effects {
            wakers,
            transmit_ready,
            transmit_ready_old,
            closes,
            resumed,
            has_moved,
            is_finished,
            ..
        } = effects;
        wakers.into_iter().for_each(Waker::wake);
        for handle in transmit_ready_old.into_iter().chain(transmit_ready) {
            handle.outbox.ready(handle.channel);
        }
        for (handle, notice) in closes {
            handle.outbox.close_after_drain(handle.channel, &notice);
        }
        if let Some((streams, resent_bytes)) = resumed {
            let waited_ms = self
                .state()
                .detached_for
                .take()
                .unwrap_or_default()
                .as_millis() as u64;
            self.port.process_shared.counters.resumed.add(1);
            self.port
                .process_shared
                .counters
                .resent_bytes
                .add(resent_bytes);
            info!(tunnel = %self.id, waited_ms, streams, resent_bytes, "tunnel resumed");
        }
        if has_moved {
            self.port.process_shared.counters.moved.add(1);
            info!(tunnel = %self.id, "tunnel moved to another link");
            // The status is the same, but the tunnel may move again: wakes those that wait for it.
            self.status.send_modify(|_| {});
        }
        if is_finished {
            self.status.send_replace(TunnelStatus::Ended);
        }
    }
}
