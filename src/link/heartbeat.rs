//! When a link must say something, and when its peer has been silent for too long (PROTOCOL 6.1, 6.2).
//!
//! ```text
//!  at rest:   each sends PING after `interval` without anything sent; PONG answers; nothing else
//!  one sends: DATA ──► heard by the other, who has nothing to say ──`answer_delay`──► PING ──► PONG
//!               └─── nothing heard for `answer_timeout` ──► Silent
//! ```
//! What was said last, and answered by nothing but PING and PONG that may have crossed it, is asked after with a PING behind it: when its PONG
//! has come, everything has.
//!
//! After a sleep of the machine the peer may have given the link up, and only its answer to a PING shows that it has not:
//!
//! ```text
//!  sleep of `SLEEP_MIN` or more ──► PING at once ──PONG──► as before
//!                                     └──nothing received for `WAKE_TIMEOUT`──► Silent
//! ```
//!
//! Time is an argument; nothing here waits.

use std::time::Duration;

use tokio::time::Instant;

/// The durations of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After this long without having sent anything, a PING goes out.
    pub interval: Duration,
    /// After this long without having received anything, the link ends.
    pub timeout: Duration,
    /// So long after it has received something, an end that has nothing to send sends PING, so that the other hears that it arrives.
    pub answer_delay: Duration,
    /// After this long without having received anything since it sent something that is heard of, the link ends.
    pub answer_timeout: Duration,
}

impl Default for Timing {
    /// A PING each 20 s, under every idle limit in use; 45 s of silence, two heartbeats and a slow path; 2 s and 10 s while something is sent
    /// (PROTOCOL 12).
    fn default() -> Self {
        Timing {
            interval: Duration::from_secs(20),
            timeout: Duration::from_secs(45),
            answer_delay: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// For no longer does a master stay silent because a role asks it to: twice the longest idle limit that is worth knowing (PROTOCOL 12, `QUIET_MAX`).
const QUIET_MAX: Duration = Duration::from_secs(600);

impl Timing {
    /// What a master does when a role asks it to say nothing by itself for so many seconds: nothing, and it waits as much longer for the role.
    #[must_use]
    pub fn quiet(self, seconds: u32) -> Self {
        let silence = Duration::from_secs(u64::from(seconds)).min(QUIET_MAX);
        Timing {
            interval: self.interval.max(silence),
            timeout: self.timeout.saturating_add(silence),
            answer_delay: self.answer_delay.max(silence),
            ..self
        }
    }

    /// What a role does when the master asks for a heartbeat each `seconds`: never less often than it would by itself.
    #[must_use]
    pub fn asked(self, seconds: u32) -> Self {
        let asked = Duration::from_secs(u64::from(seconds.max(1)));
        Timing {
            interval: self.interval.min(asked),
            ..self
        }
    }
}

/// A sleep that is shorter is bridged by the other timeouts; clocks that are adjusted differ by less.
const SLEEP_MIN: Duration = Duration::from_secs(5);

/// After this long without having received anything after a sleep, the link ends: a network that is up again answers within it.
const WAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing before this instant, unless something is sent or received.
    Wait(Instant),
    /// A PING is to be sent; ask again.
    Ping,
    /// The peer has been silent for too long.
    Silent,
}

/// What was handed to the socket: the most that was among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    /// Asks for nothing.
    Pong,
    /// Asks for a PONG.
    Ping,
    /// Asks to be heard of.
    Other,
}

/// The heartbeat of one link.
#[derive(Debug)]
pub(super) struct Heartbeat {
    timing: Timing,
    sent: Instant,
    received: Instant,
    /// Since when something other than PING and PONG has been received, and nothing sent.
    owes: Option<Instant>,
    /// Since when something other than PONG has been sent, and nothing received.
    asked: Option<Instant>,
    /// Since when something other than PING and PONG has been sent, nothing other than these received, and no PING sent after it.
    unproven: Option<Instant>,
    /// Whether the last PING has not been answered.
    pinged: bool,
    /// For how long the machine had been suspended in total when it was last looked at.
    suspended: Duration,
    /// Since when a sleep puts the link in doubt, and whether the PING that asks has been sent.
    doubt: Option<(Instant, bool)>,
}

impl Heartbeat {
    pub(super) fn new(timing: Timing, now: Instant, suspended: Duration) -> Self {
        let (sent, received) = (now, now);
        Heartbeat {
            timing,
            sent,
            received,
            owes: None,
            asked: None,
            unproven: None,
            pinged: false,
            suspended,
            doubt: None,
        }
    }

    /// The machine has been suspended for so long in total. Returns the length of the sleep when it puts the link in doubt. To be called before
    /// what has been received since is told: that may have come before the sleep.
    pub(super) fn look(&mut self, now: Instant, suspended: Duration) -> Option<Duration> {
        let slept = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        if slept < SLEEP_MIN {
            return None;
        }
        self.doubt = Some((now, false));
        Some(slept)
    }

    /// Something was handed to the socket.
    pub(super) fn sent(&mut self, now: Instant, said: Said) {
        self.sent = now;
        self.owes = None;
        if said > Said::Pong {
            self.wanted(now);
        }
        if said > Said::Ping {
            self.unproven.get_or_insert(now);
        }
    }

    /// There is something to send, and the socket does not take it.
    pub(super) fn wanted(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// Something of a message came; `other` unless all of it was PING and PONG.
    pub(super) fn received(&mut self, now: Instant, other: bool) {
        self.received = now;
        self.asked = self.pinged.then_some(now);
        if let Some((since, _)) = &mut self.doubt {
            *since = now;
        }
        if other {
            self.owes.get_or_insert(now);
            self.unproven = None;
        }
    }

    /// The last PING has been answered.
    pub(super) fn ponged(&mut self) {
        self.pinged = false;
        // A PONG from before the sleep may be read after it.
        self.doubt.take_if(|(_, is_pinged)| *is_pinged);
    }

    /// For how long nothing has been sent or received.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent.max(self.received))
    }

    /// For how long an answer has been waited for.
    pub(super) fn waiting(&self, now: Instant) -> Duration {
        self.asked
            .map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }

    /// For how long nothing has been received.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received)
    }

    /// What is due now. A [`Beat::Ping`] counts as sent.
    pub(super) fn due(&mut self, now: Instant) -> Beat {
        let Timing {
            interval,
            timeout,
            answer_delay,
            answer_timeout,
        } = self.timing;
        let nearer =
            |then: Instant, other: Option<Instant>| other.map_or(then, |other| then.min(other));
        let silent = nearer(
            self.received + timeout,
            self.asked.map(|asked| asked + answer_timeout),
        );
        let silent = nearer(
            silent,
            self.doubt
                .map(|(since, _)| since + WAKE_TIMEOUT.min(answer_timeout)),
        );
        let unproven = self.unproven.filter(|_| !self.pinged);
        let quiet = [self.owes, unproven]
            .into_iter()
            .flatten()
            .map(|since| since + answer_delay)
            .min();
        let quiet = nearer(self.sent + interval, quiet);
        let has_woken = self.doubt.is_some_and(|(_, is_pinged)| !is_pinged);
        if now >= silent {
            Beat::Silent
        } else if now >= quiet || has_woken {
            self.doubt = self.doubt.map(|(since, _)| (since, true));
            self.sent(now, Said::Ping);
            self.unproven = None;
            self.pinged = true;
            Beat::Ping
        } else {
            Beat::Wait(silent.min(quiet))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(20),
        timeout: Duration::from_secs(45),
        answer_delay: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(10),
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// Time in suspend before the link began.
    const AWAKE: Duration = Duration::from_secs(1000);

    fn fresh() -> (Heartbeat, Instant) {
        let start = Instant::now();
        (Heartbeat::new(TIMING, start, AWAKE), start)
    }

    #[test]
    fn a_quiet_end_pings_once_in_each_interval() {
        let (mut heartbeat, start) = fresh();
        assert_eq!(heartbeat.due(start), Beat::Wait(start + TIMING.interval));
        let later = start + TIMING.interval;
        assert_eq!(heartbeat.due(later), Beat::Ping);
        heartbeat.sent(later, Said::Ping);
        heartbeat.ponged();
        heartbeat.received(later, false);
        assert_eq!(
            heartbeat.due(later),
            Beat::Wait(later + TIMING.interval),
            "the PONG asks for nothing"
        );
    }

    #[test]
    fn two_ends_that_talk_do_not_ping() {
        let (mut heartbeat, start) = fresh();
        for second in 1..100 {
            heartbeat.received(start + second * SECOND, true);
            heartbeat.sent(start + second * SECOND, Said::Other);
            assert!(matches!(
                heartbeat.due(start + second * SECOND + SECOND / 2),
                Beat::Wait(_)
            ));
        }
    }

    #[test]
    fn what_was_sent_and_not_answered_ends_the_link_after_the_answer_timeout() {
        let (mut heartbeat, start) = fresh();
        heartbeat.sent(start + SECOND, Said::Other);
        heartbeat.sent(start + 8 * SECOND, Said::Other);
        assert_eq!(heartbeat.due(start + 8 * SECOND), Beat::Ping);
        assert_eq!(
            heartbeat.due(start + 10 * SECOND),
            Beat::Wait(start + 11 * SECOND),
            "since the first"
        );
        assert_eq!(heartbeat.due(start + 11 * SECOND), Beat::Silent);
    }

    #[test]
    fn what_could_not_be_sent_counts_as_what_was() {
        let (mut heartbeat, start) = fresh();
        heartbeat.wanted(start + 3 * SECOND);
        assert_eq!(heartbeat.due(start + 13 * SECOND), Beat::Silent);
    }

    #[test]
    fn a_pong_asks_for_no_answer() {
        let (mut heartbeat, start) = fresh();
        heartbeat.received(start + SECOND, false);
        heartbeat.sent(start + SECOND, Said::Pong);
        assert_eq!(
            heartbeat.due(start + 15 * SECOND),
            Beat::Wait(start + 21 * SECOND)
        );
    }

    #[test]
    fn who_receives_something_and_has_nothing_to_say_pings_soon() {
        let (mut heartbeat, start) = fresh();
        heartbeat.received(start + SECOND, true);
        heartbeat.received(start + 2 * SECOND, true);
        assert_eq!(
            heartbeat.due(start + 2 * SECOND),
            Beat::Wait(start + 3 * SECOND),
            "since the first"
        );
        assert_eq!(heartbeat.due(start + 3 * SECOND), Beat::Ping);
        heartbeat.ponged();
        heartbeat.received(start + 3 * SECOND, false);
        assert_eq!(
            heartbeat.due(start + 3 * SECOND),
            Beat::Wait(start + 23 * SECOND),
            "once"
        );
    }

    #[test]
    fn an_answer_of_any_kind_takes_the_place_of_that_ping() {
        let (mut heartbeat, start) = fresh();
        heartbeat.received(start + SECOND, true);
        heartbeat.sent(start + 2 * SECOND, Said::Pong);
        assert_eq!(
            heartbeat.due(start + 15 * SECOND),
            Beat::Wait(start + 22 * SECOND)
        );
    }

    #[test]
    fn what_is_answered_by_heartbeats_alone_is_asked_after_once() {
        let (mut heartbeat, start) = fresh();
        heartbeat.sent(start, Said::Other);
        heartbeat.received(start + SECOND, false);
        assert_eq!(
            heartbeat.due(start + SECOND),
            Beat::Wait(start + 2 * SECOND)
        );
        assert_eq!(heartbeat.due(start + 2 * SECOND), Beat::Ping);
        heartbeat.sent(start + 2 * SECOND, Said::Ping);
        // The peer hears parts of what was sent, and pings; the PONG waits behind the rest.
        for second in (3..60).step_by(2) {
            heartbeat.received(start + second * SECOND, false);
            heartbeat.sent(start + second * SECOND, Said::Pong);
            assert!(
                matches!(heartbeat.due(start + (second + 1) * SECOND), Beat::Wait(_)),
                "after {second} s"
            );
        }
        assert_eq!(
            heartbeat.due(start + 69 * SECOND),
            Beat::Silent,
            "ten seconds after the last that was heard"
        );
    }

    #[test]
    fn silence_ends_a_link_that_asked_for_nothing_as_well() {
        let timing = Timing {
            interval: Duration::from_secs(60),
            ..TIMING
        };
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(timing, start, AWAKE);
        heartbeat.sent(start + 40 * SECOND, Said::Pong);
        assert_eq!(
            heartbeat.due(start + 44 * SECOND),
            Beat::Wait(start + 45 * SECOND)
        );
        assert_eq!(heartbeat.due(start + 45 * SECOND), Beat::Silent);
    }

    #[test]
    fn a_master_that_is_asked_for_silence_keeps_it_and_not_for_ever() {
        assert_eq!(TIMING.quiet(0), TIMING);
        let quiet = TIMING.quiet(300);
        assert_eq!(
            (quiet.interval, quiet.timeout),
            (300 * SECOND, 345 * SECOND)
        );
        assert_eq!(
            quiet.answer_timeout, TIMING.answer_timeout,
            "what is sent is answered as ever"
        );
        assert_eq!(TIMING.quiet(u32::MAX).interval, QUIET_MAX);
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(quiet, start, AWAKE);
        heartbeat.received(start, true);
        assert_eq!(
            heartbeat.due(start + 299 * SECOND),
            Beat::Wait(start + 300 * SECOND),
            "not even to say that it has heard"
        );
    }

    #[test]
    fn a_sleep_is_followed_by_a_ping_and_a_short_deadline() {
        let (mut heartbeat, start) = fresh();
        assert_eq!(
            heartbeat.look(start + SECOND, AWAKE + 4 * SECOND),
            None,
            "too short"
        );
        assert!(matches!(heartbeat.due(start + SECOND), Beat::Wait(_)));
        assert_eq!(
            heartbeat.look(start + 2 * SECOND, AWAKE + 204 * SECOND),
            Some(200 * SECOND)
        );
        assert_eq!(heartbeat.due(start + 2 * SECOND), Beat::Ping);
        assert_eq!(
            heartbeat.due(start + 2 * SECOND),
            Beat::Wait(start + 5 * SECOND)
        );
        assert_eq!(
            heartbeat.look(start + 4 * SECOND, AWAKE + 204 * SECOND),
            None,
            "it is noticed once"
        );
        assert_eq!(heartbeat.due(start + 5 * SECOND), Beat::Silent);
    }

    #[test]
    fn a_link_that_answers_after_a_sleep_is_as_before() {
        let (mut heartbeat, start) = fresh();
        heartbeat.look(start + SECOND, AWAKE + 200 * SECOND);
        // What waited in the socket during the sleep, and the PONG that was among it, show nothing.
        heartbeat.ponged();
        heartbeat.received(start + SECOND, false);
        assert_eq!(heartbeat.due(start + SECOND), Beat::Ping);
        assert_eq!(
            heartbeat.due(start + SECOND),
            Beat::Wait(start + 4 * SECOND)
        );
        // A slow path delivers before the PONG.
        heartbeat.received(start + 3 * SECOND, false);
        assert_eq!(
            heartbeat.due(start + 3 * SECOND),
            Beat::Wait(start + 6 * SECOND)
        );
        heartbeat.ponged();
        heartbeat.received(start + 4 * SECOND, false);
        assert_eq!(
            heartbeat.due(start + 4 * SECOND),
            Beat::Wait(start + 21 * SECOND)
        );
    }

    #[test]
    fn a_clock_that_is_adjusted_bit_by_bit_is_no_sleep() {
        let (mut heartbeat, start) = fresh();
        for seconds in 1..100 {
            assert_eq!(heartbeat.look(start, AWAKE + 4 * seconds * SECOND), None);
        }
        assert_eq!(heartbeat.look(start, Duration::ZERO), None);
    }

    #[test]
    fn the_master_can_ask_for_more_heartbeats_but_not_for_fewer() {
        assert_eq!(TIMING.asked(5).interval, Duration::from_secs(5));
        assert_eq!(TIMING.asked(0).interval, Duration::from_secs(1));
        assert_eq!(TIMING.asked(3600), TIMING);
    }
}
