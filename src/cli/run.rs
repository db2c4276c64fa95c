//! `report`: from a file to a running role, and the end of it.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{
    signals::{Signals, run_until_drained},
    warnings::warnings,
};
use crate::{
    config::{self, ClientConfig, MasterConfig, RoleConfig, ServerConfig},
    telemetry,
};

/// Runs the role that the file names until a signal ends it.
///
/// # Errors
/// When the file is wrong, or the role cannot run.
pub fn run(file: &Path) -> anyhow::Result<ExitCode> {
    let loaded = config::load(file)?;
    telemetry::start(loaded.config.log_level)?;
    for warning in warnings(&loaded) {
        tracing::warn!("{warning}");
    }
    let role = loaded.config.role;
    let grace_period = role.grace_period();
    run_with_signals(grace_period, async move |cancel| run_role(role, cancel).await)
}

/// Runs `role` on a runtime of its own; signals cancel its token, see [`run_until_drained`].
///
/// # Errors
/// That of the role, or that it did not end in time.
pub(super) fn run_with_signals(
    grace_period: Duration,
    role: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        run_until_drained(role(cancel.clone()), &cancel, grace_period, async || signals.next().await).await
    });
    // A role has joined its tasks. What is left is a lookup of a name, or what a second signal cut off.
    runtime.shutdown_background();
    outcome
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_name("report").build().context("cannot start the runtime")
}

/// Runs one role until it fails for good, or `cancel` is cancelled and it has drained (within its grace period).
///
/// # Errors
/// What makes the role impossible, with the layer and the remedy.
///
/// # Cancel safety
/// Dropping it cuts what the role carries; cancel `cancel` instead.
pub(super) async fn run_role(role: RoleConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    match role {
        RoleConfig::Master(config) => run_master(config, cancel).await,
        RoleConfig::Server(config) => run_server(config, cancel).await,
        RoleConfig::Client(config) => run_client(config, cancel).await,
    }
}

async fn run_master(_config: MasterConfig, _cancel: CancellationToken) -> anyhow::Result<()> {
    bail!("the master role is not built into this program yet")
}

async fn run_server(_config: ServerConfig, _cancel: CancellationToken) -> anyhow::Result<()> {
    bail!("the server role is not built into this program yet")
}

async fn run_client(_config: ClientConfig, _cancel: CancellationToken) -> anyhow::Result<()> {
    bail!("the client role is not built into this program yet")
}
