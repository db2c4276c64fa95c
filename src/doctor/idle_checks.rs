//! Probes idle timeouts of the path with concurrent links, each idle for another period.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    DoctorReport, DoctorStep, MasterTarget, Subject, master_checks, message_checks,
    verdicts::{self, IdleOutcome, milliseconds, seconds},
};
use crate::{
    link::authenticate::{JoinError, LinkSecret},
    net::{
        dial::{DialError, Dialer},
        websocket::MessageSocket,
    },
};
use report_proto::frame::Role;

/// How long a link may take to answer a PING after its idle period.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of one idle link.
enum IdleTrial {
    /// The link stayed idle for the whole period.
    Idle(IdleOutcome),
    /// The master sent a message before the period was over.
    Interrupted(Duration),
    /// The link could not be established.
    NoLink(NoLink),
}

/// Why an idle link could not be established.
#[derive(Debug, thiserror::Error)]
enum NoLink {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Probes all idle periods concurrently.
pub(super) async fn probe_idle_periods(
    subject: &Subject,
    target: &MasterTarget,
    report: &mut DoctorReport<'_>,
) {
    let master = target.dialer.address().to_string();
    let longest = subject
        .idle_periods
        .iter()
        .max()
        .copied()
        .unwrap_or_default();
    report.progress(&format!(
        "{} links to {master} stay idle for up to {}",
        subject.idle_periods.len(),
        seconds(longest)
    ));
    let started = Instant::now();
    let mut links = JoinSet::new();
    for &time in &subject.idle_periods {
        let dialer = target.dialer.clone();
        links.spawn(async move { (time, hold_idle(&dialer, time).await) });
    }
    let mut trials: Vec<(Duration, IdleTrial)> = links.join_all().await;
    trials.sort_by_key(|(time, _)| *time);
    report.record(idle_step(
        master,
        started.elapsed(),
        &trials,
        subject.heartbeat,
    ));
}

/// Returns the step of all trials, sorted by their periods.
fn idle_step(
    master: String,
    took: Duration,
    trials: &[(Duration, IdleTrial)],
    heartbeat: Duration,
) -> DoctorStep {
    let idle_periods: Vec<(Duration, IdleOutcome)> = trials
        .iter()
        .filter_map(|(time, trial)| match trial {
            IdleTrial::Idle(outcome) => Some((*time, *outcome)),
            IdleTrial::Interrupted(_) | IdleTrial::NoLink(_) => None,
        })
        .collect();
    let note = note(trials);
    if idle_periods.is_empty() {
        let why = format!("no link stayed idle for its period{note}");
        return DoctorStep::skipped("silence", master, why);
    }
    match verdicts::idle_periods(&idle_periods, heartbeat) {
        Ok(evidence) => DoctorStep::ok("silence", master, took, evidence + &note),
        Err(diagnosis) => {
            let evidence = format!("{}{note}", diagnosis.evidence);
            DoctorStep::warning("silence", master, took, diagnosis.with_evidence(evidence))
        }
    }
}

/// Describes why some of the periods were not probed.
fn note(trials: &[(Duration, IdleTrial)]) -> String {
    let interrupted = trials.iter().find_map(|(_, trials)| match trials {
        IdleTrial::Interrupted(after) => Some(*after),
        _ => None,
    });
    let failed = trials.iter().find_map(|(_, trials)| match trials {
        IdleTrial::NoLink(error) => Some(error),
        _ => None,
    });
    let mut note = String::new();
    if let Some(after) = interrupted {
        note.push_str(&format!("; longer periods were not probed: the master sent a keep-alive after {}, because its version does not support quiet links", milliseconds(after)));
    }
    if let Some(error) = failed {
        note.push_str(&format!(
            "; some of the links were not established: {error}"
        ));
    }
    note
}

async fn hold_idle(dialer: &Dialer, time: Duration) -> IdleTrial {
    let mut socket = match dialer.dial().await {
        Ok(socket) => socket,
        Err(error) => return IdleTrial::NoLink(error.into()),
    };
    // The master must also stay quiet while the link waits for the PONG.
    let quiet =
        u32::try_from((time + PING_TIMEOUT).as_secs().saturating_add(1)).unwrap_or(u32::MAX);
    // Use a client's link for either role, because the path cannot distinguish them.
    if let Err(error) =
        master_checks::join(&mut socket, Role::Client, &LinkSecret::Anonymous, quiet).await
    {
        return IdleTrial::NoLink(error.into());
    }
    let started = Instant::now();
    match timeout_at(started + time, socket.receive()).await {
        // The link stayed idle. Now it must still carry a message.
        Err(_) => IdleTrial::Idle(ping_after_idle(socket).await),
        Ok(Ok(Some(_))) => IdleTrial::Interrupted(started.elapsed()),
        Ok(Ok(None) | Err(_)) => IdleTrial::Idle(IdleOutcome::Cut),
    }
}

async fn ping_after_idle(mut socket: MessageSocket) -> IdleOutcome {
    let outcome = match message_checks::ping(&mut socket, 0, PING_TIMEOUT).await {
        Ok(_) => IdleOutcome::Survived,
        Err(_) => IdleOutcome::Cut,
    };
    socket.close(Duration::from_secs(1)).await;
    outcome
}
