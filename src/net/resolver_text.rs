//! Maps the errors of the system's resolver to kinds. The standard library passes on only the text
//! of `gai_strerror`, and on Windows a number.

use std::io;

use super::resolve::NameFault;

/// The texts of glibc, musl, and macOS with the BSDs.
const TEXTS: [(&str, NameFault); 10] = [
    ("Name or service not known", NameFault::Unknown),
    ("Name does not resolve", NameFault::Unknown),
    ("nodename nor servname provided", NameFault::Unknown),
    ("No address associated with", NameFault::NoAddress),
    ("Name has no usable address", NameFault::NoAddress),
    (
        "Address family for hostname not supported",
        NameFault::NoAddress,
    ),
    (
        "Temporary failure in name resolution",
        NameFault::ServerFailed,
    ),
    ("Try again", NameFault::ServerFailed),
    ("Non-recoverable failure", NameFault::ServerFailed),
    ("Non-recoverable error", NameFault::ServerFailed),
];

/// The error numbers of Windows: WSAHOST_NOT_FOUND, WSATRY_AGAIN, WSANO_RECOVERY, WSANO_DATA.
const WINDOWS: [(i32, NameFault); 4] = [
    (11_001, NameFault::Unknown),
    (11_002, NameFault::ServerFailed),
    (11_003, NameFault::ServerFailed),
    (11_004, NameFault::NoAddress),
];

/// Returns the kind of a resolver's error.
pub(super) fn name_fault(error: &io::Error) -> NameFault {
    if let Some(number) = error.raw_os_error() {
        let known = WINDOWS.iter().find(|(known, _)| *known == number);
        return known.map_or(NameFault::Other, |(_, fault)| *fault);
    }
    let text = error.to_string();
    let known = TEXTS.iter().find(|(known, _)| text.contains(known));
    known.map_or(NameFault::Other, |(_, fault)| *fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_resolvers_are_recognised() {
        for (detail, fault) in [
            // glibc
            ("Name or service not known", NameFault::Unknown),
            ("No address associated with hostname", NameFault::NoAddress),
            (
                "Address family for hostname not supported",
                NameFault::NoAddress,
            ),
            (
                "Temporary failure in name resolution",
                NameFault::ServerFailed,
            ),
            (
                "Non-recoverable failure in name resolution",
                NameFault::ServerFailed,
            ),
            // musl
            ("Name does not resolve", NameFault::Unknown),
            ("Name has no usable address", NameFault::NoAddress),
            ("Try again", NameFault::ServerFailed),
            ("Non-recoverable error", NameFault::ServerFailed),
            // macOS
            (
                "nodename nor servname provided, or not known",
                NameFault::Unknown,
            ),
            ("Memory allocation failure", NameFault::Other),
        ] {
            let error = io::Error::other(format!("failed to lookup address information: {detail}"));
            assert_eq!(name_fault(&error), fault, "{detail}");
        }
    }

    #[test]
    fn numbers_of_windows_are_recognised() {
        for (number, fault) in WINDOWS {
            assert_eq!(name_fault(&io::Error::from_raw_os_error(number)), fault);
        }
        assert_eq!(
            name_fault(&io::Error::from_raw_os_error(5)),
            NameFault::Other
        );
    }

    #[test]
    fn an_unknown_name_is_recognised_here() {
        use std::net::ToSocketAddrs as _;
        // The top-level domain `invalid` does not exist (RFC 6761). Without a DNS server the look-up
        // fails instead.
        let error = ("no-such-host.invalid", 1).to_socket_addrs().unwrap_err();
        assert!(
            [NameFault::Unknown, NameFault::ServerFailed].contains(&name_fault(&error)),
            "{error}"
        );
    }
}
