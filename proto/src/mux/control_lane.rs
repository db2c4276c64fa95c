//! Moves the control lane when it stalls (PROTOCOL 10.6), and repeats on another lane what a stalled
//! one carries. `control_watch` notices the stall; `lanes` knows which lane is the control lane.

use std::time::Instant;

use super::{
    LaneId, Mux, StreamId, lanes::LaneLoad, stream::StreamState, transmit_data::URGENT_MAX,
};

impl Mux {
    /// Returns when the control lane, or one that was left, counts as stalled, unless an answer
    /// arrives.
    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        self.control_deadline()
            .into_iter()
            .chain(self.left_deadline())
            .min()
    }

    fn control_deadline(&self) -> Option<Instant> {
        let is_watched = !self.lanes.is_single() && self.resume_state.is_flowing();
        self.control_watch.deadline().filter(|_| is_watched)
    }

    fn left_deadline(&self) -> Option<Instant> {
        let can_repeat = !self.lanes.is_empty() && self.resume_state.is_flowing();
        self.control_watch.left_deadline().filter(|_| can_repeat)
    }

    /// Repeats on another lane what the lanes carry that have stalled by now.
    pub(super) fn handle_stalls(&mut self, now: Instant) {
        self.watch_waiting(now);
        if self.control_deadline().is_some_and(|until| until <= now) {
            self.switch_control(now);
        }
        while self.left_deadline().is_some_and(|until| until <= now)
            && let Some((lane, acks)) = self.control_watch.on_left_stall()
        {
            self.lanes.repeat_reports(lane);
            // The lane may have been the only one, whose acknowledgements are not recorded.
            let known = self.repeat_small(lane, acks);
            for id in known {
                self.ack_immediately(id);
            }
        }
    }

    /// Makes another lane the control lane, because the present one has stalled, and repeats there
    /// what keeps others waiting.
    fn switch_control(&mut self, now: Instant) {
        let is_unused = self.control_watch.is_unused();
        let acks = self.control_watch.on_stall();
        let Some(old) = self.lanes.control() else {
            return;
        };
        let home = self.lanes.home_to_return_to();
        let others = self.lanes.bulk().iter().copied();
        // The home has not recovered yet, otherwise it would be the control lane.
        let others: Vec<LaneId> = others.filter(|lane| Some(*lane) != home).collect();
        let Some(new) = self.lane_flows.fastest(&others) else {
            return;
        };
        self.lanes.set_control(new);
        self.lane_flows.set_special(self.lanes.special());
        if self.lanes.home_to_return_to() == Some(old) {
            self.control_watch.leave_home(now);
        }
        // The frames that waited for an unused lane leave on the next one anyway.
        if !is_unused {
            self.repeat_small(old, acks);
        }
        self.restart_gaps(now);
        self.watch_waiting(now);
    }

    /// Makes the home the control lane again, if it has recovered and holds little bulk data. What is
    /// under way on the present control lane arrives.
    pub(super) fn return_control(&mut self, now: Instant) {
        let Some(home) = self.lanes.home_to_return_to() else {
            return;
        };
        if !self.control_watch.has_home_recovered(now) || !self.lane_flows.is_quiet(home) {
            return;
        }
        let Some(present) = self.lanes.control() else {
            return;
        };
        self.control_watch.return_home(now, present);
        self.lanes.set_control(home);
        self.lane_flows.set_special(self.lanes.special());
        self.restart_gaps(now);
        self.watch_waiting(now);
    }

    /// Queues what left on a stalled lane and keeps others waiting: credit, acknowledgements, the
    /// data of small streams, and the beginning of streams that the peer may not know. Returns the
    /// streams among them that the peer knows.
    fn repeat_small(&mut self, lane: LaneId, acks: Vec<StreamId>) -> Vec<StreamId> {
        for id in acks {
            self.ack_immediately(id);
        }
        self.repeat_slow(lane, URGENT_MAX, |stream| {
            stream.send.retained() <= URGENT_MAX || stream.open_state.is_sent_on(lane)
        })
    }

    /// Queues credit, reports, and the first `most` bytes that each selected stream sent on a lane
    /// which delivers late. Returns those of the streams that the peer knows.
    pub(super) fn repeat_slow(
        &mut self,
        lane: LaneId,
        most: u64,
        is_selected: impl Fn(&StreamState) -> bool,
    ) -> Vec<StreamId> {
        self.lane_flows.report_again();
        self.window.send_limit_again();
        let known = self.repeat_streams(&[lane], most, is_selected);
        // The PING under way would measure this lane. The next one measures another one.
        self.rtt.reset();
        self.update_budget();
        known
    }

    /// Notices that frames wait for a control lane that has just become one. Its socket may be
    /// full, so that not even a PING leaves.
    pub(super) fn watch_waiting(&mut self, now: Instant) {
        let control = self.lanes.control();
        let is_waiting = control.is_some_and(|lane| {
            !self.close_state.is_over()
                && !self.resume_state.is_list_due()
                && (self.has_small_frames()
                    || self.has_datagrams_for(lane)
                    || self.has_data(LaneLoad::Control))
        });
        self.control_watch.set_waiting(now, is_waiting);
    }
}
