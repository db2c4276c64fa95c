//! The other ends of many links, within this process.
//!
//! They use rePort's library: real, authenticated links over TCP and real tunnels. The only socket
//! of each peer is that of its link.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use report::{
    link::{Handler, KeepAliveTiming, Outbox, authenticate::LinkSecret},
    net::dial::{DialParameters, Dialer},
    random,
    supervisor::{
        DialStrategy, LinkSet, LinkedRole, MoveRequests, RetirementCause, RoleLink, Uplink,
    },
    suspend::Moment,
    tunnel::{
        PortParameters, Tunnel,
        attach::{self, AttachError, AttachOutcome},
    },
};
use report_proto::{
    crypto::{EncryptMethod, LinkKey},
    frame::{AttachHeader, Code, Frame, Notice, Ports, Role, Slot, Terms},
    id::Id,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    port::port,
    roles::MASTER_KEY,
    streams::{EchoStream, answer},
};

/// The deadline for a link and its tunnels to be established, on a busy machine too.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The time in which all links must close gracefully.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Links to one master, all with the same ports.
#[derive(Clone)]
pub(crate) struct Peers {
    master: SocketAddr,
    /// At least one port.
    ports: Arc<[PortParameters]>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Peers {
    /// Creates a group without links. Groups with different port keys are isolated from each other.
    pub(crate) fn new(master: SocketAddr, port_key: &str) -> Self {
        let port = port("scale", port_key, EncryptMethod::Aes128Gcm);
        Peers::with_ports(master, vec![port])
    }

    /// Creates a group without links for these ports, at least one.
    pub(crate) fn with_ports(master: SocketAddr, ports: Vec<PortParameters>) -> Self {
        Peers {
            master,
            ports: ports.into(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Returns the tasks of all links.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Returns the first port.
    pub(crate) fn port(&self) -> &PortParameters {
        &self.ports[0]
    }

    /// Opens the link of a server with all ports. It echoes all streams, except downloads
    /// ([`Download`](crate::streams::Download)).
    pub(crate) async fn serve(&self) -> anyhow::Result<()> {
        let (registered, mut answer) = mpsc::channel(1);
        let instance = Id(random::bytes());
        let Peers {
            ports, tasks, stop, ..
        } = self.clone();
        self.link(
            Role::Server,
            instance,
            BenchServer {
                ports,
                instance,
                started: Moment::now(),
                tasks,
                stop,
                registered,
            },
        )?;
        let answer = tokio::time::timeout(READY_TIMEOUT, answer.recv())
            .await
            .context("the server does not get its link")?;
        let refused = answer.context("the server's link has ended")?;
        ensure!(refused == 0, "the master refused {refused} key ids");
        Ok(())
    }

    /// Opens the link of a client with `count` tunnels, which use the ports in turn. Each tunnel has
    /// echoed once.
    pub(crate) async fn open_tunnels(&self, count: u32) -> anyhow::Result<Vec<Tunnel>> {
        // One outcome per tunnel.
        let (outcomes_sender, mut outcomes) = mpsc::channel(count as usize);
        let Peers { ports, tasks, .. } = self.clone();
        self.link(
            Role::Client,
            Id(random::bytes()),
            BenchClient {
                ports,
                count,
                tasks,
                outcomes_sender,
            },
        )?;
        let tunnels = async {
            let mut tunnels = Vec::new();
            for _ in 0..count {
                let outcome = outcomes
                    .recv()
                    .await
                    .context("the client's link has ended")?;
                match outcome.await.context("the client's link has ended")? {
                    Ok(AttachOutcome::New(tunnel, _)) => tunnels.push(tunnel),
                    Ok(AttachOutcome::Resumed) => {
                        bail!("a tunnel was resumed, although none existed")
                    }
                    Err(error) => bail!("no tunnel: {error}"),
                }
            }
            for tunnel in &tunnels {
                EchoStream::open(tunnel)
                    .echo(Bytes::from_static(&[b'e'; 64]))
                    .await?;
            }
            anyhow::Ok(tunnels)
        };
        tokio::time::timeout(READY_TIMEOUT, tunnels)
            .await
            .context("the client does not get its tunnels")?
    }

    /// Ends the tunnels and all links, and waits for their tasks.
    pub(crate) async fn end(self, tunnels: &[Tunnel]) {
        let ended = async {
            Tunnel::shut_down(tunnels, "the benchmark ends").await;
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        };
        // On a timeout, the end of the process closes the remaining links.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, ended).await;
    }

    /// Opens a link of this role.
    pub(crate) fn link(
        &self,
        role: Role,
        instance: Id,
        linked: impl LinkedRole,
    ) -> anyhow::Result<()> {
        let address = self.master.to_string().parse()?;
        let secret = match role {
            Role::Server => LinkSecret::MasterKey(LinkKey::derive(Some(MASTER_KEY))),
            Role::Client => LinkSecret::Anonymous,
        };
        let uplink = Uplink {
            dialers: vec![Dialer::new(address, DialParameters::default())?],
            strategy: DialStrategy::Ordered,
            secret,
            role,
            instance,
            slot: Slot::FIRST,
            timing: KeepAliveTiming::default(),
            rotate_after: None,
            move_requests: MoveRequests::default(),
        };
        let (link_set, stop) = (LinkSet::new(uplink, 1), self.stop.clone());
        self.tasks
            .spawn(async move { link_set.run(Arc::new(linked), &stop).await });
        Ok(())
    }
}

/// Returns an error if a tunnel has lost its link, because the measurement is then invalid.
pub(crate) fn check(tunnels: &[Tunnel]) -> anyhow::Result<()> {
    let lost = tunnels
        .iter()
        .filter(|tunnel| !tunnel.is_attached())
        .count();
    ensure!(
        lost == 0,
        "{lost} of {} tunnels have lost their links",
        tunnels.len()
    );
    Ok(())
}

/// A client.
struct BenchClient {
    ports: Arc<[PortParameters]>,
    /// The number of tunnels to open.
    count: u32,
    tasks: TaskTracker,
    outcomes_sender: mpsc::Sender<oneshot::Receiver<Result<AttachOutcome, AttachError>>>,
}

impl BenchClient {
    fn attach_frame(&self, outbox: &Arc<Outbox>, channel: u32) -> Option<Frame> {
        let port = self.ports.get(channel as usize % self.ports.len())?;
        let request = attach::request(port, outbox, channel, &self.tasks).ok()?;
        outbox.open(channel, request.attachment).ok()?;
        // After a reconnect, no task waits for the outcome. `check` reports that case.
        self.outcomes_sender.try_send(request.outcome).ok()?;
        let header = AttachHeader {
            port: port.keys.id,
            instance: None,
            avoid: Vec::new(),
        };
        Some(Frame::Attach {
            channel,
            header,
            message: request.message,
        })
    }
}

/// The handler of a client's link, which expects no frames.
pub(crate) struct ClientSession;

impl Handler for ClientSession {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(
            Code::Protocol,
            format!("{} is not valid for a client", frame.name()),
        ))
    }
}

impl LinkedRole for BenchClient {
    type Session = ClientSession;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, ClientSession) {
        (
            (0..self.count)
                .filter_map(|channel| self.attach_frame(&link.outbox, channel))
                .collect(),
            ClientSession,
        )
    }

    fn joined(&self, _link: &RoleLink, _terms: &Terms) {}

    fn retiring(&self, _link: &RoleLink, _cause: RetirementCause) {}
}

/// A server.
#[derive(Clone)]
struct BenchServer {
    ports: Arc<[PortParameters]>,
    instance: Id,
    started: Moment,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Receives the number of refused key ids.
    registered: mpsc::Sender<usize>,
}

/// A server's link.
struct ServerSession {
    server: BenchServer,
    outbox: Arc<Outbox>,
}

impl LinkedRole for BenchServer {
    type Session = ServerSession;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, ServerSession) {
        let register = Frame::Register(Ports {
            ports: self.ports.iter().map(|port| port.keys.id).collect(),
        });
        (
            vec![register],
            ServerSession {
                server: self.clone(),
                outbox: Arc::clone(&link.outbox),
            },
        )
    }

    fn joined(&self, _link: &RoleLink, _terms: &Terms) {}

    fn retiring(&self, _link: &RoleLink, _cause: RetirementCause) {}
}

impl Handler for ServerSession {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::Attach {
                channel,
                header,
                message,
            } => self.attach(channel, header.port, &message),
            Frame::Registered(registered) => {
                // The channel is full after a reconnect.
                let _ = self.server.registered.try_send(registered.refused.len());
                Ok(())
            }
            other => Err(Notice::new(
                Code::Protocol,
                format!("{} is not valid for a server", other.name()),
            )),
        }
    }
}

impl ServerSession {
    fn attach(&self, channel: u32, key: Id, message: &[u8]) -> Result<(), Notice> {
        let BenchServer {
            ports,
            instance,
            started,
            tasks,
            stop,
            ..
        } = &self.server;
        let context = attach::AcceptContext {
            instance: *instance,
            started: *started,
            find: &|_| None,
            seen: &|_, _| None,
            is_open: &|| true,
            bench: false,
            addresses: false,
            tasks,
        };
        let refused = |error: String| Notice::new(Code::Handshake, error);
        let port = ports
            .iter()
            .find(|port| port.keys.id == key)
            .ok_or_else(|| refused(format!("the key id {key} is not registered")))?;
        let reply = attach::reply(port, &context, message, &self.outbox, channel)
            .map_err(|error| refused(error.to_string()))?;
        self.outbox
            .open(channel, reply.attachment)
            .map_err(|error| refused(error.to_string()))?;
        self.outbox.ready(channel);
        if let Ok(Some(tunnel)) = reply.outcome {
            tasks.spawn(serve(tunnel, tasks.clone(), stop.clone()));
        }
        Ok(())
    }
}

async fn serve(tunnel: Tunnel, tasks: TaskTracker, stop: CancellationToken) {
    while let Some(Some((stream, details))) = stop.run_until_cancelled(tunnel.accept()).await {
        let stop = stop.clone();
        tasks.spawn(async move {
            // Ignore errors here: the other end of the stream reports them.
            let _ = stop.run_until_cancelled(answer(&stream, &details)).await;
        });
    }
    tunnel.end(
        report::tunnel::ResetCode::Shutdown,
        Notice::new(Code::Shutdown, ""),
    );
}
