//! The readiness and the metrics of the server.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::server_role::ServerRole;
use crate::{
    metrics::{MetricFamilies, ObservedRole, Sample},
    tunnel,
};

/// The server as its admin address reports it. Clones share it. It has nothing to report before the
/// server runs.
#[derive(Clone, Default)]
pub struct ServerObserver(Arc<OnceLock<ServerRole>>);

impl ServerObserver {
    /// Starts to report a role.
    pub(super) fn observe(&self, role: &ServerRole) {
        // A server runs once.
        let _ = self.0.set(role.clone());
    }
}

impl fmt::Debug for ServerObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerObserver")
            .finish_non_exhaustive()
    }
}

impl ObservedRole for ServerObserver {
    fn name(&self) -> &'static str {
        "server"
    }

    fn missing(&self) -> Vec<String> {
        self.0.get().map_or_else(
            || vec!["the server is starting".to_owned()],
            ServerRole::missing,
        )
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        self.0.get().map_or(Ok(()), |role| role.describe(families))
    }
}

impl ServerRole {
    /// Writes the metrics of the server.
    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let (registrations, offered) = (self.registrations(), self.ports());
        families.gauge_of_counts(
            "report_links",
            "Links that are up.",
            [Sample::labelled(
                [("peer", "master".to_owned())],
                registrations.links_up(),
            )],
        )?;
        families.counter(
            "report_established_links",
            "Links that were established.",
            [Sample::labelled(
                [("peer", "master".to_owned())],
                registrations.established(),
            )],
        )?;
        families.gauge_of_counts(
            "report_ports",
            "Configured ports.",
            [Sample::of(offered.len())],
        )?;
        families.gauge_of_counts(
            "report_registered_ports",
            "Ports that are registered at a master.",
            [Sample::of(registrations.registered_ports())],
        )?;
        let ports: Vec<_> = offered.values().map(|port| &port.port).collect();
        // A server without ports has no tunnels. A configuration has at least one port.
        match ports.first() {
            Some(first) => tunnel::metrics::describe(
                families,
                &ports,
                &self.tunnels().all(),
                &first.process_shared,
            ),
            None => Ok(()),
        }
    }
}
