//! The resource limits of a master, and the numbers of links.

use std::time::Duration;

use tracing::warn;

use crate::{
    config::MasterLimitsConfig,
    net::file_limit::{self, RAISE_LIMIT_HINT},
};

/// The master's number for a link. Numbers count up and are never reused in one run of the master.
pub(super) type LinkNumber = u64;

/// The resource limits of a master. The defaults suit a small public machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterLimits {
    /// Simultaneous connections, counted from `accept` on, so that silent ones are included. 16,384
    /// idle links take about 256 MiB. The process needs that many file descriptors and some more
    /// ([`MasterLimits::within`]).
    pub links: usize,
    /// Simultaneous connections from one address (IPv6: from one /64 network), so that one visitor
    /// cannot use up all connections. Links through a trusted proxy count for the visitor that it
    /// names.
    pub links_per_address: usize,
    /// Key ids that one server may register.
    pub ports_per_link: u32,
    /// Channels of one link, waiting ones included. A tunnel takes one channel, regardless of the
    /// number of its connections.
    pub channels_per_link: u32,
    /// Bytes of a request head. Heads from browsers and proxies stay far below.
    pub header_bytes: usize,
    /// Bytes that all channels together may queue in the master. Under pressure the master pauses
    /// channels earlier; above the limit it closes the channels that hold most.
    pub memory_bytes: usize,
}

impl Default for MasterLimits {
    fn default() -> Self {
        MasterLimits {
            links: 16_384,
            links_per_address: 4_096,
            ports_per_link: 1_024,
            channels_per_link: 4_096,
            header_bytes: 16 * 1024,
            memory_bytes: 256 * 1024 * 1024,
        }
    }
}

/// File descriptors that a master needs besides its connections: listeners, threads, logs, reloaded
/// certificates. At most a quarter of a small limit.
const RESERVED_DESCRIPTORS: usize = 64;

/// The most connections without a place that a master answers at a time. Each takes a descriptor for
/// a short time.
pub(crate) const MAX_REFUSALS: usize = 32;

/// How long a master without room asks its peers to stay away: long enough for places to become
/// free, and a part of the resume timeout, so that streams survive a few refusals.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(20);

/// The reason of an eviction for the metrics.
pub(super) const EVICTED: &str = "evicted";

/// The fraction of `links` that may be refused with an answer: one part in this many.
pub(crate) const REFUSAL_DIVISOR: usize = 64;

impl MasterLimits {
    /// Creates the limits of a configuration.
    #[must_use]
    pub fn new(config: &MasterLimitsConfig) -> Self {
        MasterLimits {
            links: *config.links as usize,
            links_per_address: *config.links_per_address as usize,
            ports_per_link: *config.ports_per_link,
            channels_per_link: *config.channels_per_link,
            header_bytes: config.header_bytes.bytes(),
            memory_bytes: config.memory.bytes(),
        }
    }

    /// Returns how many connections without a place get an answer at a time. Further ones are closed
    /// at once.
    pub(super) fn refusals(&self) -> usize {
        (self.links / REFUSAL_DIVISOR).clamp(1, MAX_REFUSALS)
    }

    /// Reduces these limits to what the limit of open files of this process admits. `relays` if
    /// visitors go to another web server. Logs a reduction.
    #[must_use]
    pub fn within_open_files(self, relays: bool) -> Self {
        let Some(open_files) = file_limit::limit() else {
            return self;
        };
        let configured = self.links;
        let limits = self.within(usize::try_from(open_files).unwrap_or(usize::MAX), relays);
        if limits.links < configured {
            warn!(
                "limits.links is {configured}, but the limit of open files is {open_files}: only {} links are accepted; {RAISE_LIMIT_HINT}, or set \
                 limits.links",
                limits.links
            );
        }
        limits
    }

    /// Reduces these limits for a process that may open `descriptors` files. A connection that is
    /// relayed to another web server takes two.
    #[must_use]
    pub fn within(self, descriptors: usize, relays: bool) -> Self {
        let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS.min(descriptors / 4));
        let room = if relays { room / 5 * 4 } else { room };
        MasterLimits {
            links: self.links.min(room.max(1)),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_a_small_part_of_the_links() {
        for (links, refusals) in [(1, 1), (64, 1), (960, 15), (16_384, 32), (1_000_000, 32)] {
            let limits = MasterLimits {
                links,
                ..MasterLimits::default()
            };
            assert_eq!(limits.refusals(), refusals, "{links} links");
        }
    }

    #[test]
    fn links_are_bounded_by_file_descriptors() {
        let limits = || MasterLimits::default();
        assert_eq!(limits().within(1_048_576, true), limits());
        assert_eq!(limits().within(1_024, false).links, 960);
        assert_eq!(limits().within(1_024, true).links, 768);
        assert_eq!(limits().within(10, false).links, 8);
    }
}
