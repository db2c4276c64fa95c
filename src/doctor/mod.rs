//! `report doctor`: checks the path of a role layer by layer and reports evidence, causes and
//! remedies.
//!
//! ```text
//! server, client:
//!   name ─► tcp ─► proxy ─► tls ─► upgrade ─► clock                (dial_checks, probe, dial_recorder)
//!   then ─► congestion                                             (congestion_check)
//!   then ─► master_key                                             (master_checks)
//!   then ─► small_messages ─► large_messages                       (message_checks)
//!   then ─► silence                                                (idle_checks)
//!   then, per port ─► port_key ─► service ─► measurements          (port_checks, service_checks)
//! master:
//!   listen ─► certificate ─► health ─► congestion ─► clock         (listen_checks, certificate_checks, health_check, congestion_check)
//! ```
//!
//! The doctor uses the same dialer, authentication and tunnels as the roles, so it finds the same
//! problems. It runs as a separate instance: it registers nothing and takes nothing from a running
//! role. This module reads no files and prints nothing. It passes each step to the caller.

mod certificate_checks;
mod congestion_check;
mod dial_checks;
mod dial_recorder;
mod health_check;
mod idle_checks;
mod listen_checks;
mod master_checks;
mod message_checks;
mod port_checks;
mod probe;
mod service_checks;
mod step;
mod verdicts;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use self::step::{DoctorReport, DoctorStep, StepOutcome};
use crate::{
    config::Target,
    diagnosis::Diagnosis,
    link::authenticate::LinkSecret,
    net::{
        congestion_control::CongestionControl,
        dial::Dialer,
        tls::{format_utc, now},
    },
    supervisor::Uplink,
    tunnel::PortParameters,
};
use report_proto::frame::Role;

/// The idle periods to probe. They cover the idle timeouts of paths that carry links.
pub const IDLE_PERIODS: [Duration; 8] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(90),
    Duration::from_secs(120),
    Duration::from_secs(180),
    Duration::from_secs(300),
];

/// The time limit of a response from this machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server or a client to check.
pub struct Subject {
    /// The role.
    pub role: Role,
    /// The secret that authenticates the role to its masters.
    pub secret: LinkSecret,
    /// The masters.
    pub masters: Vec<MasterTarget>,
    /// The ports.
    pub ports: Vec<SubjectPort>,
    /// The time limit of a connection to a local service.
    pub connect_timeout: Duration,
    /// How long to wait for a server.
    pub server_timeout: Duration,
    /// The keep-alive interval of the role.
    pub heartbeat: Duration,
    /// The duration of each measurement.
    pub measure: Duration,
    /// The idle periods to probe. Empty when the check is not wanted.
    pub idle_periods: Vec<Duration>,
}

/// One master to check.
pub struct MasterTarget {
    /// Dials the master like the role.
    pub dialer: Dialer,
    /// Connects a client to the master.
    pub client: Uplink,
}

/// A port of a server or a client.
pub struct SubjectPort {
    /// The parameters of the port.
    pub port: PortParameters,
    /// The addresses of the local service of a server. One of them must accept connections.
    pub services: Vec<Target>,
}

/// The master to check.
pub struct MasterSubject {
    /// The listen addresses.
    pub addresses: Vec<ListenAddress>,
    /// The path of the upgrade.
    pub path: String,
    /// The master key.
    pub secret: LinkSecret,
    /// The PEM files of the certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether `/healthz` should answer.
    pub healthz: bool,
    /// The requirement of the master for every peer, if any.
    pub peer_requirement: Option<&'static str>,
    /// The congestion control of accepted connections.
    pub congestion_control: CongestionControl,
}

/// A listen address.
pub struct ListenAddress {
    /// The address as in the configuration.
    pub written: String,
    /// The resolved addresses, or what the resolution failed with.
    pub resolved: Result<Vec<SocketAddr>, Diagnosis>,
}

/// Checks the paths to all masters of a server or a client, one after the other.
///
/// # Cancel safety
/// Dropping the future closes the opened connections. The report keeps the steps so far.
pub async fn check_role(
    subject: Subject,
    report: &mut DoctorReport<'_>,
    cancel: &CancellationToken,
) {
    let subject = Arc::new(subject);
    for target in &subject.masters {
        let is_reached = master_checks::run(&subject, target, report).await;
        if is_reached && !subject.idle_periods.is_empty() {
            idle_checks::probe_idle_periods(&subject, target, report).await;
        }
        let mut measure_time = Some(subject.measure);
        for port in &subject.ports {
            if is_reached {
                port_checks::run(&subject, target, port, &mut measure_time, report, cancel).await;
            } else {
                port_checks::skip(target, port, report);
            }
        }
    }
    // The other end has the services of a client.
    if subject.role == Role::Server {
        for port in &subject.ports {
            service_checks::run(port, subject.connect_timeout, report).await;
        }
    }
}

/// Runs all checks of a master on its own machine.
///
/// # Cancel safety
/// Dropping the future closes the opened sockets. The report keeps the steps so far.
pub async fn check_master(master: &MasterSubject, report: &mut DoctorReport<'_>) {
    let running = listen_checks::run(master, report).await;
    if let Some((chain, key)) = &master.tls {
        certificate_checks::run(chain, key, report);
    }
    report.record(health_check::run(master, running).await);
    report.record(congestion_check::check_listeners(master));
    let evidence = format!(
        "this machine's time is {}; compare it with another clock",
        format_utc(now())
    );
    report.record(DoctorStep::ok("clock", "", Duration::ZERO, evidence));
}
