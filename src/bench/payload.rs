//! The data that a measurement sends: incompressible bytes or compressible text.

use std::{fmt, iter, str::FromStr, sync::LazyLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The length of the block that is generated once and sent repeatedly, in bytes. It is eight times
/// the window of a streaming zstd frame (PROTOCOL 11.5), so no compressor finds the repetition.
const BLOCK: usize = 1 << 20;

/// The kind of data to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// Incompressible bytes.
    #[default]
    Random,
    /// Text that compresses like prose and logs.
    Text,
}

/// The text names no kind of payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is \"{0}\": write \"random\" or \"text\"")]
pub struct UnknownPayloadKind(String);

impl FromStr for PayloadKind {
    type Err = UnknownPayloadKind;

    fn from_str(text: &str) -> Result<Self, UnknownPayloadKind> {
        [PayloadKind::Random, PayloadKind::Text]
            .into_iter()
            .find(|data| data.name() == text)
            .ok_or_else(|| UnknownPayloadKind(text.to_owned()))
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl PayloadKind {
    fn name(self) -> &'static str {
        match self {
            PayloadKind::Random => "random",
            PayloadKind::Text => "text",
        }
    }

    fn block(self) -> &'static Bytes {
        static RANDOM: LazyLock<Bytes> =
            LazyLock::new(|| iter::repeat_with(|| fastrand::u8(..)).take(BLOCK).collect());
        static TEXT: LazyLock<Bytes> = LazyLock::new(text);
        match self {
            PayloadKind::Random => &RANDOM,
            PayloadKind::Text => &TEXT,
        }
    }
}

/// Generates random words with an occasional number.
fn text() -> Bytes {
    const WORDS: &str = "the a of and to in is that it was for on are as with his they at be this from have or by one had not but what all \
        were when we there can an your which their said if do will each about how up out them then she many some so these would other into \
        has more her two like him see time could no make than first been its who now people my made over did down only way find use may \
        water long little very after words called just where most know get through back much before go good new write our used me man too \
        any day same right look think also around another came come work three word must because does part even place well such here take";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut text = String::with_capacity(BLOCK);
    while text.len() < BLOCK {
        match fastrand::u8(..) {
            0..8 => text.push_str(&format!("{}.\n", fastrand::u16(..))),
            _ => text.push_str(fastrand::choice(&words).unwrap_or(&"")),
        }
        text.push(' ');
    }
    let mut text = Bytes::from(text);
    text.truncate(BLOCK);
    text
}

/// An endless sequence of payload bytes that starts at a random offset of the block.
pub(super) struct PayloadStream {
    block: &'static Bytes,
    at: usize,
}

impl PayloadStream {
    pub(super) fn new(data: PayloadKind) -> Self {
        PayloadStream {
            block: data.block(),
            at: fastrand::usize(..BLOCK),
        }
    }

    /// Returns the next piece: at least one byte and at most `most`. `most` must not be 0.
    pub(super) fn next(&self, most: usize) -> Bytes {
        let end = self.at.saturating_add(most).min(self.block.len());
        self.block.slice(self.at..end)
    }

    /// Skips `bytes` bytes that were sent.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
        if self.at >= self.block.len() {
            self.at = 0;
        }
    }

    /// Returns exactly `bytes` bytes. `bytes` must not exceed the block.
    pub(super) fn exactly(&mut self, bytes: usize) -> Bytes {
        if self.block.len().saturating_sub(self.at) < bytes {
            self.at = 0;
        }
        let piece = self.next(bytes);
        self.advance(bytes);
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report_proto::compress::{CompressMethod, Compressor, Pool};

    #[test]
    fn random_payload_is_incompressible_and_text_is_compressible() {
        for method in [CompressMethod::S2, CompressMethod::Zstd] {
            for (data, at_most, at_least) in [
                (PayloadKind::Random, 1.01, 0.99),
                (PayloadKind::Text, 0.8, 0.1),
            ] {
                let mut feed = PayloadStream::new(data);
                let mut compressor = Compressor::new(method, Pool::default().into());
                let (mut raw_bytes, mut wire) = (0, bytes::BytesMut::new());
                while raw_bytes < 3 * BLOCK {
                    let piece = feed.next(65_536);
                    feed.advance(piece.len());
                    raw_bytes += piece.len();
                    compressor.compress(&piece, &mut wire);
                }
                let ratio = wire.len() as f64 / raw_bytes as f64;
                assert!(
                    (at_least..=at_most).contains(&ratio),
                    "{data} with {method}: {ratio}"
                );
            }
        }
    }

    #[test]
    fn a_payload_stream_is_endless() {
        let mut feed = PayloadStream::new(PayloadKind::Random);
        for _ in 0..100_000 {
            assert_eq!(feed.exactly(64).len(), 64);
        }
        feed.advance(BLOCK * 2);
        assert!(!feed.next(1).is_empty());
    }

    #[test]
    fn payload_kinds_parse_from_their_names() {
        for data in [PayloadKind::Random, PayloadKind::Text] {
            assert_eq!(data.to_string().parse(), Ok(data));
        }
        assert!("prose".parse::<PayloadKind>().is_err());
    }
}
