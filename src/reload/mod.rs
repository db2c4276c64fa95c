//! Reads the configuration again while a role runs, and has the role apply the difference.
//!
//! ```text
//!  SIGHUP ───────────┐
//!  `report reload` ──┼─► ReloadQueue ──► Reloader ──► read and check the files ──► Reconfigure
//!  watched files ────┘    merges             │           wrong: the former stays     (the role)
//!                         requests           └──► report for the log and the caller
//! ```
//!
//! The new files are read and checked as a whole. Requests that arrive during a reload are answered by
//! one further reload, which reads the files again.

#[cfg(unix)]
pub mod control;
mod queue;
mod reloader;
#[cfg(test)]
mod tests;
pub mod watched_files;

pub use self::{
    queue::{ReloadQueue, ReloadSource},
    reloader::{Reconfigure, ReconfigureError, ReloadOutcome, ReloadReport, Reloader},
};
