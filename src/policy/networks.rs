//! The networks from which a peer may come.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::problem::Problems;

/// The most networks of one list. An attachment compares the address with each of them.
const MAX_NETWORKS: usize = 64;

/// The prefix length of IPv4 addresses in IPv6 notation, `::ffff:0:0/96`.
const MAPPED_PREFIX: u8 = 96;

/// A network in CIDR notation, or one address. IPv4 networks in IPv6 notation become IPv4 networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// The text has another form.
    #[error(
        "\"{0}\" is not a network (write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or \
         an address)"
    )]
    Malformed(String),
    /// The address has bits after the prefix.
    #[error("\"{found}\" has bits after its prefix (write \"{network}\")")]
    HostBits {
        /// The text found.
        found: String,
        /// The network that contains the address.
        network: IpNet,
    },
}

impl Network {
    /// Whether the network contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let network: IpNet = text
            .parse()
            .or_else(|_| address())
            .map_err(|_| InvalidNetwork::Malformed(text.to_owned()))?;
        if network.addr() != network.network() {
            return Err(InvalidNetwork::HostBits {
                found: text.to_owned(),
                network: network.trunc(),
            });
        }
        Ok(Network(unmapped(network)))
    }
}

/// Returns the IPv4 network that an IPv6 network consists of.
fn unmapped(network: IpNet) -> IpNet {
    let mapped = |address: Ipv6Addr, length: u8| {
        let address = address.to_ipv4_mapped()?;
        Ipv4Net::new(address, length.checked_sub(MAPPED_PREFIX)?).ok()
    };
    match network {
        IpNet::V6(net) => mapped(net.addr(), net.prefix_len()).map_or(network, IpNet::V4),
        IpNet::V4(_) => network,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A list of networks. The empty list allows every address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema), schema(value_type = Vec<String>))]
pub struct Networks(Box<[Network]>);

impl Networks {
    /// Creates a list.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Networks(networks.into_boxed_slice())
    }

    /// Whether a peer may come from this address. An IPv4 address in IPv6 notation is the same
    /// address.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|network| network.contains(address))
    }

    /// Whether the list allows every address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the networks.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.0.iter()
    }

    /// Adds a problem if the list is too long.
    pub(super) fn check(&self, field: &str, problems: &mut Problems) {
        if self.0.len() > MAX_NETWORKS {
            let found = format!("a list of {}", self.0.len());
            let message = format!("write at most {MAX_NETWORKS} networks, or larger ones");
            problems.add(field, found, message);
        }
    }
}
