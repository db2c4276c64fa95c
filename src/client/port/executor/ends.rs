//! The ends of tunnels: why the client ends one, and the log of each.

use tracing::{info, warn};

use super::PortExecutor;
use crate::{client::port::event::EndTunnelReason, tunnel::ResetCode};
use report_proto::{
    frame::{Code, Notice},
    id::Id,
};

impl PortExecutor {
    pub(super) fn end_tunnel(&mut self, id: Id, reason: EndTunnelReason) {
        let Some(entry) = self.find(id) else { return };
        let (tunnel, span) = (entry.tunnel.clone(), &self.span);
        let cancelled = |text| Notice::new(Code::Cancelled, text);
        match reason {
            EndTunnelReason::Redundant => {
                let notice = cancelled("the port has another tunnel");
                tunnel.end(ResetCode::Cancelled, notice);
                // The machine does not know it.
                self.tunnels.retain(|entry| entry.tunnel.id() != id);
            }
            EndTunnelReason::Unused => {
                let notice =
                    cancelled("its last stream has ended, and the port has another tunnel");
                tunnel.end(ResetCode::Cancelled, notice);
            }
            EndTunnelReason::ServerRestarted => {
                warn!(parent: span, tunnel = %id, "the server was restarted: earlier connections are reset");
                let notice = Notice::new(Code::PeerLost, "the server was restarted");
                tunnel.end(ResetCode::Cancelled, notice);
            }
            EndTunnelReason::UnknownAtServer { seen } => {
                warn!(parent: span, tunnel = %id, "the server does not know the tunnel: connections that it has seen are reset");
                let notice = Notice::new(Code::PeerLost, "the server does not know the tunnel");
                tunnel.end_unknown_at_server(seen, notice);
            }
        }
    }

    pub(super) fn forget(&mut self, tunnel: Id) {
        let Some(entry) = self.find(tunnel) else {
            return;
        };
        let reason = entry.tunnel.notice();
        let reason = reason.map(|notice| notice.to_string()).unwrap_or_default();
        let lived_s = entry.adopted_at.elapsed().as_secs();
        if self.is_ending {
            info!(parent: &self.span, %tunnel, lived_s, %reason, "tunnel ended");
        } else {
            warn!(parent: &self.span, %tunnel, lived_s, %reason, "tunnel ended");
        }
        self.tunnels.retain(|entry| entry.tunnel.id() != tunnel);
    }
}
