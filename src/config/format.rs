//! The formats of a configuration file. The ending of its name selects one.

use std::path::Path;

use super::{commented_json, error::Position, json_text, node::Node, position::FileId, toml_text};

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// JSON, also for names with another ending or without one.
    Json,
    /// JSON with comments and trailing commas.
    CommentedJson,
    /// JSON5.
    Json5,
    /// TOML.
    Toml,
}

impl Format {
    /// Returns the format of a file with this name.
    pub(super) fn of_file(path: &Path) -> Self {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("jsonc") => Self::CommentedJson,
            Some("json5") => Self::Json5,
            Some("toml") => Self::Toml,
            _ => Self::Json,
        }
    }

    /// Returns the name of the format, for errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::CommentedJson => "JSON with comments",
            Self::Json5 => "JSON5",
            Self::Toml => "TOML",
        }
    }

    /// Parses the text of a file.
    pub(super) fn parse(self, text: &str, file: FileId) -> Result<Node, SyntaxError> {
        match self {
            Self::Json => json_text::parse(text, file),
            Self::CommentedJson => commented_json::parse(text, file),
            Self::Json5 => commented_json::parse_json5(text, file),
            Self::Toml => toml_text::parse(text, file),
        }
    }
}

/// The maximum depth of values inside of others. The parser of JSON has it too.
pub(super) const DEPTH_MAX: usize = 128;

/// Why a parsed value has no place in the tree of a file.
#[derive(Debug)]
pub(super) struct ValueError {
    /// Where the value starts.
    pub offset: usize,
    pub message: &'static str,
}

/// Returns the depth that is left inside of a value.
///
/// # Errors
/// If the value is too deep.
pub(super) fn depth_inside(depth: usize, offset: usize) -> Result<usize, ValueError> {
    depth.checked_sub(1).ok_or(ValueError {
        offset,
        message: "the value is inside of too many others",
    })
}

/// Why a text has the wrong syntax.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// The position, if the parser knows it.
    pub position: Option<Position>,
    /// The message of the parser, without the position.
    pub message: String,
    /// A hint about a common mistake, to append to the message. Empty without one.
    pub hint: String,
}
