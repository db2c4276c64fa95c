//! The choice of one port of a configuration by its mark.

use anyhow::bail;

use super::invite;
use crate::config::PortConfig;

/// Returns the port with this mark. Without one, returns the only port whose mark differs in upper
/// and lower case alone.
///
/// # Errors
/// When no port has the mark, or several have it.
pub(super) fn by_mark<'c>(
    ports: impl Iterator<Item = &'c PortConfig>,
    mark: &str,
) -> anyhow::Result<&'c PortConfig> {
    let ports: Vec<&PortConfig> = ports.collect();
    let with = |is_meant: &dyn Fn(&str) -> bool| -> Vec<&'c PortConfig> {
        let meant = ports.iter().filter(|port| is_meant(&port.mark));
        meant.copied().collect()
    };
    let mut found = with(&|known| known == mark);
    if found.is_empty() {
        let lowercase = mark.to_lowercase();
        found = with(&|known| known.to_lowercase() == lowercase);
    }
    match found.as_slice() {
        &[port] => Ok(port),
        [] => bail!("no port has {}: write one of {}", named(mark), list(&ports)),
        several => bail!(
            "\"{mark}\" is the mark of {} ports: write one of {}, or rename one of them",
            several.len(),
            list(several)
        ),
    }
}

/// Names the mark, unless it may be an invitation that was copied incompletely.
fn named(mark: &str) -> String {
    if invite::may_contain_key(mark) {
        "this mark (it may contain a key, so it is not printed; an invitation begins with report+wss:// or report+ws://)".to_owned()
    } else {
        format!("the mark \"{mark}\"")
    }
}

/// Lists the marks.
fn list(ports: &[&PortConfig]) -> String {
    let marks = ports.iter().map(|port| format!("\"{}\"", port.mark));
    marks.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostPort, Secret};

    fn ports(marks: &[&str]) -> Vec<PortConfig> {
        let port = |mark: &&str| {
            let address: HostPort = "127.0.0.1:1".parse().expect("an address");
            let key = Secret::new("k".to_owned());
            PortConfig::new((*mark).to_owned(), address.into(), key)
        };
        marks.iter().map(port).collect()
    }

    #[test]
    fn the_exact_mark_precedes_one_in_another_case() {
        let ports = ports(&["SSH", "ssh", "Größe", "web"]);
        for (mark, found) in [
            ("SSH", "SSH"),
            ("ssh", "ssh"),
            ("GRÖSSE", ""),
            ("größe", "Größe"),
            ("WEB", "web"),
            ("Ssh", ""),
        ] {
            let port = by_mark(ports.iter(), mark);
            assert_eq!(port.map_or("", |port| &port.mark), found, "{mark}");
        }
    }

    #[test]
    fn a_damaged_invitation_is_not_printed() {
        let ports = ports(&["SSH"]);
        for mark in [
            "'report+wss://host/#hush",
            "eport+wss://host/?mark=SSH#hush",
        ] {
            let error = by_mark(ports.iter(), mark).expect_err(mark).to_string();
            assert!(error.contains("write one of \"SSH\""), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn errors_list_the_marks() {
        let ports = ports(&["SSH", "ssh", "ssh", "web"]);
        for (mark, part) in [
            ("RDP", "write one of \"SSH\", \"ssh\", \"ssh\", \"web\""),
            ("ssh", "is the mark of 2 ports"),
            (
                "Ssh",
                "is the mark of 3 ports: write one of \"SSH\", \"ssh\"",
            ),
        ] {
            let error = by_mark(ports.iter(), mark).expect_err(mark).to_string();
            assert!(
                error.contains(part) && error.contains(&format!("\"{mark}\"")),
                "{error}"
            );
        }
    }
}
