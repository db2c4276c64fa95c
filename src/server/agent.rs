//! The server's side of its links: registration, and an answer to each ATTACH.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{ServerLimits, ServerPort, quota::Quotas, service};
use crate::{
    bench::Peer,
    frame::{Code, Frame, MAX_PORTS_PER_FRAME, Notice, Ports, Terms},
    id::Id,
    link::{Handler, Outbox, drain::Drain, files::Trouble, uplink::LinkedRole},
    suspend::Moment,
    tunnel::{ResetCode, Standing, Tunnel, attach},
};

/// How often the clients on a link that retires are asked to move: the answer takes them some round trips.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Tunnels of a port that have not proven themselves, at a time: they do within a round trip, and those that only play a recorded handshake again never do.
pub(crate) const CANDIDATES: usize = 256;

/// Tunnels that are over and of which something is remembered: 40 bytes each.
const REMEMBERED: usize = 4096;

/// The server as its links see it.
#[derive(Clone)]
pub struct Agent {
    instance: Id,
    ports: Arc<HashMap<Id, Arc<ServerPort>>>,
    connect_timeout: Duration,
    /// Whether measuring streams are taken.
    bench: bool,
    started: Moment,
    /// Those that are not over: a client may come back to them.
    tunnels: Tunnels,
    draining: Draining,
    quotas: Arc<Quotas>,
    /// Streams that are refused, handshakes that fail and clients that are configured otherwise: a line for each kind now and then.
    refusals: Arc<Trouble>,
    failures: Arc<Trouble>,
    mismatches: Arc<Trouble>,
    trouble: Arc<Trouble>,
    tasks: TaskTracker,
    streams: TaskTracker,
    stop: CancellationToken,
}

/// Whether the server is ending: it then offers its ports no more.
#[derive(Clone)]
pub struct Draining {
    ports: Arc<HashMap<Id, Arc<ServerPort>>>,
    state: Arc<Mutex<DrainState>>,
}

#[derive(Default)]
struct DrainState {
    begun: bool,
    /// Of the links that have not ended.
    outboxes: Vec<Arc<Outbox>>,
}

impl Draining {
    /// From now on no new tunnel and no new stream is taken.
    pub fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.begun = true;
        let unregister = ports_frames(&self.ports, Frame::Unregister);
        for outbox in &state.outboxes {
            unregister.iter().for_each(|frame| outbox.control(frame));
        }
    }

    /// Whether [`Draining::begin`] was called.
    pub fn has_begun(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .begun
    }

    fn linked(&self, outbox: &Arc<Outbox>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outboxes.retain(|outbox| outbox.ended().is_none());
        state.outboxes.push(Arc::clone(outbox));
        state.begun
    }
}

/// The tunnels of a server, by their names.
#[derive(Clone, Default)]
pub struct Tunnels(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Those that are not over.
    held: HashMap<Id, Tunnel>,
    /// The last ones that are.
    over: VecDeque<Over>,
}

/// What is remembered of a tunnel that is over.
struct Over {
    tunnel: Id,
    port: Id,
    /// The lowest number of the client's streams that was never seen.
    seen: u64,
}

impl Tunnels {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: Id) -> Option<Tunnel> {
        self.table()
            .held
            .get(&id)
            .filter(|tunnel| tunnel.notice().is_none())
            .cloned()
    }

    fn add(&self, tunnel: &Tunnel) {
        self.table().held.insert(tunnel.id(), tunnel.clone());
    }

    /// Forgets a tunnel that is over and of which no stream is accepted any more, but for what was seen of it.
    fn remove(&self, tunnel: &Tunnel) {
        let mut table = self.table();
        table.held.remove(&tunnel.id());
        if table.over.len() >= REMEMBERED {
            table.over.pop_front();
        }
        table.over.push_back(Over {
            tunnel: tunnel.id(),
            port: tunnel.port().keys.id,
            seen: tunnel.seen(),
        });
    }

    /// What was seen of a tunnel that is over.
    fn seen(&self, port: Id, tunnel: Id) -> Option<u64> {
        let table = self.table();
        table
            .over
            .iter()
            .find(|over| (over.port, over.tunnel) == (port, tunnel))
            .map(|over| over.seen)
    }

    /// Makes room for one more tunnel of a port: one that no channel carries ends for it, that which has been without longest. Says whether there is room.
    /// Those that have not proven themselves are counted apart, so that recorded handshakes, played again, keep nobody out.
    fn make_room(&self, port: Id, most: usize) -> bool {
        let (mut standing, mut begun, mut lost) = (0, Vec::new(), Vec::new());
        for tunnel in self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port)
        {
            let state = tunnel.standing().borrow().clone();
            match state {
                Standing::Begun => begun.push(tunnel),
                Standing::Attached => standing += 1,
                Standing::Lost { since, .. } => lost.push((since, tunnel)),
                Standing::Over => {}
            }
        }
        let full = Notice::new(
            Code::Limit,
            "the port has as many tunnels as the server allows",
        );
        if begun.len() >= CANDIDATES {
            begun
                .iter()
                .for_each(|tunnel| tunnel.end(ResetCode::Limit, full.clone()));
        }
        if standing + lost.len() < most {
            return true;
        }
        let longest = lost.into_iter().max_by_key(|(since, _)| since.elapsed());
        longest
            .inspect(|(_, tunnel)| tunnel.end(ResetCode::Limit, full))
            .is_some()
    }

    /// A port has no room for a connection: of its tunnels that no channel carries the one with the most connections ends.
    pub fn end_one_without_channel(&self, port: Id) {
        let of_port = self
            .all()
            .into_iter()
            .filter(|tunnel| tunnel.port().keys.id == port && tunnel.streams() > 0);
        let lost =
            of_port.filter(|tunnel| matches!(*tunnel.standing().borrow(), Standing::Lost { .. }));
        if let Some(tunnel) = lost.max_by_key(Tunnel::streams) {
            tunnel.end(
                ResetCode::Limit,
                Notice::new(
                    Code::Limit,
                    "nothing carries the tunnel, and others need its connections",
                ),
            );
        }
    }

    fn all(&self) -> Vec<Tunnel> {
        self.table().held.values().cloned().collect()
    }

    /// Ends all of them, and waits until their clients have been told.
    pub async fn end(&self) {
        Tunnel::shut_down(&self.all(), "the server ends").await;
    }
}

impl Agent {
    /// What the server holds.
    pub fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
    }

    /// An agent without a link, which takes measuring streams when `bench` says so. Streams run on `streams`, everything else on `tasks`; all of it ends when `stop` is cancelled.
    pub fn new(
        instance: Id,
        ports: HashMap<Id, Arc<ServerPort>>,
        connect_timeout: Duration,
        limits: ServerLimits,
        bench: bool,
        Drain {
            tasks,
            streams,
            stop,
        }: &Drain,
    ) -> Self {
        let ports = Arc::new(ports);
        Agent {
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
            trouble: Arc::default(),
            refusals: Arc::default(),
            failures: Arc::default(),
            mismatches: Arc::default(),
            tasks: tasks.clone(),
            streams: streams.clone(),
            stop: stop.clone(),
        }
    }

    /// By which the owner ends the offer.
    pub fn draining(&self) -> Draining {
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
            outbox.control(&close(channel, &Notice::new(Code::Refused, "")));
            return Ok(());
        };
        let span = info_span!("tunnel", port = %port.port.mark, channel);
        let host = attach::Host {
            instance: self.instance,
            started: self.started,
            find: &|id| self.tunnels.find(id),
            seen: &|port, tunnel| self.tunnels.seen(port, tunnel),
            is_open: &|| {
                !self.draining.has_begun()
                    && self
                        .tunnels
                        .make_room(id, self.quotas.limits().tunnels_per_port)
            },
            bench: self.bench,
            addresses: port.proxy_protocol,
            tasks: &self.tasks,
        };
        match span.in_scope(|| attach::reply(&port.port, &host, message, outbox, channel)) {
            Ok(reply) => {
                if let Err(error) = outbox.open(channel, reply.lane) {
                    debug!(parent: &span, "a client came too late: {error}");
                    return Ok(());
                }
                outbox.ready(channel);
                match reply.outcome {
                    Ok(Some(tunnel)) => self.serve(port, tunnel, span),
                    Ok(None) => {}
                    Err(mismatch) => {
                        self.mismatches.log(|times| error!(parent: &span, times, "a client was refused: {mismatch}"));
                        outbox.close_after_drain(channel, &Notice::new(Code::Mismatch, ""));
                    }
                }
            }
            Err(error) => {
                self.failures
                    .log(|times| warn!(parent: &span, times, "a client was refused: {error}"));
                outbox.control(&close(channel, &attach::closing_notice(&error)));
            }
        }
        Ok(())
    }

    fn serve(&self, port: &Arc<ServerPort>, tunnel: Tunnel, span: tracing::Span) {
        info!(parent: &span, tunnel = %tunnel.id(), "a client attached");
        self.tunnels.add(&tunnel);
        let context = service::Context {
            port: Arc::clone(port),
            connect_timeout: self.connect_timeout,
            bench: self.bench.then(|| Peer::new(port.port.compress)),
            draining: self.draining.clone(),
            quotas: Arc::clone(&self.quotas),
            refusals: Arc::clone(&self.refusals),
            tunnels: self.tunnels.clone(),
            trouble: Arc::clone(&self.trouble),
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

/// The agent on one of its links.
pub struct Session {
    agent: Agent,
    outbox: Arc<Outbox>,
}

impl Handler for Session {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::Attach {
                channel,
                header,
                message,
            } => self
                .agent
                .attach(&self.outbox, channel, header.port, &message),
            Frame::Registered(registered) => {
                self.agent.registered(&registered);
                Ok(())
            }
            other => Err(Notice::new(
                Code::Protocol,
                format!("{} is not for a server", other.name()),
            )),
        }
    }
}

impl Agent {
    fn registered(&self, registered: &Ports) {
        debug!(ports = registered.ports.len(), "registered");
        for (id, port) in self.ports.iter() {
            // The master names all that stand: more than a frame holds are not checked.
            if self.ports.len() <= MAX_PORTS_PER_FRAME && !registered.ports.contains(id) {
                error!(port = %port.port.mark, "the master did not register the port: its limit of ports for a link is reached");
            }
        }
    }
}

impl LinkedRole for Agent {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        let first = if self.draining.linked(outbox) {
            Vec::new()
        } else {
            ports_frames(&self.ports, Frame::Register)
        };
        (
            first,
            Session {
                agent: self.clone(),
                outbox: Arc::clone(outbox),
            },
        )
    }

    fn retiring(&self, outbox: &Arc<Outbox>) {
        let (tunnels, outbox, stop) = (self.tunnels.clone(), Arc::clone(outbox), self.stop.clone());
        // More than once: an ATTACH may have been on its way here.
        let asked = async move {
            while outbox.ended().is_none() {
                tunnels
                    .all()
                    .iter()
                    .for_each(|tunnel| tunnel.leave(&outbox));
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        self.tasks.spawn(async move {
            tokio::select! { () = asked => {}, () = stop.cancelled() => {} }
        });
    }

    fn joined(&self, _outbox: &Arc<Outbox>, terms: &Terms) {
        if self.ports.len() > terms.max_ports as usize {
            error!(
                configured = self.ports.len(),
                max_ports = terms.max_ports,
                "more ports than the master takes on a link"
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
    use crate::{
        compress::CompressMethod,
        crypto::{EncryptMethod, PortKeys},
        frame::AttachHeader,
        tunnel::{Commons, PortParameters, WindowSize},
    };

    #[tokio::test]
    async fn a_master_that_gives_a_channel_number_twice_breaks_the_protocol_and_leaves_no_tunnel_behind()
     {
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
            commons: Commons::default(),
        };
        let drain = Drain::default();
        let wish = attach::wish(&port, &Outbox::new(), 1, &drain.tasks).unwrap();
        let offered = ServerPort {
            port,
            host: "localhost".to_owned(),
            tcp_port: 1,
            proxy_protocol: false,
        };
        let ports = HashMap::from([(keys.id, Arc::new(offered))]);
        let agent = Agent::new(
            Id([7; 16]),
            ports,
            Duration::from_secs(1),
            ServerLimits::default(),
            true,
            &drain,
        );
        let outbox = Outbox::new();
        let (_, mut session) = agent.begin(&outbox);
        let attach = || Frame::Attach {
            channel: 3,
            header: AttachHeader {
                port: keys.id,
                instance: None,
                avoid: Vec::new(),
            },
            message: wish.message.clone(),
        };
        assert_eq!(session.frame(attach()), Ok(()));
        assert_eq!(
            session.frame(attach()).map_err(|notice| notice.code),
            Err(Code::Protocol)
        );
        outbox.close(3, &Notice::new(Code::Shutdown, ""));
        drain.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), drain.tasks.wait())
            .await
            .unwrap();
    }
}
