//! The compression methods of a stream.

use std::{fmt, str::FromStr};

/// The method that compresses the streams of a tunnel (PROTOCOL 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressMethod {
    /// No compression and no chunks.
    Null,
    /// S2 blocks: faster.
    S2,
    /// Zstandard: smaller output.
    Zstd,
}

/// An unknown `compress_method`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compress_method `{0}` (use null, s2 or zstd)")]
pub struct UnknownCompressMethod(pub String);

impl CompressMethod {
    /// All methods, in the order of the documentation.
    pub const ALL: [CompressMethod; 3] = [
        CompressMethod::Null,
        CompressMethod::S2,
        CompressMethod::Zstd,
    ];

    /// Returns the name used in the configuration and the handshake.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CompressMethod::Null => "null",
            CompressMethod::S2 => "s2",
            CompressMethod::Zstd => "zstd",
        }
    }
}

impl fmt::Display for CompressMethod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for CompressMethod {
    type Err = UnknownCompressMethod;

    fn from_str(text: &str) -> Result<Self, UnknownCompressMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| UnknownCompressMethod(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_names_round_trip() {
        for method in CompressMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn unknown_method_error_lists_known_methods() {
        let message = "gzip".parse::<CompressMethod>().unwrap_err().to_string();
        assert!(message.contains("`gzip`"), "{message}");
        for method in CompressMethod::ALL {
            assert!(message.contains(method.name()), "{message}");
        }
    }
}
