//! What is made of what was measured. Pure: numbers and times in, reasons out.

use std::time::{Duration, SystemTime};

use crate::link::{Reason, tls::Certificate, tls::moment};

/// Clocks that differ by less are fine: certificates are seldom younger.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// A certificate that expires within so many days should have been renewed by now.
const EXPIRES_SOON: i64 = 14;

/// What a path may hold beside a transfer: beyond, a shell feels it.
const HELD_MAX: Duration = Duration::from_millis(100);

/// What a small message may take beyond a connection, whatever the path.
const SMALL_MESSAGE_EXTRA: Duration = Duration::from_millis(50);

/// What is worth knowing of a certificate that is trusted.
pub(super) fn certificate(chain: &[Certificate]) -> Option<Reason> {
    let own = chain.first()?;
    if let Some(by) = chain.iter().find_map(Certificate::inspector) {
        return Some(Reason::new(
            format!("the certificate is signed by \"{}\"", own.issuer),
            format!("TLS is opened on the way by {by}, whose authority is trusted here"),
            "the tunnel's own encryption is not opened by that; take another `encrypt_method` than \"plain\", or have this host let through",
        ));
    }
    let days = own.days_left();
    (days < EXPIRES_SOON).then(|| {
        let until = moment(own.not_after);
        Reason::new(
            format!("the certificate expires in {days} days, on {until}"),
            "it is not renewed by itself",
            "renew it",
        )
    })
}

/// What is worth knowing of two clocks.
pub(super) fn clocks(here: SystemTime, there: SystemTime) -> Result<String, Reason> {
    let (ahead, by) = match here.duration_since(there) {
        Ok(by) => ("ahead of", by),
        Err(error) => ("behind", error.duration()),
    };
    let difference = format!(
        "this machine's clock is {} s {ahead} that of whoever answers",
        by.as_secs()
    );
    if by <= CLOCK_TOLERANCE {
        return Ok(difference);
    }
    let cause = "one of the two is wrong: certificates will seem expired or not yet valid, and Kerberos at a proxy fails";
    Err(Reason::new(
        difference,
        cause,
        "set the clock (on Linux: `timedatectl set-ntp true`)",
    ))
}

/// Whether small messages come through by themselves: the round trips of messages that were sent one at a time, beside what a connection took.
pub(super) fn small_messages(
    round_trips: &[Duration],
    connection: Option<Duration>,
) -> Result<String, Reason> {
    let mut sorted = round_trips.to_vec();
    sorted.sort_unstable();
    let at = |share: usize| {
        sorted
            .get(sorted.len().saturating_mul(share) / 100)
            .or(sorted.last())
            .copied()
            .unwrap_or_default()
    };
    let (median, slowest) = (at(50), sorted.last().copied().unwrap_or_default());
    let seen = format!(
        "{} small messages, one at a time: answered after {} in the middle, {} at the longest",
        sorted.len(),
        milliseconds(median),
        milliseconds(slowest)
    );
    match connection {
        Some(connection) if median > connection.saturating_mul(3) + SMALL_MESSAGE_EXTRA => {
            Err(Reason::new(
                format!("{seen}; a connection took {}", milliseconds(connection)),
                "something on the way holds small messages back, as proxies do that look into what passes, or the master is busy",
                "take wss://, which most of them pass on at once; in nginx turn `proxy_buffering` off",
            ))
        }
        _ => Ok(seen),
    }
}

/// What transfers do to whoever shares their way: the round trip with nothing beside it, and beside a transfer each way.
pub(super) fn buffering(
    idle: Duration,
    up: Option<Duration>,
    down: Option<Duration>,
) -> Result<String, Reason> {
    let beside = |direction: &str, trip: Option<Duration>| {
        trip.map_or_else(String::new, |trip| {
            format!(", {} beside a transfer {direction}", milliseconds(trip))
        })
    };
    let seen = format!(
        "round trip {} idle{}{}",
        milliseconds(idle),
        beside("up", up),
        beside("down", down)
    );
    let worst = up.max(down).unwrap_or_default();
    let held = worst.saturating_sub(idle);
    if held <= HELD_MAX || worst < idle.saturating_mul(3) {
        return Ok(format!("{seen}: the path holds little back"));
    }
    Err(Reason::new(
        format!("{seen}: the path holds {} of data back", milliseconds(held)),
        "a router, a modem or a proxy on the way has a large buffer: a shell is sluggish while something is copied",
        "turn on a short queue there (fq_codel, CAKE), or bound what is on the way with `windows`",
    ))
}

/// What became of a link that was left silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It worked afterwards.
    Survived,
    /// It was cut in the meantime, or did not work afterwards.
    Cut,
}

/// What to make of links that were left silent for so long each, in the order of their silences, and the heartbeat that there is.
pub(super) fn silences(
    tried: &[(Duration, Silence)],
    heartbeat: Duration,
) -> Result<String, Reason> {
    let cut = tried
        .iter()
        .find(|(_, silence)| *silence == Silence::Cut)
        .map(|(time, _)| *time);
    let below = |limit: Duration| {
        let survived = tried
            .iter()
            .filter(|(time, silence)| *silence == Silence::Survived && *time < limit);
        survived.map(|(time, _)| *time).max()
    };
    let Some(cut) = cut else {
        let longest = tried
            .iter()
            .map(|(time, _)| *time)
            .max()
            .unwrap_or_default();
        return Ok(format!(
            "a link may be silent for {}: `heartbeat` may stay at {}",
            seconds(longest),
            seconds(heartbeat)
        ));
    };
    let seen = match below(cut) {
        Some(longest) => {
            format!(
                "a link that was silent for {} still worked, one that was silent for {} did not",
                seconds(longest),
                seconds(cut)
            )
        }
        None => format!(
            "a link that was silent for {} did not work any more",
            seconds(cut)
        ),
    };
    let safe = below(cut).unwrap_or(cut / 2);
    if heartbeat <= safe {
        return Ok(format!(
            "{seen}: a `heartbeat` of {} is short enough",
            seconds(heartbeat)
        ));
    }
    // Half of what is safe: a heartbeat may be late. Whole seconds, of which one is the shortest that can be written.
    let advice = Duration::from_secs((safe / 2).as_secs().max(1));
    Err(Reason::new(
        seen,
        "a proxy, a firewall or a router on the way forgets connections on which nothing is sent",
        format!("write \"heartbeat\": \"{}\" at both ends", seconds(advice)),
    ))
}

/// A time as people read it.
pub(super) fn milliseconds(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Seconds as a configuration has them.
pub(super) fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{}ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn clocks_that_differ_by_hours_are_told_and_which_is_ahead() {
        let here = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(
            clocks(here, here + Duration::from_secs(5))
                .unwrap()
                .contains("5 s behind")
        );
        let ahead = clocks(here + Duration::from_secs(7_200), here).unwrap_err();
        assert!(
            ahead.evidence.contains("7200 s ahead of") && ahead.remedy.contains("clock"),
            "{ahead}"
        );
    }

    #[test]
    fn a_path_that_holds_data_back_is_told_by_its_round_trip_under_load() {
        assert!(buffering(ms(20), Some(ms(40)), Some(ms(60))).is_ok());
        assert!(
            buffering(ms(200), Some(ms(320)), None).is_ok(),
            "not even three times as long"
        );
        let held = buffering(ms(20), Some(ms(25)), Some(ms(900))).unwrap_err();
        assert!(
            held.evidence.contains("880 ms of data back") && held.remedy.contains("windows"),
            "{held}"
        );
    }

    #[test]
    fn small_messages_that_wait_for_more_are_told() {
        assert!(
            small_messages(&[ms(20), ms(21), ms(400)], Some(ms(19))).is_ok(),
            "one late one says nothing"
        );
        assert!(small_messages(&[ms(20)], None).is_ok());
        let held = small_messages(&[ms(500), ms(510), ms(490)], Some(ms(20))).unwrap_err();
        assert!(
            held.evidence.contains("500 ms in the middle") && held.evidence.contains("20 ms"),
            "{held}"
        );
    }

    #[test]
    fn a_heartbeat_is_advised_that_is_well_under_the_silence_that_a_path_cuts() {
        use Silence::{Cut, Survived};
        let s = Duration::from_secs;
        let tried = [(s(10), Survived), (s(20), Cut), (s(30), Cut)];
        let advised = silences(&tried, s(20)).unwrap_err();
        assert!(
            advised.remedy.contains("\"5s\"")
                && advised.evidence.contains("10s")
                && advised.evidence.contains("20s"),
            "{advised}"
        );
        assert!(silences(&tried, s(5)).unwrap().contains("short enough"));
        assert!(
            silences(&[(s(10), Survived), (s(300), Survived)], s(20))
                .unwrap()
                .contains("300s")
        );
        let at_once = silences(&[(ms(500), Cut)], s(1)).unwrap_err();
        assert!(
            at_once.remedy.contains("\"1s\"") && at_once.evidence.contains("500ms"),
            "{at_once}"
        );
    }
}
