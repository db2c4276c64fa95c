//! A client without listeners: the tunnel of one port, for who uses it in this process. The links, the wishes and the way they are made again are
//! those of a client that listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    port::Port,
    visitor::{Session, Visitor},
};
use crate::{
    frame::{Frame, Terms},
    link::{
        Outbox,
        drain::Drain,
        uplink::{LinkNews, LinkedRole, Uplink, Way},
    },
    tunnel::{
        PortParameters, Tunnel,
        attach::{AttachError, Taker},
    },
};

/// A tunnel, and how it came about.
#[derive(Clone)]
pub struct Reached {
    /// It is attached.
    pub tunnel: Tunnel,
    /// The master's address, as in the configuration.
    pub master: String,
    /// From the beginning until the link stood.
    pub link_time: Duration,
    /// From then until the tunnel was attached.
    pub attach_time: Duration,
    /// What the server says of itself.
    pub taker: Taker,
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// No master of the list took the client in.
    #[error("no link to a master; {}", .0.iter().map(|(master, why)| format!("{master}: {why}")).collect::<Vec<_>>().join("; "))]
    NoMaster(BTreeMap<String, String>),
    /// A link stands, and nobody answers for the port key.
    #[error(
        "no tunnel: no server for the port key of \"{mark}\" is linked to {master} (waited for {} s); is the server running, \
         and is the port key the same at both ends, to the letter?",
        .waited.as_secs_f32()
    )]
    NoServer {
        /// The port.
        mark: String,
        /// Where it was asked for.
        master: String,
        /// For how long.
        waited: Duration,
    },
    /// A server is there and there is no tunnel with it.
    #[error("no tunnel: {0}")]
    Refused(AttachError),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Brings a tunnel of `port` about and gives it to `work`; ends both when that is done. A server is waited for as long as `patience` from when a
/// link stands. When `cancel` is cancelled before there is a tunnel, there will be none; after that `work` has to see to it.
///
/// # Errors
/// When there is no tunnel.
///
/// # Cancel safety
/// Dropping the future cuts the link; tasks that were spawned end soon after.
pub async fn with_tunnel<T, F>(
    uplink: Uplink,
    port: PortParameters,
    patience: Duration,
    cancel: CancellationToken,
    work: impl FnOnce(Reached) -> F + Send + 'static,
) -> Result<T, ReachError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let drain = Drain::default();
    let port = Port::new(port, &drain.tasks, &drain.stop);
    let visitor = Visitor::new(
        vec![Arc::clone(&port)],
        uplink.mover.clone(),
        &drain.tasks,
        &drain.stop,
    );
    let masters = uplink
        .dialers
        .iter()
        .map(Way::name)
        .collect::<BTreeSet<_>>()
        .len();
    let observed = Observed {
        visitor,
        links: watch::Sender::default(),
    };
    let reaching = Reaching {
        port: Arc::clone(&port),
        links: observed.links.subscribe(),
        masters,
        patience,
    };
    let done = CancellationToken::new();
    let over = done.clone().drop_guard();
    // A task of its own: what the caller's future is polled by may be the main thread, which every wake-up would have to wake.
    let working = drain.tasks.spawn(async move {
        let _over = over;
        let reached = tokio::select! {
            reached = reaching.reach() => reached?,
            () = cancel.cancelled() => return Err(ReachError::Cancelled),
        };
        Ok(work(reached).await)
    });
    drain
        .run(
            vec![uplink],
            Arc::new(observed),
            &done,
            Duration::ZERO,
            || {},
            async move { port.end().await },
        )
        .await;
    match working.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ReachError::Cancelled),
        },
    }
}

/// What became of the links so far.
#[derive(Debug, Clone, Default)]
struct Links {
    /// At which master the last one stood, and since when.
    joined: Option<(String, Instant)>,
    /// Why not at the others, by their addresses.
    failed: BTreeMap<String, String>,
}

/// A visitor whose links are told of.
struct Observed {
    visitor: Visitor,
    links: watch::Sender<Links>,
}

impl LinkedRole for Observed {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        self.visitor.begin(outbox)
    }

    fn joined(&self, outbox: &Arc<Outbox>, terms: &Terms) {
        self.visitor.joined(outbox, terms);
    }

    fn retiring(&self, outbox: &Arc<Outbox>) {
        self.visitor.retiring(outbox);
    }

    fn told(&self, news: LinkNews<'_>) {
        let now = Instant::now();
        self.links.send_modify(|links| match news {
            LinkNews::Joined { master } => links.joined = Some((master.to_owned(), now)),
            LinkNews::Failed { master, why } => drop(links.failed.insert(master.to_owned(), why)),
        });
    }
}

/// Waits for a tunnel.
struct Reaching {
    port: Arc<Port>,
    links: watch::Receiver<Links>,
    /// How many addresses there are.
    masters: usize,
    patience: Duration,
}

impl Reaching {
    async fn reach(mut self) -> Result<Reached, ReachError> {
        let begun = Instant::now();
        let (master, linked) = self.linked().await?;
        let (tunnel, taker) = match tokio::time::timeout(self.patience, self.attached()).await {
            Ok(attached) => attached.map_err(ReachError::Refused)?,
            Err(_) => return Err(self.nobody(master)),
        };
        let link_time = linked.saturating_duration_since(begun);
        Ok(Reached {
            tunnel,
            master,
            link_time,
            attach_time: linked.elapsed(),
            taker,
        })
    }

    /// Waits until a link stands, or every master has failed once: each attempt has a deadline of its own.
    async fn linked(&mut self) -> Result<(String, Instant), ReachError> {
        loop {
            let links = self.links.borrow_and_update().clone();
            if let Some(joined) = links.joined {
                return Ok(joined);
            }
            if links.failed.len() >= self.masters {
                return Err(ReachError::NoMaster(links.failed));
            }
            if self.links.changed().await.is_err() {
                return Err(ReachError::Cancelled);
            }
        }
    }

    /// Waits for a tunnel, or for a refusal that would come again.
    async fn attached(&self) -> Result<(Tunnel, Taker), AttachError> {
        let mut refusals = self.port.refusals();
        loop {
            if let Some(refusal) = refusals
                .borrow_and_update()
                .clone()
                .filter(|refusal| !refusal.is_retryable())
            {
                return Err(refusal);
            }
            let tunnel = tokio::select! {
                tunnel = self.port.tunnel() => tunnel,
                _ = refusals.changed() => continue,
            };
            if let Some(taker) = self.port.taker(&tunnel) {
                return Ok((tunnel, taker));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Why there was no tunnel in time: what the last wish came to, if it came to anything.
    fn nobody(&self, master: String) -> ReachError {
        match self.port.refusals().borrow().clone() {
            Some(refusal) => ReachError::Refused(refusal),
            None => ReachError::NoServer {
                mark: self.port.parameters.mark.to_string(),
                master,
                waited: self.patience,
            },
        }
    }
}
