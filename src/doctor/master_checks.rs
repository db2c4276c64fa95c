//! The checks of the path to one master, from its name to the authentication of the role.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    DoctorReport, DoctorStep, MasterTarget, StepOutcome, Subject, congestion_check,
    dial_checks::{self, FailedStep},
    message_checks,
};
use crate::{
    link::authenticate::{self, JoinError, LinkSecret, RoleIdentity},
    net::{dial::Dialer, websocket::MessageSocket},
    random,
};
use report_proto::{
    frame::{Role, Slot, Terms},
    id::Id,
};

/// The name of the doctor in the log of a master.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"), " doctor");

/// The time limit of the close handshake of a link.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The steps after the name, in order.
const STEPS: [&str; 7] = [
    "tcp",
    "proxy",
    "tls",
    "upgrade",
    "clock",
    "master_key",
    "small_messages",
];

/// Runs the checks. Returns whether the master accepted the role.
pub(super) async fn run(
    subject: &Subject,
    target: &MasterTarget,
    report: &mut DoctorReport<'_>,
) -> bool {
    let dialer = &target.dialer;
    let master = dialer.address().to_string();
    report.progress(&format!("checking the path to {master}"));
    match dial_checks::run(dialer, &master, report).await {
        Ok((socket, connection)) => {
            report.record(congestion_check::check_link(&master, dialer, &socket));
            authenticate_role(subject, &master, socket, connection, report).await
        }
        Err(failed) => {
            skip_after(failed, dialer, &master, report);
            false
        }
    }
}

/// Records the steps after the failed one as skipped, except those that ran.
fn skip_after(failed: FailedStep, dialer: &Dialer, master: &str, report: &mut DoctorReport<'_>) {
    let after = STEPS
        .iter()
        .position(|step| *step == failed)
        .map_or(0, |position| position + 1);
    for step in STEPS.into_iter().skip(after) {
        let is_applicable = step != "tls" || dialer.address().is_secure();
        let is_done = report
            .steps()
            .iter()
            .any(|done| done.name == step && done.subject == master);
        if is_applicable && !is_done {
            report.record(DoctorStep::skipped(
                step,
                master,
                format!("the step {failed} failed"),
            ));
        }
    }
}

/// Joins the master over the socket. Returns whether the master accepted the role.
async fn authenticate_role(
    subject: &Subject,
    master: &str,
    mut socket: MessageSocket,
    connection: Option<Duration>,
    report: &mut DoctorReport<'_>,
) -> bool {
    let started = Instant::now();
    let joined = join(&mut socket, subject.role, &subject.secret, 0).await;
    let step = match &joined {
        Ok(_) => proof_evidence(&subject.secret),
        Err(error) => {
            report.record(DoctorStep::failed(
                "master_key",
                master,
                started.elapsed(),
                error.diagnosis(),
            ));
            report.record(DoctorStep::skipped(
                "small_messages",
                master,
                "the step master_key failed",
            ));
            return false;
        }
    };
    report.record(DoctorStep::ok(
        "master_key",
        master,
        started.elapsed(),
        step,
    ));
    let step = message_checks::small_messages(master, &mut socket, connection).await;
    let are_answered = step.outcome != StepOutcome::Failed;
    report.record(step);
    if are_answered && let Some(lost) = message_checks::large_message(master, &mut socket).await {
        report.record(lost);
    }
    socket.close(CLOSE_DEADLINE).await;
    true
}

/// Returns what an accepted link proves.
fn proof_evidence(secret: &LinkSecret) -> String {
    match secret {
        LinkSecret::MasterKey(_) => {
            "joined as a server: the master holds the same key, and nothing was registered"
                .to_owned()
        }
        LinkSecret::Credential(credential) => format!(
            "joined with the credential {}: the master knows it, and nothing was registered",
            credential.id()
        ),
        LinkSecret::Anonymous => "not needed: the master accepted the client".to_owned(),
    }
}

/// Joins as a separate instance without registrations or tunnels. Asks the master to send nothing
/// on its own for `quiet_seconds`.
pub(super) async fn join(
    socket: &mut MessageSocket,
    role: Role,
    secret: &LinkSecret,
    quiet_seconds: u32,
) -> Result<Terms, JoinError> {
    let introduction = RoleIdentity {
        role,
        instance: Id(random::bytes()),
        slot: Slot::FIRST,
        epoch: 1,
        moves: false,
        agent: AGENT.to_owned(),
    };
    authenticate::join_with_quiet_period(socket, secret, &introduction, &[], quiet_seconds).await
}
