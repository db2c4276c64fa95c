//! Which links of an uplink stand, and which follows: at most two at a time, the newest of which is the one in use. Where masters are raced, attempts
//! at several of them may run for the place of the next one.
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

use std::{future::pending, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError as TaskError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    Choice, LinkNews, LinkedRole, Uplink, Way,
    attempt::{Attempt, News, Outcome, Report},
    black_hole::{BlackHole, EVIDENCE},
    lifetimes::{Lesson, Lifetimes},
    next_epoch,
    pace::{Next, Pace},
    race::{Race, STAGGER},
    standing::{Plan, Standing, vacated},
    why::{Why, log_failure, told},
};
use crate::{
    frame::{Code, Notice, Role},
    link::{
        LinkEnd, Outbox, Timing,
        tcp::{self, BLACK_HOLE_CAUSE as CAUSE, BLACK_HOLE_REMEDY as REMEDY},
    },
};

/// Reports that wait: two of each link, of which the next one, the present one and the old one run. Of attempts that race, one reports.
const REPORTS: usize = 8;

/// When a link that is due to be replaced is looked at again, if another one is being made for another reason.
const ROTATE_AGAIN: Duration = Duration::from_secs(1);

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
    /// Attempts under way: one, or several that race.
    next: Vec<Standing>,
    race: Arc<Race>,
    current: Option<Standing>,
    old: Option<Standing>,
    pace: Pace,
    lifetimes: Vec<Lifetimes>,
    black_holes: Vec<BlackHole>,
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
            plan: Some(Plan {
                at: Instant::now(),
                master: 0,
                why: Why::Linkless,
            }),
            next: Vec::new(),
            race: Arc::default(),
            current: None,
            old: None,
            pace: Pace::new(masters),
            lifetimes: (0..masters).map(|_| Lifetimes::default()).collect(),
            black_holes: vec![BlackHole::default(); masters],
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
        let due = self
            .plan
            .as_ref()
            .filter(|_| !self.is_crowded())
            .map(|plan| plan.at);
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
            () = self.uplink.mover.asked_to_renew() => Event::Rotate,
            () = self.uplink.mover.asked() => Event::MoveOn,
        }
    }

    /// Whether two links stand: there is no place for another.
    fn is_crowded(&self) -> bool {
        self.current.is_some() && self.old.is_some()
    }

    fn begin(&mut self, cancel: &CancellationToken) {
        let Some(Plan { master, why, .. }) = self.plan.take() else {
            return;
        };
        let Some(way) = self.uplink.dialers.get(master) else {
            return;
        };
        if self.next.is_empty() {
            self.race = Arc::default();
        }
        let epoch = next_epoch();
        let beside = [&self.current, &self.old]
            .into_iter()
            .flatten()
            .any(|standing| standing.master == master);
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
            race: Arc::clone(&self.race),
            timing: self.timing(master),
            reports: self.reporter.clone(),
        };
        let running = attempt.run(standing.cancel.clone());
        let span = info_span!("link", number = epoch, master = %way.name());
        self.tasks
            .spawn(async move { (epoch, running.await) }.instrument(span));
        self.next.push(standing);
        self.plan_rival(STAGGER);
    }

    /// Where masters are raced, plans the next one of them beside those that are being dialled, not before so long. A link that is replaced for
    /// its age alone stays with its master.
    fn plan_rival(&mut self, after: Duration) {
        let is_raced = self.uplink.choice == Choice::Raced;
        let Some(last) = self
            .next
            .last()
            .filter(|last| is_raced && !matches!(last.why, Why::Rotation))
        else {
            return;
        };
        let (now, why) = (Instant::now(), last.why.clone());
        let rival = self
            .pace
            .next(now, last.master, &|master| self.is_taken(master, &why));
        self.plan = rival.map(|Next { master, wait }| Plan {
            at: now + wait.max(after),
            master,
            why,
        });
    }

    /// Whether an attempt for that reason has no use at this master.
    fn is_taken(&self, master: usize, why: &Why) -> bool {
        let is_left = matches!(why, Why::MoveOn)
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.master == master);
        is_left || self.next.iter().any(|next| next.master == master)
    }

    fn timing(&self, master: usize) -> Timing {
        let timing = self.uplink.timing;
        let learned = self.lifetimes.get(master).and_then(Lifetimes::heartbeat);
        Timing {
            interval: learned.map_or(timing.interval, |learned| learned.min(timing.interval)),
            ..timing
        }
    }

    /// The next link stands.
    fn joined(&mut self, epoch: u64) {
        let Some(mut link) = self.take_next(epoch) else {
            return;
        };
        self.plan = None;
        self.next
            .drain(..)
            .for_each(|beaten| beaten.cancel.cancel());
        self.failing = None;
        self.pace.joined(link.master);
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

    /// One of the attempts that are under way, which is not any more.
    fn take_next(&mut self, epoch: u64) -> Option<Standing> {
        let position = self.next.iter().position(|next| next.epoch == epoch)?;
        Some(self.next.remove(position))
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
        let learned = self
            .lifetimes
            .get_mut(master)
            .and_then(|lifetimes| lifetimes.replace_after(fastrand::f64()));
        learned.into_iter().chain(self.uplink.rotate_after).min()
    }

    fn asked_to_go(&mut self, epoch: u64, notice: Notice) {
        let Some(current) = self
            .current
            .as_mut()
            .filter(|current| current.epoch == epoch)
        else {
            return;
        };
        info!(
            number = epoch,
            "the master asks to move to another link: {notice}"
        );
        current.going = true;
        if self.next.is_empty() {
            let next = self
                .pace
                .ended(Instant::now(), current.master, current.since.elapsed());
            return self.plan_move(next, Why::GoAway(notice));
        }
        self.next
            .iter_mut()
            .for_each(|next| next.why = Why::GoAway(notice.clone()));
        self.plan_rival(STAGGER);
    }

    fn rotate(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let is_free = self.next.is_empty() && self.plan.is_none();
        current.replace_at = (!is_free).then(|| Instant::now() + ROTATE_AGAIN);
        if is_free {
            let next = Next {
                master: current.master,
                wait: Duration::ZERO,
            };
            self.plan_move(next, Why::Rotation);
        }
    }

    fn move_on(&mut self) {
        let Some(current) = self
            .current
            .as_ref()
            .filter(|_| self.next.is_empty() && self.plan.is_none())
        else {
            return;
        };
        let other = self.pace.next(Instant::now(), current.master, &|master| {
            self.is_taken(master, &Why::MoveOn)
        });
        if let Some(next) = other {
            self.plan_move(next, Why::MoveOn);
        }
    }

    fn plan_move(&mut self, next: Next, why: Why) {
        let must_go = matches!(why, Why::GoAway(_));
        self.plan = Some(Plan {
            at: Instant::now() + next.wait,
            master: next.master,
            why,
        });
        if must_go && self.is_crowded() {
            // What has not moved off the old one by now is resumed. A move of our own choice waits for that.
            self.close_old();
        }
    }

    fn close_old(&mut self) {
        let Some(old) = &self.old else { return };
        debug!(
            number = old.epoch,
            channels = old.outbox.len(),
            "the old link is closed"
        );
        old.cancel.cancel();
    }

    fn ended(&mut self, epoch: u64, outcome: Outcome) {
        if let Some(next) = self.take_next(epoch) {
            // What another attempt has beaten did not fail. That one may not have reported yet.
            if !matches!(outcome, Outcome::Cancelled) {
                self.failed(next, outcome);
            }
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
        let now = Instant::now();
        let linkless = now - *self.failing.get_or_insert(now);
        let failed = self.name(next.master);
        let rests = self.pace.failed(now, next.master, retryable, linkless);
        log_failure(&failed, &outcome, rests);
        if let Some(why) = told(&outcome) {
            self.role.told(LinkNews::Failed {
                master: &failed,
                why,
            });
        }
        if self.next.is_empty() {
            self.plan_after(next.master, next.why)
        } else {
            self.plan_rival(Duration::ZERO)
        }
    }

    /// Plans the attempt that follows a failed one, when no other is under way.
    fn plan_after(&mut self, master: usize, why: Why) {
        let now = Instant::now();
        let next = self
            .pace
            .next(now, master, &|master| self.is_taken(master, &why));
        // A role that misses others at a master that works asks again; meanwhile it is not kept from anything else.
        let is_ready = next.is_some_and(|next| !self.pace.rests(now, next.master));
        self.plan = next
            .filter(|_| is_ready || !matches!(why, Why::MoveOn))
            .map(|Next { master, wait }| Plan {
                at: now + wait,
                master,
                why,
            });
    }

    /// The link in use has ended.
    fn lost(&mut self, current: Standing, outcome: Outcome) {
        let Outcome::Link {
            why,
            lived,
            idle,
            is_stuck,
        } = outcome
        else {
            return;
        };
        self.look_for_a_black_hole(current.master, lived, is_stuck);
        let by_the_path =
            !current.going && !is_stuck && matches!(why, LinkEnd::Lost(_) | LinkEnd::PeerClosed);
        self.learn(current.master, |lifetimes| {
            if by_the_path {
                lifetimes.cut(lived, idle)
            } else {
                lifetimes.lived(lived)
            }
        });
        let superseded =
            matches!(&why, LinkEnd::PeerError(notice) if notice.code == Code::Superseded);
        if superseded && !std::mem::replace(&mut self.shares, true) {
            warn!(
                "another link of this process is at the same master; are two of its addresses in `master`?"
            );
        }
        let Next { master, wait } = self.pace.ended(Instant::now(), current.master, lived);
        let (retry_ms, lived_s) = (wait.as_millis() as u64, lived.as_secs());
        warn!(master = %self.name(current.master), number = current.epoch, retry_ms, lived_s, "the link was lost: {why}");
        if self.next.is_empty() {
            self.plan = Some(Plan {
                at: Instant::now() + wait,
                master,
                why: Why::Linkless,
            });
        } else {
            self.next
                .iter_mut()
                .for_each(|next| next.why = Why::Linkless);
            self.plan_rival(Duration::ZERO);
        }
    }

    fn look_for_a_black_hole(&mut self, master: usize, lived: Duration, is_stuck: bool) {
        let is_found = self
            .black_holes
            .get_mut(master)
            .is_some_and(|path| path.ended(lived, is_stuck));
        if let Some(way) = self.uplink.dialers.get(master).filter(|_| is_found) {
            way.use_small_segments();
            warn!(
                master = %way.name(),
                "{EVIDENCE}: {CAUSE}; links use segments of {} bytes from now on; {REMEDY}",
                tcp::SMALL_SEGMENT
            );
        }
    }

    fn learn(&mut self, master: usize, from: impl FnOnce(&mut Lifetimes) -> Option<Lesson>) {
        if let Some(lesson) = self.lifetimes.get_mut(master).and_then(from) {
            info!(master = %self.name(master), "{lesson}");
        }
    }

    fn name(&self, master: usize) -> String {
        self.uplink
            .dialers
            .get(master)
            .map(Way::name)
            .unwrap_or_default()
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
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
