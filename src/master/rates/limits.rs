//! Rate limits as data, and the subjects to which they apply.

use std::{net::IpAddr, time::Duration};

use report_proto::id::Id;

/// The time of its rate that a limit without a configured burst lets pass at once.
const DEFAULT_BURST_TIME: Duration = Duration::from_millis(50);

/// The smallest burst of a limit without a configured one, in bytes: two small messages. At 64 KiB/s
/// it takes an eighth of a second, which bridges the round trip between RESUME and the next message.
/// It is also 1.25 % of what such a limit admits in ten seconds.
const MIN_DEFAULT_BURST: u64 = 8 * 1024;

/// The smallest burst in time. Timers have a resolution of a millisecond and fire late on a busy
/// machine. A smaller bucket would overflow in between, and the rate would stay below its limit.
const MIN_BURST_TIME: Duration = Duration::from_millis(20);

/// A limit of the bytes per second. The bytes are payloads of DATA frames, which are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct RateLimit {
    /// The rate. Zero counts as one.
    pub(in crate::master) bytes_per_second: u64,
    /// The bytes that pass at once after a pause. The default is 50 ms of the rate, and at least 8
    /// KiB. A value below 20 ms of the rate counts as that.
    pub(in crate::master) burst: Option<u64>,
}

impl RateLimit {
    /// Returns a limit with the default burst.
    #[cfg(test)]
    pub(in crate::master) fn of(bytes_per_second: u64) -> Self {
        RateLimit {
            bytes_per_second,
            burst: None,
        }
    }

    /// Returns the rate, which is positive.
    pub(super) fn rate(self) -> u64 {
        self.bytes_per_second.max(1)
    }

    /// Returns the bytes that pass at once after a pause.
    pub(super) fn burst_bytes(self) -> u64 {
        match self.burst {
            Some(burst) => burst.max(bytes_in(self.rate(), MIN_BURST_TIME)).max(1),
            None => bytes_in(self.rate(), DEFAULT_BURST_TIME).max(MIN_DEFAULT_BURST),
        }
    }
}

/// Returns the bytes that pass at `rate` in `time`.
pub(super) fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate).saturating_mul(time.as_nanos()) / NANOS_PER_SECOND;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Nanoseconds in a second.
pub(super) const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The weight of a subject without a configured one.
const DEFAULT_WEIGHT: u32 = 1;

/// The rate limits of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct SubjectLimits {
    /// The limit of the traffic from clients to servers.
    pub(in crate::master) up: Option<RateLimit>,
    /// The limit of the traffic from servers to clients.
    pub(in crate::master) down: Option<RateLimit>,
    /// The limit of both directions together.
    pub(in crate::master) both: Option<RateLimit>,
    /// The share relative to the other subjects below the same parent. Zero counts as one.
    pub(in crate::master) weight: u32,
}

impl Default for SubjectLimits {
    fn default() -> Self {
        SubjectLimits {
            up: None,
            down: None,
            both: None,
            weight: DEFAULT_WEIGHT,
        }
    }
}

impl SubjectLimits {
    /// Returns the limit of one direction.
    pub(super) fn of(&self, direction: RateDirection) -> Option<RateLimit> {
        match direction {
            RateDirection::Up => self.up,
            RateDirection::Down => self.down,
        }
    }

    /// Whether any rate is limited.
    pub(super) fn is_limited(&self) -> bool {
        self.up.is_some() || self.down.is_some() || self.both.is_some()
    }

    /// Returns the lowest rate that applies to one direction.
    pub(super) fn tightest_rate(&self, direction: RateDirection) -> Option<u64> {
        let limits = [self.of(direction), self.both];
        limits.into_iter().flatten().map(RateLimit::rate).min()
    }
}

/// An object that has rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::master) enum RateSubject {
    /// All traffic of this master.
    Relay,
    /// An account, by its number in the store.
    Account(u64),
    /// A service, by its key id.
    Key(Id),
}

/// The user of a client: its credential if it has one, otherwise its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::master) enum RateParty {
    /// A client without a credential, by the party of its address.
    Address(IpAddr),
    /// A client with a credential, by the id of the credential.
    Credential(Id),
}

/// The objects to which the traffic of one channel pair belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct PairSubjects {
    /// The account that owns the key, or that of the server's link.
    pub(in crate::master) owner_account: u64,
    /// The key id of the service.
    pub(in crate::master) key: Id,
    /// The user of the client.
    pub(in crate::master) party: RateParty,
    /// The process of the client. All its links and tunnels share evenly.
    pub(in crate::master) instance: Id,
    /// The client's account, if it has one. Its limits apply too if it is not the owner.
    pub(in crate::master) client_account: Option<u64>,
}

impl PairSubjects {
    /// Returns the client's account if it is not the owner of the key.
    pub(super) fn foreign_account(&self) -> Option<RateSubject> {
        self.client_account
            .filter(|account| *account != self.owner_account)
            .map(RateSubject::Account)
    }

    /// Returns the subjects whose limits apply.
    pub(super) fn limited_by(&self) -> impl Iterator<Item = RateSubject> {
        [
            RateSubject::Relay,
            RateSubject::Account(self.owner_account),
            RateSubject::Key(self.key),
        ]
        .into_iter()
        .chain(self.foreign_account())
    }
}

/// A direction of a channel pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::master) enum RateDirection {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl RateDirection {
    /// Both directions.
    pub(in crate::master) const ALL: [RateDirection; 2] = [RateDirection::Up, RateDirection::Down];

    /// Returns the opposite direction.
    pub(super) fn opposite(self) -> Self {
        match self {
            RateDirection::Up => RateDirection::Down,
            RateDirection::Down => RateDirection::Up,
        }
    }
}

/// A value for each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::master) struct PerDirection<T> {
    /// The value of [`RateDirection::Up`].
    pub(in crate::master) up: T,
    /// The value of [`RateDirection::Down`].
    pub(in crate::master) down: T,
}

impl<T> PerDirection<T> {
    /// Returns the value of a direction.
    pub(super) fn of(&self, direction: RateDirection) -> &T {
        match direction {
            RateDirection::Up => &self.up,
            RateDirection::Down => &self.down,
        }
    }

    /// Returns the value of a direction for a change.
    pub(super) fn of_mut(&mut self, direction: RateDirection) -> &mut T {
        match direction {
            RateDirection::Up => &mut self.up,
            RateDirection::Down => &mut self.down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_at_least_what_timers_need() {
        for (rate, burst, expected) in [
            (64 * 1024, None, 8 * 1024),
            (1_000_000_000, None, 50_000_000),
            (1_000_000_000, Some(1), 20_000_000),
            (1_000, Some(1_000_000), 1_000_000),
            (0, Some(0), 1),
        ] {
            let limit = RateLimit {
                bytes_per_second: rate,
                burst,
            };
            assert_eq!(limit.burst_bytes(), expected, "{limit:?}");
        }
    }

    #[test]
    fn foreign_account_is_limited_once() {
        let mut subjects = PairSubjects {
            owner_account: 3,
            key: Id([1; 16]),
            party: RateParty::Address(IpAddr::from([10, 0, 0, 1])),
            instance: Id([2; 16]),
            client_account: Some(3),
        };
        assert_eq!(subjects.limited_by().count(), 3);
        subjects.client_account = Some(4);
        assert_eq!(
            subjects.limited_by().last(),
            Some(RateSubject::Account(4)),
            "its own limits apply as well"
        );
    }

    #[test]
    fn tightest_rate_includes_the_common_limit() {
        let limits = SubjectLimits {
            up: Some(RateLimit::of(10)),
            both: Some(RateLimit::of(20)),
            ..SubjectLimits::default()
        };
        assert_eq!(limits.tightest_rate(RateDirection::Up), Some(10));
        assert_eq!(limits.tightest_rate(RateDirection::Down), Some(20));
    }
}
