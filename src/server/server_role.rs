//! The server's side of its links: registers the ports and answers each ATTACH.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    draining::Draining,
    port::{ServerPort, ports_frames},
    quota::{QuotaLimits, Quotas},
    registrations::Registrations,
    service,
    tunnels::Tunnels,
};
use crate::{
    bench::BenchResponder,
    diagnosis::DiagnosisCode,
    link::{Handler, Outbox},
    net::file_limit::ThrottledLog,
    supervisor::{LinkedRole, RetirementCause, RoleLink, drain::Drain},
    suspend::Moment,
    tunnel::{Tunnel, attach},
};
use report_proto::{
    frame::{Code, Frame, Notice, Slot, Terms},
    id::Id,
};

/// Interval between MOVE requests to the clients on a retiring link. A client needs a few round
/// trips to answer one.
const MOVE_REQUEST_INTERVAL: Duration = Duration::from_secs(3);

/// The server as its links see it.
#[derive(Clone)]
pub(super) struct ServerRole {
    instance: Id,
    ports: Arc<HashMap<Id, Arc<ServerPort>>>,
    connect_timeout: Duration,
    /// Whether benchmark streams are served.
    bench: bool,
    started: Moment,
    /// The live tunnels: clients may resume them.
    tunnels: Tunnels,
    registrations: Registrations,
    draining: Draining,
    quotas: Arc<Quotas>,
    /// Throttled logs of refused streams, failed handshakes, failed flows and mismatched
    /// configurations.
    refusals: Arc<ThrottledLog>,
    failures: Arc<ThrottledLog>,
    flow_failures: Arc<ThrottledLog>,
    mismatches: Arc<ThrottledLog>,
    descriptor_log: Arc<ThrottledLog>,
    tasks: TaskTracker,
    streams: TaskTracker,
    stop: CancellationToken,
}

impl ServerRole {
    /// Returns the tunnels of the server.
    pub(super) fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
    }

    /// Returns the links with their registrations.
    pub(super) fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// Returns the ports by key id.
    pub(super) fn ports(&self) -> &HashMap<Id, Arc<ServerPort>> {
        &self.ports
    }

    /// Creates a role without a link. It serves benchmark streams if `bench` is set. Streams run on
    /// `streams`, all other tasks on `tasks`; all of them end when `stop` is cancelled.
    pub(super) fn new(
        instance: Id,
        ports: HashMap<Id, Arc<ServerPort>>,
        connect_timeout: Duration,
        limits: QuotaLimits,
        bench: bool,
        Drain {
            tasks,
            streams,
            stop,
        }: &Drain,
    ) -> Self {
        let ports = Arc::new(ports);
        ServerRole {
            instance,
            ports: Arc::clone(&ports),
            connect_timeout,
            bench,
            started: Moment::now(),
            tunnels: Tunnels::default(),
            registrations: Registrations::default(),
            quotas: Quotas::new(limits, ports.len()),
            draining: Draining::new(ports),
            descriptor_log: Arc::default(),
            refusals: Arc::default(),
            failures: Arc::default(),
            flow_failures: Arc::default(),
            mismatches: Arc::default(),
            tasks: tasks.clone(),
            streams: streams.clone(),
            stop: stop.clone(),
        }
    }

    /// Returns the handle with which the owner starts the drain.
    pub(super) fn draining(&self) -> Draining {
        self.draining.clone()
    }

    /// Returns what is missing until clients can reach all services, in words.
    pub(super) fn missing(&self) -> Vec<String> {
        if self.draining.has_started() {
            return vec!["the server is draining".to_owned()];
        }
        self.registrations.missing(&self.ports)
    }

    fn attach(
        &self,
        outbox: &Arc<Outbox>,
        channel: u32,
        id: Id,
        message: &Bytes,
    ) -> Result<(), Notice> {
        if outbox.channel_end(channel).is_some() {
            let reason = "ATTACH with a channel number that is in use";
            return Err(Notice::new(Code::Protocol, reason));
        }
        let Some(port) = self.ports.get(&id) else {
            // Refuses the channel only: the other tunnels of the link must not suffer.
            outbox.control(&close(channel, &Notice::new(Code::Refused, "")));
            return Ok(());
        };
        let span = info_span!("tunnel", port = %port.port.mark, channel);
        let context = attach::AcceptContext {
            instance: self.instance,
            started: self.started,
            find: &|id| self.tunnels.find(id),
            seen: &|port, tunnel| self.tunnels.seen(port, tunnel),
            is_open: &|| self.has_room(id),
            bench: self.bench,
            addresses: port.proxy_protocol,
            tasks: &self.tasks,
        };
        match span.in_scope(|| attach::reply(&port.port, &context, message, outbox, channel)) {
            Ok(reply) => self.answer(port, outbox, channel, reply, span),
            Err(error) => {
                let refusals = &port.port.process_shared.refusals;
                refusals.count("attach", error.diagnosis_code().name());
                self.log_failure(&span, &error);
                outbox.control(&close(channel, &attach::closing_notice(&error)));
            }
        }
        Ok(())
    }

    /// Opens the channel of an attach request, which sends the reply, and serves the tunnel if it is
    /// new.
    fn answer(
        &self,
        port: &Arc<ServerPort>,
        outbox: &Arc<Outbox>,
        channel: u32,
        reply: attach::Reply,
        span: tracing::Span,
    ) {
        // The tunnel ends with the attachment, which is dropped here.
        if let Err(error) = outbox.open(channel, reply.attachment) {
            debug!(parent: &span, %error, "the link ended before a client could attach");
            return;
        }
        outbox.ready(channel);
        match reply.outcome {
            Ok(Some(tunnel)) => self.serve(port, tunnel, span),
            Ok(None) => {}
            Err(mismatch) => {
                let refusals = &port.port.process_shared.refusals;
                refusals.count("attach", DiagnosisCode::MethodMismatch.name());
                self.log_mismatch(&span, &mismatch);
                outbox.close_after_drain(channel, &Notice::new(Code::Mismatch, ""));
            }
        }
    }

    /// Whether the port accepts one more tunnel. Ends a detached one if that makes room.
    fn has_room(&self, port: Id) -> bool {
        let most = self.quotas.limits().tunnels_per_port;
        !self.draining.has_started() && self.tunnels.make_room(port, most)
    }

    fn log_failure(&self, span: &tracing::Span, error: &impl std::fmt::Display) {
        self.failures
            .log(|times| warn!(parent: span, times, "client refused: {error}"));
    }

    fn log_mismatch(&self, span: &tracing::Span, mismatch: &impl std::fmt::Display) {
        self.mismatches
            .log(|times| error!(parent: span, times, "client refused: {mismatch}"));
    }

    fn serve(&self, port: &Arc<ServerPort>, tunnel: Tunnel, span: tracing::Span) {
        info!(parent: &span, tunnel = %tunnel.id(), "client attached");
        self.tunnels.add(&tunnel);
        let context = service::ServiceContext {
            port: Arc::clone(port),
            connect_timeout: self.connect_timeout,
            bench: self.bench.then(|| BenchResponder::new(port.port.compress)),
            draining: self.draining.clone(),
            quotas: Arc::clone(&self.quotas),
            refusals: Arc::clone(&self.refusals),
            flow_failures: Arc::clone(&self.flow_failures),
            tunnels: self.tunnels.clone(),
            descriptor_log: Arc::clone(&self.descriptor_log),
            streams: self.streams.clone(),
            stop: self.stop.clone(),
        };
        let tunnels = self.tunnels.clone();
        let served = async move {
            tokio::select! {
                () = service::serve(context, tunnel.clone()) => {}
                () = tunnels.follow_links(&tunnel) => {}
            }
            tunnels.remove(&tunnel);
        };
        self.tasks.spawn(served.instrument(span));
    }
}

/// The server on one of its links.
pub(super) struct ServerSession {
    role: ServerRole,
    outbox: Arc<Outbox>,
    /// Whether another link to the same master logs the same.
    is_additional: bool,
}

impl Handler for ServerSession {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::Attach {
                channel,
                header,
                message,
            } => self
                .role
                .attach(&self.outbox, channel, header.port, &message),
            Frame::Registered(answer) => {
                let registrations = &self.role.registrations;
                let changes = registrations.registered(&self.outbox, &answer, &self.role.ports);
                changes.log(&answer, &self.role.ports, self.is_additional);
                Ok(())
            }
            other => Err(Notice::new(
                Code::Protocol,
                format!("{} is not for a server", other.name()),
            )),
        }
    }
}

impl LinkedRole for ServerRole {
    type Session = ServerSession;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, ServerSession) {
        self.tunnels.linked(&link.outbox, link.slot);
        self.registrations.begin(&link.outbox);
        let first = if self.draining.linked(&link.outbox) {
            Vec::new()
        } else {
            ports_frames(&self.ports, Frame::Register)
        };
        (
            first,
            ServerSession {
                role: self.clone(),
                outbox: Arc::clone(&link.outbox),
                is_additional: link.is_additional,
            },
        )
    }

    fn retiring(&self, link: &RoleLink, cause: RetirementCause) {
        let outbox = Arc::clone(&link.outbox);
        if cause == RetirementCause::Surplus {
            // No newer link of the slot has taken over the registrations.
            let unregister = ports_frames(&self.ports, Frame::Unregister);
            unregister.iter().for_each(|frame| outbox.control(frame));
            self.registrations.withdrawn(&outbox);
        }
        let (tunnels, stop) = (self.tunnels.clone(), self.stop.clone());
        // Repeated, because an ATTACH may have been in flight on this link.
        let requests = async move {
            while outbox.ended().is_none() {
                tunnels
                    .all()
                    .iter()
                    .for_each(|tunnel| tunnel.request_move(outbox.id()));
                tokio::time::sleep(MOVE_REQUEST_INTERVAL).await;
            }
        };
        self.tasks.spawn(async move {
            tokio::select! { () = requests => {}, () = stop.cancelled() => {} }
        });
    }

    fn on_lanes_wanted(&self, slots: &[Slot], lanes: usize) {
        self.tunnels.want_lanes(slots, lanes);
    }

    fn joined(&self, link: &RoleLink, terms: &Terms) {
        self.registrations.joined(&link.outbox);
        if self.ports.len() > terms.max_ports as usize && !link.is_additional {
            error!(
                configured = self.ports.len(),
                max_ports = terms.max_ports,
                "more ports than the master accepts per link"
            );
        }
    }
}

fn close(channel: u32, notice: &Notice) -> Frame {
    Frame::Close {
        channel,
        notice: notice.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Target,
        link::{KeepAliveTiming, Link},
        supervisor::MoveRequests,
        tunnel::tests::plain_port,
    };
    use report_proto::frame::{AttachHeader, Ports};

    /// Returns a role with one port, and its key id.
    fn role(drain: &Drain) -> (ServerRole, Id) {
        let port = plain_port();
        let id = port.keys.id;
        let offered = ServerPort {
            port,
            service: "localhost:1".parse::<Target>().unwrap().into(),
            proxy_protocol: false,
        };
        let role = ServerRole::new(
            Id([7; 16]),
            HashMap::from([(id, Arc::new(offered))]),
            Duration::from_secs(1),
            QuotaLimits::default(),
            true,
            drain,
        );
        (role, id)
    }

    fn link() -> RoleLink {
        RoleLink {
            outbox: Outbox::new(),
            slot: Slot::FIRST,
            is_additional: false,
            move_requests: MoveRequests::default(),
        }
    }

    /// Returns the first frame of a link that retires for this reason. A CLOSE follows the frames
    /// of the role.
    async fn first_frame_of_retiring(cause: RetirementCause) -> Frame {
        let drain = Drain::default();
        let (role, _) = role(&drain);
        let link = link();
        let (_, mut session) = role.begin(&link);
        role.retiring(&link, cause);
        link.outbox
            .control(&close(1, &Notice::new(Code::Cancelled, "")));
        let (socket, mut master) = crate::net::memory::pair();
        let running = Link::new(socket, link.outbox, KeepAliveTiming::default());
        let first = async {
            let message = master.receive().await.unwrap().unwrap();
            Frame::decode(message.freeze()).unwrap()
        };
        tokio::select! {
            frame = first => frame,
            _ = running.run(&mut session, std::future::pending()) => panic!("the link ended"),
        }
    }

    #[tokio::test]
    async fn a_link_without_a_successor_withdraws_the_ports_before_it_retires() {
        let (_, id) = role(&Drain::default());
        assert_eq!(
            first_frame_of_retiring(RetirementCause::Surplus).await,
            Frame::Unregister(Ports { ports: vec![id] })
        );
        assert!(matches!(
            first_frame_of_retiring(RetirementCause::Replaced).await,
            Frame::Close { channel: 1, .. }
        ));
    }

    #[tokio::test]
    async fn a_reused_channel_number_is_a_protocol_error_and_leaves_no_tunnel() {
        let drain = Drain::default();
        let request = attach::request(&plain_port(), &Outbox::new(), 1, &drain.tasks).unwrap();
        let (role, id) = role(&drain);
        let link = link();
        let outbox = Arc::clone(&link.outbox);
        let (_, mut session) = role.begin(&link);
        let attach = || Frame::Attach {
            channel: 3,
            header: AttachHeader {
                port: id,
                instance: None,
                avoid: Vec::new(),
            },
            message: request.message.clone(),
        };
        assert_eq!(session.on_frame(attach()), Ok(()));
        assert_eq!(
            session.on_frame(attach()).map_err(|notice| notice.code),
            Err(Code::Protocol)
        );
        outbox.close(3, &Notice::new(Code::Shutdown, ""));
        drain.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), drain.tasks.wait())
            .await
            .unwrap();
    }
}
