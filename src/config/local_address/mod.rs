//! The address of a service or a listener: a host and a port, a range of ports, or a unix socket.
//! This module resolves no names and opens no sockets.

mod port_range;
mod unix_address;

use std::{fmt, path::Path, str::FromStr};

use super::{
    HostPort,
    error::InvalidValue,
    values::{address_fault, text_value},
};

pub use port_range::{PortRange, RANGE_MAX};
pub use unix_address::{UNIX_ADDRESS_MAX, UnixAddress};

use unix_address::UNIX;

/// Where a port listens, or what it dials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// A host and a port, of TCP, UDP or both.
    Tcp(HostPort),
    /// A host and several ports.
    Range(PortRange),
    /// A unix socket.
    Unix(UnixAddress),
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A host and a port, of TCP, UDP or both.
    Tcp(HostPort),
    /// A unix socket.
    Unix(UnixAddress),
}

impl LocalAddress {
    /// Returns the number of addresses: that of the ports in a range, otherwise 1.
    #[must_use]
    pub fn count(&self) -> u16 {
        match self {
            Self::Range(range) => range.count(),
            Self::Tcp(_) | Self::Unix(_) => 1,
        }
    }

    /// Returns the address at a position, from 0. Returns `None` beyond [`LocalAddress::count`].
    #[must_use]
    pub fn at(&self, offset: u16) -> Option<Target> {
        match self {
            Self::Range(range) => range.address(offset).map(Target::Tcp),
            Self::Tcp(address) if offset == 0 => Some(Target::Tcp(address.clone())),
            Self::Unix(address) if offset == 0 => Some(Target::Unix(address.clone())),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether two listeners on these addresses conflict. Port 0 never conflicts.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.ports(), other.ports()) {
            (Some(one), Some(two)) => one.overlaps(&two),
            (None, None) => self == other,
            _ => false,
        }
    }

    /// Returns the ports of an address that has a host.
    fn ports(&self) -> Option<PortRange> {
        match self {
            Self::Tcp(HostPort { host, port }) => Some(PortRange {
                host: host.clone(),
                first: *port,
                last: *port,
            }),
            Self::Range(range) => Some(range.clone()),
            Self::Unix(_) => None,
        }
    }

    /// Returns the unix socket, if it is one.
    #[must_use]
    pub fn unix(&self) -> Option<&UnixAddress> {
        match self {
            Self::Unix(address) => Some(address),
            Self::Tcp(_) | Self::Range(_) => None,
        }
    }

    /// Returns whether the address is a unix socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.unix().is_some()
    }

    /// Makes a relative path start at `folder`.
    pub(super) fn start_at(&mut self, folder: &Path) {
        if let Self::Unix(address) = self {
            address.start_at(folder);
        }
    }
}

impl Target {
    /// Makes a relative path start at `folder`.
    pub(super) fn start_at(&mut self, folder: &Path) {
        if let Self::Unix(address) = self {
            address.start_at(folder);
        }
    }
}

impl From<HostPort> for LocalAddress {
    fn from(address: HostPort) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Range(range) => range.fmt(formatter),
            Self::Unix(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(address) => address.fmt(formatter),
        }
    }
}

impl FromStr for LocalAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(address) = text.strip_prefix(UNIX) {
            return UnixAddress::parse(address).map(Self::Unix);
        }
        if let Some(range) = PortRange::parse(text) {
            return range.map(Self::Range);
        }
        let address: Result<HostPort, _> = text.parse();
        address
            .map(Self::Tcp)
            .map_err(|reason| address_fault(text, &reason))
    }
}

impl FromStr for Target {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse::<LocalAddress>()? {
            LocalAddress::Tcp(address) => address
                .dialable()
                .map(Self::Tcp)
                .map_err(|reason| address_fault(text, &reason)),
            LocalAddress::Unix(address) => Ok(Self::Unix(address)),
            LocalAddress::Range(range) => Err(InvalidValue::new(
                format!("(\"{range}\") is a range"),
                "write one target for each port, or use the range as `local_address`",
            )),
        }
    }
}

text_value!(
    LocalAddress,
    "address, range or unix socket",
    LocalAddress::from_str
);

text_value!(Target, "address or unix socket", Target::from_str);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> LocalAddress {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_round_trip() {
        for text in [
            "127.0.0.1:3389",
            "[::1]:22",
            "0.0.0.0:0",
            "127.0.0.1:13000-13010",
            "[::1]:1-2",
            "my-host.lan:1-1024",
            "unix:/run/app.sock",
            "unix:relative.sock",
            "unix:@app",
        ] {
            assert_eq!(address(text).to_string(), text);
        }
        assert_eq!(address("Nas.LAN:7-9").to_string(), "nas.lan:7-9");
    }

    #[test]
    fn invalid_addresses_name_the_problem_and_a_form() {
        for (text, parts) in [
            ("127.0.0.1", ["has no port", "127.0.0.1:PORT"]),
            ("127.0.0.1:0-9", ["starts at port 0", "HOST:FIRST-LAST"]),
            (
                "127.0.0.1:9-8",
                ["ends before it starts", "HOST:FIRST-LAST"],
            ),
            ("127.0.0.1:9-", ["invalid last port", "HOST:FIRST-LAST"]),
            (
                "127.0.0.1:9-65536",
                ["invalid last port", "HOST:FIRST-LAST"],
            ),
            ("127.0.0.1:-9", ["has the port \"\"", "0 to 65535"]),
            (
                "127.0.0.1:70000-70001",
                ["has the port \"70000\"", "0 to 65535"],
            ),
            ("127.0.0.1:1-1025", ["has 1025 ports", "HOST:FIRST-LAST"]),
            (
                "127.0.0.1:1-65535",
                ["has 65535 ports, more than 1024", "HOST:FIRST-LAST"],
            ),
            (":1-2", ["has no host", "127.0.0.1"]),
            ("::1:1-2", ["without brackets", "[ADDRESS]"]),
            ("1.2.3:1-2", ["has the host \"1.2.3\"", "IP address"]),
            ("http://host-a", ["is a URL", "HOST:PORT"]),
            ("unix:", ["without a path", "unix:/run/app.sock"]),
            ("unix:@", ["without a name", "unix:@NAME"]),
            ("unix:/run/", ["a folder", "unix:/run/app.sock"]),
            ("unix:a\0b", ["a zero byte", "unix:/run/app.sock"]),
        ] {
            let error = text.parse::<LocalAddress>().expect_err(text).to_string();
            for part in parts {
                assert!(error.contains(part), "missing {part:?} in: {text}: {error}");
            }
        }
    }

    #[test]
    fn a_target_is_one_address_that_can_be_dialled() {
        for text in ["nas.lan:80", "[::1]:80", "unix:/run/app.sock"] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), text);
        }
        for (text, part) in [
            ("nas.lan:0", "port 0"),
            ("nas.lan:80-81", "is a range"),
            ("nas.lan", "has no port"),
        ] {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_numbers_its_addresses() {
        let range = address("127.0.0.1:13000-13010");
        assert_eq!(range.count(), 11);
        let at = |offset| range.at(offset).map(|target| target.to_string());
        assert_eq!(at(0).as_deref(), Some("127.0.0.1:13000"));
        assert_eq!(at(10).as_deref(), Some("127.0.0.1:13010"));
        assert_eq!((at(11), at(u16::MAX)), (None, None));
        let LocalAddress::Range(range) = range else {
            panic!("a range")
        };
        let ports: Vec<u16> = range.addresses().map(|address| address.port).collect();
        assert_eq!(ports, (13_000..=13_010).collect::<Vec<u16>>());
        for text in ["127.0.0.1:80", "unix:/run/app.sock"] {
            let one = address(text);
            assert_eq!(one.count(), 1);
            assert_eq!(
                one.at(0).map(|target| target.to_string()).as_deref(),
                Some(text)
            );
            assert_eq!(one.at(1), None);
        }
        let last = address("127.0.0.1:65534-65535");
        assert_eq!((last.count(), last.at(2)), (2, None));
    }

    #[test]
    fn ranges_count_for_conflicts() {
        let overlap = |one: &str, two: &str| {
            let (one, two) = (address(one), address(two));
            assert_eq!(one.overlaps(&two), two.overlaps(&one));
            one.overlaps(&two)
        };
        assert!(overlap("127.0.0.1:10-20", "127.0.0.1:20-30"));
        assert!(overlap("127.0.0.1:10-20", "0.0.0.0:15"));
        assert!(overlap("127.0.0.1:10-20", "127.0.0.1:12-13"));
        assert!(overlap("unix:/run/a", "unix:/run/a"));
        assert!(!overlap("127.0.0.1:10-20", "127.0.0.1:21-30"));
        assert!(!overlap("127.0.0.1:10-20", "127.0.0.2:10-20"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!overlap("unix:/run/a", "unix:/run/b"));
        assert!(!overlap("unix:/run/a", "unix:@/run/a"));
        assert!(!overlap("unix:80", "127.0.0.1:80"));
    }
}
