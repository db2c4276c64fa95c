//! Relieves the only lane of a tunnel when a second one joins.
//!
//! One lane carries everything, up to the credit of the tunnel, and a relay may accept all of it
//! while the connection behind it is slow: losses limit it, which is why further lanes join. The
//! streams would then wait until the slow lane has delivered its queue, some for the bytes of
//! others. So what waits there leaves on the others too, and the new lane takes over the small
//! frames. The receiver ignores what it has already.

use std::time::{Duration, Instant};

use super::{LaneId, Mux};

/// A queue of fewer bytes is not worth a repetition.
const QUEUE_MIN: u64 = 64 * 1024;

/// A lane has a long queue if a PING takes more than this many times the minimum round trip, and more
/// than this time. A full path with a queue of one round trip is not enough.
const LONG_RTTS: u32 = 3;
const LONG: Duration = Duration::from_millis(50);

impl Mux {
    /// Repeats on the other lanes what waits on `old`, which was the only lane until now, if its
    /// queue is long. Makes `new` the control lane then.
    pub(super) fn relieve(&mut self, now: Instant, old: LaneId, new: LaneId) {
        let under_way = self.send_totals.in_flight();
        if under_way < QUEUE_MIN || !self.resume_state.is_flowing() || !self.has_long_queue(now) {
            return;
        }
        self.lanes.set_control(new);
        for id in self.repeat_slow(old, u64::MAX, |_| true) {
            self.ack_immediately(id);
        }
    }

    /// Returns whether the round trip shows a queue of several round trips.
    fn has_long_queue(&mut self, now: Instant) -> bool {
        let waited = self.rtt.waited(now);
        let bandwidth = self.window.bandwidth();
        let rtt = bandwidth.latest_rtt().max(waited);
        rtt > bandwidth.min_rtt().saturating_mul(LONG_RTTS).max(LONG)
    }
}
