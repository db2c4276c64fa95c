//! The messages of an attachment, between seal and mux: MOVE and MOVED concern the attachment, all
//! others the streams.

use std::{sync::Arc, time::Instant};

use crate::suspend::Moment;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    binding::{LaneState, SendAction, TakeoverKind},
    effects::TunnelEvent,
    state::{FIRST_ATTEMPT, TunnelCore},
};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{self, LaneId, MuxError, ResetCode};

/// Maximum length of a tunnel message before sealing, in bytes (PROTOCOL 12).
const MAX_PAYLOAD: usize = 65_536;

/// Bytes that small frames may take in addition to the data of a message and its tag.
const SMALL_FRAMES: usize = 512;

/// What [`TunnelCore::transmit`] appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum TransmitResult {
    /// A message, and more messages follow.
    More,
    /// A message, and no more for now.
    Last,
    Nothing,
}

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

impl TunnelCore {
    /// Appends the first message of a candidate. It bypasses the binding, which does not know a
    /// candidate.
    pub(in crate::tunnel) fn write_first_message(
        &mut self,
        now: Instant,
        attempt: u64,
        kind: TakeoverKind,
        out: &mut BytesMut,
    ) {
        match kind {
            // A resumption starts with what this end has received; any other attachment has nothing
            // to report and sends PING as its proof.
            TakeoverKind::Resume if attempt != FIRST_ATTEMPT => {
                self.mux.write_resume(out, MAX_PAYLOAD);
            }
            TakeoverKind::Resume | TakeoverKind::Join => self.mux.write_ping(now, out),
        }
    }

    /// Handles an opened message of this attachment.
    ///
    /// # Errors
    /// With the notice that closes the channel.
    pub(in crate::tunnel) fn receive(
        &mut self,
        now: Moment,
        attempt: u64,
        message: Bytes,
    ) -> Result<(), Notice> {
        // This end closed the attachment before.
        let Some(lane) = self.binding.lane_mut(attempt) else {
            return Ok(());
        };
        // A candidate sends one message, so a second one shows that the peer has taken over.
        if std::mem::replace(&mut lane.has_received, true) {
            self.takeover_deadline = None;
        }
        match message[..] {
            [] => {
                let notice = Notice::new(Code::Protocol, "the message contains no frame");
                self.end(ResetCode::Protocol, notice);
            }
            [mux::MOVED] => return self.on_moved(now, attempt),
            [mux::MOVE] => {
                if let Some(lane) = self.binding.lane_mut(attempt) {
                    lane.is_move_requested = true;
                }
                self.effects.events.push(TunnelEvent::MoveRequested);
            }
            _ => {
                let lane = LaneId(attempt);
                match self.mux.handle_message(now.awake, lane, message) {
                    Ok(()) => self.close_reported(now),
                    Err(error) => self.end_after_violation(&error),
                }
            }
        }
        Ok(())
    }

    /// Closes the lanes that the peer has reported as lost.
    fn close_reported(&mut self, now: Moment) {
        self.take_events();
        for LaneId(attempt) in std::mem::take(&mut self.lost_by_peer) {
            self.lost_by_peer(now, attempt);
        }
    }

    /// Ends the tunnel because the peer broke the protocol.
    pub(super) fn end_after_violation(&mut self, error: &MuxError) {
        // If END preceded the error, the peer has ended the tunnel.
        self.take_events();
        self.end(ResetCode::Protocol, violation(error));
    }

    /// Appends the next message of this attachment, before sealing.
    pub(in crate::tunnel) fn transmit(
        &mut self,
        now: Instant,
        attempt: u64,
        out: &mut BytesMut,
    ) -> TransmitResult {
        match self.binding.sending(attempt) {
            SendAction::Nothing => TransmitResult::Nothing,
            SendAction::Moved => {
                out.put_u8(mux::MOVED);
                TransmitResult::Last
            }
            SendAction::Move => {
                out.put_u8(mux::MOVE);
                TransmitResult::More
            }
            SendAction::Ping => {
                self.mux.write_ping(now, out);
                TransmitResult::More
            }
            SendAction::Mux => self.transmit_mux(now, attempt, out),
        }
    }

    fn transmit_mux(&mut self, now: Instant, attempt: u64, out: &mut BytesMut) -> TransmitResult {
        let lane = LaneId(attempt);
        reserve(out, self.mux.unsent_bytes());
        let any = self.mux.poll_transmit(now, lane, out, MAX_PAYLOAD);
        let more = any && self.mux.has_transmit(lane);
        // While more data waits, the link asks again without a notification. Otherwise it asks only
        // after `request_transmit` has marked the channel ready.
        if let Some(lane) = self.binding.lane_mut(attempt) {
            lane.transmit_requested = more;
        }
        self.effects.is_finished |= self.mux.is_end_of_tunnel_sent();
        match (any, more) {
            (false, _) => TransmitResult::Nothing,
            (true, false) => TransmitResult::Last,
            (true, true) => TransmitResult::More,
        }
    }

    /// Marks the channels ready that have something to send. The link asks until nothing is left,
    /// so one notification per idle period is enough.
    pub(in crate::tunnel) fn request_transmit(&mut self) {
        for lane in self.binding.lanes_mut() {
            let is_idle = lane.state == LaneState::Active && !lane.transmit_requested;
            let id = LaneId(lane.bound.attempt);
            if is_idle && (lane.move_request_due || self.mux.has_transmit(id)) {
                lane.transmit_requested = true;
                self.effects.ready.push(Arc::clone(&lane.bound.handle));
            }
        }
    }
}

/// Returns the notice with which a violation of the protocol ends the tunnel.
fn violation(error: &MuxError) -> Notice {
    let code = match error {
        MuxError::FlowControl(_) => Code::FlowControl,
        _ => Code::Protocol,
    };
    Notice::new(code, error.to_string())
}
