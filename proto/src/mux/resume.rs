//! Resumption: the first and the last messages of an attachment (PROTOCOL 10). This module owns the
//! two lists of received data, the local one and the peer's, and acts on them. `resume_state` holds
//! their progress. The streams own their offsets.
//!
//! Between `resume` and the peer's RESUMED only lists and credit flow. Then every stream returns to
//! the acknowledged offset, which never exceeds what the peer has received. A list that is older
//! than other acknowledgements therefore costs only repetition, and the following list settles the
//! rest.

use std::{collections::VecDeque, time::Instant};

use bytes::BytesMut;

use super::{
    LaneId, Mux, MuxError, MuxEvent, ResetCode, StreamId, TunnelFrame,
    frame::FRAME_MAX,
    resume_state::{Candidates, LocalList, PeerList, Scope},
    send_half::SendHalf,
    stream::AckState,
    transmit::{has_room, put_frame},
};

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

    /// Lets a candidate take over as the only lane. Data that the previous lanes sent and the peer
    /// did not acknowledge may be lost. It is sent again when the peer's list has arrived. The
    /// caller must not deliver further messages of the previous lanes.
    pub fn resume(&mut self, now: Instant, lane: LaneId) {
        self.lanes.replace(lane);
        self.lane_flows.clear();
        self.lane_flows.add(lane);
        self.control_watch.forget_all();
        self.adapt_to_lanes();
        // PINGs and their measurements belong to the previous attachment and its path.
        self.rtt.reset();
        self.window.bandwidth().restart(now);
        self.pending_pong = None;
        // END may have been lost with the previous attachment.
        self.close_state.sent_on.clear();
        self.resume_state.take_over(lane);
        self.lane_request.send_again();
        self.datagrams.report_ends_again();
        self.requeue_acks(now);
        self.restart_gaps(now);
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
        !self.close_state.sent_on.is_empty()
    }

    /// Returns whether the lane that resumed the tunnel was lost before the peer's list had arrived.
    /// The other lanes cannot carry on then: the caller ends them, and the tunnel is resumed again.
    #[must_use]
    pub fn is_list_lost(&self) -> bool {
        let lane = self.resume_state.lane;
        self.resume_state.paused && lane.is_none_or(|lane| !self.lanes.is_live(lane))
    }

    /// Returns whether both lists of the last resumption are complete, so that a lane may be added.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.resume_state.paused && !self.resume_state.is_list_due()
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
            seen: self.opened_by_peer.lowest_missing(),
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
    /// remains. Nothing leaves on another lane before.
    pub(super) fn transmit_list(
        &mut self,
        now: Instant,
        lane: LaneId,
        out: &mut BytesMut,
        end: usize,
    ) -> bool {
        if self.resume_state.is_list_due() && self.resume_state.lane != Some(lane) {
            return false;
        }
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

    /// Appends END if it was not sent on this lane. Nothing else follows.
    pub(super) fn transmit_close(&mut self, lane: LaneId, out: &mut BytesMut) {
        if let Some(code) = self.close_state.due(lane) {
            TunnelFrame::End { code }.encode(out);
            self.close_state.sent_on.push(lane);
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
        if !self.is_local(id) && id.0 < opened && self.opened_by_peer.is_missing(id) {
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
            // The stream was not seen when the list was written, or it is forgotten although an
            // older one was missing. Its frames are repeated; the peer acknowledges the end of a
            // forgotten stream again.
            return Ok(());
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
        self.awaiting_open.clear();
        for id in self.sorted_streams() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let is_listed = stream.listed_in == self.resume_state.lists_begun_total;
            stream.open_state.resume(id.0 < scope.seen || is_listed);
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
    pub(super) fn sorted_streams(&self) -> Vec<StreamId> {
        let mut ids: Vec<StreamId> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}
