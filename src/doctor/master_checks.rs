//! The checks of the path to one master, from its name to the authentication of the role.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    DoctorReport, DoctorStep, MasterTarget, StepOutcome, Subject,
    dial_recorder::{DialRecorder, DialSpan, ResponseInfo, TlsSession},
    message_checks,
    probe::{DialProbe, probe},
    verdicts,
};
use crate::{
    diagnosis::Diagnosis,
    link::authenticate::{self, JoinError, RoleIdentity},
    net::{
        connect::ConnectFault,
        dial::{ChosenProxy, DialError, DialPeer, DialStep, Dialer},
        proxy::ProxyKind,
        tls::{CertificateInfo, format_utc},
        websocket::MessageSocket,
    },
    random,
};
use report_proto::{
    crypto::LinkKey,
    frame::{Role, Slot, Terms},
    id::Id,
};

/// The name of the doctor in the log of a master.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"), " doctor");

/// The time limit of the close handshake of a link.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// A common path that no WebSocket endpoint uses.
const PROBE_PATH: &str = "/robots.txt";

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
    let checks = DialChecks {
        dialer,
        master: &master,
        report: &mut *report,
    };
    let failed = match checks.dial().await {
        Ok((socket, connection)) => {
            return authenticate_role(subject, &master, socket, connection, report).await;
        }
        Err(failed) => failed,
    };
    // Record the remaining steps as skipped.
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
                &master,
                format!("the step {failed} failed"),
            ));
        }
    }
    false
}

/// The name of the step that failed.
type FailedStep = &'static str;

struct DialChecks<'c, 'r, 't> {
    dialer: &'c Dialer,
    master: &'c str,
    report: &'r mut DoctorReport<'t>,
}

impl DialChecks<'_, '_, '_> {
    /// Runs the checks from the name to the WebSocket. Returns the socket and the time of a TCP
    /// connection to the master, if it was direct.
    async fn dial(mut self) -> Result<(MessageSocket, Option<Duration>), FailedStep> {
        let proxy = match self.dialer.chosen_proxy() {
            Ok(proxy) => proxy,
            Err(error) => return self.failed(&error, Duration::ZERO),
        };
        let connection = self.probe(proxy.as_ref()).await?;
        let started = Instant::now();
        let recorder = DialRecorder::default();
        let result = self.dialer.dial_traced(&recorder).await;
        let spans = recorder.finish();
        let failed = result.as_ref().err();
        if proxy.is_none() && failed.is_none_or(|error| error.step().1 > DialStep::Tcp) {
            self.report.record(DoctorStep::ok(
                "proxy",
                self.master,
                Duration::ZERO,
                "none: the role dials the master directly",
            ));
        }
        for (index, span) in spans.iter().enumerate() {
            let hop = (span.peer, span.step);
            // Skip the failed span, and spans that a later one repeats. A proxy that closes
            // connections causes repetitions.
            let is_repeated = spans
                .iter()
                .skip(index + 1)
                .any(|later| (later.peer, later.step) == hop);
            if !is_repeated && failed.is_none_or(|error| error.step() != hop) {
                self.record_span(span, proxy.as_ref());
            }
        }
        let outcome = match result {
            Ok(socket) => Ok((socket, connection)),
            Err(error) => self.failed(
                &error,
                spans
                    .last()
                    .map_or_else(|| started.elapsed(), |span| span.took),
            ),
        };
        // A refusal also contains a date.
        if let Some(response) = upgrade_response(&spans) {
            let step = clock(self.dialer, response).await;
            self.report.record(step);
        }
        outcome
    }

    /// Records the name and addresses of the first hop: the proxy, or the master.
    async fn probe(&mut self, proxy: Option<&ChosenProxy>) -> Result<Option<Duration>, FailedStep> {
        let started = Instant::now();
        let DialProbe {
            peer,
            host,
            port,
            name_took,
            addresses,
        } = match probe(self.dialer, proxy).await {
            Ok(probe) => probe,
            Err(error) => return self.failed(&error, started.elapsed()),
        };
        let list: Vec<String> = addresses
            .iter()
            .map(|(address, _)| address.ip().to_string())
            .collect();
        let whose = if peer == DialPeer::Proxy {
            "the proxy's "
        } else {
            ""
        };
        let found = format!("{whose}{host} is {}", list.join(", "));
        self.report.record(DoctorStep::ok(
            "name",
            &host,
            name_took,
            if is_address(&host) {
                "it is an address".to_owned()
            } else {
                found
            },
        ));
        let resolves_locally = proxy.is_none_or(|proxy| proxy.address.kind == ProxyKind::Socks5);
        if !resolves_locally {
            let name = self.dialer.address().host();
            self.report.record(DoctorStep::skipped(
                "name",
                name,
                "the proxy resolves the master's name",
            ));
        }
        let reached = addresses
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().ok().copied())
            .min();
        for (address, outcome) in &addresses {
            self.report
                .record(tcp_step(*address, outcome, reached.is_some(), &host, port));
        }
        match reached {
            Some(took) => Ok(Some(took).filter(|_| peer == DialPeer::Master)),
            None => Err("tcp"),
        }
    }

    /// Records a step that succeeded.
    fn record_span(&mut self, span: &DialSpan, proxy: Option<&ChosenProxy>) {
        let master = self.master;
        let step = match span.step {
            // The probe already recorded these steps.
            DialStep::Name | DialStep::Tcp => None,
            DialStep::Proxy => proxy.map(|proxy| {
                let (subject, evidence) = (proxy.address.to_string(), proxy_evidence(proxy, span));
                DoctorStep::ok("proxy", subject, span.took, evidence)
            }),
            DialStep::Tls => span.session.as_ref().map(|session| {
                let subject = match (span.peer, proxy) {
                    (DialPeer::Proxy, Some(proxy)) => proxy.address.to_string(),
                    _ => master.to_owned(),
                };
                tls_step(&subject, span.took, session)
            }),
            DialStep::Http => span.response.as_ref().map(|response| {
                DoctorStep::ok("upgrade", master, span.took, upgrade_evidence(response))
            }),
        };
        if let Some(step) = step {
            self.report.record(step);
        }
    }

    fn failed<T>(&mut self, error: &DialError, took: Duration) -> Result<T, FailedStep> {
        let (peer, step) = error.step();
        let name = match step {
            DialStep::Name => "name",
            DialStep::Tcp => "tcp",
            DialStep::Proxy => "proxy",
            DialStep::Tls => "tls",
            DialStep::Http => "upgrade",
        };
        let subject = match error {
            DialError::Name { host, .. } => host.clone(),
            DialError::Proxy { proxy, .. } => proxy.to_string(),
            DialError::Environment(error) => error.name.to_owned(),
            DialError::Deadline { peer_address, .. } => peer_address.clone(),
            DialError::Tls { host, .. } if peer == DialPeer::Proxy => host.clone(),
            _ => self.master.to_owned(),
        };
        self.report
            .record(DoctorStep::failed(name, subject, took, error.diagnosis()));
        Err(name)
    }
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

/// Returns the step of one address. A failure is only a warning when another address was reached,
/// because a dial tries all of them.
fn tcp_step(
    address: SocketAddr,
    outcome: &Result<Duration, ConnectFault>,
    is_reached: bool,
    host: &str,
    port: u16,
) -> DoctorStep {
    match outcome {
        Ok(took) => DoctorStep::ok("tcp", address.to_string(), *took, "connected"),
        Err(fault) => {
            let remedy = fault.local_remedy().map_or_else(
                || format!("check that it is running, that firewalls allow port {port}, and that this is still an address of {host}"),
                str::to_owned,
            );
            let diagnosis = Diagnosis::new(fault.code(), fault.to_string(), fault.cause(), remedy);
            let constructor = if is_reached {
                DoctorStep::warning
            } else {
                DoctorStep::failed
            };
            constructor("tcp", address.to_string(), Duration::ZERO, diagnosis)
        }
    }
}

fn proxy_evidence(proxy: &ChosenProxy, span: &DialSpan) -> String {
    let mut text = format!("connects to the master; configured by {}", proxy.named_by);
    match (&proxy.address.user, span.scheme) {
        (Some(user), Some(scheme)) => text.push_str(&format!(
            "; authenticated as \"{}\" with {scheme}",
            user.name
        )),
        (Some(user), None)
            if matches!(proxy.address.kind, ProxyKind::Socks5 | ProxyKind::Socks5h) =>
        {
            text.push_str(&format!("; authenticated as \"{}\"", user.name))
        }
        (Some(user), None) => text.push_str(&format!(
            "; it did not ask for the credentials of \"{}\"",
            user.name
        )),
        (None, _) => text.push_str("; it requires no authentication"),
    }
    text
}

fn tls_step(subject: &str, took: Duration, session: &TlsSession) -> DoctorStep {
    let mut text = match &session.negotiated {
        Some((version, cipher)) => format!("{version}, {cipher}"),
        None => "not agreed".to_owned(),
    };
    if let Some(leaf) = session.chain.first() {
        text.push_str(&format!("; {}", describe_certificate(leaf)));
    }
    if session.chain.len() > 1 {
        let issuers: Vec<String> = session
            .chain
            .iter()
            .skip(1)
            .map(|above| format!("\"{}\"", above.subject))
            .collect();
        text.push_str(&format!("; chain: {}", issuers.join(", ")));
    }
    match verdicts::certificate(&session.chain) {
        None => DoctorStep::ok("tls", subject, took, text),
        Some(diagnosis) => {
            let evidence = format!("{}; {text}", diagnosis.evidence);
            DoctorStep::warning("tls", subject, took, diagnosis.with_evidence(evidence))
        }
    }
}

/// Describes a certificate in one line.
pub(super) fn describe_certificate(leaf: &CertificateInfo) -> String {
    format!(
        "certificate of \"{}\" for {}, signed by \"{}\", until {} ({} days), SHA-256 {}",
        leaf.subject,
        leaf.display_names(),
        leaf.issuer,
        format_utc(leaf.not_after),
        leaf.days_left(),
        leaf.fingerprint()
    )
}

fn upgrade_evidence(response: &ResponseInfo) -> String {
    let headers: Vec<String> = response
        .identifying_headers
        .iter()
        .map(|(name, value)| format!("{name} {value:?}"))
        .collect();
    match (response.middlebox, headers.is_empty()) {
        (Some(name), _) => format!("101, through {name} ({})", headers.join(", ")),
        (None, false) => format!("101 ({})", headers.join(", ")),
        (None, true) => "101; no proxy names itself".to_owned(),
    }
}

/// Returns the response to the request, if there was one.
fn upgrade_response(spans: &[DialSpan]) -> Option<&ResponseInfo> {
    spans.iter().find_map(|span| span.response.as_ref())
}

/// Compares the clocks. If the response has no date, sends an ordinary HTTP request, as its
/// response usually has one.
async fn clock(dialer: &Dialer, response: &ResponseInfo) -> DoctorStep {
    let (started, master) = (Instant::now(), dialer.address().to_string());
    let there = match response.date {
        Some(there) => Some(there),
        None => {
            let recorder = DialRecorder::default();
            drop(dialer.at(PROBE_PATH).dial_traced(&recorder).await);
            upgrade_response(&recorder.finish()).and_then(|response| response.date)
        }
    };
    let Some(there) = there else {
        return DoctorStep::skipped("clock", master, "no response contains a date");
    };
    match verdicts::clocks(SystemTime::now(), there) {
        Ok(evidence) => DoctorStep::ok("clock", master, started.elapsed(), evidence),
        Err(diagnosis) => DoctorStep::warning("clock", master, started.elapsed(), diagnosis),
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
    let joined = join(&mut socket, subject.role, &subject.key, 0).await;
    let step = match &joined {
        Ok(_) if subject.role == Role::Server => {
            "joined as a server: the master holds the same key, and nothing was registered"
        }
        Ok(_) => "not needed: the master accepted the client",
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

/// Joins as a separate instance without registrations or tunnels. Asks the master to send nothing
/// on its own for `quiet_seconds`.
pub(super) async fn join(
    socket: &mut MessageSocket,
    role: Role,
    key: &LinkKey,
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
    authenticate::join_with_quiet_period(socket, key, &introduction, &[], quiet_seconds).await
}
