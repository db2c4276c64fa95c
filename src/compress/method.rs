//! The names of the ways to compress a stream.

use std::{fmt, str::FromStr};

/// How the streams of a tunnel are compressed (PROTOCOL 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressMethod {
    /// Not at all, and without chunks.
    Null,
    /// S2 blocks: fast.
    S2,
    /// Zstandard: smaller.
    Zstd,
}

/// No `compress_method` has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no compress_method; there are null, s2 and zstd")]
pub struct UnknownCompressMethod(pub String);

impl CompressMethod {
    /// Every method, in the order of the documentation.
    pub const ALL: [CompressMethod; 3] = [
        CompressMethod::Null,
        CompressMethod::S2,
        CompressMethod::Zstd,
    ];

    /// The name in the configuration and in the handshake.
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
    fn a_method_reads_back_the_name_that_it_prints() {
        for method in CompressMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_and_the_known_ones_are_named() {
        let message = "gzip".parse::<CompressMethod>().unwrap_err().to_string();
        assert!(message.contains("`gzip`"), "{message}");
        for method in CompressMethod::ALL {
            assert!(message.contains(method.name()), "{message}");
        }
    }
}
