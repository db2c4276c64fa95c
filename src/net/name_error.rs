//! Why a name has no address. Maps the errors of the system's resolver to kinds: the standard
//! library passes on only the text of `gai_strerror`, and on Windows a number.

use std::io;

use super::file_limit::OutOfFiles;
use crate::diagnosis::DiagnosisCode;

/// Why a host has no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The look-up failed.
    #[error("{error}")]
    LookUp {
        /// The kind of failure.
        fault: NameFault,
        /// The resolver's error.
        error: io::Error,
    },
    /// The look-up failed for want of a file descriptor.
    #[error("{error}")]
    OutOfFiles {
        /// The exhausted limit.
        out: OutOfFiles,
        /// The resolver's error.
        error: io::Error,
    },
    /// The look-up did not end in time.
    #[error("it was not resolved in time")]
    TimedOut,
    /// The name has no address.
    #[error("it has no address")]
    NoAddress,
    /// The name has no address of the family of the configured local address.
    #[error("it has no address of the family of `bind_address`")]
    WrongFamily,
}

/// Why a look-up failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// The DNS server does not know the name.
    Unknown,
    /// The name has no address.
    NoAddress,
    /// The DNS server cannot be reached or fails.
    ServerFailed,
    /// The resolver gives another reason.
    Other,
}

impl NameError {
    /// Returns the code for dialling a master or a proxy.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            NameError::LookUp { fault, .. } => match fault {
                NameFault::Unknown => DiagnosisCode::NameUnknown,
                NameFault::NoAddress => DiagnosisCode::NameWithoutAddress,
                NameFault::ServerFailed => DiagnosisCode::NameServerFailed,
                NameFault::Other => DiagnosisCode::NameFailed,
            },
            NameError::OutOfFiles { .. } => DiagnosisCode::OutOfFiles,
            NameError::TimedOut => DiagnosisCode::NameTimeout,
            NameError::NoAddress | NameError::WrongFamily => DiagnosisCode::NameWithoutAddress,
        }
    }
}

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
