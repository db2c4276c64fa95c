//! The client's side of its links: a tunnel for each port, attached as soon as there is a link, and again whenever it was lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::{
    frame::{AttachHeader, Code, Frame, Notice, Terms},
    link::{Handler, Outbox, backoff::Backoff, uplink::LinkedRole},
    tunnel::{
        PortParameters, Tunnel,
        attach::{self, AttachError},
    },
};

/// The first wait before a port attaches again; the tunnel was lost because the server went, most of the time, and the next ATTACH waits at
/// the master until it is back.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A port of the client, and its tunnel while there is one.
pub struct Port {
    pub parameters: PortParameters,
    tunnel: watch::Sender<Option<Tunnel>>,
}

impl Port {
    /// A port without a tunnel.
    pub fn new(parameters: PortParameters) -> Self {
        Port { parameters, tunnel: watch::Sender::new(None) }
    }

    /// The port's tunnel, when there is one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn tunnel(&self) -> Tunnel {
        let mut tunnels = self.tunnel.subscribe();
        loop {
            let live = tunnels.borrow_and_update().clone().filter(|tunnel| tunnel.notice().is_none());
            if let Some(tunnel) = live {
                return tunnel;
            }
            if tunnels.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }
}

/// The client as its links see it.
pub struct Visitor {
    ports: Vec<Arc<Port>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Visitor {
    /// A visitor without a link. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub fn new(ports: Vec<Arc<Port>>, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        Visitor { ports, tasks: tasks.clone(), stop: stop.clone() }
    }
}

/// The visitor on one of its links.
pub struct Session;

impl Handler for Session {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(Code::Protocol, format!("{} is not for a client", frame.name())))
    }
}

impl LinkedRole for Visitor {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        let channels = Arc::new(AtomicU32::new(0));
        let attach = |port: &Arc<Port>| {
            let attaching = Attaching {
                port: Arc::clone(port),
                outbox: Arc::clone(outbox),
                channels: Arc::clone(&channels),
                tasks: self.tasks.clone(),
            };
            let (frame, outcome) = attaching.wish()?;
            let span = info_span!("tunnel", port = %port.parameters.mark);
            let stop = self.stop.clone();
            self.tasks.spawn(
                async move {
                    tokio::select! { () = attaching.keep(outcome) => {}, () = stop.cancelled() => {} }
                }
                .instrument(span),
            );
            Some(frame)
        };
        (self.ports.iter().filter_map(attach).collect(), Session)
    }

    fn retiring(&self, _outbox: &Arc<Outbox>) {}

    fn joined(&self, _outbox: &Arc<Outbox>, terms: &Terms) {
        if self.ports.len() > terms.max_channels as usize {
            error!(
                configured = self.ports.len(),
                max_channels = terms.max_channels,
                "more ports than the master takes on a link"
            );
        }
    }
}

type Outcome = oneshot::Receiver<Result<Tunnel, AttachError>>;

/// One port on one link.
struct Attaching {
    port: Arc<Port>,
    outbox: Arc<Outbox>,
    /// The next channel number of the link.
    channels: Arc<AtomicU32>,
    tasks: TaskTracker,
}

impl Attaching {
    /// A new attempt: the frame to send, and where its outcome will be.
    fn wish(&self) -> Option<(Frame, Outcome)> {
        let channel = self.channels.fetch_add(1, Ordering::Relaxed);
        let parameters = &self.port.parameters;
        let wish = attach::wish(parameters, &self.outbox, channel, &self.tasks)
            .inspect_err(|error| error!("cannot begin a tunnel: {error}"))
            .ok()?;
        // Fails only when the link has ended, and then the next one begins anew.
        self.outbox.open(channel, wish.lane).ok()?;
        let header = AttachHeader { port: parameters.keys.id, instance: None };
        Some((Frame::Attach { channel, header, message: wish.message }, wish.outcome))
    }

    /// Keeps the port attached as long as the link lives.
    async fn keep(self, mut outcome: Outcome) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let wait = match (&mut outcome).await {
                Ok(Ok(tunnel)) => backoff.after(self.attached(&tunnel).await),
                Ok(Err(error)) => {
                    log_failure(&error);
                    if error.is_retryable() { backoff.next_wait() } else { LONGEST_WAIT }
                }
                Err(_) => return,
            };
            if self.outbox.ended().is_some() {
                return;
            }
            tokio::time::sleep(wait).await;
            let Some((frame, next)) = self.wish() else { return };
            self.outbox.control(&frame);
            outcome = next;
        }
    }

    /// Offers the tunnel to the port's connections until it is over. Returns how long it lived.
    async fn attached(&self, tunnel: &Tunnel) -> Duration {
        let begun = Instant::now();
        info!(tunnel = %tunnel.id(), "attached to a server");
        self.port.tunnel.send_replace(Some(tunnel.clone()));
        tunnel.closed().await;
        self.port.tunnel.send_if_modified(|current| {
            let ours = current.as_ref().is_some_and(|current| current.id() == tunnel.id());
            if ours {
                *current = None;
            }
            ours
        });
        if let Some(notice) = tunnel.notice() {
            warn!(tunnel = %tunnel.id(), lived_s = begun.elapsed().as_secs(), "the tunnel was lost: {notice}");
        }
        begun.elapsed()
    }
}

fn log_failure(error: &AttachError) {
    match error {
        AttachError::Closed(notice) if notice.code == Code::PeerLost => debug!("not attached: {error}"),
        AttachError::Closed(_) => warn!("not attached: {error}"),
        _ => error!("not attached: {error}"),
    }
}
