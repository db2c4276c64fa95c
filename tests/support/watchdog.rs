//! A time limit for each test. A test that hangs ends the whole run with its name.
//!
//! The watch of a test begins with its first call of [`watch`] in its thread, which the test
//! harness names after the test. It ends with that thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Scale, daemon, namespace, scale, wait};

/// The limit for the slowest test on a busy machine. At full scale the tests move a hundred times
/// as much data.
const LIMIT: Duration = Duration::from_secs(300);
const FULL_SCALE_LIMIT: Duration = Duration::from_secs(3600);

static WATCHED: Mutex<Option<HashMap<String, Instant>>> = Mutex::new(None);
static WATCHER: Once = Once::new();

thread_local! {
    static GUARD: RefCell<Option<Guard>> = const { RefCell::new(None) };
}

/// Ends the watch with its thread.
struct Guard(String);

impl Drop for Guard {
    fn drop(&mut self) {
        forget(&self.0);
    }
}

fn forget(name: &str) {
    if let Some(watched) = WATCHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_mut()
    {
        watched.remove(name);
    }
}

/// Watches the test of the current thread. It has no effect in other threads, or when called again.
pub(crate) fn watch() {
    let thread = thread::current();
    let Some(name) = thread.name().filter(|name| name.contains("::")) else {
        return;
    };
    GUARD.with_borrow_mut(|guard| {
        if guard.is_none() {
            let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            watched
                .get_or_insert_default()
                .insert(name.to_owned(), Instant::now());
            *guard = Some(Guard(name.to_owned()));
        }
    });
    WATCHER.call_once(|| drop(thread::Builder::new().name("watchdog".into()).spawn(run)));
}

/// The first test that has taken longer than `limit`.
fn overdue(limit: Duration) -> Option<String> {
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched
        .iter()
        .flatten()
        .find(|(_, since)| since.elapsed() > limit)
        .map(|(name, _)| name.clone())
}

fn run() {
    let Scale { file_bytes, .. } = scale();
    let limit = if file_bytes >= 1 << 30 {
        FULL_SCALE_LIMIT
    } else {
        LIMIT
    };
    loop {
        wait::pause(Duration::from_secs(1));
        if let Some(name) = overdue(limit) {
            // The harness captures the output of test threads, but not of this one.
            eprintln!("\ntest {name} exceeded its limit of {limit:?}");
            daemon::kill_all();
            namespace::delete_all();
            std::process::exit(101);
        }
    }
}

#[test]
fn an_overdue_test_is_found_by_name() {
    watch();
    let name = thread::current().name().unwrap().to_owned();
    wait::until_true("the test is overdue", || {
        overdue(Duration::from_millis(1)).is_some()
    });
    assert!(overdue(Duration::from_secs(3600)).is_none());
    thread::Builder::new()
        .name("other::test".into())
        .spawn(watch)
        .unwrap()
        .join()
        .unwrap();
    let watched = WATCHED.lock().unwrap();
    let watched = watched.as_ref().unwrap();
    assert!(
        watched.contains_key(&name) && !watched.contains_key("other::test"),
        "an ended thread is not watched"
    );
}
