//! The tunnels that began within the last minute, by subject. Pure: the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::meter::RESUMPTION_TIME;
use crate::{
    master::policies::{TunnelKey, begins_tunnel},
    policy::LimitSubject,
};

/// The time over which new tunnels are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The parts of the window. A tunnel counts for 50 to 60 seconds.
const PARTS: usize = 6;

/// The most interrupted tunnels that are remembered. A further one is new when it returns.
const MAX_INTERRUPTED: usize = 65_536;

/// The tunnels that are up or interrupted, and the new ones by subject.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    tunnels: HashMap<TunnelKey, TunnelState>,
    interrupted: usize,
    new: HashMap<LimitSubject, Window>,
    /// The time of part 0.
    origin: Option<Instant>,
}

#[derive(Debug)]
enum TunnelState {
    /// It has that many pairs.
    Up(usize),
    /// It has no pair since this time.
    Interrupted(Instant),
}

/// The new tunnels of a subject in the parts of the window.
#[derive(Debug, Default)]
struct Window {
    /// The number of the part that `counts` ends with.
    newest: u64,
    counts: [u32; PARTS],
}

impl Window {
    /// Moves the window to a part.
    fn advance(&mut self, part: u64) {
        let parts = part.saturating_sub(self.newest);
        let parts = usize::try_from(parts).unwrap_or(PARTS).min(PARTS);
        self.counts.rotate_left(parts);
        let forgotten = self.counts.iter_mut().rev().take(parts);
        forgotten.for_each(|count| *count = 0);
        self.newest = self.newest.max(part);
    }

    fn count(&mut self) {
        if let Some(count) = self.counts.last_mut() {
            *count = count.saturating_add(1);
        }
    }

    fn sum(&self) -> u32 {
        let counts = self.counts.iter();
        counts.fold(0, |sum: u32, count| sum.saturating_add(*count))
    }
}

impl Attachments {
    /// Adds a pair of a tunnel. Counts the tunnel for the subjects unless it is up or interrupted. A
    /// surplus pair counts as a further tunnel.
    pub(super) fn start(
        &mut self,
        tunnel: TunnelKey,
        subjects: impl Iterator<Item = LimitSubject>,
        now: Instant,
    ) {
        let is_known = self.is_known(&tunnel, now);
        let before = self.tunnels.get(&tunnel);
        let is_further = matches!(before, Some(TunnelState::Up(pairs)) if begins_tunnel(*pairs));
        let pairs = match before {
            Some(TunnelState::Up(pairs)) => pairs.saturating_add(1),
            Some(TunnelState::Interrupted(_)) => {
                self.interrupted = self.interrupted.saturating_sub(1);
                1
            }
            None => 1,
        };
        self.tunnels.insert(tunnel, TunnelState::Up(pairs));
        if is_known && !is_further {
            return;
        }
        let part = self.part(now);
        for subject in subjects {
            let window = self.new.entry(subject).or_default();
            window.advance(part);
            window.count();
        }
    }

    /// Removes a pair of a tunnel.
    pub(super) fn end(&mut self, tunnel: TunnelKey, now: Instant) {
        let Some(TunnelState::Up(pairs)) = self.tunnels.get_mut(&tunnel) else {
            return;
        };
        *pairs = pairs.saturating_sub(1);
        if *pairs > 0 {
            return;
        }
        if self.interrupted >= MAX_INTERRUPTED {
            self.tunnels.remove(&tunnel);
            return;
        }
        self.interrupted = self.interrupted.saturating_add(1);
        self.tunnels.insert(tunnel, TunnelState::Interrupted(now));
    }

    /// Whether a tunnel is up, or ended so recently that its next pair resumes it.
    pub(super) fn is_known(&self, tunnel: &TunnelKey, now: Instant) -> bool {
        match self.tunnels.get(tunnel) {
            Some(TunnelState::Up(_)) => true,
            Some(TunnelState::Interrupted(since)) => {
                now.saturating_duration_since(*since) < RESUMPTION_TIME
            }
            None => false,
        }
    }

    /// Returns the number of new tunnels of a subject.
    pub(super) fn of(&mut self, subject: LimitSubject, now: Instant) -> u32 {
        let part = self.part(now);
        self.new.get_mut(&subject).map_or(0, |window| {
            window.advance(part);
            window.sum()
        })
    }

    /// Forgets tunnels that ended long ago, and the windows without a new tunnel.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let mut interrupted = 0_usize;
        self.tunnels.retain(|_, state| match state {
            TunnelState::Up(_) => true,
            TunnelState::Interrupted(since) => {
                let is_recent = now.saturating_duration_since(*since) < RESUMPTION_TIME;
                interrupted = interrupted.saturating_add(usize::from(is_recent));
                is_recent
            }
        });
        self.interrupted = interrupted;
        let part = self.part(now);
        self.new.retain(|_, window| {
            window.advance(part);
            window.sum() > 0
        });
    }

    /// Returns the number of the part that contains a time.
    fn part(&mut self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        let since = now.saturating_duration_since(origin).as_secs();
        let parts = u64::try_from(PARTS).unwrap_or(1);
        // 10 seconds each. The first part has number `PARTS`, so that an empty window is old.
        let length = WINDOW.as_secs().checked_div(parts).unwrap_or(1);
        since
            .checked_div(length)
            .unwrap_or_default()
            .saturating_add(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::{identity::Identity, policies::PAIRS_PER_TUNNEL};
    use report_proto::id::Id;

    const SECOND: Duration = Duration::from_secs(1);

    fn tunnel(number: u8) -> TunnelKey {
        TunnelKey {
            client: Identity::Anonymous,
            instance: Id([number; 16]),
            key: Id([0; 16]),
        }
    }

    fn start(attachments: &mut Attachments, number: u8, now: Instant) {
        attachments.start(tunnel(number), [LimitSubject::Relay].into_iter(), now);
    }

    #[test]
    fn a_tunnel_counts_for_a_minute() {
        let (mut attachments, now) = (Attachments::default(), Instant::now());
        start(&mut attachments, 1, now);
        start(&mut attachments, 2, now + 30 * SECOND);
        for (seconds, expected) in [(30, 2), (49, 2), (60, 1), (79, 1), (90, 0), (1_000, 0)] {
            let later = now + seconds * SECOND;
            assert_eq!(
                attachments.of(LimitSubject::Relay, later),
                expected,
                "{seconds}"
            );
        }
        start(&mut attachments, 3, now + 2_000 * SECOND);
        assert_eq!(attachments.of(LimitSubject::Relay, now + 2_000 * SECOND), 1);
    }

    #[test]
    fn surplus_pairs_of_a_process_are_further_tunnels() {
        let (mut attachments, now) = (Attachments::default(), Instant::now());
        let mut counted = Vec::new();
        for pairs in 1..=2 * PAIRS_PER_TUNNEL + 1 {
            start(&mut attachments, 1, now);
            let is_new = begins_tunnel(pairs - 1);
            counted.push((is_new, attachments.of(LimitSubject::Relay, now)));
        }
        let news: Vec<_> = counted.iter().filter(|(is_new, _)| *is_new).collect();
        assert_eq!(news, [&(true, 1), &(true, 2), &(true, 3)]);
        assert_eq!(counted.last(), Some(&(true, 3)));
    }

    #[test]
    fn only_as_many_interrupted_tunnels_are_remembered_as_fit() {
        let (mut attachments, now) = (Attachments::default(), Instant::now());
        attachments.interrupted = MAX_INTERRUPTED - 1;
        for number in [1, 2] {
            start(&mut attachments, number, now);
        }
        for number in [1, 2] {
            attachments.end(tunnel(number), now);
        }
        assert!(attachments.is_known(&tunnel(1), now));
        assert!(!attachments.is_known(&tunnel(2), now));
        attachments.forget_old(now + RESUMPTION_TIME);
        assert_eq!(attachments.interrupted, 0);
        assert!(attachments.tunnels.is_empty());
    }

    #[test]
    fn numbers_without_new_tunnels_are_forgotten() {
        let (mut attachments, now) = (Attachments::default(), Instant::now());
        start(&mut attachments, 1, now);
        attachments.forget_old(now + 50 * SECOND);
        assert_eq!(attachments.new.len(), 1);
        attachments.forget_old(now + 60 * SECOND);
        assert!(attachments.new.is_empty());
        attachments.end(tunnel(9), now);
        assert!(!attachments.is_known(&tunnel(9), now));
    }
}
