//! The parameters of a master, and the reasons why one cannot start or change.

use std::{io, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use tokio_rustls::TlsAcceptor;

use super::{
    front::{Fallback, TrustedProxies},
    limits::MasterLimits,
    listen_host::ListenHostError,
    policies::{MasterPolicies, SystemClock},
};
#[cfg(feature = "store")]
use crate::{config::RetentionConfig, store::Retention};
use crate::{
    config::{MasterConfig, TlsFilesConfig},
    link::{KeepAliveTiming, authenticate::AUTHENTICATION_TIMEOUT},
    net::{
        congestion_control::CongestionControl,
        tls::{ReloadingCertificate, TlsError},
    },
};
use report_proto::crypto::LinkKey;

/// The parameters of a master.
#[derive(Debug, Clone)]
pub struct MasterParameters {
    /// The addresses to listen at; at least one. With port 0 the system chooses the port.
    pub listen_at: Vec<SocketAddr>,
    /// The one path that upgrades to a WebSocket. Begins with `/`.
    pub path: String,
    /// The key that servers prove, derived from the master key. Without it, every server needs a
    /// credential.
    pub link_key: Option<LinkKey>,
    /// The policies: accounts with their credentials, keys and limits.
    pub policies: Arc<MasterPolicies>,
    /// How long the database of the policies keeps the past.
    #[cfg(feature = "store")]
    pub retention: Retention,
    /// The TLS files, if the master terminates TLS.
    pub tls: Option<MasterTlsFiles>,
    /// Whether [`HEALTH_PATH`](super::HEALTH_PATH) answers.
    pub healthz: bool,
    /// The answer to requests that are not a role's upgrade.
    pub fallback: Fallback,
    /// The proxies that are trusted to report visitor addresses.
    pub trusted_proxies: TrustedProxies,
    /// Whether each connection from a trusted proxy begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The congestion control of accepted connections.
    pub congestion_control: CongestionControl,
    /// The resource limits.
    pub limits: MasterLimits,
    /// The timeouts.
    pub timing: MasterTiming,
    /// The number of threads that serve links, including the thread that runs the master.
    pub threads: NonZeroUsize,
}

impl MasterParameters {
    /// Creates the parameters of a configuration. `listen_at` and `link_key` are the derived form
    /// of its addresses and its key.
    #[must_use]
    pub fn new(
        config: &MasterConfig,
        listen_at: Vec<SocketAddr>,
        link_key: Option<LinkKey>,
        threads: NonZeroUsize,
    ) -> Self {
        let trusted_proxies = config.trusted_proxies.iter().map(|network| network.0);
        // The terms of a link contain whole seconds.
        let heartbeat = Duration::from_secs(config.heartbeat.as_secs());
        MasterParameters {
            listen_at,
            path: config.path.to_string(),
            link_key,
            policies: MasterPolicies::new(
                config.admission,
                config.unknown_while_away,
                Arc::new(SystemClock),
            ),
            #[cfg(feature = "store")]
            retention: retention(&config.retention),
            tls: config.tls.as_ref().map(MasterTlsFiles::new),
            healthz: config.healthz,
            fallback: Fallback::new(&config.fallback),
            trusted_proxies: TrustedProxies::new(trusted_proxies.collect()),
            proxy_protocol: config.proxy_protocol,
            congestion_control: config.congestion_control,
            limits: MasterLimits::new(&config.limits),
            timing: MasterTiming {
                keep_alive: KeepAliveTiming::for_interval(heartbeat),
                ..MasterTiming::default()
            },
            threads,
        }
    }
}

/// Returns how long a database keeps the past by a configuration in days.
#[cfg(feature = "store")]
fn retention(config: &RetentionConfig) -> Retention {
    let seconds = |days: u32| i64::from(days).saturating_mul(86_400);
    Retention {
        minutes: seconds(*config.minutes),
        hours: seconds(*config.hours),
        days: seconds(*config.days),
        audit: seconds(*config.audit),
        ..Retention::default()
    }
}

/// A PEM certificate chain and its PEM key. The master reloads them when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTlsFiles {
    /// The chain, the master's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The PEM authorities for peer certificates. With `None` the master requests no certificate.
    pub client_ca: Option<PathBuf>,
}

impl MasterTlsFiles {
    /// Creates the files of a configuration.
    #[must_use]
    pub fn new(config: &TlsFilesConfig) -> Self {
        MasterTlsFiles {
            cert: config.cert.to_path_buf(),
            key: config.key.to_path_buf(),
            client_ca: config.client_ca.as_deref().cloned(),
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificate = ReloadingCertificate::load(&self.cert, &self.key)?;
        match &self.client_ca {
            Some(authorities) => certificate.acceptor_requiring_client_certificate(authorities),
            None => Ok(certificate.acceptor()),
        }
    }
}

/// The timeouts of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTiming {
    /// The keep-alive of an established link. The master also requests this interval from the
    /// roles, in whole seconds.
    pub keep_alive: KeepAliveTiming,
    /// The TLS handshake.
    pub tls: Duration,
    /// A request head, and the pause between two requests.
    pub header: Duration,
    /// A connection until it becomes a link, whatever it requests.
    pub connection: Duration,
    /// From the challenge to HELLO.
    pub authentication: Duration,
}

impl Default for MasterTiming {
    /// Ten seconds for each step, which is several round trips of a slow path, and a minute for a
    /// browser.
    fn default() -> Self {
        MasterTiming {
            keep_alive: KeepAliveTiming::default(),
            tls: Duration::from_secs(10),
            header: Duration::from_secs(10),
            connection: Duration::from_secs(60),
            authentication: AUTHENTICATION_TIMEOUT,
        }
    }
}

/// The reason why a master cannot start, or cannot apply another configuration.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// `listen_at` is empty.
    #[error("master: no address to listen at (set `listen_at`)")]
    NoAddress,
    /// The host of an address cannot be used.
    #[error(transparent)]
    ListenHost(#[from] ListenHostError),
    /// Another process uses the address, or this process may not use it.
    #[error(
        "master: cannot listen at {address}: {source}{}",
        listen_advice(source)
    )]
    Listen {
        /// The address of `listen_at`.
        address: SocketAddr,
        /// The system error.
        source: io::Error,
    },
    /// The system refused another thread.
    #[error("master: cannot start a thread: {0} (raise the process limit, ulimit -u)")]
    Threads(#[source] io::Error),
    /// The task that derives the key was aborted.
    #[error("master: cannot derive the link key: {0}")]
    Key(#[source] tokio::task::JoinError),
    /// The certificate is unusable.
    #[error("master: {0}")]
    Tls(#[from] TlsError),
    /// The master ends, or a new process has taken over.
    #[error("master: it drains already, so it applies no other configuration")]
    Draining,
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (is another master or web server running there? change `listen_at`)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need a privilege; choose another in `listen_at`)"
        }
        io::ErrorKind::AddrNotAvailable => {
            " (this machine has no such address; change `listen_at`)"
        }
        _ => "",
    }
}

#[cfg(all(test, feature = "store"))]
mod tests {
    use super::*;

    #[test]
    fn the_retention_is_that_of_the_configuration_in_seconds() {
        const DAY: i64 = 86_400;
        let text = r#"{"minutes": 1, "hours": 2, "days": 3, "audit": 4}"#;
        let config: RetentionConfig = serde_json::from_str(text).unwrap();
        let expected = Retention {
            minutes: DAY,
            hours: 2 * DAY,
            days: 3 * DAY,
            audit: 4 * DAY,
            ..Retention::default()
        };
        assert_eq!(retention(&config), expected);
        assert_eq!(retention(&RetentionConfig::default()), Retention::default());
    }
}
