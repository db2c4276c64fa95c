//! A limit for each test: one that hangs ends the whole run with its name, in place of hanging it.
//!
//! A test is watched from its first call of [`watch`] in its thread, which the test harness names after the test, until that thread ends.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Scale, daemon, scale, wait};

/// How long the slowest test may take on a busy machine; the full proof moves a hundred times as much.
const LIMIT: Duration = Duration::from_secs(300);
const LIMIT_OF_THE_FULL_PROOF: Duration = Duration::from_secs(3600);

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

/// Watches the test whose thread this is. No effect in other threads, and the second time.
pub fn watch() {
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
        LIMIT_OF_THE_FULL_PROOF
    } else {
        LIMIT
    };
    loop {
        wait::pause(Duration::from_secs(1));
        if let Some(name) = overdue(limit) {
            // The harness captures what the threads of tests print, not what this one does.
            eprintln!("\ntest {name} has not ended within {limit:?}");
            daemon::kill_all();
            std::process::exit(101);
        }
    }
}

#[test]
fn a_test_that_does_not_end_is_named() {
    watch();
    let name = thread::current().name().unwrap().to_owned();
    wait::until_true("it is overdue", || {
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
        "a thread that has ended is not watched"
    );
}
