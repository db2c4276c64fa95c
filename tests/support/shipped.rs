//! The files under nginx/ that operators copy. A test replaces their addresses and paths.

use std::{fs, path::Path};

/// A shipped file and its text after the replacements so far.
pub(crate) struct ShippedFile<'a> {
    name: &'a str,
    text: String,
}

impl<'a> ShippedFile<'a> {
    /// Reads the file of this name.
    pub(crate) fn read(name: &'a str) -> ShippedFile<'a> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("nginx")
            .join(name);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ShippedFile { name, text }
    }

    /// Replaces a text that the file contains.
    pub(crate) fn replace(&mut self, shipped: &str, replacement: &str) {
        assert!(
            self.text.contains(shipped),
            "{} does not contain {shipped}",
            self.name
        );
        self.text = self.text.replace(shipped, replacement);
    }

    /// The text after all replacements.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}
