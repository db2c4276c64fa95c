//! The readiness and the metrics of the server.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use super::{
    port::{ServerPort, Service},
    server_role::ServerRole,
};
use crate::{
    metrics::{MetricFamilies, RunningRole, Sample},
    tunnel::{self, metrics::PortLabels},
};
use report_proto::id::Id;

impl RunningRole for ServerRole {
    fn missing(&self) -> Vec<String> {
        ServerRole::missing(self)
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let (registrations, offered) = (self.registrations(), self.ports());
        families.links_to_masters(registrations.links_up(), registrations.established())?;
        families.configured_ports(offered.len())?;
        families.gauge_of_counts(
            "report_registered_ports",
            "Ports that are registered at a master.",
            [Sample::of(registrations.registered_ports())],
        )?;
        describe_targets(families, &offered)?;
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

/// Writes the health of the targets of ports that have several. Ports without a separate label have
/// no values, which would say little about all of them together.
fn describe_targets(
    families: &mut MetricFamilies<'_>,
    ports: &HashMap<Id, Arc<ServerPort>>,
) -> fmt::Result {
    let labels = PortLabels::new(ports.values().map(|port| &port.port));
    // Ports with the same mark share a label, and may have the same target.
    let mut targets = BTreeMap::<(String, String), (bool, u64)>::new();
    for port in ports.values() {
        let Some(label) = labels.separate(&port.port) else {
            continue;
        };
        let Service::Targets(service) = &port.service else {
            continue;
        };
        for report in service.reports() {
            let key = (label.to_owned(), report.target);
            let (is_healthy, failures) = targets.entry(key).or_insert((true, 0));
            *is_healthy &= report.is_healthy;
            *failures = failures.saturating_add(report.failures);
        }
    }
    let labelled =
        |(port, target): &(String, String)| [("port", port.clone()), ("target", target.clone())];
    families.gauge(
        "report_target_healthy",
        "Whether one of several targets of a service is healthy: 1 or 0.",
        targets
            .iter()
            .map(|(key, (is_healthy, _))| Sample::labelled(labelled(key), u32::from(*is_healthy))),
    )?;
    families.counter(
        "report_target_failures",
        "Connections that one of several targets of a service did not accept, without health checks.",
        targets
            .iter()
            .map(|(key, (_, failures))| Sample::labelled(labelled(key), *failures)),
    )
}
