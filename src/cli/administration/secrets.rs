//! New secrets of credentials and tokens. A command makes them and gives them to its user: the
//! master and the database get verifiers and hashes.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{output::Output, session::View};
use crate::{cli::configurations::create_private, telemetry::escape_text};

/// A new secret, in memory or in a private file.
#[derive(Debug)]
pub(super) struct NewSecret {
    text: Zeroizing<String>,
    file: Option<PathBuf>,
}

/// A record with its new secret, or with the file that contains it.
#[derive(Serialize)]
struct WithSecret<'a, T> {
    #[serde(flatten)]
    record: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

impl NewSecret {
    /// Keeps a new secret, in this file if one is given. The file is written before the record
    /// exists, so that no record is without its secret.
    ///
    /// # Errors
    /// If the file exists, or cannot be written.
    pub(super) fn keep(text: Zeroizing<String>, file: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = file {
            create_private(path)
                .and_then(|mut file| writeln!(file, "{}", *text))
                .with_context(|| {
                    let path = path.display();
                    format!("cannot write the secret to {path}: choose a file that does not exist")
                })?;
        }
        Ok(NewSecret {
            text,
            file: file.map(Path::to_owned),
        })
    }

    /// Returns the output of a record that was added, and of the secret that was made for it. `text`
    /// returns the words about the record. Without the record, the file of the secret is removed.
    ///
    /// # Errors
    /// If the record was not added.
    pub(super) fn output<T: Serialize>(
        secret: Option<&Self>,
        added: anyhow::Result<T>,
        view: &View,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<Output> {
        if let (Err(_), Some(file)) = (&added, secret.and_then(|secret| secret.file.as_ref())) {
            // It contains a secret of no record, so a leftover is harmless.
            let _ = fs::remove_file(file);
        }
        let record = added?;
        view.output(&NewSecret::with(secret, &record), || {
            text(&record) + &secret.map_or_else(String::new, NewSecret::line)
        })
    }

    /// Returns the line that gives the secret to its owner.
    fn line(&self) -> String {
        match &self.file {
            Some(file) => {
                let file = file.display().to_string();
                format!("wrote the secret to {}\n", escape_text(&file))
            }
            None => format!("secret {}\n", *self.text),
        }
    }

    /// Returns the record with the secret, for JSON.
    fn with<'a, T>(secret: Option<&'a Self>, record: &'a T) -> WithSecret<'a, T> {
        let file = secret.and_then(|secret| secret.file.as_ref());
        WithSecret {
            record,
            secret: secret
                .filter(|secret| secret.file.is_none())
                .map(|secret| secret.text.as_str()),
            file: file.map(|file| file.display().to_string()),
        }
    }
}
