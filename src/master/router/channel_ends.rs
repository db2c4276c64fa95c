//! The two ends of a channel pair: data, pauses and the end of its two channels.

use std::sync::{Arc, MutexGuard, atomic::Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

use super::{ChannelPair, ChannelRef, MemoryClass, PairPhase, PairSide, PairState};
use crate::{
    link::{ChannelEnd, Transmit},
    master::policies::{DeniedRequest, denied_notice},
    net::websocket::MessageBody,
};
use report_proto::frame::{Code, Frame, Notice};

impl ChannelPair {
    pub(super) fn channel_end(self: &Arc<Self>, side: PairSide) -> Arc<dyn ChannelEnd> {
        Arc::new(PairEnd {
            pair: Arc::clone(self),
            side,
        })
    }

    fn end(&self, side: PairSide) -> Option<ChannelRef> {
        match side {
            PairSide::Client => Some(self.client.clone()),
            PairSide::Server => self.state().server.clone(),
        }
    }

    /// Locks the state for a payload that `side` sent. The first DATA of the server answers the
    /// ATTACH.
    ///
    /// # Errors
    /// When a policy denies the tunnel. The client's channel is closed.
    fn state_after_answer(
        self: &Arc<Self>,
        side: PairSide,
    ) -> Result<MutexGuard<'_, PairState>, Notice> {
        let mut state = self.state();
        if let (PairPhase::Pending(ticket), PairSide::Server) = (&state.phase, side) {
            let ticket = *ticket;
            state.phase = PairPhase::Spliced;
            self.recharge(&mut state, MemoryClass::Proven);
            drop(state);
            self.on_answer(ticket);
            // `on_answer` dispatched other requests, so the pair's lock was free in between.
            state = self.state();
            // The client may have closed the channel in between.
            if matches!(state.phase, PairPhase::Spliced)
                && let Some(server) = state.server.clone()
                && let Err(denied) = self.enter_tunnel(&mut state, &server)
            {
                drop(state);
                let key = DeniedRequest::Attach(self.key);
                let client = &self.client.link.peer;
                self.router.report_denied(client, key, denied);
                return Err(self.abort(side, denied_notice(denied)));
            }
        }
        Ok(state)
    }

    /// Queues a payload that `side` sent.
    fn enqueue(self: &Arc<Self>, side: PairSide, payload: Bytes) -> Result<(), Notice> {
        let length = payload.len() as u64;
        let mut state = self.state_after_answer(side)?;
        match (&state.phase, side) {
            (PairPhase::Spliced, _) => {}
            (PairPhase::Closed, _) => return Ok(()),
            (PairPhase::New(_) | PairPhase::Waiting(..) | PairPhase::Pending(_), _) => {
                drop(state);
                return Err(self.abort(
                    side,
                    Notice::new(Code::Protocol, "DATA before the server's answer"),
                ));
            }
        }
        let Some(server) = state.server.clone() else {
            return Ok(());
        };
        state.cap_queue(side.sends());
        let (from, to) = match side {
            PairSide::Client => (&self.client, &server),
            PairSide::Server => (&server, &self.client),
        };
        let queue = state.queue(side.sends());
        match queue.push(payload, self.router.memory()) {
            Ok(pushed) => {
                let before = from.link.received_bytes.fetch_add(length, Relaxed);
                if before == 0 && length > 0 {
                    self.router.registry().on_data(from.link.number);
                }
                if pushed.pause {
                    from.link.outbox.control(&Frame::Pause(from.channel));
                }
                drop(state);
                // Only the first message wakes the other link: its task drains the queue from then
                // on.
                if pushed.first {
                    to.link.outbox.ready(to.channel);
                }
                Ok(())
            }
            Err(overflow) => {
                queue.discard(self.router.memory());
                drop(state);
                Err(self.abort(side, Notice::new(Code::Overflow, overflow.to_string())))
            }
        }
    }

    /// Returns the next payload for `side`, whose link has room.
    fn dequeue(&self, side: PairSide) -> Transmit {
        let mut state = self.state();
        if !state.admit_next(side.receives()) {
            return Transmit::Held;
        }
        let queue = state.queue(side.receives());
        let Some(popped) = queue.pop(self.router.memory()) else {
            return Transmit::Nothing;
        };
        state.count(side.receives(), popped.message.len());
        let server = state.server.as_ref();
        let ends = match side {
            PairSide::Client => server.map(|server| (server, &self.client)),
            PairSide::Server => server.map(|server| (&self.client, server)),
        };
        if let Some((from, to)) = ends {
            to.link
                .sent_bytes
                .fetch_add(popped.message.len() as u64, Relaxed);
            // A closed sender needs no RESUME.
            if popped.resume && !matches!(state.phase, PairPhase::Closed) {
                from.link.outbox.control(&Frame::Resume(from.channel));
            }
        }
        drop(state);
        let payload = MessageBody::Shared(popped.message);
        if popped.last {
            Transmit::Last(payload)
        } else {
            Transmit::More(payload)
        }
    }

    /// Closes the other end after its queued data, because `side` closed or its link ended.
    fn close_peer(&self, side: PairSide, notice: &Notice) {
        if let Some(other) = self.finish(side) {
            other.link.outbox.close_after_drain(other.channel, notice);
        }
    }

    /// Closes the other end at once, because `side` violated the protocol or its queue overflowed.
    /// Returns the notice for `side`.
    fn abort(&self, side: PairSide, notice: Notice) -> Notice {
        if let Some(other) = self.finish(side) {
            other.link.outbox.close(other.channel, &notice);
        }
        notice
    }

    /// Ends the pair because of `side`. Returns the other end if it exists and has not closed yet.
    pub(super) fn finish(&self, side: PairSide) -> Option<ChannelRef> {
        let mut state = self.state();
        let server = state.server.clone();
        let phase = std::mem::take(&mut state.phase);
        if state.charge == MemoryClass::Unproven {
            self.recharge(&mut state, MemoryClass::Uncharged);
        }
        drop(state);
        match phase {
            PairPhase::Closed => return None,
            PairPhase::Waiting(_, ticket) | PairPhase::Pending(ticket) => {
                self.router.cancel(ticket)
            }
            PairPhase::New(_) | PairPhase::Spliced => {}
        }
        match side {
            PairSide::Client => server,
            PairSide::Server => Some(self.client.clone()),
        }
    }

    /// Handles the removal of the end of `side` from its outbox: drops the queued data and
    /// releases the channel in the registry.
    fn release_end(&self, side: PairSide) {
        let mut state = self.state();
        let queue = state.queue(side.receives());
        queue.discard(self.router.memory());
        if let Some(limits) = &mut state.limits {
            limits.cancel(side.receives());
        }
        let number = match side {
            PairSide::Client => {
                std::mem::take(&mut state.counted).then_some(self.client.link.number)
            }
            PairSide::Server => state.server.as_ref().map(|server| server.link.number),
        };
        drop(state);
        if let Some(number) = number {
            self.router.registry().release_channel(number);
        }
    }
}

/// One end of a channel pair, as its link sees it.
struct PairEnd {
    pair: Arc<ChannelPair>,
    side: PairSide,
}

impl ChannelEnd for PairEnd {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        self.pair.enqueue(self.side, payload.freeze())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        self.pair.dequeue(self.side)
    }

    fn closed(&self, notice: Notice) {
        // A server that closes a pending channel with `handshake` does not know the client's key.
        if self.side == PairSide::Server
            && notice.code == Code::Handshake
            && matches!(self.pair.state().phase, PairPhase::Pending(_))
        {
            self.pair.client.link.on_handshake_failed();
        }
        let ended = self
            .pair
            .end(self.side)
            .is_some_and(|end| end.link.outbox.ended().is_some());
        let notice = if ended {
            Notice::new(Code::PeerLost, "the link at the other side ended")
        } else {
            notice
        };
        self.pair.close_peer(self.side, &notice);
    }
}

impl Drop for PairEnd {
    fn drop(&mut self) {
        self.pair.release_end(self.side);
    }
}
