//! `report keygen`: prints a new key or credential, or writes its secret to a new file.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use zeroize::Zeroizing;

use super::configurations::create_private;
use crate::random;
use report_proto::crypto::{Credential, CredentialSecret, strength};

/// The arguments of `report keygen`.
#[derive(Debug, clap::Args)]
pub(super) struct KeygenArguments {
    /// Write the key to a new file with private permissions
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Generate a credential: its secret, and the master's verifier
    #[arg(long)]
    credential: bool,
}

/// Generates a key of 256 bits, or a credential. Prints it, or writes the secret to a file and
/// prints the path.
///
/// # Errors
/// Fails when the file exists or cannot be written, or standard output is closed.
pub(super) fn keygen(arguments: &KeygenArguments) -> anyhow::Result<ExitCode> {
    let output = if arguments.credential {
        credential(arguments.write.as_deref())?
    } else {
        key(arguments.write.as_deref())?
    };
    io::stdout().write_all(output.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Generates a key. Returns what to print.
fn key(file: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let key = Zeroizing::new(strength::generate(random::bytes()));
    let Some(file) = file else {
        return Ok(Zeroizing::new(format!("{}\n", *key)));
    };
    write(file, "a key", &key)?;
    Ok(Zeroizing::new(format!(
        "wrote a key to {}\n",
        file.display()
    )))
}

/// Generates a credential. Returns what to print: the verifier and the id, and the secret unless a
/// file has it.
fn credential(file: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let secret = CredentialSecret::new(random::bytes());
    let (text, credential) = (secret.to_text(), Credential::derive(&secret));
    let first = match file {
        None => Zeroizing::new(format!("secret   {}", *text)),
        Some(file) => {
            write(file, "the secret of a credential", &text)?;
            Zeroizing::new(format!(
                "wrote the secret of a credential to {}",
                file.display()
            ))
        }
    };
    let (verifier, id) = (credential.verifier().to_text(), credential.id());
    Ok(Zeroizing::new(format!(
        "{}\nverifier {verifier}\nid       {id}\n",
        *first
    )))
}

/// Writes a secret to a new file.
fn write(file: &Path, what: &str, secret: &str) -> anyhow::Result<()> {
    create_private(file)
        .and_then(|mut file| writeln!(file, "{secret}"))
        .with_context(|| {
            format!(
                "cannot write {what} to {}: choose a file that does not exist",
                file.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use report_proto::crypto::CredentialVerifier;

    fn arguments(file: &Path, credential: bool) -> KeygenArguments {
        KeygenArguments {
            write: Some(file.to_owned()),
            credential,
        }
    }

    #[test]
    fn keygen_creates_private_files_and_never_overwrites() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let arguments = arguments(&file, false);
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

    /// Returns the value in a line of the output.
    fn value<'a>(output: &'a str, name: &str) -> Option<&'a str> {
        output
            .lines()
            .find_map(|line| line.strip_prefix(name).map(str::trim))
    }

    #[test]
    fn credential_is_printed_with_its_verifier_and_its_id() {
        let output = credential(None).expect("made");
        let secret: CredentialSecret = value(&output, "secret")
            .expect("a secret")
            .parse()
            .expect("a secret");
        let verifier: CredentialVerifier = value(&output, "verifier")
            .expect("a verifier")
            .parse()
            .expect("a verifier");
        let derived = Credential::derive(&secret);
        assert_eq!(verifier.parts(), derived.verifier().parts());
        assert_eq!(
            value(&output, "id"),
            Some(derived.id().to_string().as_str())
        );
        let another = credential(None).expect("made");
        assert_ne!(*output, *another, "a new one each time");
    }

    #[test]
    fn secret_of_a_credential_goes_to_the_file_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("credential");
        let output = credential(Some(&file)).expect("written");
        let written = fs::read_to_string(&file).expect("there");
        let secret: CredentialSecret = written.trim_end().parse().expect("a secret");
        assert!(!output.contains("rc1_"), "only the file has the secret");
        let verifier = Credential::derive(&secret).verifier().to_text();
        assert_eq!(value(&output, "verifier"), Some(verifier.as_str()));
        let error = keygen(&arguments(&file, true)).expect_err("it exists");
        assert!(error.to_string().contains("choose a file"), "{error}");
    }
}
