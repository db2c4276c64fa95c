//! The wait that a refusing server asks for: `Retry-After` (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};
use report_proto::constants::EARLY_RETRY_AFTER_MAX;

/// Returns the wait that a response asks for, at most [`EARLY_RETRY_AFTER_MAX`], because its sender
/// has proven nothing. Only 429 and 503 ask for one. An invalid value is ignored. `now` is the
/// local time, which a date is compared with if the response has no `Date`.
pub(in crate::net) fn retry_after(
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit is a long wait.
        value
            .parse()
            .map_or(EARLY_RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        // The clocks of both ends may differ, so the sender's own date comes first.
        let sent = date(headers, header::DATE).unwrap_or(now);
        until.duration_since(sent).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(EARLY_RETRY_AFTER_MAX))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// 2026-03-01 12:00:00 UTC.
    const NOON: Duration = Duration::from_secs(1_772_366_400);

    fn of(status: StatusCode, headers: &[(HeaderName, &str)]) -> Option<Duration> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        retry_after(status, &map, SystemTime::UNIX_EPOCH + NOON)
    }

    fn unavailable(value: &str) -> Option<Duration> {
        of(
            StatusCode::SERVICE_UNAVAILABLE,
            &[(header::RETRY_AFTER, value)],
        )
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn seconds_are_read_up_to_the_maximum() {
        assert_eq!(unavailable("20"), seconds(20));
        assert_eq!(unavailable(" 0 "), seconds(0));
        assert_eq!(unavailable("60"), seconds(60));
        for long in ["61", "600", "86400", "99999999999999999999999999"] {
            assert_eq!(unavailable(long), Some(EARLY_RETRY_AFTER_MAX), "{long}");
        }
    }

    #[test]
    fn date_is_relative_to_the_date_of_the_response_or_to_the_local_time() {
        let until =
            httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(50));
        assert_eq!(unavailable(&until), seconds(50));
        let sent = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(20));
        let both = [(header::RETRY_AFTER, &*until), (header::DATE, &*sent)];
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE, &both), seconds(30));
        let reversed = [(header::RETRY_AFTER, &*sent), (header::DATE, &*until)];
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE, &reversed), seconds(0));
        let far = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + 2 * NOON);
        assert_eq!(unavailable(&far), Some(EARLY_RETRY_AFTER_MAX));
    }

    #[test]
    fn garbage_is_ignored() {
        for garbage in ["", " ", "-1", "1.5", "soon", "20s", "0x14", "2026-03-01"] {
            assert_eq!(unavailable(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn only_two_statuses_ask_for_a_wait() {
        let value = [(header::RETRY_AFTER, "5")];
        for (status, expected) in [
            (429, seconds(5)),
            (503, seconds(5)),
            (502, None),
            (301, None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of(status, &value), expected, "{status}");
        }
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE, &[]), None);
    }
}
