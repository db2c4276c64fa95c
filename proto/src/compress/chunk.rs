//! The header of a chunk (PROTOCOL 11.1).

use super::{error::CompressError, method::CompressMethod};

/// The maximum number of raw bytes in a chunk.
pub const MAX_CHUNK: usize = 65_536;

/// The length of a stored chunk's header in bytes.
pub const STORED_HEADER: usize = 3;

/// The length of any other chunk's header in bytes.
pub const BODY_HEADER: usize = 5;

/// The content of a chunk and its effect on the running frame of its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// Raw bytes. A running frame stays open.
    Stored,
    /// Raw bytes. A running frame ends.
    StoredEnd,
    /// Encoded bytes.
    Body(BodyEncoding),
}

/// The encoding of a chunk's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEncoding {
    /// An S2 block.
    S2,
    /// A whole zstd frame. A running frame ends.
    Zstd,
    /// The beginning of a running zstd frame, flushed. A previous running frame ends.
    RunningFirst,
    /// The next part of the running zstd frame, flushed.
    RunningNext,
}

impl ChunkKind {
    const fn byte(self) -> u8 {
        match self {
            ChunkKind::Stored => 0,
            ChunkKind::Body(BodyEncoding::S2) => 1,
            ChunkKind::Body(BodyEncoding::Zstd) => 2,
            ChunkKind::Body(BodyEncoding::RunningFirst) => 3,
            ChunkKind::Body(BodyEncoding::RunningNext) => 4,
            ChunkKind::StoredEnd => 5,
        }
    }

    /// Returns the header length of such a chunk in bytes.
    #[must_use]
    pub const fn header_length(self) -> usize {
        match self {
            ChunkKind::Stored | ChunkKind::StoredEnd => STORED_HEADER,
            ChunkKind::Body(_) => BODY_HEADER,
        }
    }

    /// Decodes the first byte of a chunk.
    ///
    /// # Errors
    /// Returns an error if the method does not have this kind.
    pub const fn read(byte: u8, method: CompressMethod) -> Result<Self, CompressError> {
        match (method, byte) {
            (CompressMethod::S2 | CompressMethod::Zstd, 0) => Ok(ChunkKind::Stored),
            (CompressMethod::S2, 1) => Ok(ChunkKind::Body(BodyEncoding::S2)),
            (CompressMethod::Zstd, 2) => Ok(ChunkKind::Body(BodyEncoding::Zstd)),
            (CompressMethod::Zstd, 3) => Ok(ChunkKind::Body(BodyEncoding::RunningFirst)),
            (CompressMethod::Zstd, 4) => Ok(ChunkKind::Body(BodyEncoding::RunningNext)),
            (CompressMethod::Zstd, 5) => Ok(ChunkKind::StoredEnd),
            _ => Err(CompressError::Kind(byte)),
        }
    }
}

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The kind of the chunk.
    pub kind: ChunkKind,
    /// The decoded length in bytes, 1 to [`MAX_CHUNK`].
    pub raw_length: usize,
    /// The length of the body after the header in bytes, 1 to `raw_length`.
    ///
    /// For a stored chunk it equals `raw_length`.
    pub body_length: usize,
}

impl ChunkHeader {
    /// Decodes a header. `bytes` must have the header length of its kind.
    ///
    /// # Errors
    /// Returns an error if the method does not have this kind, if the length is wrong, or if the
    /// body is longer than its decoded contents.
    pub fn read(bytes: &[u8], method: CompressMethod) -> Result<Self, CompressError> {
        let (first, lengths) = bytes.split_first().ok_or(CompressError::Truncated)?;
        let kind = ChunkKind::read(*first, method)?;
        let (raw_length, body_length) = match (kind.header_length(), lengths) {
            (STORED_HEADER, [a, b]) => (length([*a, *b]), length([*a, *b])),
            (BODY_HEADER, [a, b, c, d]) => (length([*a, *b]), length([*c, *d])),
            _ => return Err(CompressError::Truncated),
        };
        if body_length > raw_length {
            return Err(CompressError::BodyLength);
        }
        Ok(ChunkHeader {
            kind,
            raw_length,
            body_length,
        })
    }

    /// Encodes the header. Returns a buffer and the number of bytes used in it.
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
    fn headers_round_trip() {
        let bodies = [
            BodyEncoding::Zstd,
            BodyEncoding::RunningFirst,
            BodyEncoding::RunningNext,
        ]
        .map(ChunkKind::Body);
        let kinds = bodies
            .into_iter()
            .chain([ChunkKind::Stored, ChunkKind::StoredEnd]);
        for kind in kinds {
            for (raw_length, body_length) in [(1, 1), (256, 255), (65_536, 65_536)] {
                let body_length = if kind.header_length() == STORED_HEADER {
                    raw_length
                } else {
                    body_length
                };
                let header = ChunkHeader {
                    kind,
                    raw_length,
                    body_length,
                };
                let (bytes, length) = header.write();
                assert_eq!(
                    ChunkHeader::read(&bytes[..length], CompressMethod::Zstd),
                    Ok(header)
                );
            }
        }
    }

    #[test]
    fn read_accepts_only_kinds_of_the_method() {
        for (method, kinds) in [
            (CompressMethod::Null, &[][..]),
            (CompressMethod::S2, &[0, 1][..]),
            (CompressMethod::Zstd, &[0, 2, 3, 4, 5][..]),
        ] {
            for byte in 0..=u8::MAX {
                assert_eq!(
                    ChunkKind::read(byte, method).is_ok(),
                    kinds.contains(&byte),
                    "{method} {byte}"
                );
            }
        }
    }

    #[test]
    fn read_rejects_body_longer_than_contents() {
        assert_eq!(
            ChunkHeader::read(&[1, 0, 9, 0, 10], CompressMethod::S2),
            Err(CompressError::BodyLength)
        );
        assert!(ChunkHeader::read(&[1, 0, 9, 0, 9], CompressMethod::S2).is_ok());
    }

    #[test]
    fn read_rejects_wrong_header_length() {
        for bytes in [&[][..], &[0], &[0, 0], &[0, 0, 0, 0], &[1, 0, 0, 0]] {
            assert!(
                ChunkHeader::read(bytes, CompressMethod::S2).is_err(),
                "{bytes:?}"
            );
        }
    }
}
