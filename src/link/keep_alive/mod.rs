//! Decides when a link sends PING and when a silent peer ends it (PROTOCOL 6.1, 6.2).
//!
//! ```text
//!  idle:        no message sent for `interval` ──► PING ──► PONG
//!  one sender:  DATA ──► received by a peer with no data to send ──`answer_delay`──► PING ──► PONG
//!                 └─── nothing received for `answer_timeout` ──► TimedOut
//! ```
//!
//! A received PING or PONG may have crossed the latest data on the wire, so it does not confirm
//! that data. If only PING and PONG arrive after data was sent, this end sends a PING behind the
//! data. The PONG to that PING confirms everything sent before it.
//!
//! After a system suspend the peer may have dropped the link. Only an answer to a new PING proves
//! the link alive:
//!
//! ```text
//!  suspend of `SUSPEND_MIN` or more ──► PING at once ──PONG──► normal operation
//!                                         └──nothing received for `WAKE_TIMEOUT`──► TimedOut
//! ```
//!
//! The state machine is pure: time is an argument, and no method waits.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

/// The intervals and timeouts of a link's keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAliveTiming {
    /// Sends a PING after this long without a sent message.
    pub interval: Duration,
    /// Ends the link after this long without a received message.
    pub timeout: Duration,
    /// Sends a PING this long after a received message if there is nothing else to send. The PING
    /// tells the peer that its message arrived.
    pub answer_delay: Duration,
    /// Ends the link if nothing arrives for this long after a message that requires an answer.
    pub answer_timeout: Duration,
}

impl Default for KeepAliveTiming {
    /// The values of PROTOCOL 12: PING every 20 s, which is below all common idle limits; a timeout
    /// of 45 s, which allows two keep-alives and a slow path; 2 s and 10 s while data is in flight.
    fn default() -> Self {
        KeepAliveTiming {
            interval: Duration::from_secs(20),
            timeout: Duration::from_secs(45),
            answer_delay: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// The longest quiet period that a master grants to a role: twice the longest idle limit worth
/// measuring (PROTOCOL 12, `QUIET_MAX`).
const QUIET_MAX: Duration = Duration::from_secs(600);

/// A link times out after two keep-alive intervals plus this margin for slow paths. The protocol's
/// 45 s is the minimum.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

impl KeepAliveTiming {
    /// Returns the timing of a link with this keep-alive interval.
    #[must_use]
    pub fn for_interval(interval: Duration) -> Self {
        let default = KeepAliveTiming::default();
        let timeout = interval.saturating_mul(2).saturating_add(TIMEOUT_MARGIN);
        KeepAliveTiming {
            interval,
            timeout: timeout.max(default.timeout),
            ..default
        }
    }

    /// Returns the timing of a master whose role asked it to stay quiet for `seconds`. The master
    /// sends nothing unprompted in that period, and waits longer for the role by the same period.
    #[must_use]
    pub fn with_quiet_period(self, seconds: u32) -> Self {
        let quiet = Duration::from_secs(u64::from(seconds)).min(QUIET_MAX);
        KeepAliveTiming {
            interval: self.interval.max(quiet),
            timeout: self.timeout.saturating_add(quiet),
            answer_delay: self.answer_delay.max(quiet),
            ..self
        }
    }

    /// Returns the timing of a role whose master asked for a keep-alive every `seconds`. The
    /// interval never becomes longer than the configured one.
    #[must_use]
    pub fn with_requested_interval(self, seconds: u32) -> Self {
        let requested = Duration::from_secs(u64::from(seconds.max(1)));
        KeepAliveTiming {
            interval: self.interval.min(requested),
            ..self
        }
    }
}

/// The shortest suspend that triggers a check of the link. The other timeouts cover shorter ones,
/// and clock adjustments stay below it.
const SUSPEND_MIN: Duration = Duration::from_secs(5);

/// Ends the link if nothing arrives for this long after a suspend. A network that is up again
/// answers within it.
const WAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// The next action of the keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeepAliveAction {
    /// Do nothing before this instant unless a message is sent or received.
    Wait(Instant),
    /// Send a PING, then poll again.
    SendPing,
    /// End the link: the peer was silent for too long.
    TimedOut,
}

/// The most demanding kind of message in a batch that was passed to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SentKind {
    /// Requires no answer.
    Pong,
    /// Requires a PONG.
    Ping,
    /// Requires a sign that it arrived.
    Payload,
}

/// The keep-alive state of one link.
#[derive(Debug)]
pub(super) struct KeepAlive {
    timing: KeepAliveTiming,
    last_sent: Instant,
    last_received: Instant,
    /// When a message other than PING and PONG arrived, if nothing was sent since.
    reply_due_since: Option<Instant>,
    /// When a message other than PONG was sent, if nothing was received since.
    awaiting_reply_since: Option<Instant>,
    /// When a message other than PING and PONG was sent, if only PING and PONG arrived since and no
    /// PING followed it.
    unconfirmed_since: Option<Instant>,
    /// Whether the latest PING has no PONG yet.
    ping_outstanding: bool,
    /// The machine's total suspended time at the last reading of the clocks.
    suspended: Duration,
    /// When the check after a suspend began, and whether its PING was sent.
    suspend_check: Option<(Instant, bool)>,
}

impl KeepAlive {
    pub(super) fn new(timing: KeepAliveTiming, now: Instant, suspended: Duration) -> Self {
        let (last_sent, last_received) = (now, now);
        KeepAlive {
            timing,
            last_sent,
            last_received,
            reply_due_since: None,
            awaiting_reply_since: None,
            unconfirmed_since: None,
            ping_outstanding: false,
            suspended,
            suspend_check: None,
        }
    }

    /// Records the machine's total suspended time. Returns the length of a suspend that requires a
    /// check of the link.
    ///
    /// Call it before [`on_received`](Self::on_received): unread data may have arrived before the
    /// suspend.
    pub(super) fn on_clock(&mut self, now: Instant, suspended: Duration) -> Option<Duration> {
        let slept = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        if slept < SUSPEND_MIN {
            return None;
        }
        self.suspend_check = Some((now, false));
        Some(slept)
    }

    /// Records that messages were passed to the socket.
    pub(super) fn on_sent(&mut self, now: Instant, sent: SentKind) {
        self.last_sent = now;
        // Any message tells the peer that its data arrived.
        self.reply_due_since = None;
        if sent > SentKind::Pong {
            self.on_blocked(now);
        }
        if sent > SentKind::Ping {
            self.unconfirmed_since.get_or_insert(now);
        }
    }

    /// Records that the socket does not accept a message that is ready to be sent.
    pub(super) fn on_blocked(&mut self, now: Instant) {
        // A blocked socket counts as sent data: a peer that stops reading must time out as well.
        self.awaiting_reply_since.get_or_insert(now);
    }

    /// Records that part of a message arrived. `other` is false if all of it was PING and PONG.
    pub(super) fn on_received(&mut self, now: Instant, other: bool) {
        self.last_received = now;
        // The peer is alive, but an outstanding PING still requires its PONG: the answer timeout
        // starts again.
        self.awaiting_reply_since = self.ping_outstanding.then_some(now);
        if let Some((since, _)) = &mut self.suspend_check {
            *since = now;
        }
        if other {
            self.reply_due_since.get_or_insert(now);
            self.unconfirmed_since = None;
        }
    }

    /// Records the PONG to the latest PING.
    pub(super) fn on_pong(&mut self) {
        self.ping_outstanding = false;
        // A PONG that arrived before the suspend may be read after it, so it only counts once the
        // new PING was sent.
        self.suspend_check.take_if(|(_, is_pinged)| *is_pinged);
    }

    /// Returns for how long nothing was sent or received.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_sent.max(self.last_received))
    }

    /// Returns for how long an answer has been outstanding.
    pub(super) fn reply_wait(&self, now: Instant) -> Duration {
        self.awaiting_reply_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns for how long nothing was received.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_received)
    }

    /// Returns the next action. Records a PING as sent when it returns
    /// [`KeepAliveAction::SendPing`].
    pub(super) fn poll(&mut self, now: Instant) -> KeepAliveAction {
        let KeepAliveTiming {
            interval,
            timeout,
            answer_delay,
            answer_timeout,
        } = self.timing;
        let earlier =
            |then: Instant, other: Option<Instant>| other.map_or(then, |other| then.min(other));
        let end_at = earlier(
            self.last_received + timeout,
            self.awaiting_reply_since
                .map(|since| since + answer_timeout),
        );
        let end_at = earlier(
            end_at,
            self.suspend_check
                .map(|(since, _)| since + WAKE_TIMEOUT.min(answer_timeout)),
        );
        // An outstanding PING already covers the unconfirmed data: its PONG confirms both.
        let unconfirmed_since = self.unconfirmed_since.filter(|_| !self.ping_outstanding);
        let ping_at = [self.reply_due_since, unconfirmed_since]
            .into_iter()
            .flatten()
            .map(|since| since + answer_delay)
            .min();
        let ping_at = earlier(self.last_sent + interval, ping_at);
        let must_check = self.suspend_check.is_some_and(|(_, is_pinged)| !is_pinged);
        if now >= end_at {
            KeepAliveAction::TimedOut
        } else if now >= ping_at || must_check {
            self.suspend_check = self.suspend_check.map(|(since, _)| (since, true));
            self.on_sent(now, SentKind::Ping);
            // The PONG will confirm the data before this PING.
            self.unconfirmed_since = None;
            self.ping_outstanding = true;
            KeepAliveAction::SendPing
        } else {
            KeepAliveAction::Wait(end_at.min(ping_at))
        }
    }
}
