//! The header of a chunk (PROTOCOL 11.1).

use super::{error::CompressError, method::CompressMethod};

/// Raw bytes of the longest chunk.
pub const MAX_CHUNK: usize = 65_536;

/// Bytes of a stored chunk's header.
pub const STORED_HEADER: usize = 3;

/// Bytes of any other chunk's header.
pub const BODY_HEADER: usize = 5;

/// What a chunk holds, and what it does to the running frame of its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The raw bytes; a running frame stays.
    Stored,
    /// The raw bytes; a running frame ends.
    StoredEnd,
    /// Bytes to decode.
    Body(Body),
}

/// How the body of a chunk is to be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// An S2 block.
    S2,
    /// A whole zstd frame; a running frame ends.
    Zstd,
    /// The beginning of a running zstd frame, flushed; one before it ends.
    RunningFirst,
    /// The next part of the running zstd frame, flushed.
    RunningNext,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Stored => 0,
            Kind::Body(Body::S2) => 1,
            Kind::Body(Body::Zstd) => 2,
            Kind::Body(Body::RunningFirst) => 3,
            Kind::Body(Body::RunningNext) => 4,
            Kind::StoredEnd => 5,
        }
    }

    /// Bytes of the header of such a chunk.
    #[must_use]
    pub const fn header_length(self) -> usize {
        match self {
            Kind::Stored | Kind::StoredEnd => STORED_HEADER,
            Kind::Body(_) => BODY_HEADER,
        }
    }

    /// The kind that a first byte announces.
    ///
    /// # Errors
    /// When the method has no such kind.
    pub const fn read(byte: u8, method: CompressMethod) -> Result<Self, CompressError> {
        match (method, byte) {
            (CompressMethod::S2 | CompressMethod::Zstd, 0) => Ok(Kind::Stored),
            (CompressMethod::S2, 1) => Ok(Kind::Body(Body::S2)),
            (CompressMethod::Zstd, 2) => Ok(Kind::Body(Body::Zstd)),
            (CompressMethod::Zstd, 3) => Ok(Kind::Body(Body::RunningFirst)),
            (CompressMethod::Zstd, 4) => Ok(Kind::Body(Body::RunningNext)),
            (CompressMethod::Zstd, 5) => Ok(Kind::StoredEnd),
            _ => Err(CompressError::Kind(byte)),
        }
    }
}

/// The header of a chunk: what follows it, and what that becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the chunk holds.
    pub kind: Kind,
    /// Bytes of the contents, 1 to [`MAX_CHUNK`].
    pub raw_length: usize,
    /// Bytes that follow the header, 1 to `raw_length`; for a stored chunk `raw_length` itself.
    pub body_length: usize,
}

impl Header {
    /// Reads a header whose length is that of its kind.
    ///
    /// # Errors
    /// When the method has no such kind, or the body is longer than its contents.
    pub fn read(bytes: &[u8], method: CompressMethod) -> Result<Self, CompressError> {
        let (first, lengths) = bytes.split_first().ok_or(CompressError::Truncated)?;
        let kind = Kind::read(*first, method)?;
        let (raw_length, body_length) = match (kind.header_length(), lengths) {
            (STORED_HEADER, [a, b]) => (length([*a, *b]), length([*a, *b])),
            (BODY_HEADER, [a, b, c, d]) => (length([*a, *b]), length([*c, *d])),
            _ => return Err(CompressError::Truncated),
        };
        if body_length > raw_length {
            return Err(CompressError::BodyLength);
        }
        Ok(Header {
            kind,
            raw_length,
            body_length,
        })
    }

    /// The header as it is sent, and how many of the bytes are it.
    #[must_use]
    pub fn write(&self) -> ([u8; BODY_HEADER], usize) {
        let [raw_high, raw_low] = field(self.raw_length);
        let [body_high, body_low] = field(self.body_length);
        (
            [self.kind.byte(), raw_high, raw_low, body_high, body_low],
            self.kind.header_length(),
        )
    }
}

fn length(field: [u8; 2]) -> usize {
    usize::from(u16::from_be_bytes(field)).saturating_add(1)
}

fn field(length: usize) -> [u8; 2] {
    u16::try_from(length.saturating_sub(1))
        .unwrap_or(u16::MAX)
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_what_it_writes() {
        let bodies = [Body::Zstd, Body::RunningFirst, Body::RunningNext].map(Kind::Body);
        let kinds = bodies.into_iter().chain([Kind::Stored, Kind::StoredEnd]);
        for kind in kinds {
            for (raw_length, body_length) in [(1, 1), (256, 255), (65_536, 65_536)] {
                let body_length = if kind.header_length() == STORED_HEADER {
                    raw_length
                } else {
                    body_length
                };
                let header = Header {
                    kind,
                    raw_length,
                    body_length,
                };
                let (bytes, length) = header.write();
                assert_eq!(
                    Header::read(&bytes[..length], CompressMethod::Zstd),
                    Ok(header)
                );
            }
        }
    }

    #[test]
    fn each_method_has_its_kinds_and_no_other() {
        for (method, kinds) in [
            (CompressMethod::Null, &[][..]),
            (CompressMethod::S2, &[0, 1][..]),
            (CompressMethod::Zstd, &[0, 2, 3, 4, 5][..]),
        ] {
            for byte in 0..=u8::MAX {
                assert_eq!(
                    Kind::read(byte, method).is_ok(),
                    kinds.contains(&byte),
                    "{method} {byte}"
                );
            }
        }
    }

    #[test]
    fn a_body_longer_than_its_contents_is_refused() {
        assert_eq!(
            Header::read(&[1, 0, 9, 0, 10], CompressMethod::S2),
            Err(CompressError::BodyLength)
        );
        assert!(Header::read(&[1, 0, 9, 0, 9], CompressMethod::S2).is_ok());
    }

    #[test]
    fn a_header_of_another_length_is_refused() {
        for bytes in [&[][..], &[0], &[0, 0], &[0, 0, 0, 0], &[1, 0, 0, 0]] {
            assert!(
                Header::read(bytes, CompressMethod::S2).is_err(),
                "{bytes:?}"
            );
        }
    }
}
