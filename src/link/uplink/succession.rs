//! Which links of an uplink stand, and which follows: at most two at a time, the newest of which is the one in use.
//!
//! ```text
//!             plan is due            joined                 a newer one joined              no channel, or RETIREMENT
//!   plan ───────────────► next ─────────────► current ────────────────────────► old ────────────────────────────► closed
//!     ▲                     │ failed             │ ended: at once                  │ ended
//!     └─────────────────────┴────────────────────┤                                 ▼
//!                                                └ GOAWAY, rotation, Mover: a plan beside it
//! ```
//!
//! Each link runs in a task of its own, which is joined here. Knows when and where; not how a link is made (`attempt`).

use std::{fmt, future::pending, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError as TaskError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    LinkNews, LinkedRole, RETIREMENT, Uplink, Way,
    attempt::{Attempt, News, Outcome, Report},
    lifetimes::{Lesson, Lifetimes},
    next_epoch,
    pace::{Next, Pace},
};
use crate::{
    frame::{Code, Notice, Role},
    link::{LinkEnd, Outbox, Timing},
};

/// How long a server's old link is kept at least: ATTACHes that the master sent before it heard of the new one are still on their way.
const LINGER: Duration = Duration::from_secs(1);

/// Reports that wait: two of each link, of which the next one, the present one and the old one run.
const REPORTS: usize = 8;

/// Why a link is made.
#[derive(Debug, Clone)]
enum Why {
    /// There is none.
    Linkless,
    /// The master is about to end the present one.
    GoAway(Notice),
    /// The present one is old.
    Rotation,
    /// The role asks for another master.
    MoveOn,
}

/// The next attempt.
#[derive(Debug)]
struct Plan {
    at: Instant,
    master: usize,
    why: Why,
}

/// A link that is being made, or stands.
#[derive(Debug)]
struct Standing {
    epoch: u64,
    master: usize,
    why: Why,
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
    /// When its attempt began; from when it has joined, when it did.
    since: Instant,
    /// When it is to be replaced.
    replace_at: Option<Instant>,
    /// Since when a newer one stands.
    retired: Option<Instant>,
    /// Whether the master has said that it will end it.
    going: bool,
}

/// What happens next.
enum Event {
    Cancelled,
    Reported(Report),
    Ended(Result<(u64, Outcome), TaskError>),
    Due,
    Vacated,
    Rotate,
    MoveOn,
}

/// The links of one uplink.
pub(super) struct Succession<R, W> {
    uplink: Arc<Uplink<W>>,
    role: Arc<R>,
    tasks: JoinSet<(u64, Outcome)>,
    reporter: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    plan: Option<Plan>,
    next: Option<Standing>,
    current: Option<Standing>,
    old: Option<Standing>,
    pace: Pace,
    lifetimes: Vec<Lifetimes>,
    /// Since when every attempt has failed, if the last one did.
    failing: Option<Instant>,
    /// Whether another link of this process has been found at the same master: two of its addresses are in the list, and links of them have to
    /// stand beside each other.
    shares: bool,
}

impl<R: LinkedRole, W: Way> Succession<R, W> {
    pub(super) fn new(uplink: Uplink<W>, role: Arc<R>) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS);
        let masters = uplink.dialers.len();
        Succession {
            uplink: Arc::new(uplink),
            role,
            tasks: JoinSet::new(),
            reporter,
            reports,
            plan: Some(Plan { at: Instant::now(), master: 0, why: Why::Linkless }),
            next: None,
            current: None,
            old: None,
            pace: Pace::new(masters),
            lifetimes: (0..masters).map(|_| Lifetimes::default()).collect(),
            failing: None,
            shares: false,
        }
    }

    /// Keeps links until `cancel` is cancelled; those that stand are then closed in order.
    pub(super) async fn run(mut self, cancel: &CancellationToken) {
        if self.uplink.dialers.is_empty() {
            return;
        }
        loop {
            match self.event(cancel).await {
                Event::Cancelled => break,
                Event::Reported((epoch, News::Joined)) => self.joined(epoch),
                Event::Reported((epoch, News::GoAway(notice))) => self.asked_to_go(epoch, notice),
                Event::Ended(ended) => {
                    let (epoch, outcome) = unpanicked(ended);
                    self.ended(epoch, outcome);
                }
                Event::Due => self.begin(cancel),
                Event::Vacated => self.close_old(),
                Event::Rotate => self.rotate(),
                Event::MoveOn => self.move_on(),
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            unpanicked(ended);
        }
    }

    async fn event(&mut self, cancel: &CancellationToken) -> Event {
        let due = self.plan.as_ref().filter(|_| self.next.is_none() && !self.is_crowded()).map(|plan| plan.at);
        let replace_at = self.current.as_ref().and_then(|current| current.replace_at);
        let server = self.uplink.role == Role::Server;
        tokio::select! {
            biased;
            () = cancel.cancelled() => Event::Cancelled,
            // Before the ends: what a link reported comes before its end.
            Some(report) = self.reports.recv() => Event::Reported(report),
            Some(ended) = self.tasks.join_next() => Event::Ended(ended),
            () = reached(due) => Event::Due,
            () = vacated(self.old.as_ref(), server) => Event::Vacated,
            () = reached(replace_at) => Event::Rotate,
            () = self.uplink.mover.asked() => Event::MoveOn,
        }
    }

    /// Whether two links stand: there is no place for another.
    fn is_crowded(&self) -> bool {
        self.current.is_some() && self.old.is_some()
    }

    fn begin(&mut self, cancel: &CancellationToken) {
        let Some(Plan { master, why, .. }) = self.plan.take() else { return };
        let Some(way) = self.uplink.dialers.get(master) else { return };
        let epoch = next_epoch();
        let beside = [&self.current, &self.old].into_iter().flatten().any(|standing| standing.master == master);
        let standing = Standing {
            epoch,
            master,
            why,
            outbox: Outbox::new(),
            cancel: cancel.child_token(),
            since: Instant::now(),
            replace_at: None,
            retired: None,
            going: false,
        };
        let attempt = Attempt {
            uplink: Arc::clone(&self.uplink),
            role: Arc::clone(&self.role),
            outbox: Arc::clone(&standing.outbox),
            master,
            epoch,
            moves: beside || self.shares,
            timing: self.timing(master),
            reports: self.reporter.clone(),
        };
        let running = attempt.run(standing.cancel.clone());
        let span = info_span!("link", number = epoch, master = %way.name());
        self.tasks.spawn(async move { (epoch, running.await) }.instrument(span));
        self.next = Some(standing);
    }

    fn timing(&self, master: usize) -> Timing {
        let timing = self.uplink.timing;
        let learned = self.lifetimes.get(master).and_then(Lifetimes::heartbeat);
        Timing { interval: learned.map_or(timing.interval, |learned| learned.min(timing.interval)), ..timing }
    }

    /// The next link stands.
    fn joined(&mut self, epoch: u64) {
        let Some(mut link) = self.next.take_if(|next| next.epoch == epoch) else { return };
        self.failing = None;
        let took_ms = link.since.elapsed().as_millis() as u64;
        link.since = Instant::now();
        link.replace_at = self.replace_after(link.master).map(|age| link.since + age);
        let (master, why) = (self.name(link.master), link.why.clone());
        self.role.told(LinkNews::Joined { master: &master });
        match self.current.replace(link) {
            None => info!(%master, number = epoch, took_ms, "linked to the master"),
            Some(old) => {
                info!(%master, number = epoch, took_ms, %why, "moved to a new link");
                self.retire(old);
            }
        }
    }

    fn retire(&mut self, mut old: Standing) {
        let lived = old.since.elapsed();
        self.learn(old.master, |lifetimes| lifetimes.lived(lived));
        old.retired = Some(Instant::now());
        self.role.retiring(&old.outbox);
        debug_assert!(self.old.is_none(), "never more than two links");
        self.old = Some(old);
    }

    fn replace_after(&mut self, master: usize) -> Option<Duration> {
        let learned = self.lifetimes.get_mut(master).and_then(|lifetimes| lifetimes.replace_after(fastrand::f64()));
        learned.into_iter().chain(self.uplink.rotate_after).min()
    }

    fn asked_to_go(&mut self, epoch: u64, notice: Notice) {
        let Some(current) = self.current.as_mut().filter(|current| current.epoch == epoch) else { return };
        info!(number = epoch, "the master asks to move to another link: {notice}");
        current.going = true;
        if self.next.is_none() && self.plan.is_none() {
            let next = self.pace.ended(current.master, current.since.elapsed());
            self.plan_move(next, Why::GoAway(notice));
        }
    }

    fn rotate(&mut self) {
        let Some(current) = &mut self.current else { return };
        current.replace_at = None;
        if self.next.is_none() && self.plan.is_none() {
            let next = Next { master: current.master, wait: Duration::ZERO };
            self.plan_move(next, Why::Rotation);
        }
    }

    fn move_on(&mut self) {
        let Some(current) = self.current.as_ref().filter(|_| self.next.is_none() && self.plan.is_none()) else { return };
        if self.uplink.dialers.len() > 1 {
            let next = self.pace.moves_on(current.master, current.since.elapsed());
            self.plan_move(next, Why::MoveOn);
        }
    }

    fn plan_move(&mut self, next: Next, why: Why) {
        let must_go = matches!(why, Why::GoAway(_));
        self.plan = Some(Plan { at: Instant::now() + next.wait, master: next.master, why });
        if must_go && self.is_crowded() {
            // What has not moved off the old one by now is resumed. A move of our own choice waits for that.
            self.close_old();
        }
    }

    fn close_old(&mut self) {
        let Some(old) = &self.old else { return };
        debug!(number = old.epoch, channels = old.outbox.len(), "the old link is closed");
        old.cancel.cancel();
    }

    fn ended(&mut self, epoch: u64, outcome: Outcome) {
        if let Some(next) = self.next.take_if(|next| next.epoch == epoch) {
            self.failed(next, outcome);
        } else if let Some(current) = self.current.take_if(|current| current.epoch == epoch) {
            self.lost(current, outcome);
        } else if self.old.take_if(|old| old.epoch == epoch).is_some()
            && let Outcome::Link { why, .. } = outcome
        {
            debug!(number = epoch, "the old link ended: {why}");
        }
    }

    /// An attempt came to nothing; the present link, if there is one, stays in use.
    fn failed(&mut self, next: Standing, outcome: Outcome) {
        let retryable = match &outcome {
            Outcome::Join(error) => error.is_retryable(),
            _ => true,
        };
        let failing = self.failing.get_or_insert_with(Instant::now).elapsed();
        let failed = self.name(next.master);
        let Next { master, wait } = self.pace.failed(next.master, retryable, failing);
        log_failure(&failed, &outcome, wait);
        if let Some(why) = told(&outcome) {
            self.role.told(LinkNews::Failed { master: &failed, why });
        }
        self.plan = Some(Plan { at: Instant::now() + wait, master, why: next.why });
    }

    /// The link in use has ended.
    fn lost(&mut self, current: Standing, outcome: Outcome) {
        let Outcome::Link { why, lived, idle } = outcome else { return };
        let by_the_path = !current.going && matches!(why, LinkEnd::Lost(_) | LinkEnd::PeerClosed);
        self.learn(current.master, |lifetimes| if by_the_path { lifetimes.cut(lived, idle) } else { lifetimes.lived(lived) });
        let superseded = matches!(&why, LinkEnd::PeerError(notice) if notice.code == Code::Superseded);
        if superseded && !std::mem::replace(&mut self.shares, true) {
            warn!("another link of this process is at the same master; are two of its addresses in `master`?");
        }
        let Next { master, wait } = self.pace.ended(current.master, lived);
        let (retry_ms, lived_s) = (wait.as_millis() as u64, lived.as_secs());
        warn!(master = %self.name(current.master), number = current.epoch, retry_ms, lived_s, "the link was lost: {why}");
        if let Some(next) = &mut self.next {
            next.why = Why::Linkless;
        } else {
            self.plan = Some(Plan { at: Instant::now() + wait, master, why: Why::Linkless });
        }
    }

    fn learn(&mut self, master: usize, from: impl FnOnce(&mut Lifetimes) -> Option<Lesson>) {
        if let Some(lesson) = self.lifetimes.get_mut(master).and_then(from) {
            info!(master = %self.name(master), "{lesson}");
        }
    }

    fn name(&self, master: usize) -> String {
        self.uplink.dialers.get(master).map(Way::name).unwrap_or_default()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Linkless => formatter.write_str("there was none"),
            Why::GoAway(notice) => write!(formatter, "the master asked for it ({notice})"),
            Why::Rotation => formatter.write_str("the one before is old"),
            Why::MoveOn => formatter.write_str("another master is wanted"),
        }
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// The old link is of no use any more, and has not been told to close.
async fn vacated(old: Option<&Standing>, server: bool) {
    match old {
        Some(Standing { retired: Some(retired), outbox, cancel, .. }) if !cancel.is_cancelled() => {
            if server {
                sleep_until(*retired + LINGER).await;
            }
            let _ = timeout_at(*retired + RETIREMENT, outbox.vacant()).await;
        }
        _ => pending().await,
    }
}

fn unpanicked(ended: Result<(u64, Outcome), TaskError>) -> (u64, Outcome) {
    match ended.map_err(TaskError::try_into_panic) {
        Ok(ended) => ended,
        Err(Ok(panic)) => resume_unwind(panic),
        // Nobody aborts a task of the set while it is waited for.
        Err(Err(_)) => (0, Outcome::Cancelled),
    }
}

/// Why an attempt came to nothing.
fn told(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Dial(error) => Some(error.to_string()),
        Outcome::Join(error) => Some(error.to_string()),
        Outcome::Link { .. } | Outcome::Cancelled => None,
    }
}

fn log_failure(master: &str, outcome: &Outcome, wait: Duration) {
    let retry_ms = wait.as_millis() as u64;
    match outcome {
        Outcome::Dial(error) => warn!(%master, retry_ms, "cannot reach the master: {error}"),
        Outcome::Join(error) if error.is_retryable() => warn!(%master, retry_ms, "cannot join the master: {error}"),
        Outcome::Join(error) => error!(%master, retry_ms, "cannot join the master: {error}"),
        Outcome::Link { why, .. } => warn!(%master, retry_ms, "the link was lost: {why}"),
        Outcome::Cancelled => debug!(%master, "the link was closed"),
    }
}
