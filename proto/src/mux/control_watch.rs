//! Notices that the control lane of several has stalled, for example because TCP repeats a lost
//! segment there.
//!
//! A PING follows the frames on the control lane. A PONG that is late shows the stall, long before
//! the connection recovers. The small frames then continue on another lane, and those without an
//! answer are repeated there.
//!
//! Two kinds of lanes show their stall in another way. A lane that has just become the control lane
//! may have a full socket, which takes no PING: frames that wait for it are watched from then on. A
//! control lane that this end leaves carries MOVED last, whose answer takes the place of a PONG.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{LaneId, StreamId};

#[cfg(test)]
mod tests;

/// The delay before the first measurement, and the smallest and the largest delay.
const DELAY_INITIAL: Duration = Duration::from_secs(1);
const DELAY_MIN: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// The shortest time between two probes. In addition, a delay has room for [`PROBES_PER_DELAY`].
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(5);
const PROBES_PER_DELAY: u32 = 8;

/// The most probes without an answer. A further frame waits for one of them.
const PROBES_MAX: usize = 32;

/// The most acknowledgements that are repeated after a stall. Others arrive with the lane.
const ACKS_MAX: usize = 256;

/// After this many stalls without an answer in time, a late answer counts as the round trip: the
/// path has become longer.
const LATE_ANSWERS: u32 = 2;

/// A PING on the control lane.
#[derive(Debug, Clone, Copy)]
struct Probe {
    token: u64,
    sent: Instant,
}

/// The smoothed round trip and its variation (RFC 6298).
#[derive(Debug, Clone, Copy)]
struct SmoothedRtt {
    mean: Duration,
    variation: Duration,
}

/// What is under way on one lane.
#[derive(Debug, Default)]
struct UnderWay {
    /// The probes without an answer, oldest first.
    probes: VecDeque<Probe>,
    /// The acknowledgements that left before the probe with this token, or with a later one.
    acks: VecDeque<(u64, StreamId)>,
}

impl UnderWay {
    /// Handles a PONG. It answers all earlier probes too, because a lane keeps the order. Returns
    /// the probe with this token.
    fn on_pong(&mut self, token: u64) -> Option<Probe> {
        let index = self.probes.iter().position(|probe| probe.token == token)?;
        let answered = self.probes.drain(..=index).next_back();
        self.acks.retain(|(tag, _)| *tag > token);
        answered
    }

    /// Returns the streams of the acknowledgements, and forgets everything.
    fn take_acks(&mut self) -> Vec<StreamId> {
        self.probes.clear();
        self.acks.drain(..).map(|(_, stream)| stream).collect()
    }
}

/// A control lane that this end has left, until the peer has answered.
#[derive(Debug)]
struct LeftLane {
    lane: LaneId,
    left: Instant,
    under_way: UnderWay,
    /// The lane goes on, so no MOVED follows.
    is_kept: bool,
}

impl LeftLane {
    /// Returns when the oldest message without an answer left, at the latest MOVED.
    fn unanswered_since(&self) -> Instant {
        let oldest = self.under_way.probes.front();
        oldest.map_or(self.left, |probe| probe.sent)
    }
}

/// Watches the control lane, and those that were left.
#[derive(Debug, Default)]
pub(super) struct ControlWatch {
    under_way: UnderWay,
    /// The last probe of a lane that has stalled.
    late: Option<Probe>,
    smoothed: Option<SmoothedRtt>,
    /// The stalls since the last answer in time.
    stalls: u32,
    /// Frames have left that no probe follows yet.
    has_unprobed: bool,
    next_token: u64,
    /// The control lane is another one than before, and has not taken a message since.
    is_unused: bool,
    /// Since when frames wait for an unused lane.
    waiting_since: Option<Instant>,
    /// At most one for each lane that has not ended.
    left: Vec<LeftLane>,
    /// How the home of control was left, if it has stalled.
    away: Option<AwayFromHome>,
}

/// The home of control after a stall.
#[derive(Debug, Clone, Copy)]
struct AwayFromHome {
    since: Instant,
    /// The last PING on the home that has no answer yet.
    unanswered: Option<u64>,
}

impl ControlWatch {
    /// Forgets what is under way on the control lane, because the lanes have changed. `is_moved`
    /// tells whether another lane was the control lane before. Keeps the round trip, and the lanes
    /// that were left.
    pub(super) fn reset(&mut self, is_moved: bool) {
        *self = ControlWatch {
            smoothed: self.smoothed,
            next_token: self.next_token,
            is_unused: is_moved,
            left: std::mem::take(&mut self.left),
            ..ControlWatch::default()
        };
    }

    /// Records that this end leaves the control lane.
    pub(super) fn leave(&mut self, now: Instant, lane: LaneId) {
        self.left.push(LeftLane {
            lane,
            left: now,
            under_way: std::mem::take(&mut self.under_way),
            is_kept: false,
        });
    }

    /// Records that the control lane which has stalled is the home of control.
    pub(super) fn leave_home(&mut self, now: Instant) {
        self.away = Some(AwayFromHome {
            since: now,
            unanswered: self.late.map(|late| late.token),
        });
    }

    /// Returns whether the home delivers again: it has answered, or had the time of two answers. A
    /// peer answers only the last of several PINGs.
    pub(super) fn has_home_recovered(&self, now: Instant) -> bool {
        self.away.is_none_or(|away| {
            let patience = self.delay().saturating_mul(2);
            away.unanswered.is_none() || now.saturating_duration_since(away.since) >= patience
        })
    }

    /// Records that control returns to its home. What is under way on the `present` control lane is
    /// watched until its answer.
    pub(super) fn return_home(&mut self, now: Instant, present: LaneId) {
        self.away = None;
        self.left.retain(|left| left.lane != present);
        let under_way = std::mem::take(&mut self.under_way);
        if !under_way.probes.is_empty() {
            self.left.push(LeftLane {
                lane: present,
                left: now,
                under_way,
                is_kept: true,
            });
        }
        self.waiting_since = None;
        self.is_unused = true;
    }

    /// Forgets a lane that was left, because it has delivered everything, or is lost.
    pub(super) fn forget(&mut self, lane: LaneId) {
        self.left.retain(|left| left.lane != lane);
    }

    /// Forgets all lanes that were left.
    pub(super) fn forget_all(&mut self) {
        self.left.clear();
    }

    /// Returns whether nothing has left on the control lane since it took the place of another.
    pub(super) fn is_unused(&self) -> bool {
        self.is_unused
    }

    /// Records that the control lane takes a message.
    pub(super) fn on_message(&mut self) {
        self.is_unused = false;
        self.waiting_since = None;
    }

    /// Records whether frames wait for the control lane.
    pub(super) fn set_waiting(&mut self, now: Instant, is_waiting: bool) {
        self.waiting_since = if is_waiting && self.is_unused {
            self.waiting_since.or(Some(now))
        } else {
            None
        };
    }

    /// Records that frames leave on the control lane whose loss would delay something.
    pub(super) fn on_content(&mut self) {
        self.has_unprobed = true;
    }

    /// Records an acknowledgement on the control lane.
    pub(super) fn on_ack(&mut self, stream: StreamId) {
        let acks = &mut self.under_way.acks;
        if acks.len() >= ACKS_MAX {
            acks.pop_front();
        }
        acks.push_back((self.next_token, stream));
    }

    /// Returns whether a probe should leave now although nothing else does.
    pub(super) fn is_probe_due(&self) -> bool {
        self.has_unprobed && self.under_way.probes.is_empty()
    }

    /// Returns whether a probe should follow the present message.
    pub(super) fn should_probe(&self, now: Instant) -> bool {
        let interval = divided(self.delay(), PROBES_PER_DELAY).max(PROBE_INTERVAL_MIN);
        let probes = &self.under_way.probes;
        let is_early = probes
            .back()
            .is_some_and(|last| now.saturating_duration_since(last.sent) < interval);
        self.is_probe_due() || self.has_unprobed && !is_early && probes.len() < PROBES_MAX
    }

    /// Records a probe.
    pub(super) fn on_probe(&mut self, now: Instant, token: u64) {
        let probe = Probe { token, sent: now };
        self.under_way.probes.push_back(probe);
        self.has_unprobed = false;
        self.next_token = token.saturating_add(1);
    }

    /// Handles a PONG.
    pub(super) fn on_pong(&mut self, now: Instant, token: u64) {
        if let Some(away) = &mut self.away {
            away.unanswered = away.unanswered.filter(|unanswered| *unanswered != token);
        }
        let late = self.late.take_if(|late| late.token == token);
        if let Some(late) = late.filter(|_| self.stalls >= LATE_ANSWERS) {
            self.measure(now.saturating_duration_since(late.sent));
            self.stalls = 0;
        }
        let mut left = self.left.iter_mut();
        let answered = self
            .under_way
            .on_pong(token)
            .or_else(|| left.find_map(|left| left.under_way.on_pong(token)));
        if let Some(probe) = answered {
            self.measure(now.saturating_duration_since(probe.sent));
            self.stalls = 0;
        }
        let is_answered = |left: &LeftLane| left.is_kept && left.under_way.probes.is_empty();
        self.left.retain(|left| !is_answered(left));
    }

    /// Returns when the control lane counts as stalled, unless an answer arrives or an unused lane
    /// takes a message.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let oldest = self.under_way.probes.front().map(|probe| probe.sent);
        let since = oldest.into_iter().chain(self.waiting_since).min()?;
        since.checked_add(self.delay())
    }

    /// Begins anew on another lane. Returns the streams whose acknowledgements to repeat.
    pub(super) fn on_stall(&mut self) -> Vec<StreamId> {
        self.late = self.under_way.probes.pop_back().or(self.late);
        self.stalls = self.stalls.saturating_add(1);
        self.is_unused = true;
        self.waiting_since = None;
        self.under_way.take_acks()
    }

    /// Returns when the next of the lanes that were left counts as stalled, unless an answer
    /// arrives.
    pub(super) fn left_deadline(&self) -> Option<Instant> {
        let oldest = self.left.iter().map(LeftLane::unanswered_since).min()?;
        oldest.checked_add(self.delay())
    }

    /// Forgets the lane of [`ControlWatch::left_deadline`]. Returns it, and the streams whose
    /// acknowledgements to repeat.
    pub(super) fn on_left_stall(&mut self) -> Option<(LaneId, Vec<StreamId>)> {
        let lanes = self.left.iter().enumerate();
        let (oldest, _) = lanes.min_by_key(|(_, left)| left.unanswered_since())?;
        let LeftLane {
            lane,
            mut under_way,
            ..
        } = self.left.remove(oldest);
        Some((lane, under_way.take_acks()))
    }

    /// The delay after which an answer is late. Two lanes often stall at the same time, but not
    /// three: the delay doubles from the second stall on, so that a path that has become longer is
    /// not taken for one stall after the other.
    fn delay(&self) -> Duration {
        let base = self.smoothed.map_or(DELAY_INITIAL, |rtt| {
            let spread = rtt.variation.saturating_mul(4).max(divided(rtt.mean, 2));
            rtt.mean.saturating_add(spread).max(DELAY_MIN)
        });
        let factor = 1_u32
            .checked_shl(self.stalls.saturating_sub(1).min(16))
            .unwrap_or(u32::MAX);
        base.saturating_mul(factor).min(DELAY_MAX)
    }

    fn measure(&mut self, sample: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => SmoothedRtt {
                mean: sample,
                variation: divided(sample, 2),
            },
            Some(SmoothedRtt { mean, variation }) => SmoothedRtt {
                mean: divided(mean.saturating_mul(7).saturating_add(sample), 8),
                variation: divided(
                    variation
                        .saturating_mul(3)
                        .saturating_add(sample.abs_diff(mean)),
                    4,
                ),
            },
        });
    }
}

fn divided(time: Duration, by: u32) -> Duration {
    time.checked_div(by).unwrap_or_default()
}
