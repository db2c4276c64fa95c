//! The buckets of one subject: one for each limited direction, and one for both together.
//!
//! A full bucket needs no memory, so a subject has no buckets until its first traffic. A master may
//! have limits for 100,000 keys, of which few are in use.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    bucket::RateBucket,
    limits::{PerDirection, RateDirection, RateLimit, SubjectLimits},
};

/// The most bytes that one direction may be ahead of the other in a common bucket: a message. At
/// most half of the burst, so that the direction that is ahead can still be served.
const MAX_LEAD: u64 = 64 * 1024;

/// The rate limits of one subject in force.
#[derive(Debug)]
pub(super) struct SubjectRates {
    limits: Arc<SubjectLimits>,
    /// `None` while all buckets are full and no traffic has waited.
    buckets: Option<Box<SubjectBuckets>>,
}

/// The buckets of a subject that has had traffic.
#[derive(Debug)]
struct SubjectBuckets {
    separate: PerDirection<Option<RateBucket>>,
    common: Option<RateBucket>,
    /// The bytes by which the upward direction is ahead of the downward one in the common bucket.
    lead: i64,
    throttled: PerDirection<ThrottledTime>,
}

impl SubjectRates {
    /// Creates the state of these limits, with full buckets.
    pub(super) fn new(limits: Arc<SubjectLimits>) -> Self {
        SubjectRates {
            limits,
            buckets: None,
        }
    }

    /// Changes the limits. Limits that stay keep their levels.
    pub(super) fn change(&mut self, limits: Arc<SubjectLimits>, now: Instant) {
        self.limits = limits;
        if let Some(buckets) = &mut self.buckets {
            buckets.change(&self.limits, now);
        }
    }

    /// Returns the limits in force.
    pub(super) fn limits(&self) -> &SubjectLimits {
        &self.limits
    }

    /// Returns for how long traffic of each direction had to wait for these limits.
    pub(super) fn throttled(&self) -> PerDirection<Duration> {
        let buckets = self.buckets.as_ref();
        buckets.map_or_else(PerDirection::default, |buckets| PerDirection {
            up: buckets.throttled.up.total,
            down: buckets.throttled.down.total,
        })
    }

    /// Returns `None` if the limits admit a message now, otherwise the time at which they will.
    /// Traffic waits for them until then.
    pub(super) fn ready_at(&mut self, direction: RateDirection, now: Instant) -> Option<Instant> {
        // Full buckets admit any message.
        self.buckets.as_mut()?.ready_at(direction, now)
    }

    /// Takes the bytes of messages.
    pub(super) fn take(&mut self, direction: RateDirection, bytes: u64, now: Instant) {
        let limits: &SubjectLimits = &self.limits;
        if limits.is_limited() {
            let full = || Box::new(SubjectBuckets::full(limits, now));
            let buckets = self.buckets.get_or_insert_with(full);
            buckets.take(direction, bytes, limits, now);
        }
    }
}

impl SubjectBuckets {
    fn full(limits: &SubjectLimits, now: Instant) -> Self {
        let bucket = |limit: Option<RateLimit>| limit.map(|limit| RateBucket::full(limit, now));
        SubjectBuckets {
            separate: PerDirection {
                up: bucket(limits.up),
                down: bucket(limits.down),
            },
            common: bucket(limits.both),
            lead: 0,
            throttled: PerDirection::default(),
        }
    }

    fn change(&mut self, limits: &SubjectLimits, now: Instant) {
        change_bucket(&mut self.separate.up, limits.up, now);
        change_bucket(&mut self.separate.down, limits.down, now);
        change_bucket(&mut self.common, limits.both, now);
        self.limit_lead(limits);
        self.throttled.up.end(now);
        self.throttled.down.end(now);
    }

    fn ready_at(&mut self, direction: RateDirection, now: Instant) -> Option<Instant> {
        let reserve = self.reserve(direction);
        let separate = self.separate.of_mut(direction).as_mut();
        let separate = separate.and_then(|bucket| bucket.ready_at(0, now));
        let common = self.common.as_mut();
        let common = common.and_then(|bucket| bucket.ready_at(reserve, now));
        let due = separate.max(common)?;
        self.throttled.of_mut(direction).add(now, due);
        Some(due)
    }

    fn take(&mut self, direction: RateDirection, bytes: u64, limits: &SubjectLimits, now: Instant) {
        if let Some(bucket) = self.separate.of_mut(direction) {
            bucket.take(bytes, now);
        }
        if let Some(bucket) = &mut self.common {
            bucket.take(bytes, now);
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.lead = match direction {
                RateDirection::Up => self.lead.saturating_add(bytes),
                RateDirection::Down => self.lead.saturating_sub(bytes),
            };
            self.limit_lead(limits);
        }
    }

    /// Returns the bytes that the common bucket keeps for the other direction. Without it, the
    /// direction that happens to be served first after each refill would take everything.
    fn reserve(&self, direction: RateDirection) -> u64 {
        let lead = match direction {
            RateDirection::Up => self.lead,
            RateDirection::Down => self.lead.saturating_neg(),
        };
        u64::try_from(lead).unwrap_or(0)
    }

    fn limit_lead(&mut self, limits: &SubjectLimits) {
        let burst = limits.both.map_or(0, RateLimit::burst_bytes);
        let max = i64::try_from(MAX_LEAD.min(burst / 2)).unwrap_or(i64::MAX);
        self.lead = self.lead.clamp(-max, max);
    }
}

fn change_bucket(bucket: &mut Option<RateBucket>, limit: Option<RateLimit>, now: Instant) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.change(limit, now),
        (None, Some(limit)) => *bucket = Some(RateBucket::full(limit, now)),
        (_, None) => *bucket = None,
    }
}

/// The time in which at least one sender waited. Overlapping waits count once.
#[derive(Debug, Clone, Copy, Default)]
struct ThrottledTime {
    total: Duration,
    /// The end of the last counted wait.
    until: Option<Instant>,
}

impl ThrottledTime {
    /// Adds a wait.
    fn add(&mut self, now: Instant, due: Instant) {
        let from = self.until.map_or(now, |until| until.max(now));
        let added = due.saturating_duration_since(from);
        self.total = self.total.saturating_add(added);
        self.until = Some(due.max(from));
    }

    /// Ends the waits before their time.
    fn end(&mut self, now: Instant) {
        let rest = self.until.map(|until| until.saturating_duration_since(now));
        self.total = self.total.saturating_sub(rest.unwrap_or_default());
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RateDirection::{Down, Up};

    const SECOND: Duration = Duration::from_secs(1);

    fn common(bytes_per_second: u64) -> SubjectLimits {
        SubjectLimits {
            both: Some(RateLimit::of(bytes_per_second)),
            ..SubjectLimits::default()
        }
    }

    #[test]
    fn separate_limits_do_not_affect_each_other() {
        let now = Instant::now();
        let limits = SubjectLimits {
            up: Some(RateLimit::of(1_000)),
            ..SubjectLimits::default()
        };
        let mut rates = SubjectRates::new(Arc::new(limits));
        rates.take(Up, 100_000, now);
        assert!(rates.ready_at(Up, now).is_some());
        assert_eq!(rates.ready_at(Down, now), None);
    }

    #[test]
    fn common_limit_alternates_between_the_directions() {
        let start = Instant::now();
        let mut rates = SubjectRates::new(Arc::new(common(1_000_000)));
        let (mut now, mut sent) = (start, PerDirection { up: 0_i64, down: 0 });
        while now < start + 10 * SECOND {
            // The upward direction always asks first.
            let due = RateDirection::ALL.map(|direction| {
                let due = rates.ready_at(direction, now);
                if due.is_none() {
                    rates.take(direction, 10_000, now);
                    *sent.of_mut(direction) += 10_000;
                }
                due
            });
            if let [Some(up), Some(down)] = due {
                now = up.min(down);
            }
        }
        let total = sent.up + sent.down;
        assert!((9_900_000..10_200_000).contains(&total), "{sent:?}");
        assert!((sent.up - sent.down).abs() <= 100_000, "{sent:?}");
    }

    #[test]
    fn single_direction_gets_the_whole_common_limit() {
        let start = Instant::now();
        let mut rates = SubjectRates::new(Arc::new(common(1_000_000)));
        let (mut now, mut sent) = (start, 0);
        while now < start + 10 * SECOND {
            match rates.ready_at(Down, now) {
                Some(due) => now = due,
                None => {
                    rates.take(Down, 10_000, now);
                    sent += 10_000;
                }
            }
        }
        assert!((9_900_000..10_200_000).contains(&sent), "{sent}");
    }

    #[test]
    fn throttled_time_counts_overlapping_waits_once() {
        let now = Instant::now();
        let mut throttled = ThrottledTime::default();
        throttled.add(now, now + 2 * SECOND);
        throttled.add(now + SECOND, now + 3 * SECOND);
        throttled.add(now + SECOND, now + 2 * SECOND);
        assert_eq!(throttled.total, 3 * SECOND);
        throttled.add(now + 5 * SECOND, now + 6 * SECOND);
        assert_eq!(throttled.total, 4 * SECOND);
    }

    #[test]
    fn throttled_time_ends_with_a_change_of_the_limit() {
        let now = Instant::now();
        let limits = SubjectLimits {
            up: Some(RateLimit::of(1_000)),
            ..SubjectLimits::default()
        };
        let mut rates = SubjectRates::new(Arc::new(limits));
        rates.take(Up, 8 * 1024 + 60_000, now);
        assert!(rates.ready_at(Up, now).is_some());
        assert!(rates.throttled().up >= 60 * SECOND);
        rates.change(Arc::default(), now + SECOND);
        assert_eq!(rates.throttled().up, SECOND);
        assert_eq!(rates.ready_at(Up, now + SECOND), None);
    }

    #[test]
    fn limit_that_appears_later_starts_with_its_burst() {
        let now = Instant::now();
        let mut rates = SubjectRates::new(Arc::default());
        rates.take(Up, 1_000_000, now);
        rates.change(Arc::new(common(1_000)), now);
        assert_eq!(rates.ready_at(Up, now), None);
    }

    #[test]
    fn subject_without_traffic_has_no_buckets() {
        assert!(size_of::<SubjectRates>() <= 16);
        let now = Instant::now();
        let mut rates = SubjectRates::new(Arc::new(common(1_000)));
        assert_eq!(rates.ready_at(Up, now), None);
        rates.change(Arc::new(common(2_000)), now);
        assert!(rates.buckets.is_none());
        assert_eq!(rates.throttled(), PerDirection::default());
        rates.take(Up, 16 * 1024, now);
        assert!(rates.ready_at(Up, now).is_some());
    }

    #[test]
    fn subject_with_a_weight_alone_never_has_buckets() {
        let now = Instant::now();
        let weight = SubjectLimits {
            weight: 7,
            ..SubjectLimits::default()
        };
        let mut rates = SubjectRates::new(Arc::new(weight));
        rates.take(Up, 1_000_000, now);
        assert_eq!(rates.ready_at(Up, now), None);
        assert!(rates.buckets.is_none());
        assert_eq!(rates.limits().weight, 7);
    }
}
