//! Pure functions that turn measurements into findings.

use std::time::{Duration, SystemTime};

use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::tls::{CertificateInfo, format_utc},
};

/// The tolerated difference of two clocks. Few certificates are younger.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// A certificate with fewer days left should have been renewed by now.
const EXPIRES_SOON: i64 = 14;

/// The tolerated queueing delay during a transfer. A longer one slows down a shell noticeably.
const QUEUE_DELAY_MAX: Duration = Duration::from_millis(100);

/// The tolerated time of a small message beyond that of a connection, on any path.
const SMALL_MESSAGE_EXTRA: Duration = Duration::from_millis(50);

/// Returns a finding about a trusted certificate.
pub(super) fn certificate(chain: &[CertificateInfo]) -> Option<Diagnosis> {
    let leaf = chain.first()?;
    if let Some(by) = chain.iter().find_map(CertificateInfo::inspector) {
        return Some(Diagnosis::new(
            DiagnosisCode::TlsIntercepted,
            format!("the certificate is signed by \"{}\"", leaf.issuer),
            format!("{by} intercepts TLS, and this machine trusts its authority"),
            "the tunnel's own encryption remains intact; use an `encrypt_method` other than \"plain\", or exempt this host from the interception",
        ));
    }
    let days = leaf.days_left();
    (days < EXPIRES_SOON).then(|| {
        let until = format_utc(leaf.not_after);
        Diagnosis::new(
            DiagnosisCode::TlsExpiresSoon,
            format!("the certificate expires in {days} days, on {until}"),
            "it is not renewed automatically",
            "renew it",
        )
    })
}

/// Compares two clocks.
pub(super) fn clocks(here: SystemTime, there: SystemTime) -> Result<String, Diagnosis> {
    let (ahead, by) = match here.duration_since(there) {
        Ok(by) => ("ahead of", by),
        Err(error) => ("behind", error.duration()),
    };
    let difference = format!(
        "this machine's clock is {} s {ahead} that of the responding peer",
        by.as_secs()
    );
    if by <= CLOCK_TOLERANCE {
        return Ok(difference);
    }
    let cause = "one of the two is wrong: certificates seem expired or not yet valid, and Kerberos at a proxy fails";
    Err(Diagnosis::new(
        DiagnosisCode::ClockWrong,
        difference,
        cause,
        "set the clock (on Linux: `timedatectl set-ntp true`)",
    ))
}

/// Checks that the path forwards small messages at once: compares the round trips of single
/// messages with the time of a connection.
pub(super) fn small_messages(
    round_trips: &[Duration],
    connection: Option<Duration>,
) -> Result<String, Diagnosis> {
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
        "{} small messages, one at a time: round trip {} median, {} maximum",
        sorted.len(),
        milliseconds(median),
        milliseconds(slowest)
    );
    match connection {
        Some(connection) if median > connection.saturating_mul(3) + SMALL_MESSAGE_EXTRA => {
            Err(Diagnosis::new(
                DiagnosisCode::SmallMessagesDelayed,
                format!("{seen}; a connection took {}", milliseconds(connection)),
                "a device on the path delays small messages, such as an intercepting proxy, or the master is busy",
                "use wss://, which most proxies forward at once; in nginx turn `proxy_buffering` off",
            ))
        }
        _ => Ok(seen),
    }
}

/// Checks the queueing delay of the path: compares the idle round trip with those during a transfer
/// in each direction.
pub(super) fn buffering(
    idle: Duration,
    up: Option<Duration>,
    down: Option<Duration>,
) -> Result<String, Diagnosis> {
    let during = |transfer: &str, trip: Option<Duration>| {
        trip.map_or_else(String::new, |trip| {
            format!(", {} during {transfer}", milliseconds(trip))
        })
    };
    let seen = format!(
        "round trip {} idle{}{}",
        milliseconds(idle),
        during("an upload", up),
        during("a download", down)
    );
    let worst = up.max(down).unwrap_or_default();
    let queue_delay = worst.saturating_sub(idle);
    if queue_delay <= QUEUE_DELAY_MAX || worst < idle.saturating_mul(3) {
        return Ok(format!("{seen}: the path queues little"));
    }
    Err(Diagnosis::new(
        DiagnosisCode::PathBuffers,
        format!(
            "{seen}: the path queues {} of data",
            milliseconds(queue_delay)
        ),
        "a router, modem or proxy on the path has a large buffer: a shell is sluggish during transfers",
        "enable active queue management there (fq_codel, CAKE), or limit the data in flight with `windows`",
    ))
}

/// The state of a link after its idle period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleOutcome {
    /// The link still worked.
    Survived,
    /// The link was closed during the period, or did not work afterwards.
    Cut,
}

/// Evaluates idle links, sorted by their periods, against the configured keep-alive interval.
pub(super) fn idle_periods(
    trials: &[(Duration, IdleOutcome)],
    heartbeat: Duration,
) -> Result<String, Diagnosis> {
    let shortest_cut = trials
        .iter()
        .find(|(_, outcome)| *outcome == IdleOutcome::Cut)
        .map(|(time, _)| *time);
    let Some(cut) = shortest_cut else {
        let longest = trials
            .iter()
            .map(|(time, _)| *time)
            .max()
            .unwrap_or_default();
        return Ok(format!(
            "the path keeps links that are idle for {}: `heartbeat` can stay at {}",
            seconds(longest),
            seconds(heartbeat)
        ));
    };
    let survived = longest_survived(trials, cut);
    let seen = idle_limit_evidence(survived, cut);
    let safe = survived.unwrap_or(cut / 2);
    if heartbeat <= safe {
        return Ok(format!(
            "{seen}: a `heartbeat` of {} is short enough",
            seconds(heartbeat)
        ));
    }
    // Half of the safe period, because a keep-alive may be late. The configuration takes at least
    // one whole second.
    let advice = Duration::from_secs((safe / 2).as_secs().max(1));
    Err(Diagnosis::new(
        DiagnosisCode::IdleLinksCut,
        seen,
        "a proxy, firewall or router on the path drops idle connections",
        format!("set \"heartbeat\": \"{}\" at both ends", seconds(advice)),
    ))
}

/// Returns the longest period below `limit` that a link survived.
fn longest_survived(trials: &[(Duration, IdleOutcome)], limit: Duration) -> Option<Duration> {
    trials
        .iter()
        .filter(|(time, outcome)| *outcome == IdleOutcome::Survived && *time < limit)
        .map(|(time, _)| *time)
        .max()
}

fn idle_limit_evidence(survived: Option<Duration>, cut: Duration) -> String {
    match survived {
        Some(longest) => format!(
            "a link that was idle for {} still worked, one that was idle for {} did not",
            seconds(longest),
            seconds(cut)
        ),
        None => format!("a link that was idle for {} no longer worked", seconds(cut)),
    }
}

/// Formats a time in milliseconds or seconds.
pub(super) fn milliseconds(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// Formats a time like a configuration file does.
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
    fn clock_differences_report_the_direction() {
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
    fn buffering_is_detected_by_the_loaded_round_trip() {
        assert!(buffering(ms(20), Some(ms(40)), Some(ms(60))).is_ok());
        assert!(
            buffering(ms(200), Some(ms(320)), None).is_ok(),
            "not even three times as long"
        );
        let finding = buffering(ms(20), Some(ms(25)), Some(ms(900))).unwrap_err();
        assert!(
            finding.evidence.contains("880 ms of data") && finding.remedy.contains("windows"),
            "{finding}"
        );
    }

    #[test]
    fn delayed_small_messages_are_detected() {
        assert!(
            small_messages(&[ms(20), ms(21), ms(400)], Some(ms(19))).is_ok(),
            "one slow sample is no evidence"
        );
        assert!(small_messages(&[ms(20)], None).is_ok());
        let finding = small_messages(&[ms(500), ms(510), ms(490)], Some(ms(20))).unwrap_err();
        assert!(
            finding.evidence.contains("500 ms median") && finding.evidence.contains("20 ms"),
            "{finding}"
        );
    }

    #[test]
    fn the_suggested_heartbeat_is_well_below_the_idle_limit() {
        use IdleOutcome::{Cut, Survived};
        let s = Duration::from_secs;
        let trials = [(s(10), Survived), (s(20), Cut), (s(30), Cut)];
        let finding = idle_periods(&trials, s(20)).unwrap_err();
        assert!(
            finding.remedy.contains("\"5s\"")
                && finding.evidence.contains("10s")
                && finding.evidence.contains("20s"),
            "{finding}"
        );
        assert!(
            idle_periods(&trials, s(5))
                .unwrap()
                .contains("short enough")
        );
        assert!(
            idle_periods(&[(s(10), Survived), (s(300), Survived)], s(20))
                .unwrap()
                .contains("300s")
        );
        let at_once = idle_periods(&[(ms(500), Cut)], s(1)).unwrap_err();
        assert!(
            at_once.remedy.contains("\"1s\"") && at_once.evidence.contains("500ms"),
            "{at_once}"
        );
    }
}
