//! The datagram flows of a tunnel at the server: each has its own connected UDP socket to the service,
//! so the service answers each source separately.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | accepts flows within the limits |
//! | `flow` | carries one flow in both directions until it ends |
//! | `service_address` | the addresses of the service, which a flow tries one after another |
//! | `flow_end` | why a flow ended: the code for the client, the log |

mod flow;
mod flow_end;
mod service_address;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::{Instrument, debug, debug_span, warn};

use self::flow::ServedFlow;
use super::service::ServiceContext;
use crate::tunnel::{
    DatagramFlow, FlowSlot, ResetCode, Tunnel,
    details::{OpenDetails, WantedDetails},
};

/// Serves the flows of a tunnel until it has ended. Returns their number.
///
/// # Cancel safety
/// All flows end when the future is dropped.
pub(super) async fn serve_flows(context: &Arc<ServiceContext>, tunnel: &Tunnel) -> u64 {
    let (mut served, mut flows) = (0_u64, JoinSet::new());
    if !context.port.port.protocol.has_flows() {
        return served;
    }
    loop {
        let accepted = tokio::select! {
            accepted = tunnel.accept_flow() => accepted,
            // Reaps the flows that have ended.
            Some(_) = flows.join_next() => continue,
            () = context.stop.cancelled() => None,
        };
        let Some((flow, details)) = accepted else {
            return served;
        };
        let span = debug_span!("flow", number = flow.id());
        match admit(context, tunnel, flow, &details) {
            Ok(flow) => {
                served += 1;
                span.in_scope(|| debug!("flow opened"));
                flows.spawn(flow.serve().instrument(span));
            }
            Err((flow, code)) => {
                span.in_scope(|| debug!(%code, "flow refused"));
                flow.end(code);
            }
        }
    }
}

/// Checks the limits and the details of a flow before a socket is opened for it. Returns the code with
/// which a refused flow ends.
fn admit(
    context: &Arc<ServiceContext>,
    tunnel: &Tunnel,
    flow: DatagramFlow,
    details: &[u8],
) -> Result<ServedFlow, (DatagramFlow, ResetCode)> {
    if context.draining.has_started() {
        context.count_refusal("draining");
        return Err((flow, ResetCode::Shutdown));
    }
    let Some(context) = ServiceContext::present(context) else {
        context.count_refusal("removed");
        return Err((flow, ResetCode::Shutdown));
    };
    let port = &context.port.port;
    let wanted = WantedDetails::of(port, context.wants_origin);
    let details = match OpenDetails::read(details, wanted) {
        Ok(details) => details,
        Err(error) => {
            context.count_refusal("invalid_details");
            return Err((flow, error.reset_code()));
        }
    };
    let Some(slot) = FlowSlot::take(&port.counters, port.flows_with_ending()) else {
        context.count_refusal("flow_limit");
        let most = port.max_flows;
        context.refusals.log(|times| {
            warn!(
                times,
                "flow refused: the port has {most} flows (raise `max_flows`)"
            );
        });
        return Err((flow, ResetCode::Limit));
    };
    let Some(permit) = context.permit(tunnel) else {
        return Err((flow, ResetCode::Limit));
    };
    Ok(ServedFlow {
        flow,
        details,
        permit,
        slot,
        context,
    })
}
