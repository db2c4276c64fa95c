//! Waiting for a condition, never for a fixed time.

use std::time::{Duration, Instant};

/// A limit for what usually takes milliseconds, on a busy machine with two cores.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// The pause between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it returns something or the limit has passed.
pub(crate) fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(POLL_INTERVAL);
    }
}

/// Calls `probe` until it returns something. Fails the test after [`TIMEOUT`].
#[track_caller]
pub(crate) fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(TIMEOUT, probe) {
        Some(found) => found,
        None => panic!("timed out after {TIMEOUT:?} waiting until {what}"),
    }
}

/// The same for a condition.
#[track_caller]
pub(crate) fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}

/// Asserts that `still` is true for this long, for events that must *not* happen.
#[track_caller]
pub(crate) fn throughout(what: &str, time: Duration, mut still: impl FnMut() -> bool) {
    let failed = within(time, || (!still()).then_some(()));
    assert!(failed.is_none(), "stopped holding within {time:?}: {what}");
}

/// Sleeps: between two checks, and for the timing of a simulated path.
#[expect(
    clippy::disallowed_methods,
    reason = "the only place that sleeps; the callers poll their conditions"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
