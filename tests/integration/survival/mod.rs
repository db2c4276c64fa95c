//! Survival of connections. Applications see every failure of a link or a master as a pause, and a
//! failure that cannot be survived as a reset.
//!
//! Each test disturbs a tunnel while streams run through it whose every byte is checked.
//! `REPORT_TEST_SCALE=full` enlarges the streams. The ignored tests of [`pauses`] measure the
//! pauses of applications in milliseconds.

mod cuts;
mod drains;
pub(crate) mod echo_probe;
pub(crate) mod lab;
mod master_failures;
mod outages;
mod pauses;
mod programs;
mod restarts;
mod slow_paths;
pub(crate) mod stream_load;
mod unsurvivable;
