//! One port, from its key to the service behind it, through a client's link and a tunnel of the doctor's own; and what its way is worth.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Journal, MasterWay, Step, Traveller, TravellerPort,
    judge::{self, milliseconds},
};
use crate::{
    bench::{Data, Measured, Plan, Throughput},
    client::direct::{self, ReachError, Reached},
    frame::Role,
    link::{
        Reason,
        connect::{ConnectError, connect},
    },
    tunnel::ResetCode,
};

/// A stream that was not reset for this long beyond a round trip has most likely found its service.
const SERVICE_PATIENCE: Duration = Duration::from_secs(2);

/// Steps through a tunnel.
const STEPS: [&str; 2] = ["port_key", "service"];

/// Steps that measure it.
const MEASURES: [&str; 4] = [
    "round_trip",
    "throughput_up",
    "throughput_down",
    "buffering",
];

/// The master was not reached.
pub(super) fn skip(way: &MasterWay, port: &TravellerPort, journal: &mut Journal<'_>) {
    let why = format!("{} was not reached", way.dialer.address());
    journal.enter(Step::skipped("port_key", port.port.mark.to_string(), why));
}

/// Walks to the service through a tunnel, and measures the way for as long as `measures` says for each measure, once.
pub(super) async fn walk(
    traveller: &Arc<Traveller>,
    way: &MasterWay,
    TravellerPort { port, .. }: &TravellerPort,
    measures: &mut Option<Duration>,
    journal: &mut Journal<'_>,
    cancel: &CancellationToken,
) {
    let mark = port.mark.to_string();
    journal.doing(&format!(
        "port \"{mark}\" by {}: its tunnel, its service, and what the way is worth",
        way.dialer.address()
    ));
    let begun = Instant::now();
    let (measure, is_client) = (*measures, traveller.role == Role::Client);
    let (name, patience) = (mark.clone(), traveller.patience);
    let work = async move |reached: Reached| {
        let mut steps = vec![attached(&name, &reached)];
        // A server's own service is dialled from here.
        if is_client {
            steps.push(service(&name, &reached).await);
        }
        if let Some(time) = measure {
            steps.extend(measured(&name, &reached, time).await);
        }
        steps
    };
    match direct::with_tunnel(
        way.client.clone(),
        port.clone(),
        patience,
        cancel.clone(),
        work,
    )
    .await
    {
        Ok(steps) => {
            *measures = None;
            steps.into_iter().for_each(|step| journal.enter(step));
        }
        Err(error) => {
            journal.enter(unreached(&mark, &error, begun.elapsed(), is_client));
            let skipped = STEPS.into_iter().skip(1).filter(|_| is_client);
            skipped
                .for_each(|step| journal.enter(Step::skipped(step, &mark, "there is no tunnel")));
        }
    }
}

fn attached(
    mark: &str,
    Reached {
        tunnel,
        attach_time,
        taker,
        ..
    }: &Reached,
) -> Step {
    let port = tunnel.port();
    let evidence = format!(
        "a server is there (its process runs for {} s), and agrees to {} and {}",
        taker.age.as_secs(),
        port.encrypt,
        port.compress
    );
    Step::ok("port_key", mark, *attach_time, evidence)
}

fn unreached(mark: &str, error: &ReachError, took: Duration, is_client: bool) -> Step {
    let reason = match error {
        ReachError::NoServer { waited, .. } if is_client => Reason::new(
            format!(
                "no server for this port key is linked to the master (waited for {})",
                milliseconds(*waited)
            ),
            "the server is not running, is not linked to this master, or has another port key",
            "start the server, run `report doctor` there, and compare `port_key` at both ends, to the letter",
        ),
        ReachError::NoServer { .. } => {
            let evidence = "no server has registered this port key at the master";
            let reason = Reason::new(
                evidence,
                "this server is not running",
                "start it: nothing on the way is against it",
            );
            return Step::warning("port_key", mark, took, reason);
        }
        ReachError::NoMaster(_) | ReachError::Cancelled => {
            Reason::of_sentence(&error.to_string(), "look at the steps before this one")
        }
        ReachError::Refused(refused) => Reason::new(
            refused.to_string(),
            "both ends know the port, and are configured differently",
            "compare `port_key`, `encrypt_method` and `compress_method` at both ends",
        ),
    };
    Step::failed("port_key", mark, took, reason)
}

/// A stream to the service, which says nothing to it.
async fn service(
    mark: &str,
    Reached {
        tunnel,
        attach_time,
        ..
    }: &Reached,
) -> Step {
    let begun = Instant::now();
    let stream = tunnel.open(Bytes::new());
    let outcome = timeout(*attach_time + SERVICE_PATIENCE, stream.read()).await;
    let took = begun.elapsed();
    let step = match outcome {
        Err(_) => Step::ok(
            "service",
            mark,
            took,
            format!("a stream was not reset within {}", milliseconds(took)),
        ),
        Ok(Ok(Some(_))) => Step::ok(
            "service",
            mark,
            took,
            "a stream opens, and the service speaks",
        ),
        Ok(Ok(None)) => {
            let cause = "the service takes nobody at present, or not this server's machine";
            let reason = Reason::new(
                "the service closed the stream at once",
                cause,
                "look into the service's log",
            );
            Step::warning("service", mark, took, reason)
        }
        Ok(Err(error)) => Step::failed(
            "service",
            mark,
            took,
            reset(error.reset_code(), &error.to_string()),
        ),
    };
    stream.reset(ResetCode::Cancelled);
    step
}

fn reset(code: Option<ResetCode>, error: &str) -> Reason {
    let remedy = "start the service, and check the port's `local_address` in the server's configuration; the server's log says more";
    match code {
        Some(ResetCode::Refused) => Reason::new(
            "the service behind the server refuses connections",
            "it is not running",
            remedy,
        ),
        Some(ResetCode::Unreachable) => Reason::new(
            "the service behind the server cannot be reached",
            "its host is away, or its name does not resolve",
            remedy,
        ),
        Some(ResetCode::Timeout) => Reason::new(
            "the service behind the server does not answer",
            "its host is away, or a firewall drops it",
            remedy,
        ),
        _ => Reason::new(
            format!("the stream to the service was lost: {error}"),
            "",
            remedy,
        ),
    }
}

/// What the way is worth.
async fn measured(
    mark: &str,
    Reached { tunnel, taker, .. }: &Reached,
    time: Duration,
) -> Vec<Step> {
    if taker.bench != Some(true) {
        let why = match taker.bench {
            Some(_) => {
                "not measured: the server's configuration says \"bench\": false; take that out to measure"
            }
            None => "not measured: the server's version does not know how; upgrade it",
        };
        return MEASURES.map(|step| Step::skipped(step, mark, why)).into();
    }
    let mut measured = Measured::default();
    let plan = Plan {
        time,
        connections: 1,
        data: Data::Random,
    };
    let begun = Instant::now();
    let outcome = plan.run_for_one(tunnel, &mut measured, |_| {}).await;
    let mut steps = results(mark, &measured, time);
    if let Err(error) = outcome {
        let reason = Reason::of_sentence(&error.to_string(), "the server's log says more");
        let failed = MEASURES.get(steps.len()).copied().unwrap_or("buffering");
        steps.push(Step::failed(failed, mark, begun.elapsed(), reason));
    }
    steps
}

fn results(mark: &str, measured: &Measured, time: Duration) -> Vec<Step> {
    let median = |trip: &crate::bench::RoundTrip| Duration::from_secs_f64(trip.p50_us / 1e6);
    let trips = &measured.round_trip;
    let mut steps = Vec::new();
    if let Some(idle) = &trips.idle {
        let p99 = Duration::from_secs_f64(idle.p99_us / 1e6);
        let (middle, worst) = (milliseconds(median(idle)), milliseconds(p99));
        steps.push(Step::ok(
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
                .map(|moved| Step::ok(name, mark, time, throughput(moved))),
        );
    }
    let (up, down) = (
        trips.beside_up.as_ref().map(median),
        trips.beside_down.as_ref().map(median),
    );
    if let (Some(idle), Some(_), Some(_)) = (trips.idle.as_ref().map(median), up, down) {
        steps.push(match judge::buffering(idle, up, down) {
            Ok(evidence) => Step::ok("buffering", mark, time * 2, evidence),
            Err(reason) => Step::warning("buffering", mark, time * 2, reason),
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

/// Dials a server's local service, as the server does for each stream.
pub(super) async fn dial_service(
    mark: &str,
    host: &str,
    tcp_port: u16,
    limit: Duration,
    journal: &mut Journal<'_>,
) {
    let begun = Instant::now();
    let address = if host.contains(':') {
        format!("[{host}]:{tcp_port}")
    } else {
        format!("{host}:{tcp_port}")
    };
    let dialled = connect(host, tcp_port, limit).await;
    let took = begun.elapsed();
    let remedy = "start the service, or correct the port's `local_address`";
    journal.enter(match dialled {
        Ok(_) => Step::ok(
            "service",
            mark,
            took,
            format!("{address} takes connections"),
        ),
        Err(ConnectError::OutOfFiles(out)) => Step::failed(
            "service",
            mark,
            took,
            Reason::new(out.to_string(), "", out.remedy()),
        ),
        Err(error) => {
            let cause = match (&error, error.kind()) {
                (ConnectError::Name { .. }, _) => {
                    "the name is wrong, or the DNS server does not know it or is not reached"
                }
                (_, ErrorKind::ConnectionRefused) => "nobody listens there",
                (_, ErrorKind::TimedOut) => "its host is away, or a firewall drops it",
                _ => "there is no path to it",
            };
            Step::failed(
                "service",
                mark,
                took,
                Reason::new(error.to_string(), cause, remedy),
            )
        }
    });
}
