//! The reloads of a running role: where the requests come from, and the control socket.

use std::path::Path;

use super::{live_role::LiveRole, signals::Hangups};
#[cfg(unix)]
use crate::reload::{
    ReloadOutcome, ReloadReport,
    control::{ControlCommand, ControlSocket},
};
use crate::{
    config::LoadedConfig,
    master::MasterHandle,
    reload::{ReloadQueue, ReloadSource, Reloader, watched_files::watch_files},
    systemd::Notifier,
};

/// The reloads of a role with a configuration file.
pub(super) struct Reloads {
    reloader: Reloader<LiveRole>,
    hangups: Hangups,
    #[cfg(unix)]
    control: Option<ControlSocket>,
}

impl Reloads {
    /// Creates the control socket of the file. Without one, the other sources still work.
    pub(super) fn new(
        file: &Path,
        loaded: &LoadedConfig,
        role: LiveRole,
        hangups: Hangups,
    ) -> Self {
        Reloads {
            reloader: Reloader::new(file, loaded, role),
            hangups,
            #[cfg(unix)]
            control: ControlSocket::bind(file)
                .inspect_err(|error| tracing::warn!("{error}"))
                .ok(),
        }
    }

    /// Answers all requests. Never returns. `master` is the role if it is a master.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied a part of a change.
    pub(super) async fn run(self, role: &str, master: Option<&MasterHandle>, notifier: &Notifier) {
        let queue = ReloadQueue::new();
        let watched = self.reloader.watched_files();
        #[cfg(unix)]
        let control = serve_control(self.control, &queue, master, notifier);
        #[cfg(not(unix))]
        let control = {
            let _ = master;
            std::future::pending::<()>()
        };
        tokio::join!(
            self.reloader.run(&queue, notifier, role),
            watch_files(watched, &queue),
            request_on_hangup(self.hangups, &queue),
            control
        );
    }
}

async fn request_on_hangup(mut hangups: Hangups, queue: &ReloadQueue) {
    loop {
        hangups.next().await;
        queue.request(ReloadSource::Signal);
    }
}

/// Executes the commands at the control socket.
#[cfg(unix)]
async fn serve_control(
    control: Option<ControlSocket>,
    queue: &ReloadQueue,
    master: Option<&MasterHandle>,
    notifier: &Notifier,
) {
    let Some(control) = control else { return };
    let execute = async |command: ControlCommand| match command {
        ControlCommand::Reload => {
            let report = queue.reload(ReloadSource::Command).await;
            report.unwrap_or_else(|| failed("the process ends"))
        }
        ControlCommand::Restart => restart(master, notifier).await,
    };
    control.serve(execute).await;
}

#[cfg(unix)]
async fn restart(master: Option<&MasterHandle>, notifier: &Notifier) -> ReloadReport {
    let Some(master) = master else {
        return failed("only a master restarts without a pause (this role is another one)");
    };
    match master.restart(notifier).await {
        Ok(pid) => ReloadReport {
            outcome: ReloadOutcome::Applied,
            text: format!("the process {pid} has taken over"),
        },
        Err(error) => {
            tracing::error!("not restarted: {error}");
            failed(&format!("not restarted: {error}"))
        }
    }
}

#[cfg(unix)]
fn failed(text: &str) -> ReloadReport {
    ReloadReport {
        outcome: ReloadOutcome::Failed,
        text: text.to_owned(),
    }
}
