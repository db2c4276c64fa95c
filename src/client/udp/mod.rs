//! The datagrams of a port: a UDP socket at each of its addresses, and a flow of the tunnel for each
//! source.
//!
//! ```text
//!  application ──► Receiver (a task of each socket) ──► FlowTable ──► DatagramFlow ──► tunnel
//!              ◄── answers (a task of each flow) ◄────────────────────────┘
//! ```
//!
//! | file | content |
//! |---|---|
//! | `receiver` | reads a socket, finds or opens the flow of each source |
//! | `answers` | carries what a flow receives back to its source |
//! | `flow_table` | pure: the flows of a port, their number and their end |
//! | `held_datagrams` | pure: what waits for a tunnel |

mod answers;
mod flow_table;
mod held_datagrams;
mod receiver;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span};

use self::flow_table::{FlowKey, FlowPlace, FlowRefusal, FlowTable};
pub(super) use self::receiver::receive;
use super::port::PortSupervisor;
use crate::{
    net::{file_limit::ThrottledLog, udp::DatagramSocket},
    tunnel::{DatagramCounters, DatagramFlow, Tunnel},
};

/// The longest time between searches for idle flows.
const SEARCH_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// An idle flow lives for at most this part of its timeout longer.
const SEARCHES_PER_TIMEOUT: u32 = 4;

/// The datagrams of a port, for all its sockets.
pub(super) struct DatagramPort {
    pub(super) port: Arc<PortSupervisor>,
    flows: Mutex<FlowTable<LiveFlow>>,
    /// Logs sources that get no flow.
    refusal_log: ThrottledLog,
    /// Logs errors of the sockets.
    socket_log: ThrottledLog,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A flow and the task that carries its answers. Dropping it ends both.
struct LiveFlow {
    flow: Arc<DatagramFlow>,
    answers: AbortHandle,
}

impl Drop for LiveFlow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl DatagramPort {
    /// Creates the datagrams of a port. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub(super) fn new(
        port: Arc<PortSupervisor>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let parameters = &port.parameters;
        let flows = FlowTable::new(
            Instant::now(),
            parameters.max_flows,
            parameters.udp_idle_timeout,
        );
        let datagrams = Arc::new(DatagramPort {
            flows: Mutex::new(flows),
            port,
            refusal_log: ThrottledLog::default(),
            socket_log: ThrottledLog::default(),
            tasks: tasks.clone(),
            stop: stop.child_token(),
        });
        let protocol = datagrams.port.parameters.protocol;
        let timeout = datagrams.port.parameters.udp_idle_timeout;
        if let Some(timeout) = timeout.filter(|_| protocol.has_udp()) {
            tasks.spawn(end_idle_flows(Arc::clone(&datagrams), timeout));
        }
        datagrams
    }

    /// Ends all flows, because the port has changed or was removed. Sockets of a changed port
    /// continue with its other datagrams.
    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    fn counters(&self) -> &DatagramCounters {
        &self.port.parameters.counters.datagrams
    }

    /// Returns the flow of a source that sends a datagram now.
    fn flow(&self, key: &FlowKey) -> Option<Arc<DatagramFlow>> {
        let mut flows = self.flows();
        let live = flows.on_datagram(Instant::now(), key)?;
        Some(Arc::clone(&live.flow))
    }

    /// Opens a flow for a source, and starts to carry its answers.
    ///
    /// # Errors
    /// If too many flows are open, or were opened in a short time.
    fn open(
        self: &Arc<Self>,
        key: FlowKey,
        tunnel: Tunnel,
        socket: &Arc<DatagramSocket>,
    ) -> Result<Arc<DatagramFlow>, FlowRefusal> {
        let now = Instant::now();
        let mut flows = self.flows();
        let FlowPlace { number, evicted } = flows.admit(now)?;
        let local_ip = key.local_ip.unwrap_or_else(|| socket.local_addr().ip());
        let destination = (local_ip, socket.local_addr().port()).into();
        let details = self
            .port
            .flow_details(&tunnel, key.offset, key.source, destination);
        let flow = Arc::new(tunnel.open_flow(details));
        let span = debug_span!("flow", source = %key.source, number = flow.id());
        span.in_scope(|| debug!(replaced = evicted.len(), "flow opened"));
        let answers = answers::Answers {
            port: Arc::clone(self),
            tunnel,
            flow: Arc::clone(&flow),
            socket: Arc::clone(socket),
            key,
            number,
        };
        let answers = self.tasks.spawn(answers.carry().instrument(span));
        let live = LiveFlow {
            flow: Arc::clone(&flow),
            answers: answers.abort_handle(),
        };
        flows.insert(now, key, number, live);
        // Their flows report their end, which needs no lock.
        drop(flows);
        drop(evicted);
        Ok(flow)
    }

    /// Records that a flow has answered its source.
    fn on_answer(&self, key: &FlowKey, number: u64) {
        self.flows().on_answer(Instant::now(), key, number);
    }

    /// Forgets a flow that has ended.
    fn remove(&self, key: &FlowKey, number: u64) {
        let removed = self.flows().remove(key, number);
        // After the lock is released: it may be the last owner of the flow.
        drop(removed);
    }

    fn flows(&self) -> MutexGuard<'_, FlowTable<LiveFlow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the flows of a port that have been idle for `timeout`.
async fn end_idle_flows(port: Arc<DatagramPort>, timeout: Duration) {
    let pause = (timeout / SEARCHES_PER_TIMEOUT).min(SEARCH_INTERVAL_MAX);
    while port
        .stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        let expired = port.flows().expire(Instant::now());
        for live in expired {
            debug!(number = live.flow.id(), "flow ended: it was idle");
        }
    }
}
