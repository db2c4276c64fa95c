//! Proxies between networks, each as Debian ships it. Configuration and output are in a folder of
//! the test.
//!
//! | file | what it starts |
//! |---|---|
//! | [`squid`] | squid with any scheme of authentication, plain or behind TLS |
//! | [`kerberos`] | a realm with its KDC |
//! | [`samba`] | a domain of local accounts, whose `winbindd` verifies NTLM |
//! | [`tinyproxy`] | tinyproxy |
//! | [`socks`] | microsocks |
//! | [`mitmproxy`] | a TLS-inspecting middlebox |
//! | [`networks`] | network namespaces, of which one has another as its only exit |

pub(crate) mod kerberos;
pub(crate) mod mitmproxy;
pub(crate) mod networks;
pub(crate) mod samba;
pub(crate) mod socks;
pub(crate) mod squid;
pub(crate) mod tinyproxy;

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{programs, sshd};

/// The user that the proxies of the tests authenticate. It is not a real account.
pub(crate) const USER: &str = "ann";
/// The password, with characters that a URL has to escape.
pub(crate) const PASSWORD: &str = "se@me:open/1";
/// The password as it is written in a URL.
pub(crate) const PASSWORD_IN_URL: &str = "se%40me%3Aopen%2F1";

/// A folder that this user owns. The user may be another than that of the test.
fn folder_of(user: &str, prefix: &str) -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("a folder for a daemon");
    give_to(user, folder.path());
    folder
}

/// Gives the file or folder to the user that the daemon becomes when root starts it.
fn give_to(user: &str, path: &Path) {
    if sshd::is_root() {
        programs::run(Command::new("chown").arg(format!("{user}:")).arg(path)).succeeded();
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
