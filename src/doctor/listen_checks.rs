//! The checks on a master's own machine: listen addresses, certificate, health and clock.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::TcpListener, time::Instant};

use super::{DoctorReport, DoctorStep, health_check, master_checks, verdicts};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        dial::{DialParameters, Dialer, MasterAddress, MasterAddressError, ProxyChoice},
        tls::{self, CertificateInfo, ReloadingCertificate, TlsParameters, format_utc, now},
    },
};
use report_proto::{crypto::LinkKey, frame::Role};

/// The time limit of a response from this machine.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The master to check.
pub struct MasterSubject {
    /// The listen addresses.
    pub addresses: Vec<ListenAddress>,
    /// The path of the upgrade.
    pub path: String,
    /// The master key.
    pub key: LinkKey,
    /// The PEM files of the certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether `/healthz` should answer.
    pub healthz: bool,
    /// The requirement of the master for every peer, if any.
    pub peer_requirement: Option<&'static str>,
}

/// A listen address.
pub struct ListenAddress {
    /// The address as in the configuration.
    pub written: String,
    /// The resolved addresses, or what the resolution failed with.
    pub resolved: Result<Vec<SocketAddr>, Diagnosis>,
}

/// Runs all checks of a master on its own machine.
///
/// # Cancel safety
/// Dropping the future closes the opened sockets. The report keeps the steps so far.
pub async fn check_master(master: &MasterSubject, report: &mut DoctorReport<'_>) {
    let mut running = Vec::new();
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
            running.extend(is_running.then_some(*socket));
        }
    }
    if let Some((chain, key)) = &master.tls {
        certificate(chain, key, report);
    }
    report.record(health_check::run(master, running.first().copied()).await);
    let evidence = format!(
        "this machine's time is {}; compare it with another clock",
        format_utc(now())
    );
    report.record(DoctorStep::ok("clock", "", Duration::ZERO, evidence));
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
        return (
            DoctorStep::failed(
                "listen",
                subject,
                started.elapsed(),
                listen_diagnosis(&error),
            ),
            false,
        );
    }
    let outcome = join(master, address).await;
    if let (Err(found), Some(peer_requirement)) = (&outcome, master.peer_requirement) {
        let evidence = format!("a program listens there: {}", found.evidence);
        let cause = format!(
            "this master requires {peer_requirement}, which the doctor lacks: it cannot determine whether it is this master"
        );
        let remedy = "run the doctor on a server or a client";
        let diagnosis = Diagnosis::new(DiagnosisCode::ListenUnverified, evidence, cause, remedy);
        return (
            DoctorStep::warning("listen", subject, started.elapsed(), diagnosis),
            false,
        );
    }
    match outcome {
        Ok(()) => (
            DoctorStep::ok(
                "listen",
                subject,
                started.elapsed(),
                "a master with this master key and path is running",
            ),
            true,
        ),
        Err(found) => {
            let evidence = format!("another program listens there: {}", found.evidence);
            let remedy = "stop that program, or change `listen_at`; if it is this master, it runs with another configuration";
            (
                DoctorStep::failed(
                    "listen",
                    subject,
                    started.elapsed(),
                    Diagnosis::new(
                        DiagnosisCode::ListenAddressInUse,
                        evidence,
                        found.cause,
                        remedy,
                    ),
                ),
                false,
            )
        }
    }
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

/// Joins the listener at the address as a server without registrations.
async fn join(master: &MasterSubject, address: SocketAddr) -> Result<(), Diagnosis> {
    let dialer = dialer(master, address).map_err(|error| {
        let code = DiagnosisCode::ConfigurationInvalid;
        Diagnosis::new(code, error.to_string(), "", "change `path`")
    })?;
    let dialer = dialer.map_err(|error| error.diagnosis("change `tls`"))?;
    let mut socket = dialer.dial().await.map_err(|error| error.diagnosis())?;
    let outcome = master_checks::join(&mut socket, Role::Server, &master.key, 0).await;
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
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Checks the files of the certificate: whether they match, the order of the chain, and the
/// validity period.
fn certificate(chain: &Path, key: &Path, report: &mut DoctorReport<'_>) {
    let started = Instant::now();
    let subject = chain.display().to_string();
    let loaded = match ReloadingCertificate::load(chain, key) {
        Ok(loaded) => loaded.current(),
        Err(error) => {
            let diagnosis = error.diagnosis("set the PEM files of the chain and its key in `tls`");
            return report.record(DoctorStep::failed(
                "certificate",
                subject,
                started.elapsed(),
                diagnosis,
            ));
        }
    };
    let chain: Vec<CertificateInfo> = loaded
        .cert
        .iter()
        .filter_map(|shown| CertificateInfo::read(shown))
        .collect();
    let took = started.elapsed();
    let Some(leaf) = chain.first() else {
        let diagnosis = Diagnosis::new(
            DiagnosisCode::TlsFileUnusable,
            "the certificate cannot be read",
            "",
            "create a new one",
        );
        return report.record(DoctorStep::failed("certificate", subject, took, diagnosis));
    };
    report.record(
        match (
            validity_problem(leaf),
            chain_gap(&chain),
            verdicts::certificate(&chain),
        ) {
            (Some(found), _, _) => DoctorStep::failed("certificate", subject, took, found),
            (None, Some(found), _) | (None, None, Some(found)) => {
                DoctorStep::warning("certificate", subject, took, found)
            }
            (None, None, None) => DoctorStep::ok(
                "certificate",
                subject,
                took,
                master_checks::describe_certificate(leaf),
            ),
        },
    );
}

fn validity_problem(leaf: &CertificateInfo) -> Option<Diagnosis> {
    let clock = format!("this machine's time is {}", format_utc(now()));
    if leaf.not_after < now() {
        let evidence = format!(
            "the certificate expired on {}; {clock}",
            format_utc(leaf.not_after)
        );
        return Some(Diagnosis::new(
            DiagnosisCode::TlsExpired,
            evidence,
            "",
            "renew it: the master loads a new file without a restart",
        ));
    }
    (leaf.not_before > now()).then(|| {
        let evidence = format!(
            "the certificate is not valid before {}; {clock}",
            format_utc(leaf.not_before)
        );
        Diagnosis::new(
            DiagnosisCode::TlsNotYetValid,
            evidence,
            "this machine's clock is slow",
            "set this machine's clock",
        )
    })
}

/// Returns what is wrong with the order of the chain.
fn chain_gap(chain: &[CertificateInfo]) -> Option<Diagnosis> {
    let broken = chain.windows(2).find_map(|pair| match pair {
        [below, above] if below.issuer != above.subject => Some((below, above)),
        _ => None,
    });
    let remedy = "write the master's certificate first, then the one that signed it, and so on";
    broken.map(|(below, above)| {
        let evidence = format!(
            "\"{}\" is signed by \"{}\", but \"{}\" comes next",
            below.subject, below.issuer, above.subject
        );
        Diagnosis::new(
            DiagnosisCode::TlsChainBroken,
            evidence,
            "the certificates are in the wrong order, or one is missing",
            remedy,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(subject: &str, issuer: &str) -> CertificateInfo {
        CertificateInfo {
            subject: subject.to_owned(),
            issuer: issuer.to_owned(),
            names: vec!["localhost".to_owned()],
            not_before: 0,
            not_after: i64::MAX,
            sha256: [0; 32],
            is_self_signed: subject == issuer,
        }
    }

    #[test]
    fn chain_gap_names_the_broken_link() {
        let chain = [
            certificate("leaf", "between"),
            certificate("between", "root"),
            certificate("root", "root"),
        ];
        assert_eq!(chain_gap(&chain), None);
        let reason =
            chain_gap(&[certificate("leaf", "between"), certificate("root", "root")]).unwrap();
        assert!(
            reason
                .evidence
                .contains("\"leaf\" is signed by \"between\", but \"root\""),
            "{reason}"
        );
    }

    #[test]
    fn expired_certificates_are_reported_with_the_local_time() {
        assert_eq!(validity_problem(&certificate("leaf", "root")), None);
        let old = validity_problem(&CertificateInfo {
            not_after: 1_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(
            old.evidence.contains("2001-09-09") && old.evidence.contains("this machine's time is"),
            "{old}"
        );
        let early = validity_problem(&CertificateInfo {
            not_before: 4_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(early.remedy.contains("clock"), "{early}");
    }

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
