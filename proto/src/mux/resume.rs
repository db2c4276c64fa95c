//! Resumption: the first and the last messages of an attachment (PROTOCOL 10). This module owns the
//! two lists of received data, the local one and the peer's, and acts on them. The streams own
//! their offsets.
//!
//! ```text
//!   Local list:
//!   none ──resume, no current candidate list──► due ──► sending, in several messages ──► none
//!
//!   Peer's list:
//!   not expected ──resume──► expected ──RESUME──► reading ──RESUMED──► complete ──other──► (start)
//!                                                   ▲                    │
//!                                                   └───────RESUME───────┘
//! ```
//! The peer may send RESUME twice, because its first list predates its takeover. The second list
//! replaces the first, even if that is incomplete.
//!
//! Between `resume` and the peer's RESUMED only lists and credit flow. Then every stream returns to
//! the acknowledged offset, which never exceeds what the peer has received. A list that is older
//! than other acknowledgements therefore costs only repetition, and the following list settles the
//! rest.

use std::{collections::VecDeque, time::Instant};

use bytes::BytesMut;

use super::{
    Mux, MuxError, MuxEvent, ResetCode, StreamId, TunnelFrame,
    frame::FRAME_MAX,
    stream::{AckState, SendHalf},
    transmit::{has_room, put_frame},
};

/// How often the peer may begin its list on an attachment: once as a candidate, and once more after
/// it has taken over.
const LISTS_MAX: u8 = 2;

/// The state of resumption outside the streams.
#[derive(Debug, Default)]
pub(super) struct ResumeState {
    /// Whether an attachment has replaced another before. Received frames may then repeat earlier
    /// ones.
    has_resumed: bool,
    /// Whether sending is paused because the peer's list has not arrived. Without it, data cannot
    /// continue.
    paused: bool,
    local_list: LocalList,
    candidates: Candidates,
    peer_list: PeerList,
    /// The number of lists that the peer has begun, on this attachment and in total.
    lists_begun: u8,
    lists_begun_total: u64,
}

/// The progress of the local list after a takeover.
#[derive(Debug, Default)]
enum LocalList {
    #[default]
    None,
    Due,
    /// RESUME was sent, and these streams are still to be listed.
    Sending(VecDeque<StreamId>),
}

/// The lists that candidates have sent ahead. Any candidate may take over next.
#[derive(Debug, Default)]
struct Candidates {
    count: usize,
    /// Whether all of them are complete and still correct.
    up_to_date: bool,
}

/// The progress of the peer's list.
#[derive(Debug, Default)]
enum PeerList {
    #[default]
    NotExpected,
    Expected,
    Reading(Scope),
    Complete,
}

/// The scope of a list: the streams of each side below a number.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// Local streams below this number are known to the peer.
    seen: u64,
    /// The peer's streams below this number have been opened.
    opened: u64,
}

/// The end of the tunnel as a whole.
#[derive(Debug, Default)]
pub(super) struct TunnelCloseState {
    code: Option<ResetCode>,
    is_sent: bool,
    ended_by_peer: bool,
}

impl Mux {
    /// Appends the list that a candidate for the next attachment sends first, as far as `room`
    /// bytes allow. No state changes, because the candidate may never take over. [`Mux::resume`]
    /// sends the list again if it has become outdated since.
    pub fn write_resume(&mut self, out: &mut BytesMut, room: usize) {
        let end = out.len().saturating_add(room);
        let whole = self.encode_list(out, end);
        self.resume_state.candidates.add(whole);
    }

    /// Forgets all candidates for which [`Mux::write_resume`] was called, because none of them will
    /// take over. Only the list of the next candidate counts then. Without this call the protocol
    /// still works, but the list of the next candidate is sent again without need.
    pub fn drop_candidates(&mut self) {
        self.resume_state.candidates = Candidates::default();
    }

    /// Appends the PING that a candidate of a new tunnel or of a move sends first.
    pub fn write_ping(&mut self, now: Instant, out: &mut BytesMut) {
        let progress = self.progress();
        TunnelFrame::Ping {
            token: self.rtt.ping(now, progress),
        }
        .encode(out);
    }

    /// Lets a candidate take over. Data that the previous attachment sent and the peer did not
    /// acknowledge may be lost. It is sent again when the peer's list has arrived. The caller must
    /// not deliver further messages of the previous attachment.
    pub fn resume(&mut self, now: Instant) {
        // PINGs and their measurements belong to the previous attachment and its path.
        self.rtt.reset();
        self.window.bandwidth().restart(now);
        self.pending_pong = None;
        // END may have been lost with the previous attachment.
        self.close_state.is_sent = false;
        self.resume_state.take_over();
        self.requeue_acks(now);
        self.update_budget();
    }

    /// Ends the tunnel. END is sent with the next message, before everything else, and nothing
    /// follows it. The first code counts.
    pub fn close(&mut self, code: ResetCode) {
        self.close_state.code.get_or_insert(code);
    }

    /// Returns whether [`Mux::close`] was called and its END was sent.
    #[must_use]
    pub fn is_end_of_tunnel_sent(&self) -> bool {
        self.close_state.is_sent
    }

    /// Appends the list with the limits that the peer already knows. New limits follow after the
    /// takeover. Returns whether the whole list had room.
    fn encode_list(&self, out: &mut BytesMut, end: usize) -> bool {
        let first = [
            self.list_header(),
            TunnelFrame::TunnelWindow {
                limit: self.window.limit(),
            },
        ];
        let streams = self.listed_streams();
        let windows = streams.iter().filter_map(|&id| {
            let receive = &self.streams.get(&id)?.receive;
            Some(TunnelFrame::Window {
                stream: id,
                received: receive.acknowledgement(),
                limit: receive.limit(),
            })
        });
        for frame in first
            .into_iter()
            .chain(windows)
            .chain([TunnelFrame::Resumed])
        {
            if !has_room(out, end) {
                return false;
            }
            put_frame(out, end, &frame);
        }
        true
    }

    fn list_header(&self) -> TunnelFrame {
        TunnelFrame::Resume {
            seen: self.next_peer,
            opened: self.next_announced,
        }
    }

    /// Returns the streams for a list, in order: those that the peer has opened or may have seen.
    fn listed_streams(&self) -> VecDeque<StreamId> {
        let known = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.open_state.is_announced());
        let mut ids: Vec<StreamId> = known.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids.into()
    }

    /// Appends the local list as far as the message has room. Returns whether no part of it
    /// remains.
    pub(super) fn transmit_list(&mut self, now: Instant, out: &mut BytesMut, end: usize) -> bool {
        if matches!(self.resume_state.local_list, LocalList::Due)
            && has_room(out, end.saturating_sub(FRAME_MAX))
        {
            put_frame(out, end, &self.list_header());
            put_frame(
                out,
                end,
                &TunnelFrame::TunnelWindow {
                    limit: self.window.advance_limit(now),
                },
            );
            self.resume_state.local_list = LocalList::Sending(self.listed_streams());
        }
        while let LocalList::Sending(streams) = &mut self.resume_state.local_list {
            if !has_room(out, end) {
                return false;
            }
            match streams.pop_front() {
                Some(id) => self.transmit_window(id, out, end),
                None => {
                    put_frame(out, end, &TunnelFrame::Resumed);
                    self.resume_state.local_list = LocalList::None;
                }
            }
        }
        !self.resume_state.is_list_due()
    }

    /// Appends END if it was not sent. Nothing else follows.
    pub(super) fn transmit_close(&mut self, out: &mut BytesMut) {
        if let Some(code) = self.close_state.due() {
            TunnelFrame::End { code }.encode(out);
            self.close_state.is_sent = true;
        }
    }

    pub(super) fn handle_resume(&mut self, seen: u64, opened: u64) -> Result<(), MuxError> {
        if !self.is_local(StreamId(seen)) || self.is_local(StreamId(opened)) {
            return Err(MuxError::Protocol(
                "RESUME with stream numbers of the wrong side",
            ));
        }
        if seen > self.next_announced {
            return Err(MuxError::Protocol(
                "RESUME refers to a stream that was never opened",
            ));
        }
        self.resume_state.begin_peer_list(Scope { seen, opened })
    }

    /// Processes a WINDOW inside the peer's list.
    pub(super) fn handle_listed(
        &mut self,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<(), MuxError> {
        let PeerList::Reading(Scope { opened, .. }) = self.resume_state.peer_list else {
            return Ok(());
        };
        if !self.is_local(id) && (self.next_peer..opened).contains(&id.0) {
            // Its OPEN was lost, and the peer sends it again.
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.listed_in = self.resume_state.lists_begun_total;
        }
        self.handle_window(id, received, limit)
    }

    /// Ends the peer's list. Checks the streams that it omits, and resumes sending after the first
    /// list of an attachment.
    pub(super) fn handle_resumed(&mut self) -> Result<(), MuxError> {
        let PeerList::Reading(scope) =
            std::mem::replace(&mut self.resume_state.peer_list, PeerList::Complete)
        else {
            return Err(MuxError::Protocol("RESUMED without RESUME"));
        };
        for id in self.sorted_streams() {
            self.check_unlisted(id, scope)?;
        }
        if std::mem::take(&mut self.resume_state.paused) {
            self.restart_sending(scope);
        }
        self.update_budget();
        Ok(())
    }

    /// Processes a stream that the list omits.
    fn check_unlisted(&mut self, id: StreamId, scope: Scope) -> Result<(), MuxError> {
        let is_local = self.is_local(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.listed_in == self.resume_state.lists_begun_total
            || !stream.open_state.is_announced()
        {
            return Ok(());
        }
        if id.0 >= if is_local { scope.seen } else { scope.opened } {
            // A first list may be older than the frame that confirmed the stream. A later list
            // cannot be.
            let is_confirmed = is_local && stream.open_state.is_confirmed();
            return if is_confirmed && self.resume_state.lists_begun == LISTS_MAX {
                Err(MuxError::Protocol(
                    "RESUME omits a stream that was acknowledged",
                ))
            } else {
                Ok(())
            };
        }
        let ended = stream.receive.end().is_some();
        if !(ended
            && self
                .send_totals
                .track(&mut stream.send, SendHalf::acknowledge_all))
        {
            return Err(MuxError::Protocol(
                "RESUME omits a stream that has not ended",
            ));
        }
        self.wake(id);
        self.remove_if_complete(id);
        Ok(())
    }

    /// Queues everything that may be lost for retransmission, in the order of the stream numbers.
    fn restart_sending(&mut self, scope: Scope) {
        self.parked.clear();
        self.opens.clear();
        self.ends.clear();
        for id in self.sorted_streams() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.open_state.resume(id.0 < scope.seen);
            self.send_totals.track(&mut stream.send, SendHalf::rewind);
            if stream.open_state.due().is_some() {
                self.opens.push_back(id);
            } else {
                self.schedule_send(id);
            }
        }
        self.events.push_back(MuxEvent::Resumed {
            streams: self.streams.len(),
            again_bytes: self.send_totals.resend,
        });
    }

    /// Rebuilds the acknowledgement queues, because a list leaves obsolete entries behind.
    fn requeue_acks(&mut self, now: Instant) {
        self.ack_queue.clear();
        for id in self.sorted_streams() {
            match self
                .streams
                .get(&id)
                .map_or(AckState::None, |stream| stream.ack_state)
            {
                AckState::Due => self.ack_queue.due.push_back(id),
                AckState::Delayed => self.ack_queue.defer(id),
                AckState::None => {}
            }
        }
        if !self.ack_queue.pending.is_empty() {
            self.ack_queue.expire_soon(now);
        }
    }

    /// Returns all streams in the order of their numbers. The order of the map differs in each run.
    fn sorted_streams(&self) -> Vec<StreamId> {
        let mut ids: Vec<StreamId> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

impl ResumeState {
    /// Returns whether received frames may repeat earlier ones.
    pub(super) fn has_resumed(&self) -> bool {
        self.has_resumed
    }

    /// Returns whether OPEN, DATA, FIN and RESET may be sent.
    pub(super) fn is_flowing(&self) -> bool {
        !self.paused
    }

    /// Returns whether the local list, or the rest of it, must be sent before anything else.
    pub(super) fn is_list_due(&self) -> bool {
        !matches!(self.local_list, LocalList::None)
    }

    /// Returns whether a part of the peer's list has arrived.
    #[cfg(test)]
    pub(super) fn is_reading_list(&self) -> bool {
        matches!(self.peer_list, PeerList::Reading(_))
    }

    /// Records that the current attachment carried a message, so the lists of the candidates may be
    /// outdated.
    pub(super) fn mark_candidates_stale(&mut self) {
        self.candidates.up_to_date = false;
    }

    fn take_over(&mut self) {
        self.local_list = if self.candidates.take_over() {
            LocalList::None
        } else {
            LocalList::Due
        };
        self.peer_list = PeerList::Expected;
        self.lists_begun = 0;
        self.paused = true;
        self.has_resumed = true;
    }

    /// Checks that the frame is in state with regard to the peer's list. Returns whether it belongs
    /// to the list.
    pub(super) fn admit(&mut self, frame: &TunnelFrame) -> Result<bool, MuxError> {
        use TunnelFrame::{End, Ping, Resume, Resumed, TunnelWindow, Window};
        match (&self.peer_list, frame) {
            (
                PeerList::Reading(_),
                Resume { .. } | Resumed | Window { .. } | TunnelWindow { .. } | End { .. },
            ) => Ok(true),
            (PeerList::Expected | PeerList::Complete, Resume { .. })
            | (PeerList::Expected, End { .. }) => Ok(false),
            // The tunnel may move to another attachment, which begins with PING, while the list is
            // incomplete.
            (PeerList::Reading(_) | PeerList::Complete, Ping { .. }) => Ok(false),
            (PeerList::Expected | PeerList::Reading(_), _) => Err(MuxError::Protocol(
                "frame before the end of the RESUME list",
            )),
            (PeerList::NotExpected, Resume { .. }) => Err(MuxError::Protocol(
                "RESUME after other frames of an attachment",
            )),
            (PeerList::NotExpected | PeerList::Complete, _) => {
                self.peer_list = PeerList::NotExpected;
                Ok(false)
            }
        }
    }

    fn begin_peer_list(&mut self, scope: Scope) -> Result<(), MuxError> {
        if self.lists_begun >= LISTS_MAX {
            return Err(MuxError::Protocol("RESUME too often"));
        }
        self.lists_begun = self.lists_begun.saturating_add(1);
        self.lists_begun_total = self.lists_begun_total.saturating_add(1);
        self.peer_list = PeerList::Reading(scope);
        Ok(())
    }
}

impl Candidates {
    fn add(&mut self, whole: bool) {
        self.up_to_date = whole && (self.up_to_date || self.count == 0);
        self.count = self.count.saturating_add(1);
    }

    /// Removes one candidate. Returns whether the list that it sent ahead was complete and is still
    /// correct. The list of another candidate remains, and may be the next.
    fn take_over(&mut self) -> bool {
        let up_to_date = self.up_to_date && self.count > 0;
        self.count = self.count.saturating_sub(1);
        up_to_date
    }
}

impl TunnelCloseState {
    /// Returns the code of an END that must be sent.
    pub(super) fn due(&self) -> Option<ResetCode> {
        self.code.filter(|_| !self.is_sent)
    }

    /// Returns whether only END may be sent.
    pub(super) fn is_over(&self) -> bool {
        self.code.is_some() || self.ended_by_peer
    }

    /// Returns whether the peer has sent END.
    pub(super) fn is_ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    /// Records that the peer has sent END.
    pub(super) fn set_ended_by_peer(&mut self) {
        self.ended_by_peer = true;
    }
}
