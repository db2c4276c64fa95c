//! Servers whose service refused a connection lately. A port avoids them: its next tunnel goes to another server, if there is one.
//!
//! ```text
//!  a connection is refused ──► a new tunnel is requested, with ATTACH `avoid`; new connections wait for it, for `HELD` at most
//!      another server answers ──► its tunnel takes the new connections
//!      the same one, or one that refused too ──► the tunnel is dropped, and none is requested for `REMEMBERED`
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::info;

use super::port::Port;
use crate::{
    frame::MAX_AVOIDED,
    id::Id,
    tunnel::{ResetCode, Tunnel, TunnelStreamError, splice::SpliceError},
};

/// How long a server is avoided: without health checks only a connection shows that its service is back.
const REMEMBERED: Duration = Duration::from_secs(30);

/// How long new connections wait for another server; an answer takes some round trips.
const HELD: Duration = Duration::from_secs(1);

/// Servers whose service refused a connection lately.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// The last one to refuse comes last.
    servers: Vec<(Id, Instant)>,
    /// Until then no other server is asked for: there was none.
    alone_until: Option<Instant>,
    /// Until then new connections wait for another server.
    held_until: Option<Instant>,
}

impl Refused {
    /// The service behind `server` refused a connection. Returns whether another server is to be asked for.
    fn note(&mut self, server: Id, now: Instant) -> bool {
        self.servers.retain(|(known, _)| *known != server);
        if self.servers.len() >= MAX_AVOIDED {
            self.servers.remove(0);
        }
        self.servers.push((server, now));
        self.alone_until.is_none_or(|until| until <= now)
    }

    /// Whether the service behind `server` refused a connection lately.
    pub(super) fn contains(&self, server: Id, now: Instant) -> bool {
        self.at(now).any(|refused| refused == server)
    }

    /// The servers that are to be avoided.
    pub(super) fn at(&self, now: Instant) -> impl Iterator<Item = Id> {
        let lately = move |since: &Instant| now.saturating_duration_since(*since) < REMEMBERED;
        self.servers
            .iter()
            .filter(move |(_, since)| lately(since))
            .map(|(server, _)| *server)
    }

    /// There is no better server.
    pub(super) fn is_alone(&mut self, now: Instant) {
        self.alone_until = now.checked_add(REMEMBERED);
    }

    /// Whether new connections wait for another server, if one is being asked for.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }
}

/// Whether a connection ended because the service could not be reached from the server.
pub(super) fn is_refusal(error: &SpliceError) -> bool {
    let SpliceError::Stream(error @ TunnelStreamError::Stream(_)) = error else {
        return false;
    };
    matches!(
        error.reset_code(),
        Some(ResetCode::Refused | ResetCode::Unreachable | ResetCode::Timeout)
    )
}

impl Port {
    /// The service behind the server of this tunnel refused a connection: another server is asked for.
    pub(super) fn refused(self: &Arc<Self>, tunnel: &Tunnel) {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = state.refused.note(tunnel.instance(), now) && state.is_current(tunnel);
        if !is_due || state.new_wish.is_some() || state.is_ending {
            return;
        }
        let Some(link) = state.newest_up() else {
            return;
        };
        let Some(frame) = self.wish_for_new(&mut state, &link) else {
            return;
        };
        state.refused.held_until = now.checked_add(HELD);
        drop(state);
        info!(server = %tunnel.instance(), "the service refused a connection: is there another server?");
        link.outbox.control(&frame);
        self.tell_ready();
        let port = Arc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(HELD).await;
            port.tell_ready();
        });
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
    fn a_server_is_avoided_for_a_while_after_its_last_refusal() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert!(refused.note(server(1), start));
        assert!(refused.note(server(2), start + 10 * SECOND));
        assert!(refused.note(server(1), start + 20 * SECOND));
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
    fn where_no_other_server_is_none_is_asked_for_until_a_while_later() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert!(refused.note(server(1), start));
        refused.is_alone(start);
        assert!(!refused.note(server(1), start + 29 * SECOND));
        assert!(refused.note(server(1), start + 30 * SECOND));
    }

    #[test]
    fn no_more_servers_are_remembered_than_one_attach_names() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert!((0..20).all(|number| refused.note(server(number), start)));
        assert_eq!(
            refused.at(start).collect::<Vec<_>>(),
            (12..20).map(server).collect::<Vec<_>>()
        );
    }
}
