//! One flow at the server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::{flow_end::FlowEnd, service_address::ServiceAddresses};
use crate::{
    net::{
        proxy_protocol,
        udp::{DatagramFault, DatagramSocket, ReceivedDatagram},
    },
    server::{
        destination::{DestinationError, allowed_addresses},
        port::Service,
        quota::StreamPermit,
        service::ServiceContext,
    },
    tunnel::{DatagramFlow, DropReason, FlowSlot, details::OpenDetails},
};

/// The most datagrams that are sent at once.
const BATCH_MAX: usize = 64;

/// The first datagrams are kept for the next address until the service has answered, up to this
/// number.
const RETAINED_MAX: usize = 16;

/// A flow within the limits of the server.
pub(super) struct ServedFlow {
    pub(super) context: Arc<ServiceContext>,
    pub(super) flow: DatagramFlow,
    pub(super) details: OpenDetails,
    /// Released at the end of the flow.
    pub(super) permit: StreamPermit,
    pub(super) slot: FlowSlot,
}

/// The service of a flow.
struct FlowService {
    addresses: ServiceAddresses,
    address: SocketAddr,
    socket: DatagramSocket,
    /// What was sent, until the service has answered or no other address is left.
    retained: Vec<Bytes>,
    is_answered: bool,
}

impl ServedFlow {
    /// Carries datagrams in both directions until the flow ends.
    pub(super) async fn serve(self) {
        let ServedFlow {
            context,
            flow,
            details,
            permit,
            slot,
        } = self;
        let end = tokio::select! {
            end = carry(&context, &flow, &details) => end,
            () = context.stop.cancelled() => FlowEnd::Shutdown,
        };
        end.report(&context);
        flow.end(end.wire_code());
        drop((permit, slot));
    }
}

/// Carries datagrams in both directions. Returns why that ended.
async fn carry(context: &ServiceContext, flow: &DatagramFlow, details: &OpenDetails) -> FlowEnd {
    let mut service = match FlowService::connect(context, details).await {
        Ok(service) => service,
        Err(end) => return end,
    };
    // The first datagram starts with it.
    let mut header = context.port.proxy_protocol.then(|| proxy_header(details));
    let counters = &context.port.port.counters.datagrams;
    let idle_timeout = context.port.port.udp_idle_timeout;
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::<ReceivedDatagram>::new());
    let mut last = Instant::now();
    loop {
        let error = tokio::select! {
            received = flow.recv_all(&mut outgoing, BATCH_MAX) => {
                if let Err(error) = received {
                    return error.into();
                }
                last = Instant::now();
                if let Some(header) = header.take() {
                    put_before(&header, outgoing.first_mut());
                }
                service.retain(&outgoing);
                let summary = service.socket.send(&outgoing).await;
                outgoing.clear();
                counters.drop_some(DropReason::Socket, summary.dropped);
                summary.error.filter(|error| DatagramFault::of(error).is_about_peer())
            }
            received = service.socket.recv(&mut incoming) => match received {
                Ok(()) => {
                    last = Instant::now();
                    service.on_answer();
                    let answers = incoming.drain(..).map(|datagram| datagram.bytes);
                    match flow.send_all(answers) {
                        Err(error) if error.is_about_one_datagram() => {
                            counters.drop_some(DropReason::Socket, 1);
                        }
                        Err(error) => return error.into(),
                        Ok(()) => {}
                    }
                    None
                }
                Err(error) => Some(error),
            },
            () = idle_for(last, idle_timeout) => return FlowEnd::Idle,
        };
        if let Some(error) = error
            && let Err(end) = service.on_error(error).await
        {
            return end;
        }
    }
}

/// Waits until a flow has been idle for too long.
async fn idle_for(last: Instant, timeout: Option<Duration>) {
    match timeout.and_then(|timeout| last.checked_add(timeout)) {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Encodes the header with the source of the flow: PROXY protocol version 2.
fn proxy_header(details: &OpenDetails) -> Vec<u8> {
    let origin = details.origin.as_ref();
    proxy_protocol::encode_for_datagrams(
        origin.map(|origin| (origin.source(), origin.destination())),
    )
}

fn put_before(header: &[u8], datagram: Option<&mut Bytes>) {
    if let Some(datagram) = datagram {
        let mut both = BytesMut::with_capacity(header.len().saturating_add(datagram.len()));
        both.put_slice(header);
        both.put_slice(datagram);
        *datagram = both.freeze();
    }
}

impl FlowService {
    /// Opens a socket to the first address of the service.
    async fn connect(context: &ServiceContext, details: &OpenDetails) -> Result<Self, FlowEnd> {
        let limit = context.settings.get().connect_timeout;
        let mut addresses = match (&context.port.service, &details.target) {
            (Service::Targets(targets), _) => {
                ServiceAddresses::of_targets(targets.candidates(details.offset), limit)
            }
            (Service::Destinations(rules), Some(target)) => {
                let deadline = Instant::now() + limit;
                let allowed = allowed_addresses(rules, target, deadline).await?;
                ServiceAddresses::of_addresses(allowed)
            }
            (Service::Destinations(_), None) => return Err(DestinationError::unnamed().into()),
        };
        let (address, socket) = addresses.next_socket().await?;
        Ok(FlowService {
            addresses,
            address,
            socket,
            retained: Vec::new(),
            is_answered: false,
        })
    }

    /// Keeps datagrams that are about to be sent, as long as another address may get them.
    fn retain(&mut self, datagrams: &[Bytes]) {
        if !self.is_answered && self.addresses.has_more() {
            let room = RETAINED_MAX.saturating_sub(self.retained.len());
            self.retained.extend(datagrams.iter().take(room).cloned());
        }
    }

    fn on_answer(&mut self) {
        self.is_answered = true;
        self.retained = Vec::new();
    }

    /// Handles an error of the socket: continues at the next address if this one never answered.
    async fn on_error(&mut self, error: io::Error) -> Result<(), FlowEnd> {
        if self.is_answered || !self.addresses.has_more() {
            let address = self.address;
            return Err(FlowEnd::Service { address, error });
        }
        (self.address, self.socket) = self.addresses.next_socket().await?;
        self.socket.send(&self.retained).await;
        if !self.addresses.has_more() {
            self.retained = Vec::new();
        }
        Ok(())
    }
}
