//! A range of ports of one host.

use std::fmt;

use super::super::{HostPort, error::InvalidValue, values::address_fault};
use crate::{net::authority::parse_port, text::without_password};

/// The maximum number of ports in a range. A client opens a listener for each of them.
pub const RANGE_MAX: u16 = 1_024;

/// The remedy for an invalid range.
const RANGE_FORM: &str = "write \"HOST:FIRST-LAST\", as \"127.0.0.1:13000-13010\"";

/// The ports from `first` to `last` of a host. A parsed range is not empty, does not contain port 0,
/// and has at most [`RANGE_MAX`] ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// An IP address or a lower-case name. IPv6 addresses have no brackets.
    pub host: String,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Returns the number of ports.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Returns the address at a position, from 0. Returns `None` beyond the last port.
    #[must_use]
    pub fn address(&self, offset: u16) -> Option<HostPort> {
        let port = self.first.checked_add(offset)?;
        (port <= self.last).then(|| self.with_port(port))
    }

    /// Returns all addresses in their order.
    pub fn addresses(&self) -> impl Iterator<Item = HostPort> + '_ {
        (self.first..=self.last).map(|port| self.with_port(port))
    }

    fn with_port(&self, port: u16) -> HostPort {
        HostPort {
            host: self.host.clone(),
            port,
        }
    }

    /// Whether listeners on a port of each conflict.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let common = self.first.max(other.first);
        common <= self.last.min(other.last)
            && self.with_port(common).overlaps(&other.with_port(common))
    }

    /// Parses a range. Returns `None` if the text has no two ports.
    pub(super) fn parse(text: &str) -> Option<Result<Self, InvalidValue>> {
        let (host, first, last) = split(text)?;
        Some(Self::of_parts(text, host, first, last))
    }

    /// Parses the parts of `text`.
    fn of_parts(text: &str, host: &str, first: &str, last: &str) -> Result<Self, InvalidValue> {
        let invalid = |problem: &str| {
            let shown = without_password(text);
            InvalidValue::new(format!("(\"{shown}\") {problem}"), RANGE_FORM)
        };
        let start: HostPort = format!("{host}:{first}")
            .parse()
            .map_err(|reason| address_fault(text, &reason))?;
        let last = parse_port(last).ok_or_else(|| invalid("has an invalid last port"))?;
        if start.port == 0 {
            return Err(invalid("starts at port 0, which the system chooses"));
        }
        if last < start.port {
            return Err(invalid("ends before it starts"));
        }
        let range = Self {
            host: start.host,
            first: start.port,
            last,
        };
        if range.count() > RANGE_MAX {
            return Err(invalid(&format!(
                "has {} ports, more than {RANGE_MAX}",
                range.count()
            )));
        }
        Ok(range)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.with_port(self.first), self.last)
    }
}

/// Splits the text of a range into its host and its ports.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (host, ports) = text.rsplit_once(':')?;
    let (first, last) = ports.split_once('-')?;
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (is_port(first) && is_port(last)).then_some((host, first, last))
}
