//! What a master gives away at most, and what counts as one party. Knows addresses and numbers; nothing of links.

use std::net::{IpAddr, Ipv6Addr};

/// What a master gives away at most. Each default stands for a small public machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, whatever they are good for: counted from `accept` on, so that those who never say what they want are in it.
    /// 16,384 links at rest take about 256 MiB. The process needs as many file descriptors, and some more ([`Limits::within`]).
    pub links: usize,
    /// Connections at a time from one address (IPv6: from one /64 network), that other visitors find room. Links that come through a trusted
    /// proxy are counted for the visitor whom it names.
    pub links_per_address: usize,
    /// Key ids that one server may register.
    pub ports_per_link: u32,
    /// Channels that one link may hold, waiting ones included: a tunnel takes one, whatever the number of its connections.
    pub channels_per_link: u32,
    /// Bytes of a request's head; what browsers and proxies send stays far below.
    pub header_bytes: usize,
    /// Bytes that all channels together may keep waiting in the master. Under pressure channels are paused earlier, and beyond it the
    /// greediest are closed.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            links: 16_384,
            links_per_address: 4_096,
            ports_per_link: 1_024,
            channels_per_link: 4_096,
            header_bytes: 16 * 1024,
            memory_bytes: 256 * 1024 * 1024,
        }
    }
}

/// File descriptors that a master needs beside those of its connections: its listeners, its threads, logs, certificates that are read again. Of a small limit, no
/// more than a quarter.
const OTHER_DESCRIPTORS: usize = 64;

impl Limits {
    /// These limits for a process that may have `descriptors` open. A connection that is relayed to another server takes two of them.
    #[must_use]
    pub fn within(self, descriptors: usize, relays: bool) -> Self {
        let room = descriptors.saturating_sub(OTHER_DESCRIPTORS.min(descriptors / 4));
        let room = if relays { room / 5 * 4 } else { room };
        Limits {
            links: self.links.min(room.max(1)),
            ..self
        }
    }
}

/// The party behind an address: an IPv4 address, or the /64 network of an IPv6 address, which is what one customer is given.
#[must_use]
pub(super) fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_takes_no_more_links_than_it_has_descriptors_for() {
        let limits = || Limits::default();
        assert_eq!(limits().within(1_048_576, true), limits());
        assert_eq!(limits().within(1_024, false).links, 960);
        assert_eq!(limits().within(1_024, true).links, 768);
        assert_eq!(limits().within(10, false).links, 8);
    }

    #[test]
    fn an_ipv6_network_is_one_party_and_a_mapped_address_is_the_ipv4_one() {
        let of = |text: &str| party(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
