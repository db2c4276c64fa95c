//! The readiness and the metrics of the client.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{client_role::LinksInUse, port_table::PortTable};
use crate::{
    metrics::{MetricFamilies, RunningRole, Sample},
    tunnel::{self, PortParameters, Tunnel},
};

/// The parts of a running client that are reported.
pub(super) struct RunningClient {
    pub(super) ports: PortTable,
    pub(super) links: Arc<LinksInUse>,
    /// Cancelled when the client drains.
    pub(super) cancel: CancellationToken,
}

impl RunningRole for RunningClient {
    fn missing(&self) -> Vec<String> {
        if self.cancel.is_cancelled() {
            return vec!["the client is draining".to_owned()];
        }
        let mut missing: Vec<String> = self
            .ports
            .all()
            .iter()
            .filter(|port| !port.is_retired())
            .filter_map(|port| missing_listeners(&port.parameters, port.missing_listeners()))
            .collect();
        if self.links.count() == 0 {
            missing.push("no link to a master".to_owned());
        }
        missing
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        families.links_to_masters(self.links.count(), self.links.established())?;
        // Those that are retired still have tunnels.
        let all = self.ports.all();
        let in_use: Vec<_> = all.iter().filter(|port| !port.is_retired()).collect();
        families.configured_ports(in_use.len())?;
        let listening = in_use.iter().filter(|port| port.missing_listeners() == 0);
        families.gauge_of_counts(
            "report_listening_ports",
            "Ports that have all of their listeners.",
            [Sample::of(listening.count())],
        )?;
        let tunnels: Vec<Tunnel> = all.iter().flat_map(|port| port.tunnels()).collect();
        let ports = distinct_counters(all.iter().map(|port| &port.parameters));
        // A client without ports has no tunnels. A configuration has at least one port.
        match ports.first() {
            Some(first) => {
                tunnel::metrics::describe(families, &ports, &tunnels, &first.process_shared)
            }
            None => Ok(()),
        }
    }
}

/// Returns the ports, without those that have the counters of another. A port whose parameters have
/// changed keeps its counters.
fn distinct_counters<'a>(
    ports: impl Iterator<Item = &'a PortParameters>,
) -> Vec<&'a PortParameters> {
    let mut distinct: Vec<&PortParameters> = Vec::new();
    for port in ports {
        let mut others = distinct.iter();
        if !others.any(|other| Arc::ptr_eq(&other.counters, &port.counters)) {
            distinct.push(port);
        }
    }
    distinct
}

/// Returns what is missing of a port without this many of its listeners.
fn missing_listeners(port: &PortParameters, missing: usize) -> Option<String> {
    match (missing, port.range) {
        (0, _) => None,
        (_, 0 | 1) => Some(format!("port \"{}\" does not listen", port.mark)),
        (missing, range) => Some(format!(
            "port \"{}\" does not listen at {missing} of its {range} ports",
            port.mark
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::plain_port;

    #[test]
    fn missing_listeners_of_a_range_are_counted() {
        let port = |range| PortParameters {
            mark: "calls".into(),
            range,
            ..plain_port()
        };
        assert_eq!(missing_listeners(&port(11), 0), None);
        assert_eq!(
            missing_listeners(&port(1), 1).as_deref(),
            Some("port \"calls\" does not listen")
        );
        assert_eq!(
            missing_listeners(&port(11), 3).as_deref(),
            Some("port \"calls\" does not listen at 3 of its 11 ports")
        );
    }
}
