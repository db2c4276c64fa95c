//! Writes the messages of the outbox to the socket, and closes a link that ends.

use std::{task::Context, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{BATCH_BYTES, BatchResult, EndReason, LinkDriver, MESSAGE_COST};
use crate::{
    link::{keep_alive::SentKind, outbox::Outgoing},
    net::websocket::{MessageBody, SocketError},
};
use report_proto::frame::{self, Frame};

/// The time that an ending link has to send its last frames and to receive the peer's closing
/// frame.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

impl LinkDriver {
    pub(super) fn write(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<BatchResult, EndReason> {
        if !self.flush_rest(context)? {
            self.keep_alive.on_blocked(now);
            return Ok(BatchResult::Blocked);
        }
        let mut budget = BATCH_BYTES;
        let mut result = BatchResult::BudgetUsed;
        let mut sent_kind = SentKind::Pong;
        while budget > 0 {
            if self
                .socket
                .poll_ready(context)
                .map_err(EndReason::ConnectionLost)?
                .is_pending()
            {
                result = BatchResult::Blocked;
                break;
            }
            let Some(outgoing) = self.outbox.next(&mut self.buffer) else {
                result = BatchResult::Blocked;
                // Flush only when the outbox is empty, so that small messages share a write.
                self.flushed = self
                    .socket
                    .poll_flush(context)
                    .map_err(EndReason::ConnectionLost)?
                    .is_ready();
                break;
            };
            let (kind, cost) = self.send(outgoing)?;
            sent_kind = sent_kind.max(kind);
            budget = budget.saturating_sub(cost);
        }
        // One report per batch is enough: the keep-alive only needs the most demanding kind.
        if budget < BATCH_BYTES {
            self.keep_alive.on_sent(now, sent_kind);
        }
        Ok(result)
    }

    /// Writes what is left of earlier messages. Returns whether everything has left. Until it has,
    /// the outbox keeps its messages, so their order stays open.
    fn flush_rest(&mut self, context: &mut Context<'_>) -> Result<bool, EndReason> {
        if !self.flushed {
            self.flushed = self
                .socket
                .poll_flush(context)
                .map_err(EndReason::ConnectionLost)?
                .is_ready();
        }
        Ok(self.flushed)
    }

    /// Passes a message to the socket. Returns its kind and its cost in the batch.
    fn send(&mut self, outgoing: Outgoing) -> Result<(SentKind, usize), EndReason> {
        self.flushed = false;
        let (kind, length, sent) = match outgoing {
            Outgoing::Control(message) => {
                let (kind, length) = (self.classify(&message), message.len());
                let sent = self.socket.start_send(&[], MessageBody::Shared(message));
                (kind, length, sent)
            }
            Outgoing::Data(channel, payload) => {
                let length = payload.len();
                self.outbox.count_moved(length);
                let header = frame::data_header(channel);
                let sent = self.socket.start_send(&header, payload);
                (SentKind::Payload, length, sent)
            }
        };
        sent.map_err(EndReason::ConnectionLost)?;
        Ok((kind, length + MESSAGE_COST))
    }

    /// Returns the kind of a control message that is about to be sent.
    fn classify(&mut self, message: &[u8]) -> SentKind {
        if frame::is_ping(message) {
            self.ping_queued = false;
            SentKind::Ping
        } else if frame::is_pong(message) {
            SentKind::Pong
        } else {
            SentKind::Payload
        }
    }

    /// Sends the last frames, then performs the closing handshake if the peer can still answer it.
    pub(super) async fn close_gracefully(mut self, reason: &EndReason) {
        // The memory of a partial message is no longer charged to an account, so it must not be
        // kept.
        self.socket.discard();
        let error = match reason {
            // The connection does not work any more: there is no peer to close with.
            EndReason::TimedOut(_) | EndReason::ConnectionLost(_) => return,
            EndReason::Requested(notice) | EndReason::ProtocolViolation(notice) => {
                Some(Frame::Error(notice.clone()).to_message())
            }
            EndReason::Cancelled | EndReason::PeerError(_) | EndReason::PeerClosed => None,
        };
        let deadline = Instant::now() + CLOSE_DEADLINE;
        // A peer that has closed the WebSocket discards further messages.
        if !matches!(reason, EndReason::PeerClosed) {
            match tokio::time::timeout_at(deadline, self.send_last_frames(error)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        self.socket
            .close(deadline.saturating_duration_since(Instant::now()))
            .await;
    }

    /// Sends the queued control frames, then ERROR if there is one.
    async fn send_last_frames(&mut self, error: Option<Bytes>) -> Result<(), SocketError> {
        while let Some(message) = self.outbox.next_control() {
            self.socket.feed(message).await?;
        }
        match error {
            Some(error) => self.socket.feed(error).await,
            None => Ok(()),
        }
    }
}
