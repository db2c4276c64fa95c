//! The checks on a master's own machine: listen addresses, certificate, health and clock.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    DoctorReport, DoctorStep, master_checks,
    verdicts::{self, seconds},
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        dial::{DialParameters, Dialer, MasterAddress, MasterAddressError, ProxyChoice},
        tls::{self, CertificateInfo, ReloadingCertificate, TlsParameters, format_utc, now},
        websocket::ByteStream,
    },
};
use report_proto::{crypto::LinkKey, frame::Role};

/// The time limit of a response from this machine.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of response bytes to read.
const RESPONSE_BYTES_MAX: u64 = 4 * 1024;

/// The maximum number of header fields in a response.
const RESPONSE_FIELDS_MAX: usize = 64;

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
    report.record(health(master, running.first().copied()).await);
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
fn reachable(address: SocketAddr) -> SocketAddr {
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

async fn health(master: &MasterSubject, running: Option<SocketAddr>) -> DoctorStep {
    let (Some(address), true) = (running.map(reachable), master.healthz) else {
        let why = if master.healthz {
            "no running master was found"
        } else {
            "`healthz` is off"
        };
        return DoctorStep::skipped("health", "/healthz", why);
    };
    let started = Instant::now();
    let remedy = "check the master's log; restart it if it does not respond";
    let asked = timeout(
        RESPONSE_TIMEOUT,
        ask_for_health(address, master.tls.is_some()),
    )
    .await;
    let failed =
        |evidence: String| Diagnosis::new(DiagnosisCode::HealthFailed, evidence, "", remedy);
    let diagnosis = match asked {
        Ok(Ok(response)) if response.status == Some(StatusCode::OK) => {
            return DoctorStep::ok("health", "/healthz", started.elapsed(), response.line);
        }
        Ok(Ok(response)) => failed(response.line),
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => Diagnosis::new(
            DiagnosisCode::HealthTimeout,
            format!("no response within {}", seconds(RESPONSE_TIMEOUT)),
            "the master is stuck",
            remedy,
        ),
    };
    DoctorStep::failed("health", "/healthz", started.elapsed(), diagnosis)
}

/// The beginning of a response.
struct HealthResponse {
    /// The first line, without control characters.
    line: String,
    /// The status, if the response is HTTP.
    status: Option<StatusCode>,
}

impl HealthResponse {
    fn read(answer: &[u8]) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        // The status is known as soon as the first line is complete.
        let _ = response.parse(answer);
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        let line = String::from_utf8_lossy(answer)
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|character| !character.is_control())
            .collect();
        HealthResponse { line, status }
    }
}

async fn ask_for_health(address: SocketAddr, is_secure: bool) -> io::Result<HealthResponse> {
    let stream = TcpStream::connect(address).await?;
    if !is_secure {
        return response_of(stream).await;
    }
    let parameters = TlsParameters {
        insecure_skip_verify: true,
        ..TlsParameters::default()
    };
    let config = tls::client_config(&parameters).map_err(io::Error::other)?;
    response_of(
        TlsConnector::from(config)
            .connect(address.ip().into(), stream)
            .await?,
    )
    .await
}

async fn response_of(mut stream: impl ByteStream) -> io::Result<HealthResponse> {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // A connection that ends without a TLS close_notify may still have delivered the response.
    let _ = stream
        .take(RESPONSE_BYTES_MAX)
        .read_to_end(&mut answer)
        .await;
    Ok(HealthResponse::read(&answer))
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
    fn health_is_read_from_the_status_line() {
        for (answer, line, status) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.1 200 OK",
                Some(StatusCode::OK),
            ),
            (
                "HTTP/1.1 404 Not 200 Found\r\n\r\n",
                "HTTP/1.1 404 Not 200 Found",
                Some(StatusCode::NOT_FOUND),
            ),
            ("SSH-2.0\u{1b} 200 \r\n", "SSH-2.0 200 ", None),
            ("", "", None),
        ] {
            let response = HealthResponse::read(answer.as_bytes());
            assert_eq!((response.line.as_str(), response.status), (line, status));
        }
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
