//! The check of a master's listen addresses on its own machine.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpListener, time::Instant};

use super::{DoctorReport, DoctorStep, MasterSubject, RESPONSE_TIMEOUT, master_checks};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    link::authenticate::LinkSecret,
    net::{
        dial::{DialParameters, Dialer, MasterAddress, MasterAddressError, ProxyChoice},
        tls::{self, TlsParameters},
    },
};
use report_proto::frame::Role;

/// Checks all listen addresses. Returns the address at which the running master is reached, if it
/// is running.
pub(super) async fn run(
    master: &MasterSubject,
    report: &mut DoctorReport<'_>,
) -> Option<SocketAddr> {
    let mut running = None;
    for address in &master.addresses {
        let resolved = match &address.resolved {
            Ok(resolved) => resolved,
            Err(diagnosis) => {
                report.record(DoctorStep::failed(
                    "listen",
                    &address.written,
                    Duration::ZERO,
                    diagnosis.clone(),
                ));
                continue;
            }
        };
        for socket in resolved {
            let (step, is_running) = listen(master, *socket).await;
            report.record(step);
            if is_running && running.is_none() {
                running = Some(reachable(*socket));
            }
        }
    }
    running
}

/// Checks that the address is free, or that this master listens there. Returns whether the master
/// is running.
async fn listen(master: &MasterSubject, address: SocketAddr) -> (DoctorStep, bool) {
    let started = Instant::now();
    let subject = address.to_string();
    let error = match TcpListener::bind(address).await {
        Ok(_) => {
            let evidence = "the address is free: the master is not running";
            return (
                DoctorStep::ok("listen", subject, started.elapsed(), evidence),
                false,
            );
        }
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        let diagnosis = listen_diagnosis(&error);
        return (
            DoctorStep::failed("listen", subject, started.elapsed(), diagnosis),
            false,
        );
    }
    match join(master, address).await {
        Ok(()) => {
            let evidence = "a master with this master key and path is running";
            (
                DoctorStep::ok("listen", subject, started.elapsed(), evidence),
                true,
            )
        }
        Err(found) => (
            occupied_step(master.peer_requirement, subject, started.elapsed(), found),
            false,
        ),
    }
}

/// Returns the step of an address that is in use and did not accept the doctor. `found` is why.
/// With a requirement for every peer, the listener may still be this master.
fn occupied_step(
    peer_requirement: Option<&str>,
    subject: String,
    took: Duration,
    found: Diagnosis,
) -> DoctorStep {
    if let Some(peer_requirement) = peer_requirement {
        let evidence = format!("a program listens there: {}", found.evidence);
        let cause = format!(
            "this master requires {peer_requirement}, which the doctor lacks: it cannot determine whether it is this master"
        );
        let remedy = "run the doctor on a server or a client";
        let diagnosis = Diagnosis::new(DiagnosisCode::ListenUnverified, evidence, cause, remedy);
        return DoctorStep::warning("listen", subject, took, diagnosis);
    }
    let evidence = format!("another program listens there: {}", found.evidence);
    let remedy = "stop that program, or change `listen_at`; if it is this master, it runs with another configuration";
    let diagnosis = Diagnosis::new(
        DiagnosisCode::ListenAddressInUse,
        evidence,
        found.cause,
        remedy,
    );
    DoctorStep::failed("listen", subject, took, diagnosis)
}

fn listen_diagnosis(error: &io::Error) -> Diagnosis {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            DiagnosisCode::ListenNotPermitted,
            "ports below 1024 need a privilege: grant it, or choose another port in `listen_at`",
        ),
        io::ErrorKind::AddrNotAvailable => (
            DiagnosisCode::ListenAddressMissing,
            "this machine has no such address: change `listen_at`",
        ),
        _ => (DiagnosisCode::ListenFailed, "change `listen_at`"),
    };
    Diagnosis::new(code, error.to_string(), "", remedy)
}

/// Joins the listener at the address without registrations, as a server if possible.
async fn join(master: &MasterSubject, address: SocketAddr) -> Result<(), Diagnosis> {
    let dialer = dialer(master, address).map_err(|error| {
        let code = DiagnosisCode::ConfigurationInvalid;
        Diagnosis::new(code, error.to_string(), "", "change `path`")
    })?;
    let dialer = dialer.map_err(|error| error.diagnosis("change `tls`"))?;
    let mut socket = dialer.dial().await.map_err(|error| error.diagnosis())?;
    // Without a master key, the doctor can only join as a client.
    let role = match master.secret {
        LinkSecret::Anonymous => Role::Client,
        LinkSecret::MasterKey(_) | LinkSecret::Credential(_) => Role::Server,
    };
    let outcome = master_checks::join(&mut socket, role, &master.secret, 0).await;
    socket.close(Duration::from_secs(1)).await;
    outcome.map(drop).map_err(|error| error.diagnosis())
}

fn dialer(
    master: &MasterSubject,
    address: SocketAddr,
) -> Result<Result<Dialer, tls::TlsError>, MasterAddressError> {
    let scheme = if master.tls.is_some() { "wss" } else { "ws" };
    let address: MasterAddress =
        format!("{scheme}://{}{}", reachable(address), master.path).parse()?;
    // A separate check covers the certificate, and it is for another name than this address.
    let tls = TlsParameters {
        insecure_skip_verify: true,
        ..TlsParameters::default()
    };
    let parameters = DialParameters {
        proxy: ProxyChoice::Direct,
        tls,
        deadline: RESPONSE_TIMEOUT,
        ..DialParameters::default()
    };
    Ok(Dialer::new(address, parameters))
}

/// Returns the address at which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_listeners_are_reached_via_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
