//! Quotas: bytes for each period, and the actions at parts of them.

use serde::{Deserialize, Serialize};

use super::{
    ByteSize, Rate, is_default,
    limits::Rates,
    period::Period,
    problem::{Problems, field_of},
};

/// The rate of a threshold that slows down and names none: enough for a shell and for messages.
pub const DEFAULT_SLOW_RATE: Rate = Rate(64 * 1024);

/// The highest percentage of a threshold, so that a grace above the quota is possible.
const MAX_PERCENT: u16 = 200;

/// The most thresholds of a quota.
const MAX_THRESHOLDS: usize = 16;

/// The bytes that a limit counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From clients to servers.
    Up,
    /// From servers to clients.
    Down,
    /// Both together.
    #[default]
    Both,
}

/// Bytes moved in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// From clients to servers.
    pub up: u64,
    /// From servers to clients.
    pub down: u64,
}

impl Moved {
    /// Returns the bytes of a direction.
    #[must_use]
    pub fn of(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
            Direction::Both => self.up.saturating_add(self.down),
        }
    }
}

/// The bytes that may be moved in each period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The period.
    pub period: Period,
    /// The direction of the counted bytes. By default both together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direction: Direction,
    /// The bytes of a period, as a number or as text such as `"1 TB"`.
    pub bytes: ByteSize,
    /// The actions at parts of the quota, by ascending percentage. By default a notice at 80 and
    /// 95 percent, and a slow rate at 100.
    #[serde(default = "default_thresholds")]
    pub thresholds: Vec<Threshold>,
}

/// A part of a quota, and the action when it is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The percentage of the quota, 1 to 200.
    pub percent: u16,
    /// The action.
    pub action: ThresholdAction,
    /// The rate of `slow`, by default 64 KiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// The action at a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ThresholdAction {
    /// The master reports an event.
    Notify,
    /// The traffic continues at a low rate until the next period.
    Slow,
    /// The traffic stops until the next period.
    Stop,
}

impl Threshold {
    /// Returns the rate of a threshold that slows down.
    #[must_use]
    pub fn slow_rate(&self) -> Option<Rate> {
        let rate = self.rate.unwrap_or(DEFAULT_SLOW_RATE);
        (self.action == ThresholdAction::Slow).then_some(rate)
    }
}

/// Returns the thresholds of a quota that names none.
fn default_thresholds() -> Vec<Threshold> {
    let threshold = |percent, action| Threshold {
        percent,
        action,
        rate: None,
    };
    vec![
        threshold(80, ThresholdAction::Notify),
        threshold(95, ThresholdAction::Notify),
        threshold(100, ThresholdAction::Slow),
    ]
}

impl Quota {
    /// Creates a quota of both directions together with the default thresholds.
    #[must_use]
    pub fn new(period: Period, bytes: ByteSize) -> Self {
        Quota {
            period,
            direction: Direction::default(),
            bytes,
            thresholds: default_thresholds(),
        }
    }

    /// Returns the highest threshold that is reached, of a quota with `bytes`. The caller passes
    /// the field `bytes`, or a part of it for an account outside the reserve.
    #[must_use]
    pub fn reached(&self, bytes: ByteSize, moved: Moved) -> Option<&Threshold> {
        let used = u128::from(moved.of(self.direction)).saturating_mul(100);
        let is_reached = |threshold: &&Threshold| {
            used >= u128::from(bytes.0).saturating_mul(u128::from(threshold.percent))
        };
        self.thresholds
            .iter()
            .filter(is_reached)
            .max_by_key(|threshold| threshold.percent)
    }

    /// Returns the bytes left in the period.
    #[must_use]
    pub fn left(&self, moved: Moved) -> u64 {
        self.bytes.0.saturating_sub(moved.of(self.direction))
    }

    /// Adds the problems of the quota, with the rates of the same limits.
    pub(super) fn check(&self, path: &str, rates: &Rates, problems: &mut Problems) {
        self.period.check(&field_of(path, "period"), problems);
        if self.bytes.0 == 0 {
            let message = "nothing would be allowed (disable the account or the key instead)";
            problems.add(field_of(path, "bytes"), 0, message);
        } else if i64::try_from(self.bytes.0).is_err() {
            let message = "the number is too large (write at most 9,223,372,036,854,775,807)";
            problems.add(field_of(path, "bytes"), self.bytes.0, message);
        }
        let thresholds = field_of(path, "thresholds");
        if self.thresholds.is_empty() {
            let message = "the quota would have no effect (omit the field for the default)";
            problems.add(&*thresholds, "empty", message);
        } else if self.thresholds.len() > MAX_THRESHOLDS {
            let message = format!("write at most {MAX_THRESHOLDS} thresholds");
            let found = format!("a list of {}", self.thresholds.len());
            problems.add(&*thresholds, found, message);
        }
        let limit = rates.of(self.direction).map(|limit| limit.rate);
        let mut before: Option<&Threshold> = None;
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let path = format!("{thresholds}[{index}]");
            threshold.check(&path, limit, problems);
            if let Some(before) = before {
                threshold.check_order(&path, before, problems);
            }
            before = Some(threshold);
        }
    }
}

impl Threshold {
    /// Adds the problems of the threshold itself.
    fn check(&self, path: &str, limit: Option<Rate>, problems: &mut Problems) {
        if !(1..=MAX_PERCENT).contains(&self.percent) {
            let message = format!("write a percentage from 1 to {MAX_PERCENT}");
            problems.add(field_of(path, "percent"), self.percent, message);
        }
        if let Some(rate) = self.rate
            && self.action != ThresholdAction::Slow
        {
            let message = "only the action \"slow\" has a rate (remove it)";
            problems.add(field_of(path, "rate"), rate, message);
        }
        let Some(slow) = self.slow_rate() else {
            return;
        };
        if slow.0 == 0 {
            let message = "nothing would be allowed (write the action \"stop\" instead)";
            problems.add(field_of(path, "rate"), slow, message);
        }
        // A limit below the default rate is no contradiction: the lower one applies.
        if let (Some(slow), Some(limit)) = (self.rate, limit)
            && slow > limit
        {
            let message = format!("it is above the rate limit of {limit} (write a lower rate)");
            problems.add(field_of(path, "rate"), slow, message);
        }
    }

    /// Adds the problems with the threshold before this one.
    fn check_order(&self, path: &str, before: &Threshold, problems: &mut Problems) {
        if self.percent <= before.percent {
            let least = before.percent;
            let message = format!("it must be above the threshold before it, which is {least}");
            problems.add(field_of(path, "percent"), self.percent, message);
        }
        if before.action == ThresholdAction::Stop {
            let percent = before.percent;
            let message = format!("it is never reached, because the traffic stops at {percent}");
            problems.add(field_of(path, "percent"), self.percent, message);
        }
        if let (Some(slow), Some(earlier)) = (self.slow_rate(), before.slow_rate())
            && slow >= earlier
        {
            let message = format!("it must be below the rate before it, which is {earlier}");
            problems.add(field_of(path, "rate"), slow, message);
        }
    }
}
