//! The destinations that a server allows to the applications of a SOCKS5 port. Pure: it compares
//! names and addresses, and resolves nothing.
//!
//! A rule for a name or for everything allows the addresses of the destination, except special ones:
//! those of this machine, of the link, of the metadata services of clouds, and those that lead to an
//! IPv4 address inside an IPv6 one. A special address needs a rule for an address or a network that
//! lies within its [`SpecialBlock`]. So `0.0.0.0/0` does not allow `127.0.0.1`, and `127.0.0.0/8`
//! does.

use std::net::{IpAddr, SocketAddr};

use super::special_block::SpecialBlock;
use crate::{
    config::{AllowRule, AllowedHost},
    net::authority::{ends_in_number, has_name_characters},
    tunnel::details::NamedTarget,
};

/// The longest name of the DNS, without a final dot.
const NAME_MAX: usize = 253;

/// The rules of a port.
#[derive(Debug, Clone, Default)]
pub struct AllowList(Vec<AllowRule>);

/// Why a destination is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DestinationDenied {
    /// No rule lists it.
    #[error("no rule in `allow` lists it")]
    NotListed,
    /// Its host is a number that resolvers read as an address, or no host at all.
    #[error("its host is neither a name nor an IP address")]
    InvalidHost,
    /// Its address is special.
    #[error("its address {address} is {kind}, which needs its own rule in `allow`")]
    Special {
        /// The address.
        address: IpAddr,
        /// The kind of the address.
        kind: &'static str,
    },
    /// The client named none.
    #[error("the client named none")]
    Unnamed,
}

/// The known parts of a destination before its name is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownDestination {
    /// The address, if the application named one.
    pub(super) address: Option<IpAddr>,
    /// Whether a rule lists the name, or everything.
    is_listed: bool,
    port: u16,
}

impl AllowList {
    /// Creates the list of these rules. Without rules it allows nothing.
    #[must_use]
    pub fn new(rules: Vec<AllowRule>) -> Self {
        Self(rules)
    }

    /// Checks a destination before its name is resolved.
    ///
    /// # Errors
    /// If the host is invalid, or no rule can allow any of its addresses.
    pub(super) fn admit(
        &self,
        target: &NamedTarget,
    ) -> Result<KnownDestination, DestinationDenied> {
        let port = target.port;
        let address = target.host.parse::<IpAddr>().ok();
        let name = match address {
            Some(_) => None,
            None => Some(canonical_name(&target.host).ok_or(DestinationDenied::InvalidHost)?),
        };
        let rules = || self.0.iter().filter(move |rule| rule.ports.contains(port));
        let is_listed = rules().any(|rule| lists_name(&rule.host, name.as_deref()));
        let may_list_address = rules().any(|rule| matches!(rule.host, AllowedHost::Network(_)));
        if !is_listed && !may_list_address {
            return Err(DestinationDenied::NotListed);
        }
        Ok(KnownDestination {
            address,
            is_listed,
            port,
        })
    }

    /// Checks one address of a destination. Returns it as the server dials it.
    ///
    /// # Errors
    /// If no rule allows the address.
    pub(super) fn allow(
        &self,
        known: KnownDestination,
        address: IpAddr,
    ) -> Result<SocketAddr, DestinationDenied> {
        let canonical = address.to_canonical();
        let special = SpecialBlock::of(canonical);
        let has_rule = self.0.iter().any(|rule| {
            let AllowedHost::Network(network) = &rule.host else {
                return false;
            };
            let is_own = special.is_none_or(|block| block.network.contains(network));
            rule.ports.contains(known.port) && network.contains(&canonical) && is_own
        });
        // An IPv4 address in the form of an IPv6 one needs a rule for the address.
        let is_mapped = canonical != address;
        match special {
            _ if has_rule => Ok(SocketAddr::new(canonical, known.port)),
            Some(block) => Err(DestinationDenied::Special {
                address: canonical,
                kind: block.kind,
            }),
            None if known.is_listed && !is_mapped => Ok(SocketAddr::new(canonical, known.port)),
            None => Err(DestinationDenied::NotListed),
        }
    }

    /// Returns the allowed ones of the addresses of a destination.
    ///
    /// # Errors
    /// If none is allowed: why the first is not.
    pub(super) fn allowed(
        &self,
        known: KnownDestination,
        addresses: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, DestinationDenied> {
        let (mut allowed, mut denied) = (Vec::new(), None);
        for address in addresses {
            match self.allow(known, address.ip()) {
                Ok(address) => allowed.push(address),
                Err(error) => denied = denied.or(Some(error)),
            }
        }
        if allowed.is_empty() {
            return Err(denied.unwrap_or(DestinationDenied::NotListed));
        }
        Ok(allowed)
    }
}

/// Returns whether a rule lists a name, or everything. `name` is `None` for an address.
fn lists_name(host: &AllowedHost, name: Option<&str>) -> bool {
    match (host, name) {
        (AllowedHost::Any, _) => true,
        (AllowedHost::Name(listed), Some(name)) => name == listed,
        (AllowedHost::Below(suffix), Some(name)) => name
            .strip_suffix(suffix.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|rest| !rest.is_empty()),
        (AllowedHost::Network(_) | AllowedHost::Name(_) | AllowedHost::Below(_), _) => false,
    }
}

/// Returns a name in lower case and without a final dot. Returns `None` for a text that is no name,
/// or that a resolver reads as an address.
fn canonical_name(host: &str) -> Option<String> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_valid = name.len() <= NAME_MAX
        && has_name_characters(name)
        && !name.split('.').any(str::is_empty)
        && !ends_in_number(name);
    is_valid.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[&str]) -> AllowList {
        AllowList::new(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
    }

    /// Returns the outcome for a destination whose name has this address, or for the address.
    fn outcome(
        rules: &[&str],
        host: &str,
        port: u16,
        resolved: &str,
    ) -> Result<String, DestinationDenied> {
        let (list, host) = (list(rules), host.to_owned());
        let known = list.admit(&NamedTarget { host, port })?;
        let address = known
            .address
            .unwrap_or_else(|| resolved.parse().expect(resolved));
        let allowed = list.allow(known, address)?;
        Ok(allowed.to_string())
    }

    /// Returns the outcome for an address that the application named.
    fn of_address(rules: &[&str], host: &str) -> Result<String, DestinationDenied> {
        outcome(rules, host, 80, "")
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        for host in ["nas.lan", "10.0.0.1", "127.0.0.1", "2001:db8::1"] {
            assert_eq!(
                outcome(&[], host, 80, "10.0.0.1"),
                Err(DestinationDenied::NotListed)
            );
        }
    }

    #[test]
    fn names_match_without_regard_to_case_and_a_final_dot() {
        let rules = ["nas.lan:22", "*.corp.example:443"];
        for (host, port, is_allowed) in [
            ("nas.lan", 22, true),
            ("NAS.Lan.", 22, true),
            ("nas.lan", 23, false),
            ("xnas.lan", 22, false),
            ("a.nas.lan", 22, false),
            ("a.corp.example", 443, true),
            ("a.b.CORP.example.", 443, true),
            ("corp.example", 443, false),
            (".corp.example", 443, false),
            ("acorp.example", 443, false),
            ("a.corp.example", 80, false),
            ("a.corp.example.evil", 443, false),
        ] {
            let outcome = outcome(&rules, host, port, "10.0.0.1");
            assert_eq!(outcome.is_ok(), is_allowed, "{host}:{port} {outcome:?}");
        }
    }

    #[test]
    fn networks_match_addresses_and_the_addresses_of_names() {
        let rules = ["10.0.0.0/8:22", "[2001:db8::/32]:22"];
        let of = |host, resolved| outcome(&rules, host, 22, resolved);
        assert_eq!(of("10.200.0.9", ""), Ok("10.200.0.9:22".to_owned()));
        assert_eq!(of("2001:db8::9", ""), Ok("[2001:db8::9]:22".to_owned()));
        assert_eq!(of("nas", "10.0.0.1"), Ok("10.0.0.1:22".to_owned()));
        assert_eq!(of("nas", "11.0.0.1"), Err(DestinationDenied::NotListed));
        assert_eq!(of("11.0.0.1", ""), Err(DestinationDenied::NotListed));
        assert_eq!(
            outcome(&rules, "nas", 23, "10.0.0.1"),
            Err(DestinationDenied::NotListed)
        );
    }

    #[test]
    fn special_addresses_need_a_rule_within_their_block() {
        let wide = &["*:*", "0.0.0.0/0:*", "[::/0]:*", "*.lan:*"];
        for host in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001:0:1::1",
            "2002:7f00:1::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            let denied = of_address(wide, host);
            assert!(
                matches!(denied, Err(DestinationDenied::Special { .. })),
                "{host}"
            );
            // As the address of a name that a rule lists.
            let rebound = outcome(wide, "evil.lan", 80, host);
            assert!(
                matches!(rebound, Err(DestinationDenied::Special { .. })),
                "{host}"
            );
        }
    }

    #[test]
    fn a_rule_within_the_block_allows_special_addresses() {
        for (rule, host) in [
            ("127.0.0.1:*", "127.0.0.1"),
            ("127.0.0.0/8:*", "127.9.9.9"),
            ("127.0.0.1:*", "::ffff:127.0.0.1"),
            ("169.254.0.0/16:*", "169.254.1.1"),
            ("169.254.169.254:*", "169.254.169.254"),
            ("[::1]:*", "::1"),
            ("[fe80::/10]:*", "fe80::1"),
            ("[64:ff9b::/96]:*", "64:ff9b::7f00:1"),
            ("[2002::/16]:*", "2002:7f00:1::1"),
            ("[fd00:ec2::254]:*", "fd00:ec2::254"),
        ] {
            let allowed = of_address(&[rule], host);
            assert!(allowed.is_ok(), "{rule} {host}: {allowed:?}");
        }
        // A smaller block inside needs its own rule.
        for (rule, host) in [
            ("169.254.0.0/16:*", "169.254.169.254"),
            ("[fd00::/8]:*", "fd00:ec2::254"),
            ("127.0.0.2:*", "127.0.0.1"),
        ] {
            assert!(of_address(&[rule], host).is_err(), "{rule} {host}");
        }
        let loopback = ["localhost:80", "127.0.0.1:80"];
        let by_name = outcome(&loopback, "localhost", 80, "127.0.0.1");
        assert_eq!(by_name, Ok("127.0.0.1:80".to_owned()));
    }

    #[test]
    fn mapped_addresses_are_dialled_as_ipv4_and_need_a_rule_for_the_address() {
        let mapped = "::ffff:10.0.0.1";
        assert_eq!(
            of_address(&["*:*"], mapped),
            Err(DestinationDenied::NotListed)
        );
        let allowed = of_address(&["10.0.0.0/8:80"], mapped);
        assert_eq!(allowed, Ok("10.0.0.1:80".to_owned()));
    }

    #[test]
    fn numbers_and_texts_that_are_no_names_are_refused() {
        let rules = ["*:*", "127.0.0.1:*", "0.0.0.0/0:*"];
        for host in [
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "256.1.1.1",
            "[::1]",
            "::1%lo",
            "fe80::1%eth0",
            "a..b",
            ".",
            "..",
            "a/b",
            "b\u{fc}ro",
            "\u{ff11}27.0.0.1",
            "a:b",
        ] {
            assert_eq!(
                of_address(&rules, host),
                Err(DestinationDenied::InvalidHost),
                "{host}"
            );
        }
        let long = format!("{}.lan", "a".repeat(250));
        assert_eq!(
            of_address(&rules, &long),
            Err(DestinationDenied::InvalidHost)
        );
    }

    #[test]
    fn only_the_allowed_addresses_of_a_name_are_dialled() {
        let list = list(&["*.lan:80"]);
        let host = "nas.lan".to_owned();
        let known = list.admit(&NamedTarget { host, port: 80 }).expect("listed");
        let addresses = [
            "127.0.0.1:80",
            "10.0.0.1:80",
            "[fe80::1]:80",
            "[fd01::1]:80",
        ];
        let addresses: [SocketAddr; 4] = addresses.map(|text| text.parse().expect(text));
        let allowed = list.allowed(known, &addresses).expect("two are");
        assert_eq!(allowed, [addresses[1], addresses[3]]);
        let denied = list.allowed(known, &addresses[..1]);
        let Err(error @ DestinationDenied::Special { .. }) = denied else {
            panic!("{denied:?}");
        };
        assert_eq!(
            error.to_string(),
            "its address 127.0.0.1 is a loopback address, which needs its own rule in `allow`"
        );
        assert_eq!(list.allowed(known, &[]), Err(DestinationDenied::NotListed));
    }
}
