//! `report keygen`: prints a new key or writes it to a new file.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;

use super::configurations::create_private;

/// The arguments of `report keygen`.
#[derive(Debug, clap::Args)]
pub(super) struct KeygenArguments {
    /// Write the key to a new file with private permissions
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Generates a key of 256 bits. Prints it, or writes it to a file and prints the path.
///
/// # Errors
/// Fails when the file exists or cannot be written, or standard output is closed.
pub(super) fn keygen(arguments: &KeygenArguments) -> anyhow::Result<ExitCode> {
    let key = report_proto::crypto::strength::generate(crate::random::bytes());
    match &arguments.write {
        None => writeln!(io::stdout(), "{key}")?,
        Some(file) => {
            create_private(file)
                .and_then(|mut file| writeln!(file, "{key}"))
                .with_context(|| {
                    format!(
                        "cannot write a key to {}: choose a file that does not exist",
                        file.display()
                    )
                })?;
            writeln!(io::stdout(), "wrote a key to {}", file.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn keygen_creates_private_files_and_never_overwrites() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let arguments = KeygenArguments {
            write: Some(file.clone()),
        };
        keygen(&arguments).expect("written");
        let key = fs::read_to_string(&file).expect("there");
        assert!(key.trim_end().len() >= 43 && key.ends_with('\n'), "{key}");
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&file).expect("there").permissions()
            ) & 0o777,
            0o600
        );
        let error = keygen(&arguments).expect_err("it exists").to_string();
        assert!(
            error.contains("key") && error.contains("choose a file that does not exist"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&file).expect("there"),
            key,
            "and is left as it was"
        );
    }
}
