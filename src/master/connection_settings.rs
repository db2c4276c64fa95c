//! The settings of new connections. A reload replaces them as a whole, and a connection keeps those
//! with which it was accepted.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{
    front::Front,
    limits::MasterLimits,
    parameters::{MasterError, MasterParameters, MasterTlsFiles},
};
use crate::{link::KeepAliveTiming, net::congestion_control::LinkCongestionControl};

/// The settings of new connections.
pub(super) struct ConnectionSettings {
    pub(super) front: Front,
    pub(super) proxy_protocol: bool,
    pub(super) congestion_control: LinkCongestionControl,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) tls_timeout: Duration,
    pub(super) keep_alive: KeepAliveTiming,
    pub(super) limits: MasterLimits,
    /// The room for connections that get an answer although there is no place for them.
    pub(super) refusals: Arc<Semaphore>,
}

impl ConnectionSettings {
    /// Creates the settings of these parameters. Reads the certificate.
    ///
    /// # Errors
    /// When the certificate is unusable.
    pub(super) fn new(parameters: &MasterParameters) -> Result<Arc<Self>, MasterError> {
        let tls = parameters.tls.as_ref().map(MasterTlsFiles::acceptor);
        let (limits, timing) = (&parameters.limits, &parameters.timing);
        Ok(Arc::new(ConnectionSettings {
            front: Front {
                path: parameters.path.clone(),
                healthz: parameters.healthz,
                fallback: parameters.fallback.clone(),
                trusted: parameters.trusted_proxies.clone(),
                header_bytes: limits.header_bytes,
                header_timeout: timing.header,
                connection_timeout: timing.connection,
            },
            proxy_protocol: parameters.proxy_protocol,
            congestion_control: LinkCongestionControl::new(parameters.congestion_control),
            tls: tls.transpose()?,
            tls_timeout: timing.tls,
            keep_alive: timing.keep_alive,
            refusals: Arc::new(Semaphore::new(limits.refusals())),
            limits: limits.clone(),
        }))
    }
}
