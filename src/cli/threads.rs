//! How many threads a process works with. A task that wakes one of another thread costs a call to the system and a switch between the two, which on a
//! busy link is as much as moving the bytes (docs/performance.md has the measurements). So a role has one thread,
//! unless it is told otherwise, but for a master, whose links are spread over the processors in groups.

use std::num::NonZeroUsize;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// Set by who knows better; what tokio itself reads too.
const OVERRIDE: &str = "TOKIO_WORKER_THREADS";

/// The runtime of a role: one thread, unless [`OVERRIDE`] says another number.
///
/// # Errors
/// When the system refuses.
pub(super) fn of_a_role() -> anyhow::Result<Runtime> {
    match chosen() {
        Some(count) if count > NonZeroUsize::MIN => of_several_roles(),
        _ => start(&mut Builder::new_current_thread()),
    }
}

/// The runtime of a master, whose links have threads of their own.
///
/// # Errors
/// When the system refuses.
pub(super) fn of_a_master() -> anyhow::Result<Runtime> {
    start(&mut Builder::new_current_thread())
}

/// A runtime for what would otherwise be several processes: a thread for each processor, or as many as [`OVERRIDE`] says.
///
/// # Errors
/// When the system refuses.
pub(super) fn of_several_roles() -> anyhow::Result<Runtime> {
    start(&mut Builder::new_multi_thread())
}

/// On how many threads a master serves its links: one for each processor, or as many as [`OVERRIDE`] says.
pub(super) fn for_links() -> NonZeroUsize {
    chosen().or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

fn chosen() -> Option<NonZeroUsize> {
    std::env::var(OVERRIDE).ok()?.parse().ok()
}

fn start(builder: &mut Builder) -> anyhow::Result<Runtime> {
    builder.enable_all().thread_name("report").build().context("cannot start the runtime")
}
