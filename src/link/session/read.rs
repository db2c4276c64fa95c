//! Reads messages from the socket and dispatches their frames.

use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::{
    BATCH_BYTES, BatchResult, EndReason, Handler, LinkDriver, MESSAGE_COST, MESSAGE_TIMEOUT,
    PartialMessage,
};
use crate::net::websocket::SocketEnd;
use report_proto::frame::{self, Code, Frame, Notice};

/// Bytes of a partial message that are neither charged nor subject to a deadline. Every socket
/// reads that much at a time.
const UNCHARGED_BYTES: usize = 4 * 1024;

impl LinkDriver {
    pub(super) fn read<H: Handler>(
        &mut self,
        context: &mut Context<'_>,
        handler: &mut H,
    ) -> Result<BatchResult, EndReason> {
        let mut budget = BATCH_BYTES;
        while budget > 0 {
            // Back-pressure: a peer that does not read its answers is not read either.
            if self.has_answer_backlog() {
                return Ok(BatchResult::Blocked);
            }
            match self.socket.poll_receive(context) {
                Poll::Pending => return Ok(BatchResult::Blocked),
                Poll::Ready(None) => return Err(EndReason::PeerClosed),
                Poll::Ready(Some(Ok(message))) => {
                    budget = budget.saturating_sub(message.len() + MESSAGE_COST);
                    self.dispatch(message, handler)?;
                }
                Poll::Ready(Some(Err(error))) if error.is_violation() => {
                    return Err(EndReason::ProtocolViolation(Notice::new(
                        Code::Protocol,
                        error.to_string(),
                    )));
                }
                Poll::Ready(Some(Err(error))) => return Err(EndReason::ConnectionLost(error)),
            }
        }
        Ok(BatchResult::BudgetUsed)
    }

    /// Whether the peer leaves its answers unread, so that this end stops reading. Only the
    /// accepting end stops: two ends that both stopped would wait for each other.
    pub(super) fn has_answer_backlog(&self) -> bool {
        self.socket.end() == SocketEnd::Accepted && self.outbox.has_answer_backlog()
    }

    /// Charges a partially received message, and ends the link if its rest does not arrive in time
    /// (PROTOCOL 6.2).
    pub(super) fn check_partial_message(&mut self, now: Instant) -> Result<(), EndReason> {
        let PartialMessage {
            charged,
            since,
            messages,
        } = &mut self.partial;
        let held = self.socket.partial_message_bytes();
        let now_charged = if held > UNCHARGED_BYTES { held } else { 0 };
        if now_charged != *charged {
            self.outbox
                .adjust_charge(std::mem::replace(charged, now_charged), now_charged);
        }
        let complete = self.socket.messages();
        // A complete message since then means that this is another one: its deadline starts now.
        if *charged == 0 || complete != *messages {
            (*since, *messages) = (None, complete);
        }
        let is_late = *charged > 0
            && now.saturating_duration_since(*since.get_or_insert(now)) >= MESSAGE_TIMEOUT;
        // A role keeps waiting: its path may be slow, and it trusts its master.
        if is_late && self.socket.end() == SocketEnd::Accepted {
            return Err(EndReason::Requested(Notice::new(
                Code::Timeout,
                "a message was not complete in time",
            )));
        }
        Ok(())
    }

    fn dispatch<H: Handler>(
        &mut self,
        mut message: BytesMut,
        handler: &mut H,
    ) -> Result<(), EndReason> {
        // The fast path: DATA keeps its mutable buffer, which the channel end decrypts in place.
        if let Some(channel) = frame::data_channel(&message) {
            message.advance(frame::DATA_HEADER_LENGTH);
            self.deliver(channel, message);
            return Ok(());
        }
        let frame = Frame::decode(message.freeze()).map_err(|error| {
            EndReason::ProtocolViolation(Notice::new(Code::Protocol, error.to_string()))
        })?;
        self.received_other |= !matches!(frame, Frame::Ping(_) | Frame::Pong(_));
        match frame {
            // The fast path above handles DATA.
            Frame::Data { .. } => {}
            Frame::Close { channel, notice } => self.outbox.on_peer_close(channel, notice),
            Frame::Pause(channel) => self.outbox.on_peer_pause(channel, true),
            Frame::Resume(channel) => self.outbox.on_peer_pause(channel, false),
            Frame::Ping(token) => self.outbox.pong(token),
            Frame::Pong(token) if token == self.ping_token => {
                self.keep_alive.on_pong();
                // The PONG proves that everything sent before the PING arrived. No other message
                // from the peer proves that.
                self.is_stuck = false;
            }
            // A PONG with another token answers an older PING.
            Frame::Pong(_) | Frame::Extension(_) => {}
            Frame::Error(notice) => return Err(EndReason::PeerError(notice)),
            other => handler.on_frame(other).map_err(EndReason::Requested)?,
        }
        Ok(())
    }

    fn deliver(&mut self, channel: u32, payload: BytesMut) {
        self.received_other = true;
        self.outbox.count_moved(payload.len());
        // DATA may still be in flight for a channel that this side has closed.
        let Some(channel_end) = self.outbox.receiving_end(channel) else {
            return;
        };
        match channel_end.receive(payload) {
            // An accepted payload shows an established channel, so the peer may make the buffers
            // large.
            Ok(()) => self.socket.allow_large_reads(),
            Err(notice) => self.outbox.close(channel, &notice),
        }
    }
}
