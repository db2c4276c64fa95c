//! The server's side of its links: registers the ports and answers each ATTACH.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    draining::Draining,
    port::{OfferedPorts, PortMap, ServerPort, ports_frames},
    quota::{QuotaLimits, Quotas},
    registrations::Registrations,
    service,
    settings::{ServerSettings, SharedSettings},
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
    ports: OfferedPorts,
    settings: SharedSettings,
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

    /// Returns the present ports by key id.
    pub(super) fn ports(&self) -> Arc<PortMap> {
        self.ports.all()
    }

    /// Creates a role without a link. Streams run on `streams`, all other tasks on `tasks`; all of
    /// them end when `stop` is cancelled.
    pub(super) fn new(
        instance: Id,
        ports: PortMap,
        settings: ServerSettings,
        limits: QuotaLimits,
        Drain {
            tasks,
            streams,
            stop,
        }: &Drain,
    ) -> Self {
        let quotas = Quotas::new(limits, ports.len());
        let ports = OfferedPorts::new(ports);
        ServerRole {
            instance,
            ports: ports.clone(),
            settings: SharedSettings::new(settings),
            started: Moment::now(),
            tunnels: Tunnels::default(),
            registrations: Registrations::default(),
            quotas,
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
        self.registrations.missing(&self.ports())
    }

    /// Returns the ports, which may change.
    pub(super) fn offered(&self) -> &OfferedPorts {
        &self.ports
    }

    /// Changes the ports and the settings. Returns the removed ports, which accept no more streams.
    pub(super) fn change(
        &self,
        ports: PortMap,
        settings: ServerSettings,
        limits: QuotaLimits,
    ) -> Vec<Arc<ServerPort>> {
        self.settings.set(settings);
        self.quotas.set(limits, ports.len());
        let former = self.ports();
        let removed = self.draining.replace_ports(ports);
        self.registrations.forget(&removed);
        let removed = removed.iter().filter_map(|id| former.get(id));
        removed.map(Arc::clone).collect()
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
        let Some(port) = self.ports.get(id) else {
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
            bench: self.settings.get().bench,
            addresses: port.proxy_protocol,
            tasks: &self.tasks,
        };
        match span.in_scope(|| attach::reply(&port.port, &context, message, outbox, channel)) {
            Ok(reply) => self.answer(&port, outbox, channel, reply, span),
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
        let bench = self.settings.get().bench;
        let context = service::ServiceContext {
            port: Arc::clone(port),
            wants_origin: port.proxy_protocol,
            offered: self.ports.clone(),
            settings: self.settings.clone(),
            bench: bench.then(|| Arc::new(BenchResponder::new(port.port.compress))),
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
                let (registrations, ports) = (&self.role.registrations, self.role.ports());
                let changes = registrations.registered(&self.outbox, &answer, &ports);
                changes.log(&answer, &ports, self.is_additional);
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
        (
            self.draining.linked(&link.outbox),
            ServerSession {
                role: self.clone(),
                outbox: Arc::clone(&link.outbox),
                is_additional: link.is_additional,
            },
        )
    }

    fn retiring(&self, link: &RoleLink, cause: RetirementCause) {
        let outbox = Arc::clone(&link.outbox);
        self.draining.retiring(&outbox);
        if cause == RetirementCause::Surplus {
            // No newer link of the slot has taken over the registrations.
            let unregister = ports_frames(&self.ports(), Frame::Unregister);
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
        let configured = self.ports().len();
        if configured > terms.max_ports as usize && !link.is_additional {
            error!(
                configured,
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
