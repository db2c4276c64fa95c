//! How many threads a process works with. A task that wakes one of another thread costs a call to the system and a switch between the two, which on a
//! busy link is as much as moving the bytes (docs/performance.md has the measurements). So a role has one thread, unless it is told otherwise, but for a
//! master, whose links are spread over the processors in groups.

use std::num::NonZeroUsize;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};

/// Set by who knows better. It is tokio's own name for it, but tokio would panic where we say what is wrong.
const OVERRIDE: &str = "TOKIO_WORKER_THREADS";

/// The runtime of a role: one thread, unless [`OVERRIDE`] says another number.
///
/// # Errors
/// When [`OVERRIDE`] is no number of threads, or the system refuses.
pub(super) fn of_a_role() -> anyhow::Result<Runtime> {
    match chosen()? {
        Some(count) if count > NonZeroUsize::MIN => {
            start(Builder::new_multi_thread().worker_threads(count.get()))
        }
        _ => of_a_master(),
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
/// When [`OVERRIDE`] is no number of threads, or the system refuses.
pub(super) fn of_several_roles() -> anyhow::Result<Runtime> {
    start(Builder::new_multi_thread().worker_threads(for_links()?.get()))
}

/// On how many threads a master serves its links: one for each processor, or as many as [`OVERRIDE`] says.
///
/// # Errors
/// When [`OVERRIDE`] is no number of threads.
pub(super) fn for_links() -> anyhow::Result<NonZeroUsize> {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Ok(chosen()?.unwrap_or_else(processors))
}

fn chosen() -> anyhow::Result<Option<NonZeroUsize>> {
    std::env::var_os(OVERRIDE)
        .map(|value| number(&value.to_string_lossy()))
        .transpose()
}

fn number(value: &str) -> anyhow::Result<NonZeroUsize> {
    value
        .parse()
        .map_err(|_| anyhow!("{OVERRIDE} is \"{value}\" in the environment: give a number of threads from 1 up, or unset it"))
}

fn start(builder: &mut Builder) -> anyhow::Result<Runtime> {
    builder
        .enable_all()
        .thread_name("report")
        .build()
        .context("cannot start the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_of_threads_is_named_with_its_value() {
        assert_eq!(number("3").expect("a number").get(), 3);
        for wrong in ["", "0", "-1", "many"] {
            let error = number(wrong).expect_err("no number of threads").to_string();
            assert!(
                error.contains(OVERRIDE) && error.contains(&format!("\"{wrong}\"")),
                "{error}"
            );
        }
    }
}
