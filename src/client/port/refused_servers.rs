//! Servers whose service refused a connection recently. A port avoids them: its next tunnel goes to
//! another server, if there is one.
//!
//! ```text
//!  a connection is refused ──► request a new tunnel, with ATTACH `avoid`;
//!                              new connections wait for it, for `ALTERNATIVE_WAIT` at most
//!      another server answers ──► its tunnel carries the new connections
//!      the same one, or one that refused too ──► drop the tunnel, request none for `AVOID_PERIOD`
//! ```

use std::time::{Duration, Instant};

use report_proto::{frame::MAX_AVOIDED, id::Id};

/// How long a server is avoided. Without health checks only a connection shows that its service is
/// back.
const AVOID_PERIOD: Duration = Duration::from_secs(30);

/// How long new connections wait for another server. An answer takes a few round trips.
const ALTERNATIVE_WAIT: Duration = Duration::from_secs(1);

/// Servers whose service refused a connection recently.
#[derive(Debug, Default)]
pub(super) struct RefusedServers {
    /// In the order of their last refusal.
    servers: Vec<(Id, Instant)>,
    /// No other server is requested before this time, because none was found.
    no_alternative_until: Option<Instant>,
    /// New connections wait for another server until this time.
    held_until: Option<Instant>,
}

impl RefusedServers {
    /// Records that the service behind `server` refused a connection. Returns whether to request
    /// another server.
    pub(super) fn record(&mut self, server: Id, now: Instant) -> bool {
        self.servers.retain(|(known, _)| *known != server);
        if self.servers.len() >= MAX_AVOIDED {
            self.servers.remove(0);
        }
        self.servers.push((server, now));
        self.no_alternative_until.is_none_or(|until| until <= now)
    }

    /// Returns whether the service behind `server` refused a connection recently.
    pub(super) fn contains(&self, server: Id, now: Instant) -> bool {
        self.at(now).any(|refused| refused == server)
    }

    /// Returns the servers to avoid.
    pub(super) fn at(&self, now: Instant) -> impl Iterator<Item = Id> {
        let recent = move |since: &Instant| now.saturating_duration_since(*since) < AVOID_PERIOD;
        self.servers
            .iter()
            .filter(move |(_, since)| recent(since))
            .map(|(server, _)| *server)
    }

    /// Records that no better server exists.
    pub(super) fn set_no_alternative(&mut self, now: Instant) {
        self.no_alternative_until = now.checked_add(AVOID_PERIOD);
    }

    /// Makes new connections wait for another server, which was just requested.
    pub(super) fn hold_connections(&mut self, now: Instant) {
        self.held_until = now.checked_add(ALTERNATIVE_WAIT);
    }

    /// Returns whether new connections wait for another server, provided that a request is pending.
    pub(super) fn holds_connections(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Returns when new connections no longer wait for another server.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Forgets a wait that is over.
    pub(super) fn release_held(&mut self, now: Instant) {
        self.held_until.take_if(|until| *until <= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn server(number: u8) -> Id {
        Id([number; 16])
    }

    #[test]
    fn a_server_is_avoided_for_a_period_after_its_last_refusal() {
        let (mut refused, start) = (RefusedServers::default(), Instant::now());
        assert!(refused.record(server(1), start));
        assert!(refused.record(server(2), start + 10 * SECOND));
        assert!(refused.record(server(1), start + 20 * SECOND));
        assert_eq!(
            refused.at(start + 39 * SECOND).collect::<Vec<_>>(),
            [server(2), server(1)]
        );
        assert_eq!(
            refused.at(start + 40 * SECOND).collect::<Vec<_>>(),
            [server(1)]
        );
        assert!(
            !refused.contains(server(1), start + 50 * SECOND)
                && !refused.contains(server(3), start)
        );
    }

    #[test]
    fn no_alternative_suppresses_requests_for_a_period() {
        let (mut refused, start) = (RefusedServers::default(), Instant::now());
        assert!(refused.record(server(1), start));
        refused.set_no_alternative(start);
        assert!(!refused.record(server(1), start + 29 * SECOND));
        assert!(refused.record(server(1), start + 30 * SECOND));
    }

    #[test]
    fn at_most_max_avoided_servers_are_remembered() {
        let (mut refused, start) = (RefusedServers::default(), Instant::now());
        assert!((0..20).all(|number| refused.record(server(number), start)));
        assert_eq!(
            refused.at(start).collect::<Vec<_>>(),
            (12..20).map(server).collect::<Vec<_>>()
        );
    }
}
