//! The server's side of its links: registers the ports and answers each ATTACH.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{QuotaLimits, ServerPort, quota::Quotas, service};
use crate::{
    bench::BenchResponder,
    link::{Handler, Outbox},
    net::file_limit::ThrottledLog,
    supervisor::{LinkedRole, drain::Drain},
    suspend::Moment,
    tunnel::{ResetCode, Tunnel, TunnelStatus, attach},
};
use report_proto::{
    frame::{Code, Frame, MAX_PORTS_PER_FRAME, Notice, Ports, Terms},
    id::Id,
};

/// Interval between MOVE requests to the clients on a retiring link. A client needs a few round
/// trips to answer one.
const MOVE_REQUEST_INTERVAL: Duration = Duration::from_secs(3);

/// Maximum number of unconfirmed tunnels per port. A genuine client confirms its tunnel within a
/// round trip; a replayed handshake never does.
pub(crate) const MAX_CANDIDATES: usize = 256;

/// Number of ended tunnels that the server remembers, 40 bytes each.
const MAX_ENDED: usize = 4096;

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
    draining: Draining,
    quotas: Arc<Quotas>,
    /// Throttled logs of refused streams, failed handshakes and mismatched configurations.
    refusals: Arc<ThrottledLog>,
    failures: Arc<ThrottledLog>,
    mismatches: Arc<ThrottledLog>,
    descriptor_log: Arc<ThrottledLog>,
    tasks: TaskTracker,
    streams: TaskTracker,
    stop: CancellationToken,
}

/// Tracks whether the server is draining. A draining server does not offer its ports.
#[derive(Clone)]
pub(super) struct Draining {
    ports: Arc<HashMap<Id, Arc<ServerPort>>>,
    state: Arc<Mutex<DrainState>>,
}

#[derive(Default)]
struct DrainState {
    started: bool,
    /// The outboxes of the links that have not ended.
    outboxes: Vec<Arc<Outbox>>,
}

impl Draining {
    /// Starts draining: from now on the server accepts no new tunnels and no new streams.
    pub(super) fn start(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.started = true;
        let unregister = ports_frames(&self.ports, Frame::Unregister);
        for outbox in &state.outboxes {
            unregister.iter().for_each(|frame| outbox.control(frame));
        }
    }

    /// Returns whether [`Draining::start`] was called.
    pub(super) fn has_started(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .started
    }

    fn linked(&self, outbox: &Arc<Outbox>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outboxes.retain(|outbox| outbox.ended().is_none());
        state.outboxes.push(Arc::clone(outbox));
        state.started
    }
}

/// The tunnels of a server by id.
#[derive(Clone, Default)]
pub(super) struct Tunnels(Arc<Mutex<TunnelTable>>);

#[derive(Default)]
struct TunnelTable {
    /// Tunnels that have not ended.
    live: HashMap<Id, Tunnel>,
    /// The most recently ended tunnels.
    ended: VecDeque<EndedTunnel>,
}

/// The remembered facts of an ended tunnel.
struct EndedTunnel {
    tunnel: Id,
    port: Id,
    /// The lowest client stream id that the tunnel never saw.
    seen: u64,
}

impl Tunnels {
    fn table(&self) -> MutexGuard<'_, TunnelTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: Id) -> Option<Tunnel> {
        self.table()
            .live
            .get(&id)
            .filter(|tunnel| tunnel.notice().is_none())
            .cloned()
    }

    fn add(&self, tunnel: &Tunnel) {
        self.table().live.insert(tunnel.id(), tunnel.clone());
    }

    /// Removes an ended tunnel that accepts no more streams, and remembers its lowest unseen stream
    /// id.
    fn remove(&self, tunnel: &Tunnel) {
        let mut table = self.table();
        table.live.remove(&tunnel.id());
        if table.ended.len() >= MAX_ENDED {
            table.ended.pop_front();
        }
        table.ended.push_back(EndedTunnel {
            tunnel: tunnel.id(),
            port: tunnel.port().keys.id,
            seen: tunnel.seen(),
        });
    }

    /// Returns the lowest unseen stream id of an ended tunnel.
    fn seen(&self, port: Id, tunnel: Id) -> Option<u64> {
        let table = self.table();
        table
            .ended
            .iter()
            .find(|ended| (ended.port, ended.tunnel) == (port, tunnel))
            .map(|ended| ended.seen)
    }

    /// Makes room for one more tunnel of a port by ending the detached tunnel that has been lost
    /// the longest. Returns whether there is room. Unconfirmed tunnels count separately, so that
    /// replayed handshakes keep no client out.
    fn make_room(&self, port: Id, most: usize) -> bool {
        let (mut attached, mut unconfirmed, mut lost) = (0, Vec::new(), Vec::new());
        for tunnel in self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port)
        {
            let status = tunnel.status().borrow().clone();
            match status {
                TunnelStatus::Unconfirmed => unconfirmed.push(tunnel),
                TunnelStatus::Attached => attached += 1,
                TunnelStatus::Lost { since, .. } => lost.push((since, tunnel)),
                TunnelStatus::Ended => {}
            }
        }
        let full = Notice::new(Code::Limit, "the port has reached its limit of tunnels");
        // A flood of replayed handshakes costs all unconfirmed tunnels. A genuine client attaches
        // again.
        if unconfirmed.len() >= MAX_CANDIDATES {
            unconfirmed
                .iter()
                .for_each(|tunnel| tunnel.end(ResetCode::Limit, full.clone()));
        }
        if attached + lost.len() < most {
            return true;
        }
        let longest = lost.into_iter().max_by_key(|(since, _)| since.elapsed());
        longest
            .inspect(|(_, tunnel)| tunnel.end(ResetCode::Limit, full))
            .is_some()
    }

    /// Makes room for a connection of a port by ending the detached tunnel with the most streams.
    pub(super) fn end_one_detached(&self, port: Id) {
        let of_port = self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port && tunnel.streams() > 0);
        let lost =
            of_port.filter(|tunnel| matches!(*tunnel.status().borrow(), TunnelStatus::Lost { .. }));
        if let Some(tunnel) = lost.max_by_key(Tunnel::streams) {
            tunnel.end(
                ResetCode::Limit,
                Notice::new(
                    Code::Limit,
                    "the tunnel has no attachment, and other tunnels need its streams",
                ),
            );
        }
    }

    fn all(&self) -> Vec<Tunnel> {
        self.table().live.values().cloned().collect()
    }

    /// Ends all tunnels and waits until their END frames are sent.
    pub(super) async fn end(&self) {
        Tunnel::shut_down(&self.all(), "the server is shutting down").await;
    }
}

impl ServerRole {
    /// Returns the tunnels of the server.
    pub(super) fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
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
            quotas: Quotas::new(limits, ports.len()),
            draining: Draining {
                ports,
                state: Arc::default(),
            },
            descriptor_log: Arc::default(),
            refusals: Arc::default(),
            failures: Arc::default(),
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

    fn attach(
        &self,
        outbox: &Arc<Outbox>,
        channel: u32,
        id: Id,
        message: &Bytes,
    ) -> Result<(), Notice> {
        if outbox.lane(channel).is_some() {
            return Err(Notice::new(
                Code::Protocol,
                "ATTACH with a channel number that is in use",
            ));
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
            is_open: &|| {
                !self.draining.has_started()
                    && self
                        .tunnels
                        .make_room(id, self.quotas.limits().tunnels_per_port)
            },
            bench: self.bench,
            addresses: port.proxy_protocol,
            tasks: &self.tasks,
        };
        match span.in_scope(|| attach::reply(&port.port, &context, message, outbox, channel)) {
            Ok(reply) => {
                // The tunnel ends with the lane, which is dropped here.
                if let Err(error) = outbox.open(channel, reply.lane) {
                    debug!(parent: &span, %error, "the link ended before a client could attach");
                    return Ok(());
                }
                outbox.ready(channel);
                match reply.outcome {
                    Ok(Some(tunnel)) => self.serve(port, tunnel, span),
                    Ok(None) => {}
                    Err(mismatch) => {
                        self.mismatches.log(
                            |times| error!(parent: &span, times, "client refused: {mismatch}"),
                        );
                        outbox.close_after_drain(channel, &Notice::new(Code::Mismatch, ""));
                    }
                }
            }
            Err(error) => {
                self.failures
                    .log(|times| warn!(parent: &span, times, "client refused: {error}"));
                outbox.control(&close(channel, &attach::closing_notice(&error)));
            }
        }
        Ok(())
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
            tunnels: self.tunnels.clone(),
            descriptor_log: Arc::clone(&self.descriptor_log),
            streams: self.streams.clone(),
            stop: self.stop.clone(),
        };
        let tunnels = self.tunnels.clone();
        let served = async move {
            service::serve(context, tunnel.clone()).await;
            tunnels.remove(&tunnel);
        };
        self.tasks.spawn(served.instrument(span));
    }
}

/// The server on one of its links.
pub(super) struct ServerSession {
    role: ServerRole,
    outbox: Arc<Outbox>,
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
            Frame::Registered(registered) => {
                self.role.registered(&registered);
                Ok(())
            }
            other => Err(Notice::new(
                Code::Protocol,
                format!("{} is not for a server", other.name()),
            )),
        }
    }
}

impl ServerRole {
    fn registered(&self, registered: &Ports) {
        debug!(ports = registered.ports.len(), "registered");
        for (id, port) in self.ports.iter() {
            // The master lists all registered ports. More than fit into one frame are not checked.
            if self.ports.len() <= MAX_PORTS_PER_FRAME && !registered.ports.contains(id) {
                error!(port = %port.port.mark, "the master did not register the port: it has reached its limit of ports per link");
            }
        }
    }
}

impl LinkedRole for ServerRole {
    type Session = ServerSession;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, ServerSession) {
        let first = if self.draining.linked(outbox) {
            Vec::new()
        } else {
            ports_frames(&self.ports, Frame::Register)
        };
        (
            first,
            ServerSession {
                role: self.clone(),
                outbox: Arc::clone(outbox),
            },
        )
    }

    fn retiring(&self, outbox: &Arc<Outbox>) {
        let (tunnels, outbox, stop) = (self.tunnels.clone(), Arc::clone(outbox), self.stop.clone());
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

    fn joined(&self, _outbox: &Arc<Outbox>, terms: &Terms) {
        if self.ports.len() > terms.max_ports as usize {
            error!(
                configured = self.ports.len(),
                max_ports = terms.max_ports,
                "more ports than the master accepts per link"
            );
        }
    }
}

fn ports_frames(
    ports: &HashMap<Id, Arc<ServerPort>>,
    frame: impl Fn(Ports) -> Frame,
) -> Vec<Frame> {
    let ids: Vec<Id> = ports.keys().copied().collect();
    ids.chunks(MAX_PORTS_PER_FRAME)
        .map(|ids| {
            frame(Ports {
                ports: ids.to_vec(),
            })
        })
        .collect()
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
    use crate::tunnel::{PortParameters, ProcessShared, WindowSize};
    use report_proto::{
        compress::CompressMethod,
        crypto::{EncryptMethod, PortKeys},
        frame::AttachHeader,
    };

    #[tokio::test]
    async fn a_reused_channel_number_is_a_protocol_error_and_leaves_no_tunnel() {
        let window = WindowSize {
            initial: 65_536,
            max: 65_536,
        };
        let keys = PortKeys::derive("a port key of the tests");
        let port = PortParameters {
            mark: "test".into(),
            keys: keys.clone(),
            encrypt: EncryptMethod::Plain,
            compress: CompressMethod::Null,
            stream_window: window,
            tunnel_window: window,
            resume_timeout: Duration::from_secs(120),
            tcp_keepalive: None,
            process_shared: ProcessShared::default(),
        };
        let drain = Drain::default();
        let request = attach::request(&port, &Outbox::new(), 1, &drain.tasks).unwrap();
        let offered = ServerPort {
            port,
            host: "localhost".to_owned(),
            tcp_port: 1,
            proxy_protocol: false,
        };
        let ports = HashMap::from([(keys.id, Arc::new(offered))]);
        let role = ServerRole::new(
            Id([7; 16]),
            ports,
            Duration::from_secs(1),
            QuotaLimits::default(),
            true,
            &drain,
        );
        let outbox = Outbox::new();
        let (_, mut session) = role.begin(&outbox);
        let attach = || Frame::Attach {
            channel: 3,
            header: AttachHeader {
                port: keys.id,
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
