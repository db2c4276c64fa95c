//! The metrics of the tunnels of a server or client. Both roles report the same families.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    core::TunnelStatus,
    datagram_counters::{DatagramCounters, DropReason},
    handle::Tunnel,
    parameters::{PortParameters, ProcessShared},
};
use crate::metrics::{MetricFamilies, Sample};

/// The most ports with a separate label. The others share [`OTHER_PORTS`]. The choice depends on the
/// configuration only: a counter that moved from one label to another would seem to fall.
const LABELLED_PORTS: usize = 100;

/// The label of the ports without a separate one.
const OTHER_PORTS: &str = "other";

/// The values of all ports with one label.
#[derive(Debug, Default, Clone, Copy)]
struct PortTotals {
    unconfirmed: usize,
    attached: usize,
    lost: usize,
    streams: usize,
    attachments: usize,
    sent_bytes: u64,
    received_bytes: u64,
    opened_streams: u64,
    flows: usize,
    opened_flows: u64,
    sent_datagrams: u64,
    received_datagrams: u64,
    /// In the order of [`DropReason::ALL`].
    dropped_datagrams: [u64; DropReason::ALL.len()],
}

impl PortTotals {
    fn add_datagrams(&mut self, counters: &DatagramCounters) {
        self.opened_flows = self
            .opened_flows
            .saturating_add(counters.opened_flows.get());
        self.sent_datagrams = self.sent_datagrams.saturating_add(counters.sent.get());
        self.received_datagrams = self
            .received_datagrams
            .saturating_add(counters.received.get());
        for (total, reason) in self.dropped_datagrams.iter_mut().zip(DropReason::ALL) {
            *total = total.saturating_add(counters.dropped(reason));
        }
    }
}

/// The values by label. Ports with the same mark share a label.
type TotalsByPort = BTreeMap<String, PortTotals>;

/// The labels of a set of ports.
pub(crate) struct PortLabels(BTreeSet<String>);

impl PortLabels {
    /// Selects the first marks in alphabetical order.
    pub(crate) fn new<'a>(ports: impl Iterator<Item = &'a PortParameters>) -> Self {
        let marks: BTreeSet<String> = ports.map(|port| port.mark.to_string()).collect();
        PortLabels(marks.into_iter().take(LABELLED_PORTS).collect())
    }

    /// Returns the label that the port has alone or with ports of the same mark, if it has one.
    pub(crate) fn separate(&self, port: &PortParameters) -> Option<&str> {
        self.0.get(&*port.mark).map(String::as_str)
    }

    fn of(&self, port: &PortParameters) -> String {
        self.separate(port).unwrap_or(OTHER_PORTS).to_owned()
    }
}

/// Writes the metrics of `tunnels`, which belong to `ports` of one process. `shared` is that of the
/// process.
///
/// # Errors
/// When the encoder fails.
pub(crate) fn describe(
    families: &mut MetricFamilies<'_>,
    ports: &[&PortParameters],
    tunnels: &[Tunnel],
    shared: &ProcessShared,
) -> fmt::Result {
    let totals = totals(ports, tunnels);
    describe_ports(families, &totals)?;
    describe_datagrams(families, &totals)?;
    describe_losses(families, shared)?;
    families.counter(
        "report_stream_bytes",
        "Bytes of local connections, without encryption and compression: sent into tunnels, received from tunnels.",
        totals.iter().flat_map(|(port, totals)| {
            [
                ("sent", totals.sent_bytes),
                ("received", totals.received_bytes),
            ]
            .map(|(direction, bytes)| {
                let labels = [
                    ("port", port.clone()),
                    ("direction", direction.to_owned()),
                ];
                Sample::labelled(labels, bytes)
            })
        }),
    )?;
    families.queue_memory(shared.budget.used(), shared.budget.size())?;
    families.refusals(&shared.refusals)
}

/// Writes the families of tunnels and streams by port.
fn describe_ports(families: &mut MetricFamilies<'_>, totals: &TotalsByPort) -> fmt::Result {
    families.gauge_of_counts(
        "report_tunnels",
        "Tunnels by state: attached, lost (waiting for a link), or unconfirmed (in the handshake).",
        totals.iter().flat_map(|(port, totals)| {
            [
                ("attached", totals.attached),
                ("lost", totals.lost),
                ("unconfirmed", totals.unconfirmed),
            ]
            .map(|(state, tunnels)| {
                let labels = [("port", port.clone()), ("state", state.to_owned())];
                Sample::labelled(labels, tunnels)
            })
        }),
    )?;
    families.gauge_of_counts(
        "report_attachments",
        "Attachments that carry tunnels. A tunnel over several links has several.",
        by_port(totals, |of_port| of_port.attachments),
    )?;
    families.gauge_of_counts(
        "report_streams",
        "Open streams. Each carries one connection.",
        by_port(totals, |of_port| of_port.streams),
    )?;
    families.counter(
        "report_opened_streams",
        "Streams that were opened.",
        by_port(totals, |of_port| of_port.opened_streams),
    )
}

/// Writes the families of flows and datagrams by port.
fn describe_datagrams(families: &mut MetricFamilies<'_>, totals: &TotalsByPort) -> fmt::Result {
    families.gauge_of_counts(
        "report_flows",
        "Flows of datagrams. Each carries one source.",
        by_port(totals, |of_port| of_port.flows),
    )?;
    families.counter(
        "report_opened_flows",
        "Flows of datagrams that were opened.",
        by_port(totals, |of_port| of_port.opened_flows),
    )?;
    families.counter(
        "report_datagrams",
        "Datagrams: sent into tunnels, received from tunnels.",
        totals.iter().flat_map(|(port, totals)| {
            [
                ("sent", totals.sent_datagrams),
                ("received", totals.received_datagrams),
            ]
            .map(|(direction, datagrams)| {
                let labels = [("port", port.clone()), ("direction", direction.to_owned())];
                Sample::labelled(labels, datagrams)
            })
        }),
    )?;
    families.counter(
        "report_dropped_datagrams",
        "Datagrams that this end dropped, by reason.",
        totals.iter().flat_map(|(port, totals)| {
            let dropped = DropReason::ALL.into_iter().zip(totals.dropped_datagrams);
            dropped.map(|(reason, datagrams)| {
                let labels = [("port", port.clone()), ("reason", reason.name().to_owned())];
                Sample::labelled(labels, datagrams)
            })
        }),
    )
}

/// Returns one sample for each port.
fn by_port<V>(
    totals: &TotalsByPort,
    value: fn(&PortTotals) -> V,
) -> impl Iterator<Item = Sample<V>> {
    totals
        .iter()
        .map(move |(port, of_port)| Sample::labelled([("port", port.clone())], value(of_port)))
}

/// Writes the families about lost attachments and resumption.
fn describe_losses(families: &mut MetricFamilies<'_>, shared: &ProcessShared) -> fmt::Result {
    let counters = &shared.counters;
    for (name, help, counter) in [
        (
            "report_tunnel_losses",
            "Tunnels that lost their last attachment.",
            &counters.lost,
        ),
        (
            "report_tunnel_resumptions",
            "Tunnels that were resumed after a loss.",
            &counters.resumed,
        ),
        (
            "report_tunnel_moves",
            "Attachments that moved to another link without a pause.",
            &counters.moved,
        ),
        (
            "report_tunnel_expirations",
            "Tunnels that ended, because they had no attachment for resume_timeout.",
            &counters.expired,
        ),
        (
            "report_resent_bytes",
            "Bytes that were sent again after resumptions.",
            &counters.resent_bytes,
        ),
    ] {
        families.counter(name, help, [Sample::of(counter.get())])?;
    }
    families.histogram(
        "report_tunnel_pause_seconds",
        "The time without an attachment, of tunnels that were resumed.",
        &counters.pauses.counts(),
    )
}

/// Reads the tunnels and the counters of the ports.
fn totals(ports: &[&PortParameters], tunnels: &[Tunnel]) -> TotalsByPort {
    let labels = PortLabels::new(ports.iter().copied());
    let mut totals = TotalsByPort::new();
    for tunnel in tunnels {
        tunnel.shared.publish_datagrams();
    }
    for port in ports {
        let of_port = totals.entry(labels.of(port)).or_default();
        let counters = &port.counters;
        of_port.sent_bytes = of_port.sent_bytes.saturating_add(counters.sent_bytes.get());
        of_port.received_bytes = of_port
            .received_bytes
            .saturating_add(counters.received_bytes.get());
        of_port.opened_streams = of_port
            .opened_streams
            .saturating_add(counters.opened_streams.get());
        of_port.add_datagrams(&counters.datagrams);
    }
    for tunnel in tunnels {
        let of_port = totals.entry(labels.of(tunnel.port())).or_default();
        let count = match &*tunnel.shared.status.borrow() {
            TunnelStatus::Unconfirmed => &mut of_port.unconfirmed,
            TunnelStatus::Attached => &mut of_port.attached,
            TunnelStatus::Lost { .. } => &mut of_port.lost,
            // It is about to leave the table of its role.
            TunnelStatus::Ended => continue,
        };
        *count = count.saturating_add(1);
        of_port.streams = of_port.streams.saturating_add(tunnel.streams());
        of_port.flows = of_port.flows.saturating_add(tunnel.flows());
        of_port.attachments = of_port.attachments.saturating_add(tunnel.lanes());
    }
    totals
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tunnel::{
        ServiceProtocol,
        tests::{TunnelTestbed, plain_port},
    };
    use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

    #[test]
    fn ports_beyond_the_limit_share_a_label_and_equal_marks_too() {
        let port = plain_port();
        let numbers = (0..LABELLED_PORTS + 50).chain([0]);
        let ports: Vec<_> = numbers
            .map(|number| PortParameters {
                mark: format!("port {number:03}").into(),
                counters: Default::default(),
                ..port.clone()
            })
            .collect();
        ports
            .iter()
            .for_each(|port| port.counters.sent_bytes.add(1));
        let ports: Vec<_> = ports.iter().collect();
        let totals = totals(&ports, &[]);
        assert_eq!(totals.len(), LABELLED_PORTS + 1);
        let sent = |label: &str| totals.get(label).map(|totals| totals.sent_bytes);
        assert_eq!(sent("port 000"), Some(2));
        assert_eq!(sent("port 099"), Some(1));
        assert_eq!(sent("port 100"), None);
        assert_eq!(sent(OTHER_PORTS), Some(50));
    }

    #[tokio::test]
    async fn tunnels_are_counted_by_state_with_their_streams_and_attachments() {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let mut status = client.status();
        let is_attached = |status: &TunnelStatus| *status == TunnelStatus::Attached;
        status.wait_for(is_attached).await.expect("it is alive");
        let streams = [client.open(Bytes::new()), client.open(Bytes::new())];
        let read = totals(&[client.port()], std::slice::from_ref(&client));
        let of_port = read.get(&*client.port().mark).expect("its port");
        assert_eq!((read.len(), of_port.attached, of_port.lost), (1, 1, 0));
        assert_eq!((of_port.streams, of_port.attachments), (2, 1));
        assert_eq!(of_port.opened_streams, 2);
        drop((streams, client, server));
        bed.end().await;
    }

    #[tokio::test]
    async fn flows_and_datagrams_are_counted_with_the_reason_of_each_loss() {
        let bed = TunnelTestbed::new();
        let port = PortParameters {
            protocol: ServiceProtocol::Udp,
            ..plain_port()
        };
        let (client, server) = bed.tunnels_of(port).await;
        let flow = client.open_flow(Bytes::new());
        flow.send(Bytes::from_static(b"datagram")).expect("sent");
        let (other, _) = server.accept_flow().await.expect("the flow");
        other.recv().await.expect("the datagram");
        let counters = &client.port().counters.datagrams;
        counters.drop_some(DropReason::NoTunnel, 3);
        let read = totals(&[client.port()], &[client.clone(), server.clone()]);
        let of_port = read.get(&*client.port().mark).expect("its port");
        assert_eq!((of_port.flows, of_port.opened_flows), (2, 2));
        assert_eq!((of_port.sent_datagrams, of_port.received_datagrams), (1, 1));
        assert_eq!(of_port.dropped_datagrams, [0, 0, 0, 0, 0, 3, 0, 0]);
        drop((flow, other, client, server));
        bed.end().await;
    }
}
