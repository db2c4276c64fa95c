//! The lanes of a tunnel: the attachments that carry it at the same time (PROTOCOL 10.6).
//!
//! A lane delivers its messages in order or ends. Between lanes there is no order. The sender
//! records the lane of each byte that the peer has not acknowledged. When a lane ends, those bytes
//! leave on the other lanes at once.
//!
//! One lane carries everything. With several lanes, one is the *control lane*, at first the oldest.
//! It carries the small frames, datagrams, and the streams that have little under way. Bulk data uses
//! the other lanes, so that a keystroke does not wait behind it. The control lane adds a little bulk
//! data, which would otherwise miss the rate of one lane; the other lanes take what it cannot carry of
//! the datagrams of heavy flows, if streams leave them unused. When the control lane stalls, another one takes
//! its place (see `control_lane`). Of four lanes or more, one holds less bulk data than the others,
//! so that what is repeated there waits little: the *standby lane*. Control then returns to its
//! *home*, the oldest lane, once that delivers again. The tunnels of two processes share links, and
//! their oldest lanes are usually on the same one. So the bulk data of a tunnel does not delay the
//! keystrokes and datagrams of another.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use super::{Mux, MuxEvent, StreamId, lane_flow::SpecialLanes, stream::StreamState};

/// The number of a lane, unique in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u64);

impl LaneId {
    /// The lane that a tunnel begins with.
    pub const FIRST: LaneId = LaneId(0);
}

/// The traffic of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneLoad {
    /// Everything: it is the only lane.
    All,
    /// Small frames, datagrams, streams with little data under way, and a little bulk data.
    Control,
    /// Bulk data, and datagrams of heavy flows.
    Bulk,
}

impl LaneLoad {
    /// Returns whether the lane carries frames other than DATA.
    pub(super) fn has_control(self) -> bool {
        self != LaneLoad::Bulk
    }
}

/// The most reports of lost lanes that an end remembers (PROTOCOL 12). Older ones are repetitions.
const REPORTS_MAX: usize = 256;

/// With at least this many lanes, one is the standby lane, and control returns to its home.
const STANDBY_LANES: usize = 4;

/// The lanes of a tunnel.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The lanes on which this end sends. The first is the control lane, if there are several, and
    /// the second the standby lane, if there are enough. All but the first are in order.
    sending: Vec<LaneId>,
    /// The lanes that have not ended, as far as this end knows.
    live: Vec<LaneId>,
    /// The lost lanes that the peer has reported.
    reported_by_peer: BTreeSet<LaneId>,
    /// The lost lanes to report to the peer.
    unreported: VecDeque<LaneId>,
    /// The reports that were sent, with the lane on which they left.
    reported: VecDeque<(LaneId, LaneId)>,
}

impl Lanes {
    /// Creates the state of a tunnel with its first lane.
    pub(super) fn new() -> Self {
        Lanes {
            sending: vec![LaneId::FIRST],
            live: vec![LaneId::FIRST],
            reported_by_peer: BTreeSet::new(),
            unreported: VecDeque::new(),
            reported: VecDeque::new(),
        }
    }

    /// Returns whether one lane carries everything.
    pub(super) fn is_single(&self) -> bool {
        self.sending.len() <= 1
    }

    /// Returns the only lane on which this end sends, if there is one.
    fn only(&self) -> Option<LaneId> {
        self.sending.first().copied().filter(|_| self.is_single())
    }

    /// Returns whether no lane is left to send on.
    pub(super) fn is_empty(&self) -> bool {
        self.sending.is_empty()
    }

    /// Returns the control lane, if there are several lanes.
    pub(super) fn control(&self) -> Option<LaneId> {
        self.sending.first().copied().filter(|_| !self.is_single())
    }

    /// Returns the lanes that carry less bulk data than the others.
    pub(super) fn special(&self) -> SpecialLanes {
        let home = self.home_to_return_to();
        let mut others = self.bulk().iter().copied();
        let standby = others.find(|lane| Some(*lane) != home);
        SpecialLanes {
            control: self.control(),
            standby: standby.filter(|_| self.sending.len() >= STANDBY_LANES),
            home,
        }
    }

    /// Returns the lanes that can take the place of the control lane.
    pub(super) fn bulk(&self) -> &[LaneId] {
        self.sending.get(1..).unwrap_or_default()
    }

    /// Returns the home of control, if another lane is the control lane and there are enough lanes.
    pub(super) fn home_to_return_to(&self) -> Option<LaneId> {
        let home = self.sending.iter().min().copied();
        home.filter(|home| self.sending.len() >= STANDBY_LANES && self.control() != Some(*home))
    }

    /// Makes `lane` the control lane. The reports that left on the present one are repeated.
    pub(super) fn set_control(&mut self, lane: LaneId) {
        if let Some(old) = self.control() {
            self.repeat_reports(old);
            self.sending.retain(|&known| known != lane);
            self.sending.sort_unstable();
            self.sending.insert(0, lane);
        }
    }

    /// Returns what the lane carries; `None` if nothing is sent on it.
    pub(super) fn load(&self, lane: LaneId) -> Option<LaneLoad> {
        let index = self.sending.iter().position(|&known| known == lane)?;
        Some(match index {
            _ if self.is_single() => LaneLoad::All,
            0 => LaneLoad::Control,
            _ => LaneLoad::Bulk,
        })
    }

    /// Returns whether the lane has not ended, as far as this end knows.
    pub(super) fn is_live(&self, lane: LaneId) -> bool {
        self.live.contains(&lane)
    }

    /// Returns whether a lost lane is to be reported.
    pub(super) fn is_report_due(&self) -> bool {
        !self.unreported.is_empty()
    }

    /// Returns the next lost lane to report on `carrier`.
    pub(super) fn next_report(&mut self, carrier: LaneId) -> Option<LaneId> {
        let lost = self.unreported.pop_front()?;
        if self.reported.len() >= REPORTS_MAX {
            self.reported.pop_front();
        }
        self.reported.push_back((lost, carrier));
        Some(lost)
    }

    fn add(&mut self, lane: LaneId) {
        if !self.live.contains(&lane) {
            self.sending.push(lane);
            self.live.push(lane);
        }
    }

    /// Removes a lane. Returns whether it was live.
    fn remove(&mut self, lane: LaneId) -> bool {
        let before = self.live.len();
        self.sending.retain(|&known| known != lane);
        self.live.retain(|&known| known != lane);
        self.live.len() < before
    }

    /// Removes a lost lane. The first time, it is reported to the peer, as are those whose report
    /// was lost with it.
    fn lose(&mut self, lane: LaneId) {
        if !self.remove(lane) {
            return;
        }
        self.repeat_reports(lane);
        self.unreported.push_back(lane);
    }

    /// Queues the reports that left on this lane.
    pub(super) fn repeat_reports(&mut self, lane: LaneId) {
        let lost_reports = self.reported.iter().filter(|(_, carrier)| *carrier == lane);
        self.unreported
            .extend(lost_reports.map(|(reported, _)| *reported));
        self.reported.retain(|(_, carrier)| *carrier != lane);
    }

    /// Records the peer's report of a lost lane, which may never have carried the tunnel at this
    /// end. Returns whether the report is new.
    fn on_report(&mut self, lane: LaneId) -> bool {
        // Otherwise a repetition would displace another report, which would then count again.
        if self.reported_by_peer.contains(&lane) {
            return false;
        }
        let oldest = self.reported_by_peer.first().copied();
        let is_full = self.reported_by_peer.len() >= REPORTS_MAX;
        // A live lane was never reported, however many later ones were.
        let is_live = self.is_live(lane);
        if is_full && !is_live && oldest.is_some_and(|oldest| lane < oldest) {
            return false;
        }
        if is_full {
            self.reported_by_peer.pop_first();
        }
        self.reported_by_peer.insert(lane);
        true
    }

    /// Makes `lane` the only one.
    pub(super) fn replace(&mut self, lane: LaneId) {
        *self = Lanes {
            sending: vec![lane],
            live: vec![lane],
            ..Lanes::new()
        };
    }
}

impl Mux {
    /// Adds a lane. Does nothing if it exists.
    pub fn add_lane(&mut self, now: Instant, lane: LaneId) {
        let only = self.lanes.only();
        self.lanes.add(lane);
        self.lane_flows.add(lane);
        if let Some(only) = only.filter(|only| *only != lane) {
            self.relieve(now, only, lane);
        }
        self.restart_gaps(now);
        self.reschedule();
    }

    /// Sends nothing more on a lane. Data already sent on it still arrives, or the caller reports
    /// [`Mux::lose_lane`] later. Small frames are repeated on another lane if neither happens within
    /// about one and a half round trips.
    pub fn retire_lane(&mut self, now: Instant, lane: LaneId) {
        if self.lanes.load(lane).is_some_and(LaneLoad::has_control) {
            self.control_watch.leave(now, lane);
        }
        self.lanes.sending.retain(|&known| known != lane);
        self.reschedule();
        self.watch_waiting(now);
    }

    /// Forgets a lane that has delivered everything in both directions. Streams whose OPEN left on
    /// it may use the other lanes, even if the peer has sent nothing about them.
    pub fn remove_lane(&mut self, lane: LaneId) {
        self.lanes.remove(lane);
        self.lane_flows.remove(lane);
        self.control_watch.forget(lane);
        for stream in self.streams.values_mut() {
            stream.open_state.confirm_on(lane);
        }
        self.schedule_confirmed();
        self.reschedule();
    }

    /// Ends a lane whose messages under way may be lost, and reports it to the peer. Everything
    /// that may be lost is sent again on the other lanes, or on the next one.
    pub fn lose_lane(&mut self, now: Instant, lane: LaneId) {
        self.lanes.lose(lane);
        self.repeat_lost(now, &[lane]);
    }

    /// Handles the peer's report that it has lost a lane: what this end sent there did not arrive.
    /// The acknowledgement of a stream that the peer has forgotten may be among it, so the report
    /// counts even if this end knew of the loss.
    pub(super) fn handle_lost(&mut self, lane: LaneId) {
        if self.lanes.on_report(lane) {
            if self.lanes.live.contains(&lane) {
                self.events.push_back(MuxEvent::LaneLost(lane));
            }
            self.lanes.lose(lane);
            self.reported_lost.push(lane);
        }
    }

    /// Handles all reports of a message at once, because each costs a walk over all streams.
    pub(super) fn repeat_reported(&mut self, now: Instant) {
        if !self.reported_lost.is_empty() {
            let lanes = std::mem::take(&mut self.reported_lost);
            self.repeat_lost(now, &lanes);
        }
    }

    /// Queues everything that was lost with these lanes.
    fn repeat_lost(&mut self, now: Instant, lanes: &[LaneId]) {
        for &lane in lanes {
            self.resume_state.lose(lane);
            self.lane_flows.remove(lane);
            self.control_watch.forget(lane);
        }
        self.lane_flows.report_again();
        self.rtt.reset();
        self.window.send_limit_again();
        self.lane_request.send_again();
        self.datagrams.report_ends_again();
        // The acknowledgements may have been lost with the lanes.
        for id in self.repeat_streams(lanes, u64::MAX, |_| true) {
            self.ack_immediately(id);
        }
        self.restart_gaps(now);
        self.adapt_to_lanes();
        self.watch_waiting(now);
        self.update_budget();
    }

    /// Queues what the selected streams sent on these lanes, their OPENs included, but no more than
    /// the first `most` bytes of each stream and lane. Returns those of them that the peer knows.
    pub(super) fn repeat_streams(
        &mut self,
        lanes: &[LaneId],
        most: u64,
        is_selected: impl Fn(&StreamState) -> bool,
    ) -> Vec<StreamId> {
        let mut known = Vec::new();
        for id in self.sorted_streams() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if !is_selected(stream) {
                continue;
            }
            for &lane in lanes {
                if stream.open_state.lose(lane) {
                    self.opens.push_back(id);
                }
                self.send_totals
                    .track(&mut stream.send, |send| send.lose(lane, most));
            }
            if stream.open_state.is_confirmed() {
                known.push(id);
            }
            self.schedule_send(id);
        }
        known
    }

    /// Returns whether bulk data may leave on this lane now.
    pub(super) fn is_lane_open(&self, lane: LaneId, load: LaneLoad) -> bool {
        load != LaneLoad::Bulk || self.lane_flows.is_open(lane)
    }

    /// Puts every stream with data to send into the round of its kind, because the number of lanes
    /// has changed.
    fn reschedule(&mut self) {
        for id in self.sorted_streams() {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.send.unsent() > 0)
            {
                self.schedule_data(id);
            }
        }
        self.adapt_to_lanes();
    }

    /// Adapts what depends on the number of lanes, after the streams are in the rounds for it.
    pub(super) fn adapt_to_lanes(&mut self) {
        self.window.set_lanes(self.lanes.live.len());
        let special = self.lanes.special();
        let before = self.lane_flows.set_special(special);
        if before.control != special.control {
            self.control_watch.reset(before.control.is_some());
        }
        if self.lanes.is_single() {
            self.urgent = Default::default();
        }
    }

    /// Schedules the streams that waited until the peer knows their OPEN.
    pub(super) fn schedule_confirmed(&mut self) {
        if self.awaiting_open.is_empty() {
            return;
        }
        let confirmed: Vec<StreamId> = self
            .awaiting_open
            .iter()
            .copied()
            .filter(|id| {
                self.streams
                    .get(id)
                    .is_none_or(|stream| stream.open_state.is_confirmed())
            })
            .collect();
        for id in confirmed {
            self.awaiting_open.remove(&id);
            self.schedule_send(id);
        }
    }
}
