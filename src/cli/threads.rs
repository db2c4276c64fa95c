//! How many threads a process works with. A task that wakes one of another thread costs a call to the system and a switch between the two, which on a
//! busy link is as much as moving the bytes; a thread more is worth that only when there is work for it (docs/performance.md has the measurements).

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use crate::{
    compress::CompressMethod,
    config::{PortConfig, RoleConfig},
    crypto::EncryptMethod,
};

/// Set by who knows better than [`Threads::of`]; read by tokio too.
const OVERRIDE: &str = "TOKIO_WORKER_THREADS";

/// The threads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// One for everything: a role has one busy link, whose messages are made and opened one after the other.
    One,
    /// One for each processor.
    All,
}

impl Threads {
    /// What a role needs: a master has many links, and what compresses or runs in CFB mode has more to do for a byte than a thread beside the link's
    /// should wait for.
    pub(super) fn of(role: &RoleConfig) -> Self {
        match role {
            RoleConfig::Master(_) => Threads::All,
            RoleConfig::Server(server) => Self::for_ports(&server.ports),
            RoleConfig::Client(client) => Self::for_ports(&client.ports),
        }
    }

    /// What these ports need.
    pub(super) fn for_ports(ports: &[PortConfig]) -> Self {
        let is_light =
            |port: &PortConfig| port.compress_method == CompressMethod::Null && port.encrypt_method != EncryptMethod::Aes128Cfb;
        if ports.iter().all(is_light) { Threads::One } else { Threads::All }
    }

    /// A runtime with so many, unless [`OVERRIDE`] is set.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn runtime(self) -> anyhow::Result<Runtime> {
        let mut builder = match self {
            Threads::One if std::env::var_os(OVERRIDE).is_none() => Builder::new_current_thread(),
            Threads::One | Threads::All => Builder::new_multi_thread(),
        };
        builder.enable_all().thread_name("report").build().context("cannot start the runtime")
    }
}
