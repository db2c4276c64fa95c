//! The traffic of links, summed up by role. Each link counts its own bytes, so that threads share no
//! counter. Its counts are added here when it ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::router::LinkRef;
use report_proto::frame::Role;

/// The sums over a number of links.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkTotals {
    pub(super) links: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

impl LinkTotals {
    /// Adds a link.
    pub(super) fn add(&mut self, link: &LinkRef) {
        self.links = self.links.saturating_add(1);
        self.received_bytes = self
            .received_bytes
            .saturating_add(link.received_bytes.load(Relaxed));
        self.sent_bytes = self
            .sent_bytes
            .saturating_add(link.sent_bytes.load(Relaxed));
    }
}

/// The sums over the links that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedLinks {
    servers: EndedOfRole,
    clients: EndedOfRole,
}

#[derive(Debug, Default)]
struct EndedOfRole {
    links: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl EndedLinks {
    /// Adds a link that counts no more bytes, unless it ended before it was established.
    pub(super) fn add(&self, role: Role, link: &LinkRef) {
        if !link.is_established() {
            return;
        }
        let ended = self.of(role);
        ended.links.fetch_add(1, Relaxed);
        let received = link.received_bytes.load(Relaxed);
        ended.received_bytes.fetch_add(received, Relaxed);
        ended
            .sent_bytes
            .fetch_add(link.sent_bytes.load(Relaxed), Relaxed);
    }

    /// Returns the sums of a role.
    pub(super) fn totals(&self, role: Role) -> LinkTotals {
        let ended = self.of(role);
        LinkTotals {
            links: ended.links.load(Relaxed),
            received_bytes: ended.received_bytes.load(Relaxed),
            sent_bytes: ended.sent_bytes.load(Relaxed),
        }
    }

    fn of(&self, role: Role) -> &EndedOfRole {
        match role {
            Role::Server => &self.servers,
            Role::Client => &self.clients,
        }
    }
}
