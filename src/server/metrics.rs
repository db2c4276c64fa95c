//! The readiness and the metrics of the server.

use std::fmt;

use super::server_role::ServerRole;
use crate::{
    metrics::{MetricFamilies, RunningRole, Sample},
    tunnel,
};

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
