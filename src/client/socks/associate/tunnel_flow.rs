//! The flows of associations in the tunnel of the port.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tracing::{debug, info, warn};

use super::{Flow, FlowEnded, FlowNotOpened, FlowOpener};
use crate::{
    client::{
        port::PortSupervisor,
        socks::{SocksProxy, failure::ConnectFailure, target_details},
    },
    net::local_listener::LocalPeer,
    tunnel::{
        DatagramFlow, DatagramFlowError, DropReason, FlowSlot, ResetCode, Tunnel,
        details::NamedTarget,
    },
};

/// Opens the flows of one application in the tunnel of a port.
#[derive(Clone)]
pub(in crate::client::socks) struct TunnelFlowOpener {
    pub(in crate::client::socks) port: Arc<PortSupervisor>,
    pub(in crate::client::socks) proxy: Arc<SocksProxy>,
    /// The application, for the log.
    pub(in crate::client::socks) peer: LocalPeer,
}

/// A flow to a destination that an application named.
pub(in crate::client::socks) struct TunnelFlow {
    flow: DatagramFlow,
    target: NamedTarget,
    opener: TunnelFlowOpener,
    /// Released at the end of the flow.
    _slot: FlowSlot,
}

impl FlowOpener for TunnelFlowOpener {
    type Flow = TunnelFlow;

    fn open(&self, target: &NamedTarget) -> Result<TunnelFlow, FlowNotOpened> {
        let Some(tunnel) = self.port.tunnel().now_or_never() else {
            self.count_dropped(DropReason::NoTunnel);
            return Err(FlowNotOpened::NoTunnel);
        };
        self.open_in(&tunnel, target)
    }
}

impl TunnelFlowOpener {
    /// Opens a flow in this tunnel.
    fn open_in(&self, tunnel: &Tunnel, target: &NamedTarget) -> Result<TunnelFlow, FlowNotOpened> {
        let most = self.port.parameters.max_flows;
        let Some(slot) = FlowSlot::take(&self.port.parameters.counters, most) else {
            self.count_dropped(DropReason::FlowLimit);
            self.proxy.flow_log.log(|times| {
                warn!(
                    times,
                    peer = %self.peer,
                    "datagrams to new destinations dropped: the port has {most} flows (raise `max_flows`)"
                );
            });
            return Err(FlowNotOpened::Full);
        };
        let flow = tunnel.open_flow(target_details(target));
        debug!(number = flow.id(), host = ?target.host, port = target.port, "flow opened");
        Ok(TunnelFlow {
            flow,
            target: target.clone(),
            opener: self.clone(),
            _slot: slot,
        })
    }

    /// Counts a dropped datagram.
    fn count_dropped(&self, reason: DropReason) {
        let counters = &self.port.parameters.counters.datagrams;
        counters.drop_some(reason, 1);
    }
}

impl Flow for TunnelFlow {
    fn send(&self, datagram: Bytes) -> Result<(), FlowEnded> {
        match self.flow.send(datagram) {
            Ok(()) => Ok(()),
            Err(error) if error.is_about_one_datagram() => {
                self.opener.count_dropped(DropReason::Socket);
                Ok(())
            }
            Err(_) => {
                self.opener.count_dropped(DropReason::FlowEnded);
                Err(FlowEnded)
            }
        }
    }

    async fn receive(&self) -> Result<Bytes, FlowEnded> {
        self.flow.recv().await.map_err(|error| {
            self.report_end(&error);
            FlowEnded
        })
    }

    fn count_unsent(&self) {
        self.opener.count_dropped(DropReason::Socket);
    }
}

impl TunnelFlow {
    /// Reports why the flow has ended: a failure of the destination, or an idle flow or tunnel.
    fn report_end(&self, error: &DatagramFlowError) {
        let code = error.end_code();
        if matches!(code, None | Some(ResetCode::Cancelled)) {
            return debug!(number = self.flow.id(), reason = %error, "flow ended");
        }
        let failure = ConnectFailure::of_code(code);
        let refusals = &self.opener.port.parameters.process_shared.refusals;
        refusals.count("connection", failure.reason());
        let NamedTarget { host, port } = &self.target;
        self.opener.proxy.flow_log.log(|times| {
            info!(
                times,
                peer = %self.opener.peer,
                ?host,
                port,
                reason = failure.reason(),
                "no datagrams to the destination: {}",
                failure.text()
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::tunnel::{
        PortParameters, ServiceProtocol,
        details::{OpenDetails, WantedDetails},
        tests::{TunnelTestbed, plain_port},
    };

    /// A tunnel of a port that may have two flows.
    struct Testbed {
        bed: TunnelTestbed,
        client: Tunnel,
        server: Tunnel,
        opener: TunnelFlowOpener,
        tasks: TaskTracker,
        stop: CancellationToken,
    }

    impl Testbed {
        async fn new() -> Self {
            let port = PortParameters {
                protocol: ServiceProtocol::Socks5,
                max_flows: 2,
                ..plain_port()
            };
            let bed = TunnelTestbed::new();
            let (client, server) = bed.tunnels_of(port.clone()).await;
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let opener = TunnelFlowOpener {
                port: PortSupervisor::new(port, 1, &tasks, &stop),
                proxy: Arc::new(SocksProxy::new(None)),
                peer: LocalPeer::Address(([127, 0, 0, 1], 5000).into()),
            };
            Testbed {
                bed,
                client,
                server,
                opener,
                tasks,
                stop,
            }
        }

        fn open(&self, port: u16) -> Result<TunnelFlow, FlowNotOpened> {
            self.opener.open_in(&self.client, &target(port))
        }

        /// Returns how many datagrams both ends have dropped for this reason.
        fn dropped(&self, reason: DropReason) -> u64 {
            let counters = &self.opener.port.parameters.counters.datagrams;
            counters.dropped(reason)
        }

        async fn end(self) {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            drop((self.client, self.server));
            self.bed.end().await;
        }
    }

    fn target(port: u16) -> NamedTarget {
        NamedTarget::new("dns.lan".to_owned(), port).expect("valid")
    }

    #[tokio::test]
    async fn a_flow_names_its_destination_and_reports_its_refusal() {
        let bed = Testbed::new().await;
        let flow = bed.open(53).expect("a flow");
        flow.send("query".into()).expect("queued");
        let (served, details) = bed.server.accept_flow().await.expect("a flow");
        let wanted = WantedDetails::of(&bed.opener.port.parameters, false);
        let details = OpenDetails::read(&details, wanted).expect("valid");
        assert_eq!(details.target, Some(target(53)));
        assert_eq!(served.recv().await.expect("a datagram"), "query");
        served.send("answer".into()).expect("queued");
        assert_eq!(flow.receive().await, Ok("answer".into()));
        served.end(ResetCode::Denied);
        assert_eq!(flow.receive().await, Err(FlowEnded));
        assert_eq!(flow.send("query".into()), Err(FlowEnded));
        assert_eq!(bed.dropped(DropReason::FlowEnded), 1);
        let refusals = bed.opener.port.parameters.process_shared.refusals.all();
        assert_eq!(
            refusals.get(&("connection", "destination_denied")),
            Some(&1)
        );
        drop(flow);
        bed.end().await;
    }

    #[tokio::test]
    async fn an_idle_end_is_no_refusal_and_a_long_datagram_ends_nothing() {
        let bed = Testbed::new().await;
        let flow = bed.open(53).expect("a flow");
        let too_long = Bytes::from(vec![0; crate::tunnel::DATAGRAM_MAX + 1]);
        assert_eq!(flow.send(too_long), Ok(()));
        assert_eq!(bed.dropped(DropReason::Socket), 1);
        flow.send("query".into()).expect("queued");
        let (served, _) = bed.server.accept_flow().await.expect("a flow");
        served.end(ResetCode::Cancelled);
        assert_eq!(flow.receive().await, Err(FlowEnded));
        let refusals = bed.opener.port.parameters.process_shared.refusals.all();
        assert!(refusals.is_empty(), "{refusals:?}");
        drop(flow);
        bed.end().await;
    }

    #[tokio::test]
    async fn a_port_has_its_flows_and_no_more() {
        let bed = Testbed::new().await;
        let flows = [bed.open(1), bed.open(2)].map(|flow| flow.expect("a flow"));
        assert_eq!(bed.open(3).err(), Some(FlowNotOpened::Full));
        assert_eq!(bed.dropped(DropReason::FlowLimit), 1);
        drop(flows);
        assert!(bed.open(3).is_ok());
        bed.end().await;
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_tunnel() {
        let bed = Testbed::new().await;
        // The port has no link, so it has no tunnel.
        let refused = bed.opener.open(&target(53)).err();
        assert_eq!(refused, Some(FlowNotOpened::NoTunnel));
        assert_eq!(bed.dropped(DropReason::NoTunnel), 1);
        bed.end().await;
    }
}
