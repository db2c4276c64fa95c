//! The end of a benchmark.

use std::process::ExitCode;

/// Returns the exit code of a benchmark. Prints the error, if there is one.
pub(crate) fn code(benchmark: &str, done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{benchmark}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
