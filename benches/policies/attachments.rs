//! Measures how long an attachment takes at a master with a store and at one without.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use report::{
    link::Outbox,
    random,
    supervisor::{LinkedRole, RetirementCause, RoleLink},
    tunnel::{
        Tunnel,
        attach::{self, AttachOutcome},
    },
};
use report_proto::{
    frame::{AttachHeader, Frame, Role, Terms},
    id::Id,
};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    database::Database,
    numbered_keys::ports,
    options::Options,
    peers::{ClientSession, Peers},
    percentile::{milliseconds_since, percentile},
    results::Results,
    roles::Master,
};

/// The goal for the median with a store, relative to the one without.
const ALLOWED: f64 = 1.1;

/// The deadline for a link and for an attachment, on a busy machine too.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Attaches in turns at a master that uses the store and at one without.
pub(crate) async fn measure(
    database: &Database,
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    let (with, without) = (database.start_master().await?, Master::start().await?);
    let mut attachers = [
        Attacher::start(with.address).await?,
        Attacher::start(without.address).await?,
    ];
    // One-time allocations do not count.
    for attacher in &mut attachers {
        attacher.attach().await?;
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..options.attachments {
        for (attacher, times) in attachers.iter_mut().zip(&mut times) {
            times.push(attacher.attach().await?);
        }
    }
    let [with, without] = times;
    let what = format!("{} attachments with the store: median", with.len());
    results.record("attach_store_p50_ms", what, percentile(&with, 50), "ms");
    let what = "… 99th percentile";
    results.record("attach_store_p99_ms", what, percentile(&with, 99), "ms");
    let what = "… without a store: median";
    results.record("attach_p50_ms", what, percentile(&without, 50), "ms");
    let what = "… 99th percentile";
    results.record("attach_p99_ms", what, percentile(&without, 99), "ms");
    let ratio = percentile(&with, 50) / percentile(&without, 50);
    let what = "… with the store : without, medians";
    results.record_with_goal("attach_ratio", what, ratio, "×", ALLOWED);
    for attacher in attachers {
        attacher.peers.end(&[]).await;
    }
    Ok(())
}

/// A client that attaches repeatedly over one link.
struct Attacher {
    peers: Peers,
    outbox: Arc<Outbox>,
    next_channel: u32,
}

impl Attacher {
    /// Opens the links of a server and of the client, for the first key.
    async fn start(master: SocketAddr) -> anyhow::Result<Self> {
        let peers = Peers::with_ports(master, ports([0]));
        peers.serve().await?;
        let (joined_sender, mut joined) = mpsc::channel(1);
        let role = AttachingRole { joined_sender };
        peers.link(Role::Client, Id(random::bytes()), role)?;
        let outbox = timeout(READY_TIMEOUT, joined.recv())
            .await
            .context("the client does not get its link")?
            .context("the client's link has ended")?;
        Ok(Attacher {
            peers,
            outbox,
            next_channel: 0,
        })
    }

    /// Attaches a new tunnel and ends it. Returns the milliseconds from the request to the tunnel.
    async fn attach(&mut self) -> anyhow::Result<f64> {
        let channel = self.next_channel;
        self.next_channel += 1;
        let (port, begun) = (self.peers.port(), Instant::now());
        let request = attach::request(port, &self.outbox, channel, self.peers.tasks())?;
        if self.outbox.open(channel, request.attachment).is_err() {
            bail!("the client's link has ended");
        }
        self.outbox.control(&Frame::Attach {
            channel,
            header: AttachHeader {
                port: port.keys.id,
                instance: None,
                avoid: Vec::new(),
            },
            message: request.message,
        });
        let outcome = timeout(READY_TIMEOUT, request.outcome)
            .await
            .context("no answer to the attach request")?
            .context("the client's link has ended")?;
        let took = milliseconds_since(begun);
        match outcome {
            Ok(AttachOutcome::New(tunnel, _)) => {
                Tunnel::shut_down(&[tunnel], "measured").await;
                Ok(took)
            }
            Ok(AttachOutcome::Resumed) => bail!("a tunnel was resumed, although none existed"),
            Err(error) => bail!("no tunnel: {error}"),
        }
    }
}

/// A client that reports its link.
struct AttachingRole {
    joined_sender: mpsc::Sender<Arc<Outbox>>,
}

impl LinkedRole for AttachingRole {
    type Session = ClientSession;

    fn begin(&self, _link: &RoleLink) -> (Vec<Frame>, ClientSession) {
        (Vec::new(), ClientSession)
    }

    fn joined(&self, link: &RoleLink, _terms: &Terms) {
        // The channel is full after a reconnect.
        let _ = self.joined_sender.try_send(Arc::clone(&link.outbox));
    }

    fn retiring(&self, _link: &RoleLink, _cause: RetirementCause) {}
}
