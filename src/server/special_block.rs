//! Blocks of addresses that a server does not dial for applications without an explicit rule:
//! those of this machine and of the link, the metadata services of clouds, and IPv6 addresses that
//! lead to an IPv4 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A block of addresses that only a rule within it allows.
pub(super) struct SpecialBlock {
    pub(super) network: IpNet,
    /// The kind of its addresses, in words.
    pub(super) kind: &'static str,
}

const METADATA: &str = "that of a metadata service";
const EMBEDS: &str = "one that contains an IPv4 address";

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, kind: &'static str) -> SpecialBlock {
    let address = IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    SpecialBlock {
        network: IpNet::new_assert(address, prefix),
        kind,
    }
}

const fn v6(words: [u16; 8], prefix: u8, kind: &'static str) -> SpecialBlock {
    let [a, b, c, d, e, f, g, h] = words;
    let address = IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h));
    SpecialBlock {
        network: IpNet::new_assert(address, prefix),
        kind,
    }
}

/// The special blocks, smaller ones before those that contain them. From the registries of special
/// addresses (RFC 6890) and the documentation of the clouds.
static SPECIAL: &[SpecialBlock] = &[
    // AWS, Azure, Google and others; tasks of AWS; Azure's host; Oracle; Alibaba.
    v4(169, 254, 169, 254, 32, METADATA),
    v4(169, 254, 170, 2, 32, METADATA),
    v4(168, 63, 129, 16, 32, METADATA),
    v4(192, 0, 0, 192, 32, METADATA),
    v4(100, 100, 100, 200, 32, METADATA),
    // AWS and Google.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v4(0, 0, 0, 0, 8, "one of this machine"),
    v4(127, 0, 0, 0, 8, "a loopback address"),
    v4(169, 254, 0, 0, 16, "a link-local address"),
    v4(224, 0, 0, 0, 4, "a multicast address"),
    v4(255, 255, 255, 255, 32, "the broadcast address"),
    v4(240, 0, 0, 0, 4, "a reserved address"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "one of this machine"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local address"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address"),
    // The deprecated form `::127.0.0.1`, the translated form `::ffff:0:127.0.0.1` (RFC 2765), two
    // prefixes of NAT64, Teredo, and 6to4.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, EMBEDS),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, EMBEDS),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, EMBEDS),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, EMBEDS),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, EMBEDS),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, EMBEDS),
];

impl SpecialBlock {
    /// Returns the smallest block that contains the address.
    pub(super) fn of(address: IpAddr) -> Option<&'static Self> {
        SPECIAL
            .iter()
            .find(|block| block.network.contains(&address))
    }
}
