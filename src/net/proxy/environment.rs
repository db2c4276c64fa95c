//! Reads the proxy from the environment, by the rules of curl: `https_proxy` for `wss://`,
//! `http_proxy` for `ws://`, then `all_proxy`. Lower-case names take precedence. Loopback hosts and
//! hosts in `no_proxy` use no proxy.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{ProxyAddress, ProxyAddressError};
use crate::net::authority::Authority;

/// An environment variable names an unusable proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {name} {problem}")]
pub struct EnvironmentError {
    /// The variable.
    pub name: &'static str,
    /// The problem with its value.
    pub problem: ProxyAddressError,
}

/// Returns the proxy for a master and the variable that names it.
///
/// # Errors
/// If the variable's value is not the address of a proxy.
pub fn proxy_for(
    variable: &dyn Fn(&str) -> Option<String>,
    is_secure: bool,
    host: &str,
    port: u16,
) -> Result<Option<(ProxyAddress, &'static str)>, EnvironmentError> {
    let set = |name: &&'static str| {
        variable(name)
            .map(|value| (value, *name))
            .filter(|(value, _)| !value.trim().is_empty())
    };
    let exempt = ["no_proxy", "NO_PROXY"].iter().find_map(set);
    if is_loopback_host(host) || exempt.is_some_and(|(list, _)| is_exempt(&list, host, port)) {
        return Ok(None);
    }
    let own = if is_secure {
        ["https_proxy", "HTTPS_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY"]
    };
    let Some((value, name)) = own.iter().chain(&["all_proxy", "ALL_PROXY"]).find_map(set) else {
        return Ok(None);
    };
    value
        .parse()
        .map(|proxy| Some((proxy, name)))
        .map_err(|problem| EnvironmentError { name, problem })
}

/// Returns whether the host is this machine. A proxy would connect to its own loopback address
/// instead.
fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns whether `no_proxy` lists the host. An entry is `*`, a name, a domain with or without a
/// leading dot, an address or a network (`10.0.0.0/8`), each with an optional port.
fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t'])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            let (entry, only_port) = split_port(entry);
            if only_port.is_some_and(|only| only != port) {
                return false;
            }
            let entry = entry.trim_end_matches('.').to_ascii_lowercase();
            if let Some(address) = address {
                let is_equal = entry.parse::<IpAddr>().is_ok_and(|entry| entry == address);
                return is_equal
                    || entry
                        .parse::<IpNet>()
                        .is_ok_and(|network| network.contains(&address));
            }
            let domain = entry
                .strip_prefix("*.")
                .or_else(|| entry.strip_prefix('.'))
                .unwrap_or(&entry);
            host == domain
                || host
                    .strip_suffix(domain)
                    .is_some_and(|rest| !domain.is_empty() && rest.ends_with('.'))
        })
}

/// Returns the entry without its brackets, and its port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    let Some(written) = Authority::split(entry) else {
        return (entry, None);
    };
    let port = written.port().ok().flatten();
    let port = port.and_then(|port| port.parse().ok());
    if written.in_brackets || port.is_some() {
        (written.host, port)
    } else {
        (entry, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], is_secure: bool, host: &str) -> Option<String> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        proxy_for(&variable, is_secure, host, 443)
            .unwrap()
            .map(|(proxy, name)| format!("{name}: {proxy}"))
    }

    #[test]
    fn master_scheme_selects_the_variable_and_lower_case_wins() {
        let all = [
            ("https_proxy", "http://a:1"),
            ("HTTPS_PROXY", "http://b:1"),
            ("HTTP_PROXY", "http://c:1"),
            ("ALL_PROXY", "socks5://d"),
        ];
        assert_eq!(
            found(&all, true, "example.com").as_deref(),
            Some("https_proxy: http://a:1")
        );
        assert_eq!(
            found(&all, false, "example.com").as_deref(),
            Some("HTTP_PROXY: http://c:1")
        );
        assert_eq!(
            found(&all[3..], false, "example.com").as_deref(),
            Some("ALL_PROXY: socks5://d:1080")
        );
        assert_eq!(
            found(&[("https_proxy", ""), ("HTTPS_PROXY", "e:3128")], true, "x").as_deref(),
            Some("HTTPS_PROXY: http://e:3128")
        );
        assert_eq!(found(&[], true, "example.com"), None);
    }

    #[test]
    fn no_proxy_entries_bypass_the_proxy() {
        for (list, host, exempt) in [
            ("*", "example.com", true),
            ("example.com", "example.com", true),
            ("example.com", "www.Example.com", true),
            (".example.com", "www.example.com", true),
            ("*.example.com", "www.example.com", true),
            ("example.com", "notexample.com", false),
            ("", "127.0.0.2", true),
            ("", "localhost", true),
            ("a.example, 192.0.2.1", "192.0.2.1", true),
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("fe80::/10 fd00::/8", "fd00::1", true),
            ("[fd00::1]:443", "fd00::1", true),
            ("example.com:443", "example.com", true),
            ("example.com:80", "example.com", false),
            ("1.1.1.1", "1.1.1.10", false),
            ("", "example.com", false),
        ] {
            let variables = [("ALL_PROXY", "http://proxy:1"), ("NO_PROXY", list)];
            assert_eq!(
                found(&variables, true, host).is_none(),
                exempt,
                "{list} for {host}"
            );
        }
    }

    #[test]
    fn invalid_variable_is_named() {
        let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "gopher://x".to_owned());
        let error = proxy_for(&variable, true, "example.com", 443)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HTTPS_PROXY") && error.contains("gopher"),
            "{error}"
        );
    }
}
