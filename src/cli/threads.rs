//! The number of threads of a process. Waking a task on another thread costs a system call and a
//! context switch. On a busy link that costs as much as moving the bytes (measurements:
//! docs/performance.md). A role therefore uses one thread by default. A master distributes its
//! links over one thread per processor.

use std::num::NonZeroUsize;

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};

/// Overrides the number of threads. It is the variable of tokio, but tokio panics on an invalid
/// value, and we report an error.
const THREADS_VARIABLE: &str = "TOKIO_WORKER_THREADS";

/// Builds the runtime of a server or client: one thread, unless [`THREADS_VARIABLE`] sets another
/// number.
///
/// # Errors
/// Fails when [`THREADS_VARIABLE`] is invalid, or the system refuses.
pub(super) fn role_runtime() -> anyhow::Result<Runtime> {
    match configured_threads()? {
        Some(count) if count > NonZeroUsize::MIN => {
            start(Builder::new_multi_thread().worker_threads(count.get()))
        }
        _ => master_runtime(),
    }
}

/// Builds the runtime of a master. Its links run on separate threads.
///
/// # Errors
/// Fails when the system refuses.
pub(super) fn master_runtime() -> anyhow::Result<Runtime> {
    start(&mut Builder::new_current_thread())
}

/// Builds the runtime of several roles in one process: one thread per processor, or the number in
/// [`THREADS_VARIABLE`].
///
/// # Errors
/// Fails when [`THREADS_VARIABLE`] is invalid, or the system refuses.
pub(super) fn combined_runtime() -> anyhow::Result<Runtime> {
    start(Builder::new_multi_thread().worker_threads(link_threads()?.get()))
}

/// Returns the number of threads for the links of a master: one per processor, or the number in
/// [`THREADS_VARIABLE`].
///
/// # Errors
/// Fails when [`THREADS_VARIABLE`] is invalid.
pub(super) fn link_threads() -> anyhow::Result<NonZeroUsize> {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Ok(configured_threads()?.unwrap_or_else(processors))
}

fn configured_threads() -> anyhow::Result<Option<NonZeroUsize>> {
    std::env::var_os(THREADS_VARIABLE)
        .map(|value| number(&value.to_string_lossy()))
        .transpose()
}

fn number(value: &str) -> anyhow::Result<NonZeroUsize> {
    value
        .parse()
        .map_err(|_| anyhow!("{THREADS_VARIABLE} is \"{value}\" in the environment: set it to a number of threads, 1 or more, or unset it"))
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
    fn invalid_thread_counts_are_named_in_the_error() {
        assert_eq!(number("3").expect("a number").get(), 3);
        for wrong in ["", "0", "-1", "many"] {
            let error = number(wrong).expect_err("no number of threads").to_string();
            assert!(
                error.contains(THREADS_VARIABLE) && error.contains(&format!("\"{wrong}\"")),
                "{error}"
            );
        }
    }
}
