//! The other ends of many links within this process: real links over TCP that authenticate, and real tunnels, by the library that the processes
//! consist of. No socket but that of the link belongs to any of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use report::{
    compress::CompressMethod,
    crypto::{EncryptMethod, LinkKey, PortKeys},
    frame::{AttachHeader, Code, Frame, Notice, Ports, Role, Terms},
    id::Id,
    link::{
        Handler, Outbox, Timing,
        dial::{DialParameters, Dialer},
        uplink::{Choice, LinkedRole, Mover, Uplink},
    },
    random,
    suspend::Moment,
    tunnel::{
        Commons, PortParameters, Tunnel, TunnelStream, WindowSize,
        attach::{self, AttachError, Outcome},
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::roles::MASTER_KEY;

/// A link and its tunnels stand by then, however many are under way on this machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Links that say goodbye have so long together.
const GOODBYE: Duration = Duration::from_secs(10);

/// Links to one master, all under one port key.
#[derive(Clone)]
pub struct Peers {
    master: SocketAddr,
    port: PortParameters,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Peers {
    /// No links yet. Those of another `port_key` are strangers.
    pub fn new(master: SocketAddr, port_key: &str) -> Self {
        let port = PortParameters {
            mark: "scale".into(),
            keys: PortKeys::derive(port_key),
            encrypt: EncryptMethod::Aes128Gcm,
            compress: CompressMethod::Null,
            stream_window: WindowSize {
                initial: 256 << 10,
                max: 16 << 20,
            },
            tunnel_window: WindowSize {
                initial: 1 << 20,
                max: 32 << 20,
            },
            resume_timeout: Duration::from_secs(120),
            tcp_keepalive: None,
            commons: Commons::default(),
        };
        Peers {
            master,
            port,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The link of a server, whose tunnels echo whatever their streams bring.
    pub async fn serve(&self) -> anyhow::Result<()> {
        let (registered, mut answer) = mpsc::channel(1);
        let instance = Id(random::bytes());
        let Peers {
            port, tasks, stop, ..
        } = self.clone();
        self.link(
            Role::Server,
            instance,
            Agent {
                port,
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
        answer.context("the server's link has ended")
    }

    /// The link of a client, and `count` tunnels on it. Each has echoed once.
    pub async fn visit(&self, count: u32) -> anyhow::Result<Vec<Tunnel>> {
        // Every tunnel has its outcome.
        let (wishes, mut outcomes) = mpsc::channel(count as usize);
        let Peers { port, tasks, .. } = self.clone();
        self.link(
            Role::Client,
            Id(random::bytes()),
            Visitor {
                port,
                count,
                tasks,
                wishes,
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
                    Ok(Outcome::New(tunnel, _)) => tunnels.push(tunnel),
                    Ok(Outcome::Resumed) => bail!("a tunnel that goes on in place of a new one"),
                    Err(error) => bail!("no tunnel: {error}"),
                }
            }
            for tunnel in &tunnels {
                Talk::open(tunnel)
                    .say(Bytes::from_static(&[b'e'; 64]))
                    .await?;
            }
            anyhow::Ok(tunnels)
        };
        tokio::time::timeout(READY_TIMEOUT, tunnels)
            .await
            .context("the client does not get its tunnels")?
    }

    /// Ends the tunnels and all of the links, and waits for it.
    pub async fn end(self, tunnels: &[Tunnel]) {
        let ended = async {
            Tunnel::shut_down(tunnels, "the benchmark ends").await;
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        };
        // What has not said goodbye by then is cut with the process.
        let _ = tokio::time::timeout(GOODBYE, ended).await;
    }

    fn link(&self, role: Role, instance: Id, linked: impl LinkedRole) -> anyhow::Result<()> {
        let address = self.master.to_string().parse()?;
        let master_key = (role == Role::Server).then_some(MASTER_KEY);
        let uplink = Uplink {
            dialers: vec![Dialer::new(address, DialParameters::default())?],
            choice: Choice::Ordered,
            key: LinkKey::derive(master_key),
            role,
            instance,
            timing: Timing::default(),
            rotate_after: None,
            mover: Mover::default(),
        };
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { uplink.run(Arc::new(linked), &stop).await });
        Ok(())
    }
}

/// An error when any of the tunnels has lost its link: what was measured was something else then.
pub fn check(tunnels: &[Tunnel]) -> anyhow::Result<()> {
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
struct Visitor {
    port: PortParameters,
    /// The tunnels that it wants.
    count: u32,
    tasks: TaskTracker,
    wishes: mpsc::Sender<oneshot::Receiver<Result<Outcome, AttachError>>>,
}

impl Visitor {
    fn wish(&self, outbox: &Arc<Outbox>, channel: u32) -> Option<Frame> {
        let wish = attach::wish(&self.port, outbox, channel, &self.tasks).ok()?;
        outbox.open(channel, wish.lane).ok()?;
        // Nobody waits any more when this is not the first link; `check` says so then.
        self.wishes.try_send(wish.outcome).ok()?;
        let header = AttachHeader {
            port: self.port.keys.id,
            instance: None,
            avoid: Vec::new(),
        };
        Some(Frame::Attach {
            channel,
            header,
            message: wish.message,
        })
    }
}

/// Takes the frames of a client's link: there are none.
struct Nothing;

impl Handler for Nothing {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(
            Code::Protocol,
            format!("{} is not for a client", frame.name()),
        ))
    }
}

impl LinkedRole for Visitor {
    type Session = Nothing;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Nothing) {
        (
            (0..self.count)
                .filter_map(|channel| self.wish(outbox, channel))
                .collect(),
            Nothing,
        )
    }

    fn joined(&self, _outbox: &Arc<Outbox>, _terms: &Terms) {}

    fn retiring(&self, _outbox: &Arc<Outbox>) {}
}

/// A server.
#[derive(Clone)]
struct Agent {
    port: PortParameters,
    instance: Id,
    started: Moment,
    tasks: TaskTracker,
    stop: CancellationToken,
    registered: mpsc::Sender<()>,
}

/// A server on its link.
struct Session {
    agent: Agent,
    outbox: Arc<Outbox>,
}

impl LinkedRole for Agent {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        let register = Frame::Register(Ports {
            ports: vec![self.port.keys.id],
        });
        (
            vec![register],
            Session {
                agent: self.clone(),
                outbox: Arc::clone(outbox),
            },
        )
    }

    fn joined(&self, _outbox: &Arc<Outbox>, _terms: &Terms) {}

    fn retiring(&self, _outbox: &Arc<Outbox>) {}
}

impl Handler for Session {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match frame {
            Frame::Attach {
                channel, message, ..
            } => self.attach(channel, &message),
            Frame::Registered(_) => {
                // Full when it is not the first time.
                let _ = self.agent.registered.try_send(());
                Ok(())
            }
            other => Err(Notice::new(
                Code::Protocol,
                format!("{} is not for a server", other.name()),
            )),
        }
    }
}

impl Session {
    fn attach(&self, channel: u32, message: &[u8]) -> Result<(), Notice> {
        let Agent {
            port,
            instance,
            started,
            tasks,
            stop,
            ..
        } = &self.agent;
        let host = attach::Host {
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
        let reply = attach::reply(port, &host, message, &self.outbox, channel)
            .map_err(|error| refused(error.to_string()))?;
        self.outbox
            .open(channel, reply.lane)
            .map_err(|error| refused(error.to_string()))?;
        self.outbox.ready(channel);
        if let Ok(Some(tunnel)) = reply.outcome {
            tasks.spawn(serve(tunnel, tasks.clone(), stop.clone()));
        }
        Ok(())
    }
}

async fn serve(tunnel: Tunnel, tasks: TaskTracker, stop: CancellationToken) {
    while let Some(Some((stream, _))) = stop.run_until_cancelled(tunnel.accept()).await {
        let stop = stop.clone();
        tasks.spawn(async move {
            // A stream that fails is noticed at its other end, where it counts.
            let _ = stop.run_until_cancelled(echo(&stream)).await;
        });
    }
    tunnel.end(
        report::tunnel::ResetCode::Shutdown,
        Notice::new(Code::Shutdown, ""),
    );
}

async fn echo(stream: &TunnelStream) -> anyhow::Result<()> {
    while let Some(bytes) = stream.read().await? {
        let length = bytes.len();
        send(stream, bytes).await?;
        stream.consume(length);
    }
    stream.finish();
    Ok(stream.delivered().await?)
}

async fn send(stream: &TunnelStream, mut bytes: Bytes) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        let room = stream.write_room().await?;
        stream.write(bytes.split_to(room.min(bytes.len())))?;
    }
    Ok(())
}

/// A stream whose other end echoes.
pub struct Talk(TunnelStream);

impl Talk {
    /// A new one.
    pub fn open(tunnel: &Tunnel) -> Self {
        Talk(tunnel.open(Bytes::new()))
    }

    /// Sends, and waits until all of it has come back.
    pub async fn say(&mut self, message: Bytes) -> anyhow::Result<()> {
        let length = message.len();
        // At the same time: a message may be longer than what the way holds.
        tokio::try_join!(send(&self.0, message), self.hear(length))?;
        Ok(())
    }

    async fn hear(&self, mut left: usize) -> anyhow::Result<()> {
        while left > 0 {
            let length = self.0.read().await?.context("the stream has ended")?.len();
            self.0.consume(length);
            left = left
                .checked_sub(length)
                .context("more comes back than was sent")?;
        }
        Ok(())
    }
}
