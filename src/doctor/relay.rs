//! What stands at a master's own machine: whether its addresses can be listened at or it is listening there, its certificate, its health, its clock.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    Journal, Step,
    judge::{self, seconds},
    way,
};
use crate::{
    crypto::LinkKey,
    frame::Role,
    link::{
        Reason,
        dial::{AddressError, DialParameters, Dialer, MasterAddress, ProxyChoice},
        tls::{self, Certificate, ReloadingCertificate, TlsParameters, moment, now},
        websocket::ByteStream,
    },
};

/// How long an answer on this machine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of an answer is read, in bytes.
const ANSWER: u64 = 4 * 1024;

/// A master.
pub struct Relay {
    /// Where it listens.
    pub addresses: Vec<RelayAddress>,
    /// The path of the upgrade.
    pub path: String,
    /// What proves its master key.
    pub key: LinkKey,
    /// The PEM files of its certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether `/healthz` is to be answered.
    pub healthz: bool,
    /// What everybody has to show who wants to speak with it, unless anybody may.
    pub guard: Option<&'static str>,
}

/// An address to listen at.
pub struct RelayAddress {
    /// As in the configuration.
    pub written: String,
    /// What it means, or why that is not known.
    pub resolved: Result<Vec<SocketAddr>, String>,
}

/// Looks at everything that a master needs on its machine.
///
/// # Cancel safety
/// Dropping the future drops what was opened; the journal has the steps so far.
pub async fn examine_relay(relay: &Relay, journal: &mut Journal<'_>) {
    let mut running = Vec::new();
    for address in &relay.addresses {
        let resolved = match &address.resolved {
            Ok(resolved) => resolved,
            Err(why) => {
                let reason = Reason::of_sentence(why, "write an IP address of this machine");
                journal.enter(Step::failed(
                    "listen",
                    &address.written,
                    Duration::ZERO,
                    reason,
                ));
                continue;
            }
        };
        for socket in resolved {
            let (step, is_running) = listen(relay, *socket).await;
            journal.enter(step);
            running.extend(is_running.then_some(*socket));
        }
    }
    if let Some((chain, key)) = &relay.tls {
        certificate(chain, key, journal);
    }
    journal.enter(health(relay, running.first().copied()).await);
    let evidence = format!(
        "this machine's time is {}; compare it with another clock",
        moment(now())
    );
    journal.enter(Step::ok("clock", "", Duration::ZERO, evidence));
}

/// Whether the address is free, or the master itself is there.
async fn listen(relay: &Relay, address: SocketAddr) -> (Step, bool) {
    let begun = Instant::now();
    let subject = address.to_string();
    let error = match TcpListener::bind(address).await {
        Ok(_) => {
            let evidence =
                "nobody listens there, and it can be listened at: the master is not running";
            return (
                Step::ok("listen", subject, begun.elapsed(), evidence),
                false,
            );
        }
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return (
            Step::failed(
                "listen",
                subject,
                begun.elapsed(),
                Reason::new(error.to_string(), "", advice(&error)),
            ),
            false,
        );
    }
    let joined = join(relay, address).await;
    if let (Err(reason), Some(guard)) = (&joined, relay.guard) {
        let evidence = format!("somebody listens there: {}", reason.evidence);
        let cause = format!(
            "this master wants {guard}, which the doctor does not have: it cannot tell whether it is this master"
        );
        let reason = Reason::new(evidence, cause, "run the doctor at a server or a client");
        return (
            Step::warning("listen", subject, begun.elapsed(), reason),
            false,
        );
    }
    match joined {
        Ok(()) => (
            Step::ok(
                "listen",
                subject,
                begun.elapsed(),
                "a master with this master key and path runs there",
            ),
            true,
        ),
        Err(reason) => {
            let evidence = format!("somebody else listens there: {}", reason.evidence);
            let remedy = "end that program, or change `listen_at`; if it is this master, it runs with another configuration";
            (
                Step::failed(
                    "listen",
                    subject,
                    begun.elapsed(),
                    Reason::new(evidence, reason.cause, remedy),
                ),
                false,
            )
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege: give it, or choose another in `listen_at`"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: change `listen_at`",
        _ => "change `listen_at`",
    }
}

/// Joins whoever listens at the address as a server that registers nothing.
async fn join(relay: &Relay, address: SocketAddr) -> Result<(), Reason> {
    let dialer = dialer(relay, address)
        .map_err(|error| Reason::new(error.to_string(), "", "change `path`"))?;
    let dialer = dialer.map_err(|error| Reason::of_sentence(&error.to_string(), "change `tls`"))?;
    let mut socket = dialer.dial().await.map_err(|error| error.reason())?;
    let joined = way::join(&mut socket, Role::Server, &relay.key, 0).await;
    socket.close(Duration::from_secs(1)).await;
    joined.map(drop).map_err(|error| error.reason())
}

fn dialer(
    relay: &Relay,
    address: SocketAddr,
) -> Result<Result<Dialer, tls::TlsError>, AddressError> {
    let scheme = if relay.tls.is_some() { "wss" } else { "ws" };
    let address: MasterAddress =
        format!("{scheme}://{}{}", reachable(address), relay.path).parse()?;
    // Its certificate is looked at by itself, and is for another name than this address.
    let tls = TlsParameters {
        insecure_skip_verify: true,
        ..TlsParameters::default()
    };
    let parameters = DialParameters {
        proxy: ProxyChoice::Direct,
        tls,
        deadline: PATIENCE,
        ..DialParameters::default()
    };
    Ok(Dialer::new(address, parameters))
}

/// Where somebody on this machine reaches who listens at the address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// The files of the certificate: whether they fit, whether the chain hangs together, and for how long it is valid.
fn certificate(chain: &Path, key: &Path, journal: &mut Journal<'_>) {
    let begun = Instant::now();
    let subject = chain.display().to_string();
    let loaded = match ReloadingCertificate::load(chain, key) {
        Ok(loaded) => loaded.current(),
        Err(error) => {
            let reason = Reason::of_sentence(
                &error.to_string(),
                "name the PEM files of the chain and its key in `tls`",
            );
            return journal.enter(Step::failed(
                "certificate",
                subject,
                begun.elapsed(),
                reason,
            ));
        }
    };
    let chain: Vec<Certificate> = loaded
        .cert
        .iter()
        .filter_map(|shown| Certificate::read(shown))
        .collect();
    let took = begun.elapsed();
    let Some(own) = chain.first() else {
        let reason = Reason::new("the certificate cannot be read", "", "make a new one");
        return journal.enter(Step::failed("certificate", subject, took, reason));
    };
    journal.enter(
        match (invalid(own), loose(&chain), judge::certificate(&chain)) {
            (Some(reason), _, _) => Step::failed("certificate", subject, took, reason),
            (None, Some(reason), _) | (None, None, Some(reason)) => {
                Step::warning("certificate", subject, took, reason)
            }
            (None, None, None) => Step::ok("certificate", subject, took, way::described(own)),
        },
    );
}

fn invalid(own: &Certificate) -> Option<Reason> {
    let clock = format!("this machine's time is {}", moment(now()));
    if own.not_after < now() {
        let evidence = format!(
            "the certificate has expired on {}; {clock}",
            moment(own.not_after)
        );
        return Some(Reason::new(
            evidence,
            "",
            "renew it: the master takes a new file without a restart",
        ));
    }
    (own.not_before > now()).then(|| {
        let evidence = format!(
            "the certificate is not valid before {}; {clock}",
            moment(own.not_before)
        );
        Reason::new(
            evidence,
            "this machine's clock is slow",
            "set this machine's clock",
        )
    })
}

/// What is wrong with the order of the chain.
fn loose(chain: &[Certificate]) -> Option<Reason> {
    let broken = chain.windows(2).find_map(|pair| match pair {
        [below, above] if below.issuer != above.subject => Some((below, above)),
        _ => None,
    });
    let remedy = "put the master's own certificate first, then the one that signed it, and so on";
    broken.map(|(below, above)| {
        let evidence = format!(
            "\"{}\" is signed by \"{}\", and \"{}\" comes next",
            below.subject, below.issuer, above.subject
        );
        Reason::new(
            evidence,
            "the chain's file is not in order, or a certificate is missing in between",
            remedy,
        )
    })
}

async fn health(relay: &Relay, running: Option<SocketAddr>) -> Step {
    let (Some(address), true) = (running.map(reachable), relay.healthz) else {
        let why = if relay.healthz {
            "no master was found running"
        } else {
            "`healthz` is not turned on"
        };
        return Step::skipped("health", "/healthz", why);
    };
    let begun = Instant::now();
    let remedy = "look into the master's log; restart it if it does not answer";
    match timeout(PATIENCE, ask_for_health(address, relay.tls.is_some())).await {
        Ok(Ok(status)) if status.contains(" 200 ") => {
            Step::ok("health", "/healthz", begun.elapsed(), status)
        }
        Ok(Ok(status)) => Step::failed(
            "health",
            "/healthz",
            begun.elapsed(),
            Reason::new(status, "", remedy),
        ),
        Ok(Err(error)) => Step::failed(
            "health",
            "/healthz",
            begun.elapsed(),
            Reason::new(error.to_string(), "", remedy),
        ),
        Err(_) => {
            let evidence = format!("no answer within {}", seconds(PATIENCE));
            Step::failed(
                "health",
                "/healthz",
                begun.elapsed(),
                Reason::new(evidence, "the master is stuck", remedy),
            )
        }
    }
}

async fn ask_for_health(address: SocketAddr, is_secure: bool) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    if !is_secure {
        return status_of(stream).await;
    }
    let parameters = TlsParameters {
        insecure_skip_verify: true,
        ..TlsParameters::default()
    };
    let config = tls::client_config(&parameters).map_err(io::Error::other)?;
    status_of(
        TlsConnector::from(config)
            .connect(address.ip().into(), stream)
            .await?,
    )
    .await
}

async fn status_of(mut stream: impl ByteStream) -> io::Result<String> {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // What ends without a goodbye has answered all the same.
    let _ = stream.take(ANSWER).read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|character| !character.is_control())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(subject: &str, issuer: &str) -> Certificate {
        Certificate {
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
    fn a_chain_that_does_not_hang_together_is_told_where() {
        let chain = [
            certificate("leaf", "between"),
            certificate("between", "root"),
            certificate("root", "root"),
        ];
        assert_eq!(loose(&chain), None);
        let reason = loose(&[certificate("leaf", "between"), certificate("root", "root")]).unwrap();
        assert!(
            reason
                .evidence
                .contains("\"leaf\" is signed by \"between\", and \"root\""),
            "{reason}"
        );
    }

    #[test]
    fn a_certificate_out_of_its_time_is_told_with_this_machines() {
        assert_eq!(invalid(&certificate("leaf", "root")), None);
        let old = invalid(&Certificate {
            not_after: 1_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(
            old.evidence.contains("2001-09-09") && old.evidence.contains("this machine's time is"),
            "{old}"
        );
        let early = invalid(&Certificate {
            not_before: 4_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(early.remedy.contains("clock"), "{early}");
    }

    #[test]
    fn who_listens_everywhere_is_reached_by_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
