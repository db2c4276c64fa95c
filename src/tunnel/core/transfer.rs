//! The messages of an attachment, between seal and mux: MOVE and MOVED concern the attachment, all
//! others the streams.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    binding::{ReceiveAction, SendAction, TakeoverKind},
    effects::TunnelEvent,
    state::{FIRST_ATTEMPT, TunnelCore, handle_of},
};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{self, MuxError, ResetCode};

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
            TakeoverKind::Resume | TakeoverKind::Move => self.mux.write_ping(now, out),
        }
    }

    /// Handles an opened message of this attachment.
    ///
    /// # Errors
    /// With the notice that closes the channel.
    pub(in crate::tunnel) fn receive(
        &mut self,
        now: Instant,
        attempt: u64,
        message: Bytes,
    ) -> Result<(), Notice> {
        let result = match message[..] {
            [] => {
                let notice = Notice::new(Code::Protocol, "the message contains no frame");
                self.end(ResetCode::Protocol, notice);
                return Ok(());
            }
            [mux::MOVED] => self.receive_moved(now, attempt),
            [mux::MOVE] => {
                self.effects.events.push(TunnelEvent::MoveRequested);
                return Ok(());
            }
            _ => match self.binding.received(attempt, message) {
                ReceiveAction::Handle(message) => self.mux.handle_message(now, message),
                ReceiveAction::Nothing => return Ok(()),
                ReceiveAction::Overflow => {
                    return Err(Notice::new(
                        Code::FlowControl,
                        "more data was sent during a move than the receiver may hold",
                    ));
                }
            },
        };
        if let Err(error) = result {
            // If END preceded the error, the peer has ended the tunnel.
            self.take_events();
            self.end(ResetCode::Protocol, violation(&error));
        }
        Ok(())
    }

    /// Handles MOVED, and the messages that were held until then.
    fn receive_moved(&mut self, now: Instant, attempt: u64) -> Result<(), MuxError> {
        let held = self.binding.moved(attempt);
        self.take_finished_move();
        held.into_iter()
            .try_for_each(|message| self.mux.handle_message(now, message))
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
                self.take_finished_move();
                TransmitResult::Last
            }
            SendAction::Mux if std::mem::take(&mut self.move_request_due) => {
                out.put_u8(mux::MOVE);
                TransmitResult::More
            }
            SendAction::Mux => self.transmit_mux(now, out),
        }
    }

    fn transmit_mux(&mut self, now: Instant, out: &mut BytesMut) -> TransmitResult {
        reserve(out, self.mux.unsent_bytes());
        let any = self.mux.poll_transmit(now, out, MAX_PAYLOAD);
        let more = any && self.mux.has_transmit();
        // While more data waits, the link asks again without a notification. Otherwise it asks only
        // after `request_transmit` has marked the channel ready.
        self.transmit_requested = more;
        self.effects.is_finished |= self.mux.is_end_of_tunnel_sent();
        match (any, more) {
            (false, _) => TransmitResult::Nothing,
            (true, false) => TransmitResult::Last,
            (true, true) => TransmitResult::More,
        }
    }

    /// Marks the channel ready if there is something to send. The link asks until nothing is left,
    /// so one notification per idle period is enough.
    pub(in crate::tunnel) fn request_transmit(&mut self) {
        if self.transmit_requested || !(self.move_request_due || self.mux.has_transmit()) {
            return;
        }
        let current = handle_of(self.binding.current());
        self.transmit_requested = current.is_some();
        if current.is_some() {
            self.effects.ready = current;
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
