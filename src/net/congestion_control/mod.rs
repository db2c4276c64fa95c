//! The congestion control of the TCP connections that carry links: which algorithm a connection
//! uses, and what permits another one. Only Linux lets a process choose.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod system;

use std::{fmt, fs, io, net::SocketAddr, str::FromStr, sync::Once};

use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The size of a name in the kernel, with at least one zero at its end (`TCP_CA_NAME_MAX`).
const NAME_SIZE: usize = 16;

/// The lists of algorithms: those that the kernel has loaded, and those that every process may use.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// The algorithm of `auto`. It measures the rate of a path instead of reading each lost segment as
/// congestion. One TCP connection over a path of 100 ms and 100 Mbit/s reaches 68.7 Mbit/s at a loss
/// of 1 %, and cubic 1.1. Without loss they reach 92.1 and 95.9.
const BBR: AlgorithmName = AlgorithmName(*b"bbr\0\0\0\0\0\0\0\0\0\0\0\0\0");

/// The name of an algorithm, padded with zeros like in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AlgorithmName([u8; NAME_SIZE]);

impl AlgorithmName {
    /// Reads a name that ends at the first zero.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let name = bytes.split(|byte| *byte == 0).next()?;
        let is_name = (1..NAME_SIZE).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
        if !is_name {
            return None;
        }
        let mut padded = [0; NAME_SIZE];
        padded.get_mut(..name.len())?.copy_from_slice(name);
        Some(AlgorithmName(padded))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.0.split(|byte| *byte == 0).next();
        name.and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for AlgorithmName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for AlgorithmName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(formatter)
    }
}

/// The congestion control that the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// BBR on connections to other hosts, if this process may use it. Otherwise the system's.
    #[default]
    Auto,
    /// The system's algorithm.
    System,
    /// This algorithm on all connections.
    Named(AlgorithmName),
}

impl CongestionControl {
    /// Returns the algorithm to set.
    fn wanted(self) -> Option<AlgorithmName> {
        match self {
            CongestionControl::Auto => Some(BBR),
            CongestionControl::System => None,
            CongestionControl::Named(name) => Some(name),
        }
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CongestionControl::Auto => formatter.write_str("auto"),
            CongestionControl::System => formatter.write_str("system"),
            CongestionControl::Named(name) => name.fmt(formatter),
        }
    }
}

/// A text that is no setting. Displayed as the words that follow the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}")]
pub struct InvalidAlgorithm(String);

impl InvalidAlgorithm {
    /// The settings that exist.
    pub const REMEDY: &str = "write \"auto\", \"system\" or the name of an algorithm such as \"bbr\" or \"cubic\" (1 to 15 of a-z, 0-9, _ and -)";
}

impl FromStr for CongestionControl {
    type Err = InvalidAlgorithm;

    fn from_str(text: &str) -> Result<Self, InvalidAlgorithm> {
        match text {
            "auto" => Ok(CongestionControl::Auto),
            "system" => Ok(CongestionControl::System),
            name => {
                let is_valid = name
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
                AlgorithmName::from_bytes(name.as_bytes())
                    .filter(|_| is_valid)
                    .map(CongestionControl::Named)
                    .ok_or_else(|| InvalidAlgorithm(text.to_owned()))
            }
        }
    }
}

/// The congestion control of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CongestionControlInUse {
    /// rePort set this algorithm.
    Chosen(AlgorithmName),
    /// The system chose this algorithm.
    System(AlgorithmName),
    /// The system does not report the algorithm.
    #[default]
    Unknown,
}

impl CongestionControlInUse {
    /// Returns the algorithm, if known.
    #[must_use]
    pub fn algorithm(self) -> Option<AlgorithmName> {
        match self {
            CongestionControlInUse::Chosen(name) | CongestionControlInUse::System(name) => {
                Some(name)
            }
            CongestionControlInUse::Unknown => None,
        }
    }
}

/// Why an algorithm cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AlgorithmError {
    /// The system reserves the algorithm for privileged processes.
    #[error(
        "net.ipv4.tcp_allowed_congestion_control does not list it, and this process lacks CAP_NET_ADMIN"
    )]
    NotPermitted,
    /// The kernel does not know the name. An unprivileged process cannot load its module.
    #[error("the kernel has not loaded it, or does not have it")]
    NotLoaded,
    /// The system has no such option.
    #[error("only Linux lets a process choose it")]
    Unsupported,
    /// Another error of the system.
    #[error("{0}")]
    Failed(io::ErrorKind),
}

impl From<io::Error> for AlgorithmError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => AlgorithmError::NotPermitted,
            io::ErrorKind::NotFound => AlgorithmError::NotLoaded,
            other => AlgorithmError::Failed(other),
        }
    }
}

/// The setting, and whether the system permits it.
#[derive(Debug, Clone)]
pub struct LinkCongestionControl {
    setting: CongestionControl,
    unavailable: Option<AlgorithmError>,
}

impl LinkCongestionControl {
    /// Checks whether this process may use the algorithm of the setting. For a privileged process
    /// the kernel loads a missing module, which takes some milliseconds. The answer is therefore kept
    /// for all connections.
    #[must_use]
    pub fn new(setting: CongestionControl) -> Self {
        let default = system::default_algorithm();
        let wanted = setting.wanted().filter(|wanted| default != Some(*wanted));
        LinkCongestionControl {
            setting,
            unavailable: wanted.and_then(|wanted| system::check(wanted).err()),
        }
    }

    /// Returns the setting.
    #[must_use]
    pub fn setting(&self) -> CongestionControl {
        self.setting
    }

    /// Returns whether the setting asks for an algorithm on a connection. `auto` keeps the system's
    /// within a host: no path loses segments there, and BBR reaches 0.86 to 0.93 of the throughput
    /// of cubic.
    #[must_use]
    pub fn applies_to(&self, is_same_host: bool) -> bool {
        match self.setting {
            CongestionControl::Auto => !is_same_host,
            CongestionControl::System => false,
            CongestionControl::Named(_) => true,
        }
    }

    /// Sets the algorithm of a connection if the setting asks for one. Returns the algorithm in use.
    /// The connection works without the option, so a failure is not an error. Under `auto` the first
    /// failure of the process is logged with its remedy.
    pub fn apply(&self, stream: &TcpStream) -> CongestionControlInUse {
        // A connection without addresses has already ended.
        let is_same_host = match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) => is_same_host(local, peer),
            _ => true,
        };
        self.apply_to(stream, is_same_host)
    }

    fn apply_to(&self, stream: &TcpStream, is_same_host: bool) -> CongestionControlInUse {
        let current = system::current(stream);
        let unchanged = current.map_or(
            CongestionControlInUse::Unknown,
            CongestionControlInUse::System,
        );
        let wanted = self
            .setting
            .wanted()
            .filter(|wanted| current != Some(*wanted) && self.applies_to(is_same_host));
        let Some(wanted) = wanted else {
            return unchanged;
        };
        if self.unavailable.is_none() && system::set(stream, wanted).is_ok() {
            return CongestionControlInUse::Chosen(wanted);
        }
        self.log_once();
        unchanged
    }

    /// Returns the algorithm of future connections.
    #[must_use]
    pub fn expected(&self, is_same_host: bool) -> CongestionControlInUse {
        let default = system::default_algorithm();
        let unchanged = default.map_or(
            CongestionControlInUse::Unknown,
            CongestionControlInUse::System,
        );
        match self.setting.wanted() {
            Some(wanted)
                if self.unavailable.is_none()
                    && default != Some(wanted)
                    && self.applies_to(is_same_host) =>
            {
                CongestionControlInUse::Chosen(wanted)
            }
            _ => unchanged,
        }
    }

    /// Returns why the algorithm of the setting cannot be set, with the command that permits it.
    /// Returns `None` for `auto` on a system that has no such option.
    #[must_use]
    pub fn problem(&self) -> Option<Diagnosis> {
        let (wanted, error) = (self.setting.wanted()?, self.unavailable?);
        let is_auto = self.setting == CongestionControl::Auto;
        let remedy = match error {
            AlgorithmError::Unsupported if is_auto => return None,
            AlgorithmError::NotPermitted | AlgorithmError::NotLoaded => {
                let check = if is_auto {
                    ""
                } else {
                    "correct `congestion_control`, or "
                };
                let command = permitting_command(wanted);
                format!("{check}run as root, then restart rePort: {command}")
            }
            AlgorithmError::Unsupported | AlgorithmError::Failed(_) => {
                "set `congestion_control` to \"auto\" or \"system\"".to_owned()
            }
        };
        Some(Diagnosis::new(
            DiagnosisCode::CongestionControlUnavailable,
            format!("the congestion control {wanted} cannot be set"),
            error.to_string(),
            remedy,
        ))
    }

    /// Logs under `auto`, once per process, why the algorithm is not in use.
    fn log_once(&self) {
        static LOGGED: Once = Once::new();
        if self.setting == CongestionControl::Auto && !LOGGED.is_completed() {
            let Some(problem) = self.problem() else {
                return;
            };
            LOGGED.call_once(|| {
                info!(code = %problem.code, "links keep the system's congestion control: {problem}");
            });
        }
    }
}

/// Warns if the setting names an algorithm that this process may not use. Links then keep the
/// system's.
pub fn warn_if_unavailable(setting: CongestionControl) {
    if !matches!(setting, CongestionControl::Named(_)) {
        return;
    }
    if let Some(problem) = LinkCongestionControl::new(setting).problem() {
        warn!(code = %problem.code, "links keep the system's congestion control: {problem}");
    }
}

/// Returns whether both ends of a connection are on this host.
#[must_use]
pub fn is_same_host(local: SocketAddr, peer: SocketAddr) -> bool {
    let (local, peer) = (local.ip().to_canonical(), peer.ip().to_canonical());
    peer.is_loopback() || peer == local
}

/// Returns the command that permits the algorithm to every process.
fn permitting_command(name: AlgorithmName) -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    command(name, &read(AVAILABLE), &read(ALLOWED))
}

fn command(name: AlgorithmName, available: &str, allowed: &str) -> String {
    let name = name.as_str();
    let is_loaded = available.split_whitespace().any(|loaded| loaded == name);
    let load = if is_loaded {
        String::new()
    } else {
        format!("modprobe tcp_{name} && ")
    };
    // The list replaces the present one, so it repeats its algorithms.
    let mut names: Vec<&str> = allowed.split_whitespace().collect();
    if names.is_empty() {
        names.extend(["reno", "cubic"]);
    }
    if !names.contains(&name) {
        names.push(name);
    }
    let list = names.join(" ");
    format!("{load}sysctl -w net.ipv4.tcp_allowed_congestion_control=\"{list}\"")
}

#[cfg(test)]
mod tests;
