//! One flow at the server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::{flow_end::FlowEnd, service_address::ServiceAddresses};
use crate::{
    config::Target,
    net::{
        proxy_protocol,
        udp::{DatagramFault, DatagramSocket, ReceivedDatagram, SendSummary},
    },
    server::{
        destination::{DestinationError, allowed_addresses},
        port::Service,
        quota::StreamPermit,
        service::ServiceContext,
        targets::ServiceTargets,
    },
    tunnel::{
        DATAGRAM_MAX, DatagramCounters, DatagramFlow, DatagramFlowError, DropReason, FlowSlot,
        ServiceProtocol, details::OpenDetails,
    },
};

/// The most datagrams that are sent at once.
const BATCH_MAX: usize = 64;

/// The first datagrams are kept for the next address until the service has answered, up to this
/// number.
const RETAINED_MAX: usize = 16;

/// A flow that is idle for this long ends if its port has no room for others. Otherwise flows whose end
/// was lost with their links would fill a port without an idle timeout. WireGuard is silent for shorter.
const IDLE_MAX_FULL: Duration = Duration::from_secs(60);

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
    /// The datagrams sent, until the service has answered or no other address is left.
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
            end = carry(&context, &flow, &details, &slot) => end,
            () = context.stop.cancelled() => FlowEnd::Shutdown,
        };
        end.report(&context);
        flow.end(end.wire_code());
        drop((permit, slot));
    }
}

/// Carries datagrams in both directions. Returns why that ended.
async fn carry(
    context: &ServiceContext,
    flow: &DatagramFlow,
    details: &OpenDetails,
    slot: &FlowSlot,
) -> FlowEnd {
    let mut service = match FlowService::connect(context, details).await {
        Ok(service) => service,
        Err(end) => return end,
    };
    // The first datagram starts with it.
    let mut header = context.port.proxy_protocol.then(|| proxy_header(details));
    let port = &context.port.port;
    let counters = &port.counters.datagrams;
    let is_full = || slot.is_last_of(port.flows_with_ending());
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::<ReceivedDatagram>::new());
    let mut last = Instant::now();
    loop {
        let error = tokio::select! {
            received = flow.recv_all(&mut outgoing, BATCH_MAX) => {
                if let Err(error) = received {
                    return error.into();
                }
                last = Instant::now();
                service.send(counters, &mut header, &mut outgoing).await
            }
            received = service.socket.recv(&mut incoming) => match received {
                Ok(()) => {
                    last = Instant::now();
                    service.on_answer(context);
                    if let Err(error) = pass_answers(flow, &mut incoming, counters) {
                        return error.into();
                    }
                    None
                }
                Err(error) => unless_about_datagram(error),
            },
            () = idle_for(last, port.udp_idle_timeout, is_full) => return FlowEnd::Idle,
        };
        if let Some(error) = error
            && let Err(end) = service.on_error(context, error).await
        {
            return end;
        }
    }
}

/// Passes answers of the service to the client.
///
/// # Errors
/// If the flow or the tunnel has ended.
fn pass_answers(
    flow: &DatagramFlow,
    answers: &mut Vec<ReceivedDatagram>,
    counters: &DatagramCounters,
) -> Result<(), DatagramFlowError> {
    match flow.send_all(answers.drain(..).map(|answer| answer.bytes)) {
        Err(error) if error.is_about_one_datagram() => {
            counters.drop_some(DropReason::Socket, 1);
            Ok(())
        }
        passed => passed,
    }
}

/// Returns an error of a receiving socket, unless it is about a single datagram: one that was sent
/// before is longer than the path takes. The system has learned the length now.
fn unless_about_datagram(error: io::Error) -> Option<io::Error> {
    (DatagramFault::of(&error) != DatagramFault::TooLong).then_some(error)
}

/// Waits until a flow has been idle for too long since `last`: for `timeout`, or for
/// [`IDLE_MAX_FULL`] if the port `is_full`.
async fn idle_for(last: Instant, timeout: Option<Duration>, is_full: impl Fn() -> bool) {
    let end = timeout.and_then(|timeout| last.checked_add(timeout));
    let mut check = last + IDLE_MAX_FULL;
    loop {
        let next = end.map_or(check, |end| end.min(check));
        tokio::time::sleep_until(next).await;
        if Some(next) == end || is_full() {
            return;
        }
        check += IDLE_MAX_FULL;
    }
}

/// Encodes the header with the source of the flow: PROXY protocol version 2.
fn proxy_header(details: &OpenDetails) -> Vec<u8> {
    let origin = details.origin.as_ref();
    proxy_protocol::encode_for_datagrams(
        origin.map(|origin| (origin.source(), origin.destination())),
    )
}

/// Puts the header of a flow before its first datagram, and takes it. Drops the datagrams that leave
/// it no room, because the service expects the header first. Returns their number.
fn put_header(header: &mut Option<Vec<u8>>, datagrams: &mut Vec<Bytes>) -> u64 {
    let Some(start) = header else {
        return 0;
    };
    let has_room = |one: &Bytes| start.len().saturating_add(one.len()) <= DATAGRAM_MAX;
    let first = datagrams.iter().position(has_room);
    let dropped = datagrams.drain(..first.unwrap_or(datagrams.len())).count();
    if let Some(first) = datagrams.first_mut() {
        let mut both = BytesMut::with_capacity(start.len().saturating_add(first.len()));
        both.put_slice(start);
        both.put_slice(first);
        *first = both.freeze();
        *header = None;
    }
    dropped as u64
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

    /// Sends datagrams and empties `datagrams`. The first one starts with the header of the flow.
    /// Returns an error that is about the service.
    async fn send(
        &mut self,
        counters: &DatagramCounters,
        header: &mut Option<Vec<u8>>,
        datagrams: &mut Vec<Bytes>,
    ) -> Option<io::Error> {
        counters.drop_some(DropReason::Socket, put_header(header, datagrams));
        self.retain(datagrams);
        let SendSummary { dropped, error } = self.socket.send(datagrams).await;
        datagrams.clear();
        counters.drop_some(DropReason::Socket, dropped);
        error.filter(|error| DatagramFault::of(error).is_about_peer())
    }

    fn on_answer(&mut self, context: &ServiceContext) {
        if self.is_answered {
            return;
        }
        self.is_answered = true;
        self.retained = Vec::new();
        if let Some((targets, target)) = self.chosen_target(context) {
            targets.on_answered(target);
        }
    }

    /// Returns the target that is used, if datagrams decide which targets are avoided. Of a port
    /// with connections too, those decide.
    fn chosen_target<'a>(
        &'a self,
        context: &'a ServiceContext,
    ) -> Option<(&'a ServiceTargets, &'a Target)> {
        match &context.port.service {
            Service::Targets(targets) if context.port.port.protocol == ServiceProtocol::Udp => {
                Some((targets, self.addresses.target()?))
            }
            Service::Targets(_) | Service::Destinations(_) => None,
        }
    }

    /// Handles an error of the socket: continues at the next address if this one never answered.
    async fn on_error(
        &mut self,
        context: &ServiceContext,
        error: io::Error,
    ) -> Result<(), FlowEnd> {
        if DatagramFault::of(&error).is_about_peer()
            && (self.is_answered || !self.addresses.has_more_of_target())
            && let Some((targets, target)) = self.chosen_target(context)
        {
            targets.on_refused(target, self.address, error.kind().into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_waits_for_a_datagram_that_leaves_it_room() {
        let mut header = Some(b"header".to_vec());
        let too_long = Bytes::from(vec![7; DATAGRAM_MAX - 5]);
        let mut datagrams = vec![too_long.clone()];
        assert_eq!(put_header(&mut header, &mut datagrams), 1);
        assert!(datagrams.is_empty() && header.is_some());
        let longest = Bytes::from(vec![7; DATAGRAM_MAX - 6]);
        let mut datagrams = vec![too_long.clone(), longest, "second".into()];
        assert_eq!(put_header(&mut header, &mut datagrams), 1);
        let lengths: Vec<usize> = datagrams.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [DATAGRAM_MAX, 6]);
        assert!(datagrams[0].starts_with(b"header\x07"));
        assert_eq!(header, None);
        let mut datagrams = vec![too_long, "third".into()];
        assert_eq!(put_header(&mut header, &mut datagrams), 0);
        assert_eq!(datagrams[1], "third");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_about_the_length_of_a_datagram_does_not_end_the_flow() {
        let too_long = rustix::io::Errno::MSGSIZE.into();
        assert!(unless_about_datagram(too_long).is_none());
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::OutOfMemory,
        ] {
            let error = unless_about_datagram(kind.into()).expect("about more");
            assert_eq!(error.kind(), kind);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_port_ends_idle_flows_although_they_have_no_timeout() {
        let seconds = Duration::from_secs;
        let idle_after = async |timeout: Option<Duration>, full_after: Duration| {
            let last = Instant::now();
            let idle = idle_for(last, timeout, || last.elapsed() >= full_after);
            let ended = tokio::time::timeout(seconds(100_000), idle).await;
            ended.ok().map(|()| last.elapsed().as_secs())
        };
        assert_eq!(idle_after(None, Duration::MAX).await, None);
        assert_eq!(idle_after(None, Duration::ZERO).await, Some(60));
        assert_eq!(idle_after(None, seconds(100)).await, Some(120));
        assert_eq!(idle_after(Some(seconds(5)), Duration::ZERO).await, Some(5));
        assert_eq!(
            idle_after(Some(seconds(90)), Duration::ZERO).await,
            Some(60)
        );
        assert_eq!(idle_after(Some(seconds(90)), Duration::MAX).await, Some(90));
    }
}
