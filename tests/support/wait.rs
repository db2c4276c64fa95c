//! Waiting: for what is waited for, never for a time that will surely do.

use std::time::{Duration, Instant};

/// How long what takes milliseconds may take on a busy machine of two cores, before the test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks until `probe` finds something or the limit has passed.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(LOOK_AGAIN);
    }
}

/// Looks until `probe` finds something; a failed test when that takes longer than [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, probe) {
        Some(found) => found,
        None => panic!("waited {PATIENCE:?} in vain until {what}"),
    }
}

/// The same for a condition.
#[track_caller]
pub fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}

/// Holds for this long that `still` is true: for what must *not* happen.
#[track_caller]
pub fn throughout(what: &str, time: Duration, mut still: impl FnMut() -> bool) {
    let failed = within(time, || (!still()).then_some(()));
    assert!(
        failed.is_none(),
        "within {time:?} it was no longer so that {what}"
    );
}

/// Lets time pass: between two looks, and as the pace of a simulated path.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that sleeps; what is waited for is looked at by the callers"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
