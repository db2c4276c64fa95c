//! The ports of a running client, and the changes of the configuration that concern them.
//!
//! A listener belongs to an address, and a supervisor to a port key with its methods. Both outlive a
//! change that does not concern them:
//!
//! ```text
//!  address unchanged: the listener stays ──── new connections ──► supervisor of the port from now on
//!  new address:       bound before the former listeners close
//!  parameters changed: a new supervisor; the former one retires when its last stream has ended
//!  port removed:       its supervisor retires, and ends after the grace period
//! ```

use std::{mem, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    BoundPort, ClientPort,
    bind::{BindAddresses, BoundListener, PortAddress},
    bound_port::{ListenError, PortListener},
    hold_queue::HoldQueue,
    listener::{ListenerContext, listen},
    orphans::Orphans,
    port::PortSupervisor,
    port_table::PortTable,
    socks::SocksProxy,
    udp::{self, DatagramPort},
};
use crate::{
    config::SocksUser,
    grace::Grace,
    net::file_limit::ThrottledLog,
    supervisor::drain::Drain,
    tunnel::{PortParameters, ServiceProtocol},
};

/// The ports of a running client.
pub(super) struct RunningPorts {
    ports: Vec<RunningPort>,
    table: PortTable,
    /// The maximum number of lanes of a tunnel at the server's request.
    max_lanes: usize,
    orphans: Arc<Orphans>,
    descriptor_log: Arc<ThrottledLog>,
    streams: TaskTracker,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when the client drains: closes all listeners.
    cancel: CancellationToken,
    grace: Grace,
}

/// A port that runs.
struct RunningPort {
    address: PortAddress,
    socks_user: Option<SocksUser>,
    /// The context of the next connection.
    context: watch::Sender<ListenerContext>,
    /// Closes the listeners.
    closing: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
}

impl RunningPort {
    fn supervisor(&self) -> Arc<PortSupervisor> {
        Arc::clone(&self.context.borrow().port)
    }

    /// Whether the listeners are those of another port.
    fn listens_for(&self, port: &ClientPort) -> bool {
        let kinds = |port: &PortParameters| (port.protocol.has_tcp(), port.protocol.has_udp());
        let own = kinds(&self.context.borrow().port.parameters);
        self.address == port.local_address && own == kinds(&port.port)
    }

    fn has_key_of(&self, port: &PortParameters) -> bool {
        self.context.borrow().port.parameters.keys.id == port.keys.id
    }

    /// Closes the listeners, and ends the flows of datagrams.
    fn close(&self) {
        self.closing.cancel();
        self.context.borrow().datagrams.close();
    }

    /// Gives the next connections another context, if it differs. `datagrams` creates those of
    /// another supervisor.
    fn update(
        &mut self,
        port: &ClientPort,
        supervisor: &Arc<PortSupervisor>,
        datagrams: impl FnOnce() -> Arc<DatagramPort>,
        hold_timeout: Duration,
    ) {
        let has_new_user = self.socks_user != port.socks_user;
        self.socks_user.clone_from(&port.socks_user);
        let mut replaced = None;
        self.context.send_if_modified(|context| {
            let is_new = !Arc::ptr_eq(&context.port, supervisor);
            if is_new {
                supervisor.expect_listeners(context.port.missing_listeners());
                replaced = Some(mem::replace(&mut context.datagrams, datagrams()));
                context.port = Arc::clone(supervisor);
            }
            if is_new || has_new_user {
                context.proxy = proxy(port);
            }
            let former = mem::replace(&mut context.hold_timeout, hold_timeout);
            is_new || has_new_user || former != hold_timeout
        });
        // The sockets find the other ones by now, and continue.
        if let Some(replaced) = replaced {
            replaced.close();
        }
    }
}

/// Returns the proxy of a port whose applications name their destinations.
fn proxy(port: &ClientPort) -> Option<Arc<SocksProxy>> {
    let is_proxy = port.port.protocol == ServiceProtocol::Socks5;
    is_proxy.then(|| Arc::new(SocksProxy::new(port.socks_user.as_ref())))
}

impl RunningPorts {
    /// Creates the state of a client without ports. Its tasks belong to `drain`. Its listeners close
    /// when `cancel` is cancelled.
    pub(super) fn new(
        table: &PortTable,
        max_lanes: usize,
        drain: &Drain,
        cancel: &CancellationToken,
        grace: &Grace,
    ) -> Self {
        RunningPorts {
            ports: Vec::new(),
            table: table.clone(),
            max_lanes,
            orphans: Arc::default(),
            descriptor_log: Arc::default(),
            streams: drain.streams.clone(),
            tasks: drain.tasks.clone(),
            stop: drain.stop.clone(),
            cancel: cancel.clone(),
            grace: grace.clone(),
        }
    }

    /// Starts the supervisor and the listeners of each port.
    pub(super) fn start(&mut self, ports: Vec<BoundPort>, hold_timeout: Duration) {
        for BoundPort { port, listeners } in ports {
            let supervisor = self.start_supervisor(&port.port);
            let running = self.start_listeners(port, supervisor, listeners, hold_timeout);
            self.ports.push(running);
        }
    }

    /// Changes the ports. Those with the same parameters are not disturbed. `max_lanes` is the
    /// maximum number of lanes if it changes.
    ///
    /// # Errors
    /// When a new address is unavailable. Nothing has changed then.
    pub(super) async fn apply(
        &mut self,
        ports: Vec<ClientPort>,
        hold_timeout: Duration,
        max_lanes: Option<usize>,
    ) -> Result<(), ListenError> {
        let places = self.places(&ports);
        let mut bound = self.bind(&ports, &places).await?;
        self.max_lanes = max_lanes.unwrap_or(self.max_lanes);
        let (mut former, supervisors) = self.take_former(&places).await;
        for (port, listeners) in ports.iter().zip(&mut bound) {
            *listeners = retry(&port.port.mark, mem::take(listeners)).await;
        }
        for ((port, place), listeners) in ports.into_iter().zip(&places).zip(bound) {
            let supervisor = self.supervisor(&port.port, &supervisors);
            let kept = place.and_then(|place| former.get_mut(place)?.take());
            let running = match kept {
                Some(mut running) => {
                    let datagrams = || self.datagrams(&supervisor);
                    running.update(&port, &supervisor, datagrams, hold_timeout);
                    running
                }
                None => self.start_listeners(port, supervisor, listeners, hold_timeout),
            };
            self.ports.push(running);
        }
        for (place, supervisor) in supervisors.iter().enumerate() {
            self.release(place, supervisor, &places);
        }
        Ok(())
    }

    /// Returns for each new port the place of the present one whose listeners it keeps.
    fn places(&self, ports: &[ClientPort]) -> Vec<Option<usize>> {
        let mut is_used = vec![false; self.ports.len()];
        let mut places = vec![None; ports.len()];
        // A port keeps its own listeners. Then it takes those of a port that has lost its address.
        for is_own_key in [true, false] {
            for (port, place) in ports.iter().zip(&mut places) {
                let found = self
                    .ports
                    .iter()
                    .zip(&is_used)
                    .position(|(running, is_used)| {
                        !is_used
                            && running.listens_for(port)
                            && (!is_own_key || running.has_key_of(&port.port))
                    });
                if place.is_none()
                    && let Some(found) = found
                {
                    *place = Some(found);
                    if let Some(is_used) = is_used.get_mut(found) {
                        *is_used = true;
                    }
                }
            }
        }
        places
    }

    /// Listens at the new addresses. One that a listener uses which will be closed is tried again
    /// then.
    async fn bind(
        &self,
        ports: &[ClientPort],
        places: &[Option<usize>],
    ) -> Result<Vec<Vec<PortListener>>, ListenError> {
        let all = BindAddresses::resolve(ports.iter().map(|port| &port.local_address)).await;
        let mut bound = Vec::with_capacity(ports.len());
        for (port, place) in ports.iter().zip(places) {
            if place.is_some() {
                bound.push(Vec::new());
                continue;
            }
            let addresses = all.of(&port.local_address, port.port.protocol);
            let (listeners, error) = PortListener::bind(&port.port.mark, addresses).await;
            if let Some(error) = error
                && !(error.is_in_use() && self.is_freed(port, places))
            {
                return Err(error);
            }
            bound.push(listeners);
        }
        Ok(bound)
    }

    /// Whether a listener that no port keeps uses the address of this port.
    fn is_freed(&self, port: &ClientPort, places: &[Option<usize>]) -> bool {
        let mut ports = self.ports.iter().enumerate();
        ports.any(|(place, running)| {
            let is_kept = places.contains(&Some(place));
            !is_kept
                && running
                    .address
                    .address
                    .overlaps(&port.local_address.address)
        })
    }

    /// Closes the listeners that no port keeps. Returns the other ports at their places, and the
    /// supervisors of all.
    async fn take_former(
        &mut self,
        places: &[Option<usize>],
    ) -> (Vec<Option<RunningPort>>, Vec<Arc<PortSupervisor>>) {
        let former = mem::take(&mut self.ports);
        let supervisors = former.iter().map(RunningPort::supervisor).collect();
        let mut kept = Vec::with_capacity(former.len());
        for (place, port) in former.into_iter().enumerate() {
            if places.contains(&Some(place)) {
                kept.push(Some(port));
                continue;
            }
            port.close();
            for listener in port.listeners {
                // A panic is logged where it occurs.
                let _ = listener.await;
            }
            kept.push(None);
        }
        (kept, supervisors)
    }

    /// Returns the supervisor with these parameters, or starts one.
    fn supervisor(
        &self,
        port: &PortParameters,
        supervisors: &[Arc<PortSupervisor>],
    ) -> Arc<PortSupervisor> {
        let mut same = supervisors.iter();
        match same.find(|supervisor| supervisor.parameters.is_same_as(port)) {
            Some(supervisor) => {
                supervisor.set_max_lanes(self.max_lanes);
                Arc::clone(supervisor)
            }
            None => self.start_supervisor(port),
        }
    }

    fn start_supervisor(&self, port: &PortParameters) -> Arc<PortSupervisor> {
        let supervisor = PortSupervisor::new(port.clone(), self.max_lanes, &self.tasks, &self.stop);
        self.table.add(&supervisor);
        supervisor
    }

    fn datagrams(&self, supervisor: &Arc<PortSupervisor>) -> Arc<DatagramPort> {
        DatagramPort::new(Arc::clone(supervisor), &self.tasks, &self.stop)
    }

    fn start_listeners(
        &self,
        port: ClientPort,
        supervisor: Arc<PortSupervisor>,
        listeners: Vec<PortListener>,
        hold_timeout: Duration,
    ) -> RunningPort {
        supervisor.expect_listeners(listeners.len());
        let datagrams = self.datagrams(&supervisor);
        // The connections to all addresses of the port enter one tunnel, so they wait in one queue.
        let context = ListenerContext {
            port: supervisor,
            offset: 0,
            proxy: proxy(&port),
            datagrams,
            hold_timeout,
            descriptor_log: Arc::clone(&self.descriptor_log),
            queue: HoldQueue::default(),
            orphans: Arc::clone(&self.orphans),
            streams: self.streams.clone(),
            stop: self.stop.clone(),
        };
        let (context, contexts) = watch::channel(context);
        let closing = self.cancel.child_token();
        let start = |listener| {
            let running = run_listener(listener, contexts.clone(), closing.clone());
            self.tasks.spawn(running)
        };
        RunningPort {
            listeners: listeners.into_iter().map(start).collect(),
            address: port.local_address,
            socks_user: port.socks_user,
            context,
            closing,
        }
    }

    /// Retires the supervisor that was at this place, unless a port still uses it.
    fn release(&self, place: usize, supervisor: &Arc<PortSupervisor>, places: &[Option<usize>]) {
        let mut ports = self.ports.iter();
        if ports.any(|port| Arc::ptr_eq(&port.supervisor(), supervisor)) {
            return;
        }
        let mut ports = self.ports.iter();
        let same_key = ports.find(|port| port.has_key_of(&supervisor.parameters));
        let at_listener = places.iter().position(|kept| *kept == Some(place));
        let heir = at_listener.and_then(|new| self.ports.get(new));
        let limit = same_key.is_none().then(|| self.grace.get());
        let port = &supervisor.parameters.mark;
        match limit {
            Some(limit) => info!(%port, grace_s = limit.as_secs_f32(), "port removed"),
            None => info!(%port, "port changed: new connections use another tunnel"),
        }
        let successor = same_key.or(heir).map(RunningPort::supervisor);
        supervisor.retire(successor);
        let (supervisor, table) = (Arc::clone(supervisor), self.table.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = until_retired(&supervisor, limit) => {}
                () = stop.cancelled() => {}
            }
            table.remove(&supervisor);
        });
    }
}

/// Waits until a retired port has no tunnel. Ends its tunnels after `limit`.
async fn until_retired(port: &PortSupervisor, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return port.retired().await;
    };
    if timeout(limit, port.retired()).await.is_err() {
        port.end_removed().await;
    }
}

/// Tries again to listen at the addresses that were in use. Those that still are follow when they are
/// free.
async fn retry(mark: &str, listeners: Vec<PortListener>) -> Vec<PortListener> {
    let mut retried = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let (listener, error) = listener.retry(mark).await;
        if let Some(error) = error {
            warn!("{error}; the client runs without this listener and retries");
        }
        retried.push(listener);
    }
    retried
}

/// Accepts connections or receives datagrams as soon as the address is available, until `closing` is
/// cancelled.
async fn run_listener(
    listener: PortListener,
    contexts: watch::Receiver<ListenerContext>,
    closing: CancellationToken,
) {
    let offset = listener.offset;
    let name = contexts.borrow().port.parameters.numbered_mark(offset);
    match listener.open(&name, &closing).await {
        Some(BoundListener::Streams(listener)) => {
            listen(listener, offset, contexts, closing).await;
        }
        Some(BoundListener::Datagrams(socket)) => {
            udp::receive(socket, offset, contexts, closing).await;
        }
        None => {}
    }
}
