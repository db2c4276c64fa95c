//! Keeps a role linked to a master: dials, joins, runs the link, and begins again, for ever. With several masters, the next one is tried when
//! one fails.
//!
//! ```text
//!   ┌──► dial ──► join ──► run ──► ended ──┐ at once when the link had lived,
//!   └──────────── wait ◄───────────────────┘ else with exponential backoff and jitter
//! ```

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    Handler, Link, LinkEnd, Outbox, Timing,
    authenticate::{self, Introduction, JoinError},
    backoff::Backoff,
    dial::{DialError, Dialer},
    session::FinishOnDrop,
};
use crate::{
    crypto::LinkKey,
    frame::{Code, Frame, Notice, Role, Terms},
    id::Id,
};

/// The first wait after a failed attempt is at most this long: short, because most cuts are over at once.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// No wait is longer: somebody who mends the path should not have to restart anything.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is waited beside the backoff when somebody has to change something first, at either end.
const MENDING_WAIT: Duration = Duration::from_secs(5);

/// What a role says of itself to each master in its log.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"));

/// What a role does with its links.
pub trait LinkedRole: Handler {
    /// A link is being established. Returns what goes in one flight with HELLO; lanes may already be opened at `outbox`.
    fn begin(&mut self, outbox: &Arc<Outbox>) -> Vec<Frame>;

    /// The master took the role in.
    fn joined(&mut self, terms: &Terms);
}

/// How a role reaches its masters.
pub struct Uplink {
    /// The masters, in the order of trying; not empty.
    pub dialers: Vec<Dialer>,
    /// Proves the role to the master, and the master to the role.
    pub key: LinkKey,
    /// Which role.
    pub role: Role,
    /// This process.
    pub instance: Id,
    /// The heartbeat.
    pub timing: Timing,
}

/// Why an attempt ended.
enum Ended {
    Dial(DialError),
    Join(JoinError),
    Link { end: LinkEnd, lived: Duration },
    Cancelled,
}

impl Uplink {
    /// Keeps `role` linked until `cancel` is cancelled; the last link is then closed in order.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the link.
    pub async fn run(self, role: &mut impl LinkedRole, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        for (epoch, dialer) in (1..).zip(self.dialers.iter().cycle()) {
            let master = dialer.address().to_string();
            let ended = self.attempt(dialer, epoch, role, cancel).instrument(info_span!("link", number = epoch, %master)).await;
            let wait = match &ended {
                Ended::Cancelled => return,
                Ended::Link { lived, .. } => backoff.after(*lived),
                // Only a change at either end can help, and that is not a matter of moments.
                Ended::Join(error) if !error.is_retryable() => LONGEST_WAIT.min(backoff.next_wait() + MENDING_WAIT),
                Ended::Dial(_) | Ended::Join(_) => backoff.next_wait(),
            };
            ended.log(&master, wait);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn attempt(&self, dialer: &Dialer, epoch: u64, role: &mut impl LinkedRole, cancel: &CancellationToken) -> Ended {
        let begun = Instant::now();
        let mut socket = tokio::select! {
            () = cancel.cancelled() => return Ended::Cancelled,
            socket = dialer.dial() => match socket {
                Ok(socket) => socket,
                Err(error) => return Ended::Dial(error),
            },
        };
        let outbox = Outbox::new();
        // What the role opens there holds on to it: without an end they would keep each other for ever.
        let _finished_when_dropped = FinishOnDrop(Arc::clone(&outbox));
        let first = role.begin(&outbox);
        let introduction = Introduction { role: self.role, instance: self.instance, epoch, agent: AGENT.to_owned() };
        let joined = tokio::select! {
            () = cancel.cancelled() => None,
            joined = authenticate::join(&mut socket, &self.key, &introduction, &first) => Some(joined),
        };
        let terms = match joined {
            Some(Ok(terms)) => terms,
            Some(Err(error)) => {
                outbox.finish(&Notice::new(Code::PeerLost, "the link could not be established"));
                return Ended::Join(error);
            }
            None => {
                outbox.finish(&Notice::new(Code::Shutdown, "the role ends"));
                return Ended::Cancelled;
            }
        };
        info!(took_ms = begun.elapsed().as_millis() as u64, "linked to the master");
        role.joined(&terms);
        let up = Instant::now();
        let link = Link::new(socket, outbox, self.timing.asked(terms.heartbeat_seconds));
        match link.run(role, cancel).await {
            LinkEnd::Cancelled => Ended::Cancelled,
            end => Ended::Link { end, lived: up.elapsed() },
        }
    }
}

impl Ended {
    /// One line for each attempt that ended.
    fn log(&self, master: &str, wait: Duration) {
        let retry_ms = wait.as_millis() as u64;
        match self {
            Ended::Dial(error) => warn!(%master, retry_ms, "cannot reach the master: {error}"),
            Ended::Join(error) if error.is_retryable() => warn!(%master, retry_ms, "cannot join the master: {error}"),
            Ended::Join(error) => error!(%master, retry_ms, "cannot join the master: {error}"),
            Ended::Link { end, lived } => {
                warn!(%master, retry_ms, lived_s = lived.as_secs(), "the link was lost: {end}");
            }
            Ended::Cancelled => debug!(%master, "the link was closed"),
        }
    }
}
