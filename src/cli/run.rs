//! `report`: runs a role from its configuration file until it ends.

use std::{future::pending, io, path::Path, process::ExitCode};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    InvalidArguments,
    admin_switch::{AdminServer, admin_switch},
    field_options::{ConfigFields, OptionNames},
    live_role::LiveRole,
    reloads::Reloads,
    restart::restart_on_signal,
    roles::PreparedRole,
    signals::{Hangups, Signals, run_until_drained, watch_for_panics},
    threads,
    warnings::warnings,
};
use crate::{
    admin::AdminListener,
    config::{self, LoadedConfig, RoleConfig, Warning},
    grace::Grace,
    net::passed_sockets,
    successor,
    systemd::Notifier,
    telemetry,
};

/// Runs the role of the file until a signal ends it. Reloads the file on request.
///
/// # Errors
/// Fails when the file is invalid, or the role cannot run.
pub(super) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    // Before the process has other threads.
    passed_sockets::receive();
    run_loaded(Some(file), &config::load(file)?, Warning::to_string)
}

/// Runs the role of a configuration until a signal ends it. `file` is the file to reload, if there is
/// one. `describe` returns the text of a warning.
///
/// # Errors
/// Fails when the role cannot run.
fn run_loaded(
    file: Option<&Path>,
    loaded: &LoadedConfig,
    describe: impl Fn(&Warning) -> String,
) -> anyhow::Result<ExitCode> {
    let common = &loaded.config.common;
    telemetry::start(common.log_level, common.log_format)?;
    raise_open_files();
    for warning in warnings(loaded) {
        tracing::warn!("{}", describe(&warning));
    }
    let grace = Grace::from(*loaded.config.common.grace_period);
    let runtime = match loaded.config.role {
        RoleConfig::Master(_) => threads::master_runtime()?,
        RoleConfig::Server(_) | RoleConfig::Client(_) => threads::role_runtime()?,
    };
    let install = if file.is_some() {
        Signals::install_without_hangup
    } else {
        Signals::install
    };
    run_with_signals(runtime, &grace, install, async |cancel| {
        let hangups = file.map(|_| Hangups::install()).transpose();
        let hangups = hangups.context("cannot receive signals")?;
        let ready = PreparedRole::prepare(&loaded.config).await?;
        // Last, as it replaces the unix socket of an earlier process, which continues if this one fails.
        let admin = loaded.config.common.admin.as_ref();
        let admin = admin.map(AdminListener::bind).transpose()?;
        let listens_at = ready.local_addresses();
        tracing::info!(
            role = loaded.config.role.name(),
            ?listens_at,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        passed_sockets::warn_unused(&listens_at);
        let service = ready.admin_service();
        if let Some(admin) = &admin {
            admin.check(&service).await?;
        }
        let master = ready.master_handle();
        let (switch, server) = admin_switch(service, master.as_ref(), admin);
        let live = LiveRole {
            handle: ready.handle(),
            admin: switch,
            grace: grace.clone(),
            cancel: cancel.clone(),
        };
        let reloads = file
            .zip(hangups)
            .map(|(file, hangups)| Reloads::new(file, loaded, live, hangups));
        run_until_ended(ready, server, reloads, &cancel, grace.clone()).await
    })
}

/// Runs a role with its admin address and its reloads. Reports to systemd, and to an earlier process
/// that hands over to this one.
///
/// # Errors
/// Fails when that process has ended.
async fn run_until_ended(
    ready: PreparedRole,
    admin: AdminServer,
    reloads: Option<Reloads>,
    cancel: &CancellationToken,
    grace: Grace,
) -> anyhow::Result<()> {
    let (master, role) = (ready.master_handle(), ready.name());
    successor::report_ready()
        .context("the process that has started this one ended before this one took over")?;
    let notifier = Notifier::new();
    let restarts = restart_on_signal(master.as_ref(), &notifier);
    notifier.ready(role);
    let reloading = async {
        match reloads {
            Some(reloads) => reloads.run(role, master.as_ref(), &notifier).await,
            None => pending().await,
        }
    };
    // The admin address also answers during the drain.
    tokio::select! {
        () = ready.run(cancel.clone(), grace) => {}
        () = admin.serve() => {}
        () = notifier.supervise(cancel) => {}
        () = restarts => {}
        () = reloading => {}
    }
    Ok(())
}

/// Runs the role of a configuration without a file. `names` are its options.
///
/// # Errors
/// Fails when the options are invalid, or the role cannot run.
pub(super) fn run_fields(fields: ConfigFields, names: &OptionNames) -> anyhow::Result<ExitCode> {
    // Before the process has other threads.
    passed_sockets::receive();
    let loaded = fields
        .read(names, &|name| std::env::var_os(name))
        .map_err(InvalidArguments)?;
    run_loaded(None, &loaded, |warning| names.warning(warning))
}

/// Raises the soft limit of open files to the hard limit. Each connection takes one or two
/// descriptors. The usual soft limit of 1,024 exists for programs that use `select`.
fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => tracing::debug!(
                soft = limit.current,
                hard = limit.maximum,
                "soft limit of open files raised"
            ),
            Err(error) => {
                tracing::warn!(limit = ?limit.current, "cannot raise the limit of open files: {error}")
            }
        }
    }
}

/// Runs `role` on this runtime. The signals that `install` receives cancel its token, see
/// [`run_until_drained`].
///
/// # Errors
/// Returns the error of the role, or fails when it does not end in time.
pub(super) fn run_with_signals(
    runtime: Runtime,
    grace: &Grace,
    install: impl FnOnce() -> io::Result<Signals>,
    role: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let outcome = runtime.block_on(async {
        let mut signals = install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        let panicked = watch_for_panics();
        run_until_drained(
            role(cancel.clone()),
            &cancel,
            &panicked,
            grace,
            async || signals.next().await,
        )
        .await
    });
    // The role has joined its tasks. Only a name lookup, or tasks cut off by a second signal, may
    // be left.
    runtime.shutdown_background();
    outcome
}
