//! `report keygen`: a key, and nothing else, so that it can be sent to a file.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Prints a key of 256 bits.
///
/// # Errors
/// When standard output takes nothing.
pub fn keygen() -> anyhow::Result<ExitCode> {
    writeln!(io::stdout(), "{}", crate::crypto::strength::generate(crate::random::bytes()))?;
    Ok(ExitCode::SUCCESS)
}
