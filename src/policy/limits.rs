//! The limits of an account, of a key, or of the whole relay.

use serde::{Deserialize, Serialize};

use super::{
    ByteSize, Rate, is_default,
    problem::{Problems, field_of},
    quota::{Direction, Quota},
};

/// The most quotas of one account, key or relay.
const MAX_QUOTAS: usize = 8;

/// The highest weight.
const MAX_WEIGHT: u32 = 1_000;

/// The limits of an account, of a key, or of the whole relay. Without a field there is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The highest rates.
    #[serde(skip_serializing_if = "is_default")]
    pub rates: Rates,
    /// The bytes for each period.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<Quota>,
    /// The highest numbers.
    #[serde(skip_serializing_if = "is_default")]
    pub counts: Counts,
    /// The share of a scarce rate, compared with others of the same owner: 1 to 1,000. By default
    /// 1.
    #[serde(skip_serializing_if = "is_one")]
    pub weight: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            rates: Rates::default(),
            quotas: Vec::new(),
            counts: Counts::default(),
            weight: 1,
        }
    }
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// The highest rate of each direction, and of both together. A master applies them to its own
/// traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// From clients to servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<RateLimit>,
    /// From servers to clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<RateLimit>,
    /// Both directions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub both: Option<RateLimit>,
}

impl Rates {
    /// Returns the rate limit of a direction.
    #[must_use]
    pub fn of(&self, direction: Direction) -> Option<&RateLimit> {
        match direction {
            Direction::Up => self.up.as_ref(),
            Direction::Down => self.down.as_ref(),
            Direction::Both => self.both.as_ref(),
        }
    }
}

/// The highest rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Bytes per second, as a number or as text such as `"10 MiB/s"` or `"8 Mbit/s"`.
    pub rate: Rate,
    /// The bytes that may be sent at once after a pause. By default the master chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<ByteSize>,
}

/// The highest numbers of concurrent things. They count over all masters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Tunnels. The lanes of a tunnel count once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<u32>,
    /// Links. For a key: links of servers that register it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
    /// New tunnels in a minute. Further lanes and resumptions of a tunnel do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments_per_minute: Option<u32>,
}

impl Limits {
    /// Adds the problems of the limits.
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        self.check_rates(&field_of(path, "rates"), problems);
        let counts = field_of(path, "counts");
        for (name, maximum) in [
            ("tunnels", self.counts.tunnels),
            ("links", self.counts.links),
            ("attachments_per_minute", self.counts.attachments_per_minute),
        ] {
            problems.check_maximum(field_of(&counts, name), maximum);
        }
        if !(1..=MAX_WEIGHT).contains(&self.weight) {
            let message = format!("write a weight from 1 to {MAX_WEIGHT}");
            problems.add(field_of(path, "weight"), self.weight, message);
        }
        self.check_quotas(&field_of(path, "quotas"), problems);
    }

    fn check_rates(&self, path: &str, problems: &mut Problems) {
        for (name, limit) in [
            ("up", self.rates.up),
            ("down", self.rates.down),
            ("both", self.rates.both),
        ] {
            let Some(RateLimit { rate, burst }) = limit else {
                continue;
            };
            let path = field_of(path, name);
            if rate.0 == 0 {
                let message = "nothing would be allowed (disable the account or the key instead)";
                problems.add(field_of(&path, "rate"), rate, message);
            }
            if let Some(burst) = burst
                && burst.0 == 0
            {
                let message = "nothing would be allowed (omit it for the default)";
                problems.add(field_of(&path, "burst"), burst, message);
            }
        }
    }

    fn check_quotas(&self, path: &str, problems: &mut Problems) {
        if self.quotas.len() > MAX_QUOTAS {
            let found = format!("a list of {}", self.quotas.len());
            problems.add(path, found, format!("write at most {MAX_QUOTAS} quotas"));
        }
        let mut earlier: Vec<(String, Direction)> = Vec::new();
        for (index, quota) in self.quotas.iter().enumerate() {
            let path = format!("{path}[{index}]");
            quota.check(&path, &self.rates, problems);
            let key = (quota.period.to_string(), quota.direction);
            if let Some(other) = earlier.iter().position(|earlier| *earlier == key) {
                let message = format!("quota {other} has the same period and direction (keep one)");
                problems.add(field_of(&path, "period"), &key.0, message);
            }
            earlier.push(key);
        }
    }
}
