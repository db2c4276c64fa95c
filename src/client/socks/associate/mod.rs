//! UDP ASSOCIATE (RFC 1928, section 7): a socket at which an application sends datagrams to several
//! destinations, each over its own flow of a tunnel. The association ends with the connection that
//! requested it.
//!
//! ```text
//!  application ──UDP──► Association ── by destination ──► Flow ──► server
//!       │      ◄──UDP── one task for each flow ◄──────────┘
//!       └───TCP: ends the association
//! ```

#[cfg(test)]
mod tests;
mod tunnel_flow;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};
use tracing::debug;

pub(super) use self::tunnel_flow::TunnelFlowOpener;
use super::udp_header;
use crate::tunnel::details::NamedTarget;

/// The largest datagram of UDP, which IPv6 carries, in bytes.
const DATAGRAM_MAX: usize = 65_527;

/// The most destinations of one association. The least recently used one gives way: a resolver asks
/// a few servers, and a swarm of peers asks hundreds.
const FLOWS_MAX: usize = 256;

/// The flow or its tunnel has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowEnded;

/// Why a flow cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowNotOpened {
    /// No tunnel is attached.
    NoTunnel,
    /// The port has as many flows as it may.
    Full,
}

/// A datagram flow to one destination. Dropping it ends the flow.
pub(super) trait Flow: Send + Sync + 'static {
    /// Queues a datagram.
    ///
    /// # Errors
    /// If the flow has ended.
    fn send(&self, datagram: Bytes) -> Result<(), FlowEnded>;

    /// Waits for the next datagram.
    ///
    /// # Errors
    /// If the flow has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    fn receive(&self) -> impl Future<Output = Result<Bytes, FlowEnded>> + Send;

    /// Counts a datagram that the socket to the application did not take.
    fn count_unsent(&self);
}

/// Opens flows.
pub(super) trait FlowOpener: Send {
    /// The flows.
    type Flow: Flow;

    /// Opens a flow to a destination.
    ///
    /// # Errors
    /// If there is no tunnel, or the port has too many flows.
    fn open(&self, target: &NamedTarget) -> Result<Self::Flow, FlowNotOpened>;
}

/// The datagrams of one application.
pub(super) struct Association<O: FlowOpener> {
    socket: Arc<UdpSocket>,
    /// The host of the application. Datagrams of other hosts are dropped.
    host: IpAddr,
    /// The application's socket: the port that it announced, or that of its first datagram.
    port: Option<u16>,
    opener: O,
    /// The time without datagrams after which a flow ends.
    idle_timeout: Option<Duration>,
    flows: HashMap<NamedTarget, CarriedFlow<O::Flow>>,
    tasks: JoinSet<EndedFlow>,
    /// The number of the next flow.
    next: u64,
}

/// A flow, and the task that carries its answers.
struct CarriedFlow<F> {
    flow: Arc<F>,
    number: u64,
    last_use: Arc<LastUse>,
    task: AbortHandle,
}

/// A flow whose task has ended.
struct EndedFlow {
    target: NamedTarget,
    number: u64,
}

/// When a flow last carried a datagram.
struct LastUse(Mutex<Instant>);

impl LastUse {
    fn now() -> Self {
        LastUse(Mutex::new(Instant::now()))
    }

    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn time(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: FlowOpener> Association<O> {
    /// Opens a socket at `local`, an address of this machine that the application has reached, for
    /// an application at the host `application`. `port` is that of its socket, 0 if it does not
    /// know it yet.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) async fn open(
        local: IpAddr,
        application: IpAddr,
        port: u16,
        opener: O,
        idle_timeout: Option<Duration>,
    ) -> io::Result<Self> {
        Ok(Association {
            socket: Arc::new(UdpSocket::bind((local, 0)).await?),
            host: application.to_canonical(),
            port: Some(port).filter(|port| *port != 0),
            opener,
            idle_timeout,
            flows: HashMap::new(),
            tasks: JoinSet::new(),
            next: 0,
        })
    }

    /// Returns the address to which the application sends its datagrams.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Carries datagrams until `control`, the connection that requested the association, has ended
    /// or failed. Data on it has no meaning.
    ///
    /// # Cancel safety
    /// Dropping the future ends the association.
    pub(super) async fn run<R: AsyncRead + Unpin>(mut self, control: &mut R) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut control_ended = std::pin::pin!(ended(control));
        loop {
            tokio::select! {
                () = &mut control_ended => break,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, source)) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        self.on_datagram(source, datagram);
                    }
                    // Windows reports an answer to an application that has closed its socket.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(error) => {
                        debug!(%error, "UDP association failed");
                        break;
                    }
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(ended) = ended {
                        self.forget(&ended);
                    }
                }
            }
        }
        self.tasks.shutdown().await;
    }

    /// Passes a datagram of the application to the flow of its destination.
    fn on_datagram(&mut self, source: SocketAddr, datagram: &[u8]) {
        let is_known = source.ip().to_canonical() == self.host
            && self.port.is_none_or(|port| port == source.port());
        if !is_known {
            return debug!(%source, "datagram dropped: it is not from the application");
        }
        let (target, content) = match udp_header::decode(datagram) {
            Ok(decoded) => decoded,
            Err(error) => return debug!(%source, "datagram dropped: {error}"),
        };
        self.port = Some(source.port());
        let Some(carried) = self.flow_to(&target, source) else {
            return;
        };
        carried.last_use.touch();
        if carried.flow.send(Bytes::copy_from_slice(content)).is_err() {
            // The next datagram opens another flow. The task of this one passes the answers that
            // have arrived, and ends.
            self.flows.remove(&target);
        }
    }

    /// Returns the flow to a destination. Opens one if there is none.
    fn flow_to(
        &mut self,
        target: &NamedTarget,
        application: SocketAddr,
    ) -> Option<&CarriedFlow<O::Flow>> {
        if !self.flows.contains_key(target) {
            let flow = match self.opener.open(target) {
                Ok(flow) => Arc::new(flow),
                Err(FlowNotOpened::NoTunnel) => return None,
                Err(FlowNotOpened::Full) => {
                    // Makes room for the next datagram. The task of the flow has to end first.
                    self.remove_oldest();
                    return None;
                }
            };
            if self.flows.len() >= FLOWS_MAX {
                self.remove_oldest();
            }
            let number = self.next;
            self.next = self.next.saturating_add(1);
            let last_use = Arc::new(LastUse::now());
            let answers = FlowAnswers {
                flow: Arc::clone(&flow),
                target: target.clone(),
                socket: Arc::clone(&self.socket),
                application,
                last_use: Arc::clone(&last_use),
                idle_timeout: self.idle_timeout,
            };
            let task = self.tasks.spawn(async move {
                answers.carry().await;
                let target = answers.target;
                EndedFlow { target, number }
            });
            let carried = CarriedFlow {
                flow,
                number,
                last_use,
                task,
            };
            self.flows.insert(target.clone(), carried);
        }
        self.flows.get(target)
    }

    /// Removes a flow whose task has ended, unless a newer one has replaced it.
    fn forget(&mut self, ended: &EndedFlow) {
        let is_same = |carried: &CarriedFlow<_>| carried.number == ended.number;
        if self.flows.get(&ended.target).is_some_and(is_same) {
            self.flows.remove(&ended.target);
        }
    }

    fn remove_oldest(&mut self) {
        let oldest = self
            .flows
            .iter()
            .min_by_key(|(_, carried)| carried.last_use.time())
            .map(|(target, _)| target.clone());
        if let Some(oldest) = oldest {
            self.remove(&oldest);
        }
    }

    /// Ends a flow.
    fn remove(&mut self, target: &NamedTarget) {
        if let Some(carried) = self.flows.remove(target) {
            carried.task.abort();
        }
    }
}

/// Waits until the connection has ended or failed.
async fn ended<R: AsyncRead + Unpin>(control: &mut R) {
    let mut block = [0; 256];
    while let Ok(1..) = control.read(&mut block).await {}
}

/// Carries the answers of one flow to the application.
struct FlowAnswers<F> {
    flow: Arc<F>,
    target: NamedTarget,
    socket: Arc<UdpSocket>,
    application: SocketAddr,
    last_use: Arc<LastUse>,
    idle_timeout: Option<Duration>,
}

impl<F: Flow> FlowAnswers<F> {
    /// Sends the answers to the application until the flow has ended or was idle for too long.
    async fn carry(&self) {
        while let Some(content) = self.next().await {
            self.last_use.touch();
            let datagram = udp_header::encode(&self.target, &content);
            if let Err(error) = self.socket.send_to(&datagram, self.application).await {
                // Too long with its header, or lost like any datagram.
                self.flow.count_unsent();
                debug!(%error, length = datagram.len(), "datagram dropped");
            }
        }
    }

    async fn next(&self) -> Option<Bytes> {
        let Some(idle_timeout) = self.idle_timeout else {
            return self.flow.receive().await.ok();
        };
        loop {
            let deadline = self.last_use.time() + idle_timeout;
            if let Ok(received) = timeout_at(deadline, self.flow.receive()).await {
                return received.ok();
            }
            // The application may have sent a datagram in the meantime.
            if self.last_use.time() + idle_timeout <= Instant::now() {
                return None;
            }
        }
    }
}
