//! Keeps a role linked to a master: dials, joins, runs the link, and begins again, for ever; and moves to a new link before the present one
//! breaks, where that can be known. With several masters, the next one is tried when one fails, or some of them are tried side by side.
//!
//! ```text
//!   Uplink::run ──► Succession (which links stand, and which follows) ──► Attempt (one link, from its dialling to its end)
//!                      │                                                    │ reports: joined, GOAWAY
//!                      ├── Pace: which master next, and when  ◄─────────────┤
//!                      └── Lifetimes: how long the path lets a link live    └── Race: which of several attempts is the first to join
//! ```

mod attempt;
mod black_hole;
mod lifetimes;
mod pace;
mod race;
mod standing;
mod succession;
mod why;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::succession::Succession;
use super::{
    Handler, MessageSocket, Outbox, Timing,
    dial::{DialError, Dialer},
};
use crate::{
    crypto::LinkKey,
    frame::{Frame, Role, Terms},
    id::Id,
};

/// What a role does with its links.
pub trait LinkedRole: Send + Sync + 'static {
    /// What takes the frames of one link, but for GOAWAY, which the uplink takes itself.
    type Session: Handler + Send + 'static;

    /// A link is being established, or of several that race one has joined. Returns what goes in one flight with HELLO, or follows it, and the
    /// link's handler; lanes may already be opened at `outbox`. The newest link is the one to use from when it has joined. When it never joins, its lanes are closed.
    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Self::Session);

    /// The master took the role in.
    fn joined(&self, outbox: &Arc<Outbox>, terms: &Terms);

    /// A newer link stands: what still goes over this one should move there. It is closed when no channel is open on it any more, and after
    /// [`RETIREMENT`] in any case.
    fn retiring(&self, outbox: &Arc<Outbox>);

    /// A link has joined, or an attempt at one has failed. For who waits for the first of them; the log says the same.
    fn told(&self, news: LinkNews<'_>) {
        let _ = news;
    }
}

/// What became of an attempt at a link. The master is named as in the configuration.
#[derive(Debug)]
pub enum LinkNews<'a> {
    /// It stands, and is the one in use.
    Joined {
        /// At which master.
        master: &'a str,
    },
    /// It did not come about. Another attempt follows.
    Failed {
        /// At which master.
        master: &'a str,
        /// The layer, what was seen, and the remedy.
        why: String,
    },
}

/// How a master is reached: a [`Dialer`], or memory in tests.
pub trait Way: Send + Sync + 'static {
    /// The master's address, for the log.
    fn name(&self) -> String;

    /// Makes a WebSocket with the master.
    ///
    /// # Errors
    /// When it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    fn dial(&self) -> impl Future<Output = Result<MessageSocket, DialError>> + Send;

    /// The path loses large packets: from now on links are made with small segments.
    fn use_small_segments(&self) {}
}

impl Way for Dialer {
    fn name(&self) -> String {
        self.address().to_string()
    }

    fn dial(&self) -> impl Future<Output = Result<MessageSocket, DialError>> + Send {
        Dialer::dial(self)
    }

    fn use_small_segments(&self) {
        Dialer::use_small_segments(self);
    }
}

/// The longest time that a link is kept beside the newer one: as long as a proxy or a master that is about to end gives its connections, most
/// of the time. What has not moved by then is resumed on the new link.
pub const RETIREMENT: Duration = Duration::from_secs(30);

/// How one of several masters is come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// They are dialled one at a time, the next one when one fails.
    #[default]
    Ordered,
    /// They are dialled side by side, each a moment after the one before it in the list; the first that takes the role in is used.
    Raced,
}

/// How a role reaches its masters, one at a time.
#[derive(Debug, Clone)]
pub struct Uplink<W = Dialer> {
    /// The ways to the masters, in the order of trying.
    pub dialers: Vec<W>,
    /// How one of them is come to.
    pub choice: Choice,
    /// Proves the role to the master, and the master to the role.
    pub key: LinkKey,
    /// Which role.
    pub role: Role,
    /// This process.
    pub instance: Id,
    /// The heartbeat.
    pub timing: Timing,
    /// After this long each link is replaced by a new one.
    pub rotate_after: Option<Duration>,
    /// By which the role asks for another master.
    pub mover: Mover,
}

/// Asks an uplink to move.
#[derive(Debug, Clone, Default)]
pub struct Mover(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// For a link to another master.
    other: Notify,
    /// For another link to the same one.
    renewal: Notify,
}

impl Mover {
    /// Asks to move to the next master of the list, when a link stands and there is another master. The present link goes on until the new one
    /// has joined.
    pub fn move_on(&self) {
        self.0.other.notify_one();
    }

    /// Asks to replace the present link by another one to the same master, as at its age (`rotate_after`).
    pub fn renew(&self) {
        self.0.renewal.notify_one();
    }

    async fn asked(&self) {
        self.0.other.notified().await;
    }

    pub(crate) async fn asked_to_renew(&self) {
        self.0.renewal.notified().await;
    }
}

impl<W: Way> Uplink<W> {
    /// One uplink for each of the masters: for a role that is to be linked to all of them at the same time.
    #[must_use]
    pub fn each(self) -> Vec<Self> {
        let Uplink {
            dialers,
            choice,
            key,
            role,
            instance,
            timing,
            rotate_after,
            mover: _,
        } = self;
        let one = |dialer| Uplink {
            dialers: vec![dialer],
            choice,
            key: key.clone(),
            role,
            instance,
            timing,
            rotate_after,
            mover: Mover::default(),
        };
        dialers.into_iter().map(one).collect()
    }

    /// Keeps `role` linked until `cancel` is cancelled; the links are then closed in order. Returns when they have ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the links.
    pub async fn run<R: LinkedRole>(self, role: Arc<R>, cancel: &CancellationToken) {
        Succession::new(self, role).run(cancel).await;
    }
}

/// A number that is larger than those of all earlier links of this process.
fn next_epoch() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests;
