//! The addresses of a port's service: one, those of a range of ports, or several targets of which
//! the server chooses one.
//!
//! ```text
//!  streams ── connect ──► ServiceTargets ─► TargetPool ◄── results ── checks of targets
//!                                           │      └─► TargetStates (pure)
//!                                           └─► dial
//! ```

mod health_check;
mod pool;
mod states;
#[cfg(test)]
mod tests;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span};

use self::pool::TargetPool;
use super::{
    dial::connect_target,
    port::{ServerPort, Service},
};
use crate::{
    config::{HealthCheck, LocalAddress, Target, TargetChoice},
    net::{connect::ConnectError, local_stream::LocalStream},
};

/// The addresses of a port's service.
#[derive(Debug)]
pub struct ServiceTargets(Addresses);

#[derive(Debug)]
enum Addresses {
    /// One address for each number of the port.
    Numbered {
        /// All of them, as the configuration writes them.
        text: String,
        /// The addresses by their numbers.
        targets: Vec<Target>,
    },
    /// Several addresses of the same service.
    Pool(TargetPool),
}

/// The values that the metrics report about one of several targets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TargetReport {
    /// The address.
    pub target: String,
    /// Whether connections may choose the target first.
    pub is_healthy: bool,
    /// The number of connections that it did not accept.
    pub failures: u64,
}

impl ServiceTargets {
    /// Returns the address of a service, or its range of ports.
    #[must_use]
    pub fn at(address: &LocalAddress) -> Self {
        let offsets = 0..address.count();
        ServiceTargets(Addresses::Numbered {
            text: address.to_string(),
            targets: offsets.filter_map(|offset| address.at(offset)).collect(),
        })
    }

    /// Returns several addresses of one service. Without a health check, all are healthy that have
    /// not just refused a connection.
    #[must_use]
    pub fn any_of(
        targets: Vec<Target>,
        choice: TargetChoice,
        health_check: Option<HealthCheck>,
    ) -> Self {
        let pool = TargetPool::new(targets, choice, health_check);
        ServiceTargets(Addresses::Pool(pool))
    }

    /// Connects to the service within `limit`. `offset` is the number of the address in a range of
    /// ports, 0 without a range. Tries several targets one after another.
    ///
    /// # Errors
    /// If there is no connection; the error names each address that was tried.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections made so far.
    pub(super) async fn connect(
        &self,
        offset: u16,
        limit: Duration,
    ) -> Result<LocalStream, ConnectError> {
        match &self.0 {
            Addresses::Numbered { targets, .. } => match targets.get(usize::from(offset)) {
                Some(target) => connect_target(target, limit).await,
                None => Err(ConnectError::Targets(Vec::new())),
            },
            Addresses::Pool(pool) => pool.connect(limit).await,
        }
    }

    /// Returns the addresses to which a datagram flow may go, in the order in which it tries them.
    /// `offset` is the number of the address in a range of ports.
    pub(super) fn candidates(&self, offset: u16) -> Vec<Target> {
        match &self.0 {
            Addresses::Numbered { targets, .. } => {
                let target = targets.get(usize::from(offset));
                target.cloned().into_iter().collect()
            }
            Addresses::Pool(pool) => pool.candidates(),
        }
    }

    /// Records that a target has answered datagrams.
    pub(super) fn on_answered(&self, target: &Target) {
        if let Addresses::Pool(pool) = &self.0 {
            pool.on_answered(target);
        }
    }

    /// Records that a target has refused datagrams, at its last address with this error.
    pub(super) fn on_refused(&self, target: &Target, address: SocketAddr, error: io::Error) {
        if let Addresses::Pool(pool) = &self.0 {
            let error = ConnectError::Addresses(vec![(address, error.into())]);
            pool.on_refused(target, &error);
        }
    }

    /// Returns the state of each of several targets.
    pub(super) fn reports(&self) -> Vec<TargetReport> {
        match &self.0 {
            Addresses::Numbered { .. } => Vec::new(),
            Addresses::Pool(pool) => pool.reports(),
        }
    }
}

impl From<Target> for ServiceTargets {
    fn from(target: Target) -> Self {
        ServiceTargets(Addresses::Numbered {
            text: target.to_string(),
            targets: vec![target],
        })
    }
}

impl fmt::Display for ServiceTargets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Addresses::Numbered { text, .. } => formatter.write_str(text),
            Addresses::Pool(pool) => pool.fmt(formatter),
        }
    }
}

/// Starts the health checks of a port, if it has some. They end when `until` is cancelled.
pub(super) fn start_health_checks(
    port: &Arc<ServerPort>,
    tasks: &TaskTracker,
    until: CancellationToken,
) {
    if !pool_of(port).is_some_and(TargetPool::has_health_check) {
        return;
    }
    let port = Arc::clone(port);
    let span = info_span!(parent: None, "health", port = %port.port.mark);
    let checks = async move {
        if let Some(pool) = pool_of(&port) {
            let checks = pool.check_health(port.proxy_protocol);
            until.run_until_cancelled(checks).await;
        }
    };
    tasks.spawn(checks.instrument(span));
}

/// Returns the targets of a port that has several.
fn pool_of(port: &ServerPort) -> Option<&TargetPool> {
    match &port.service {
        Service::Targets(ServiceTargets(Addresses::Pool(pool))) => Some(pool),
        Service::Targets(_) | Service::Destinations(_) => None,
    }
}
