//! `report`: runs a role from its configuration file until it ends.

use std::{future::pending, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    InvalidArguments,
    field_options::{ConfigFields, OptionNames},
    restart::restart_on_signal,
    roles::PreparedRole,
    signals::{Signals, run_until_drained, watch_for_panics},
    threads,
    warnings::warnings,
};
use crate::{
    admin::{AdminListener, AdminService},
    config::{self, LoadedConfig, RoleConfig, Warning},
    master::MasterHandle,
    net::passed_sockets,
    successor,
    systemd::Notifier,
    telemetry,
};

/// Runs the role of the file until a signal ends it.
///
/// # Errors
/// Fails when the file is invalid, or the role cannot run.
pub(super) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    // Before the process has other threads.
    passed_sockets::receive();
    run_loaded(&config::load(file)?, Warning::to_string)
}

/// Runs the role of a configuration until a signal ends it. `describe` returns the text of a warning.
///
/// # Errors
/// Fails when the role cannot run.
pub(super) fn run_loaded(
    loaded: &LoadedConfig,
    describe: impl Fn(&Warning) -> String,
) -> anyhow::Result<ExitCode> {
    let common = &loaded.config.common;
    telemetry::start(common.log_level, common.log_format)?;
    raise_open_files();
    for warning in warnings(loaded) {
        tracing::warn!("{}", describe(&warning));
    }
    let grace_period = *loaded.config.common.grace_period;
    let runtime = match loaded.config.role {
        RoleConfig::Master(_) => threads::master_runtime()?,
        RoleConfig::Server(_) | RoleConfig::Client(_) => threads::role_runtime()?,
    };
    run_with_signals(runtime, grace_period, async |cancel| {
        let admin = loaded.config.common.admin.as_ref();
        let admin = admin.map(AdminListener::bind).transpose()?;
        let ready = PreparedRole::prepare(&loaded.config).await?;
        let listens_at = ready.local_addresses();
        tracing::info!(
            role = loaded.config.role.name(),
            ?listens_at,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        passed_sockets::warn_unused(&listens_at);
        let mut served = None;
        if let Some(admin) = admin {
            let service = ready.admin_service();
            admin.check(&service).await?;
            served = Some((admin, service));
        }
        run_until_ended(ready, served, &cancel, grace_period).await;
        Ok(())
    })
}

/// Runs a role with its admin address. Reports to systemd, and to an earlier process that hands over
/// to this one.
async fn run_until_ended(
    ready: PreparedRole,
    served: Option<(AdminListener, AdminService)>,
    cancel: &CancellationToken,
    grace_period: Duration,
) {
    let (master, role) = (ready.master_handle(), ready.name());
    if let (Some(master), Some((admin, _))) = (&master, &served) {
        // Without the listener, a new process cannot bind the address, and says so.
        master.set_admin_listener(admin.passed().unwrap_or_default());
    }
    let notifier = Notifier::new();
    notifier.ready(role);
    successor::report_ready();
    // The admin address also answers during the drain.
    tokio::select! {
        () = ready.run(cancel.clone(), grace_period) => {}
        () = serve_admin(served, master.as_ref()) => {}
        () = notifier.supervise(cancel) => {}
        () = restart_on_signal(master.as_ref(), &notifier) => {}
    }
}

/// Serves the admin address, if there is one, until a new process has taken over from `master`. Never
/// returns.
async fn serve_admin(served: Option<(AdminListener, AdminService)>, master: Option<&MasterHandle>) {
    let Some((admin, service)) = served else {
        return pending().await;
    };
    let retired = async {
        match master {
            Some(master) => master.retired().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = admin.serve(service) => {}
        () = retired => {}
    }
    pending().await
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
    run_loaded(&loaded, |warning| names.warning(warning))
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

/// Runs `role` on this runtime. Signals cancel its token, see [`run_until_drained`].
///
/// # Errors
/// Returns the error of the role, or fails when it does not end in time.
pub(super) fn run_with_signals(
    runtime: Runtime,
    grace_period: Duration,
    role: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let outcome = runtime.block_on(async {
        let mut signals = Signals::install().context("cannot receive signals")?;
        let cancel = CancellationToken::new();
        let panicked = watch_for_panics();
        run_until_drained(
            role(cancel.clone()),
            &cancel,
            &panicked,
            grace_period,
            async || signals.next().await,
        )
        .await
    });
    // The role has joined its tasks. Only a name lookup, or tasks cut off by a second signal, may
    // be left.
    runtime.shutdown_background();
    outcome
}
