//! The checks of one port, from its key to the service behind it, through a client's link and a
//! separate tunnel. Also measure_time the path.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    DoctorReport, DoctorStep, MasterTarget, Subject, SubjectPort, service_checks,
    verdicts::{self, milliseconds},
};
use crate::{
    bench::{BenchPlan, BenchResults, MeasureError, PayloadKind, Throughput},
    client::direct::{self, DirectError, DirectTunnel},
    diagnosis::{Diagnosis, DiagnosisCode},
    tunnel::ResetCode,
};
use report_proto::frame::Role;

/// A stream without a reset for this long beyond a round trip has probably reached its service.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(2);

/// The steps through a tunnel.
const STEPS: [&str; 2] = ["port_key", "service"];

/// The steps of the measurement.
const MEASUREMENT_STEPS: [&str; 4] = [
    "round_trip",
    "throughput_up",
    "throughput_down",
    "buffering",
];

/// Records that the checks were skipped, because the master was not reached.
pub(super) fn skip(target: &MasterTarget, port: &SubjectPort, report: &mut DoctorReport<'_>) {
    let why = format!("{} was not reached", target.dialer.address());
    report.record(DoctorStep::skipped(
        "port_key",
        port.port.mark.to_string(),
        why,
    ));
}

/// Checks the tunnel and its service. Measures the path once. `measure_time` is the duration of
/// each measurement.
pub(super) async fn run(
    subject: &Arc<Subject>,
    target: &MasterTarget,
    SubjectPort { port, .. }: &SubjectPort,
    measure_time: &mut Option<Duration>,
    report: &mut DoctorReport<'_>,
    cancel: &CancellationToken,
) {
    let mark = port.mark.to_string();
    report.progress(&format!(
        "checking port \"{mark}\" via {}: tunnel, service and measurements",
        target.dialer.address()
    ));
    let started = Instant::now();
    let (measure, is_client) = (*measure_time, subject.role == Role::Client);
    let (name, server_timeout) = (mark.clone(), subject.server_timeout);
    let unchecked_because = service_checks::unchecked_because(port);
    let work = async move |reached: DirectTunnel| {
        let mut steps = vec![attached_step(&name, &reached)];
        // A server checks its service directly.
        if is_client {
            steps.push(match unchecked_because {
                Some(why) => DoctorStep::skipped("service", &name, why),
                None => service_step(&name, &reached).await,
            });
        }
        if let Some(time) = measure {
            steps.extend(measured(&name, &reached, time).await);
        }
        steps
    };
    match direct::with_tunnel(
        target.client.clone(),
        port.clone(),
        server_timeout,
        cancel.clone(),
        work,
    )
    .await
    {
        Ok(steps) => {
            *measure_time = None;
            steps.into_iter().for_each(|step| report.record(step));
        }
        Err(error) => {
            report.record(unreached_step(&mark, &error, started.elapsed(), is_client));
            let skipped = STEPS.into_iter().skip(1).filter(|_| is_client);
            skipped.for_each(|step| report.record(DoctorStep::skipped(step, &mark, "no tunnel")));
        }
    }
}

fn attached_step(
    mark: &str,
    DirectTunnel {
        tunnel,
        attach_time,
        server_info,
        ..
    }: &DirectTunnel,
) -> DoctorStep {
    let port = tunnel.port();
    let evidence = format!(
        "a server accepted the tunnel (process uptime {} s), with {} and {}",
        server_info.age.as_secs(),
        port.encrypt,
        port.compress
    );
    DoctorStep::ok("port_key", mark, *attach_time, evidence)
}

fn unreached_step(mark: &str, error: &DirectError, took: Duration, is_client: bool) -> DoctorStep {
    let diagnosis = match error {
        DirectError::NoServer { waited, .. } if is_client => Diagnosis::new(
            DiagnosisCode::NoServer,
            format!(
                "no server for this port key is linked to the master (waited {})",
                milliseconds(*waited)
            ),
            "the server is not running, is not linked to this master, or has another port key",
            "start the server, run `report doctor` there, and compare `port_key` at both ends exactly",
        ),
        DirectError::NoServer { .. } => {
            let evidence = "no server has registered this port key at the master";
            let diagnosis = Diagnosis::new(
                DiagnosisCode::NoServer,
                evidence,
                "this server is not running",
                "start it: the path allows it",
            );
            return DoctorStep::warning("port_key", mark, took, diagnosis);
        }
        DirectError::NoMaster(_) => Diagnosis::new(
            DiagnosisCode::NoMaster,
            error.to_string(),
            "",
            "see the previous steps",
        ),
        DirectError::Cancelled => Diagnosis::new(
            DiagnosisCode::Cancelled,
            error.to_string(),
            "",
            "see the previous steps",
        ),
        DirectError::Refused(refused) => refused.diagnosis(),
    };
    DoctorStep::failed("port_key", mark, took, diagnosis)
}

/// Opens a stream to the service and sends nothing.
async fn service_step(
    mark: &str,
    DirectTunnel {
        tunnel,
        attach_time,
        ..
    }: &DirectTunnel,
) -> DoctorStep {
    let started = Instant::now();
    let stream = tunnel.open(Bytes::new());
    let outcome = timeout(*attach_time + SERVICE_TIMEOUT, stream.read()).await;
    let took = started.elapsed();
    let step = match outcome {
        Err(_) => DoctorStep::ok(
            "service",
            mark,
            took,
            format!("a stream was not reset within {}", milliseconds(took)),
        ),
        Ok(Ok(Some(_))) => DoctorStep::ok(
            "service",
            mark,
            took,
            "a stream opens, and the service sends data",
        ),
        Ok(Ok(None)) => {
            let cause = "the service accepts no connections now, or none from the server's machine";
            let diagnosis = Diagnosis::new(
                DiagnosisCode::ServiceClosed,
                "the service closed the stream at once",
                cause,
                "check the service's log",
            );
            DoctorStep::warning("service", mark, took, diagnosis)
        }
        Ok(Err(error)) => DoctorStep::failed(
            "service",
            mark,
            took,
            reset_diagnosis(error.reset_code(), &error.to_string()),
        ),
    };
    // The check is complete, so release the connection of the service.
    stream.reset(ResetCode::Cancelled);
    step
}

fn reset_diagnosis(code: Option<ResetCode>, error: &str) -> Diagnosis {
    let remedy = "start the service, and check the port's `local_address` in the server's configuration; see also the server's log";
    match code {
        Some(ResetCode::Refused) => Diagnosis::new(
            DiagnosisCode::ServiceRefused,
            "the service behind the server refuses connections",
            "it is not running",
            remedy,
        ),
        Some(ResetCode::Unreachable) => Diagnosis::new(
            DiagnosisCode::ServiceUnreachable,
            "the service behind the server cannot be reached",
            "its host is down, or its name does not resolve",
            remedy,
        ),
        Some(ResetCode::Timeout) => Diagnosis::new(
            DiagnosisCode::ServiceTimeout,
            "the service behind the server does not answer",
            "its host is down, or a firewall drops the packets",
            remedy,
        ),
        _ => Diagnosis::new(
            DiagnosisCode::ServiceStreamLost,
            format!("the stream to the service was lost: {error}"),
            "",
            remedy,
        ),
    }
}

/// Measures the path.
async fn measured(
    mark: &str,
    DirectTunnel {
        tunnel,
        server_info,
        ..
    }: &DirectTunnel,
    time: Duration,
) -> Vec<DoctorStep> {
    if server_info.bench != Some(true) {
        let why = match server_info.bench {
            Some(_) => {
                "not measured: the server's configuration contains \"bench\": false; remove that to measure"
            }
            None => "not measured: the server's version does not support it; upgrade the server",
        };
        return MEASUREMENT_STEPS
            .map(|step| DoctorStep::skipped(step, mark, why))
            .into();
    }
    let mut measured = BenchResults::default();
    let plan = BenchPlan {
        time,
        connections: 1,
        data: PayloadKind::Random,
    };
    let started = Instant::now();
    let outcome = plan
        .run_single_connection(tunnel, &mut measured, |_| {})
        .await;
    let mut steps = results(mark, &measured, time);
    if let Err(error) = outcome {
        let diagnosis = measurement_diagnosis(&error);
        let failed = MEASUREMENT_STEPS
            .get(steps.len())
            .copied()
            .unwrap_or("buffering");
        steps.push(DoctorStep::failed(
            failed,
            mark,
            started.elapsed(),
            diagnosis,
        ));
    }
    steps
}

fn measurement_diagnosis(error: &MeasureError) -> Diagnosis {
    Diagnosis::new(
        DiagnosisCode::MeasurementFailed,
        error.evidence(),
        "",
        error.remedy(),
    )
}

fn results(mark: &str, measured: &BenchResults, time: Duration) -> Vec<DoctorStep> {
    let median = |trip: &crate::bench::RoundTripStats| Duration::from_secs_f64(trip.p50_us / 1e6);
    let trips = &measured.round_trip;
    let mut steps = Vec::new();
    if let Some(idle) = &trips.idle {
        let p99 = Duration::from_secs_f64(idle.p99_us / 1e6);
        let (middle, worst) = (milliseconds(median(idle)), milliseconds(p99));
        steps.push(DoctorStep::ok(
            "round_trip",
            mark,
            time,
            format!("to the server and back: p50 {middle}, p99 {worst}"),
        ));
    }
    for (name, moved) in [
        ("throughput_up", &measured.throughput.up),
        ("throughput_down", &measured.throughput.down),
    ] {
        steps.extend(
            moved
                .as_ref()
                .map(|moved| DoctorStep::ok(name, mark, time, throughput(moved))),
        );
    }
    let (up, down) = (
        trips.beside_up.as_ref().map(median),
        trips.beside_down.as_ref().map(median),
    );
    if let (Some(idle), Some(_), Some(_)) = (trips.idle.as_ref().map(median), up, down) {
        steps.push(match verdicts::buffering(idle, up, down) {
            Ok(evidence) => DoctorStep::ok("buffering", mark, time * 2, evidence),
            Err(reason) => DoctorStep::warning("buffering", mark, time * 2, reason),
        });
    }
    steps
}

fn throughput(moved: &Throughput) -> String {
    let megabytes = moved.bytes_per_second / 1e6;
    format!(
        "{megabytes:.1} MB/s ({:.1} Mbit/s) over one connection",
        megabytes * 8.0
    )
}
