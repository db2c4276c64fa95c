//! What is sent to measure: bytes that do not shrink, or text that does.

use std::{fmt, iter, str::FromStr, sync::LazyLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes that are made once and sent over and over. Eight times as far as a running zstd frame looks back (PROTOCOL 11.5), so that no
/// compressor finds that they come again.
const BLOCK: usize = 1 << 20;

/// Which kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Does not shrink.
    #[default]
    Random,
    /// Shrinks as prose and logs do.
    Text,
}

/// The text names no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is \"{0}\": write \"random\" or \"text\"")]
pub struct UnknownData(String);

impl FromStr for Data {
    type Err = UnknownData;

    fn from_str(text: &str) -> Result<Self, UnknownData> {
        [Data::Random, Data::Text]
            .into_iter()
            .find(|data| data.name() == text)
            .ok_or_else(|| UnknownData(text.to_owned()))
    }
}

impl fmt::Display for Data {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Data {
    fn name(self) -> &'static str {
        match self {
            Data::Random => "random",
            Data::Text => "text",
        }
    }

    fn block(self) -> &'static Bytes {
        static RANDOM: LazyLock<Bytes> =
            LazyLock::new(|| iter::repeat_with(|| fastrand::u8(..)).take(BLOCK).collect());
        static TEXT: LazyLock<Bytes> = LazyLock::new(text);
        match self {
            Data::Random => &RANDOM,
            Data::Text => &TEXT,
        }
    }
}

/// Words in no order, with a number now and then.
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

/// Content without an end, from a place that is drawn.
pub struct Feed {
    block: &'static Bytes,
    at: usize,
}

impl Feed {
    pub fn new(data: Data) -> Self {
        Feed {
            block: data.block(),
            at: fastrand::usize(..BLOCK),
        }
    }

    /// What comes next, at least one byte and at most `most`, which is not 0.
    pub fn next(&self, most: usize) -> Bytes {
        let end = self.at.saturating_add(most).min(self.block.len());
        self.block.slice(self.at..end)
    }

    /// So many bytes of it were used.
    pub fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
        if self.at >= self.block.len() {
            self.at = 0;
        }
    }

    /// Exactly as many bytes, not more than there are in a block.
    pub fn exactly(&mut self, bytes: usize) -> Bytes {
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
    use crate::compress::{CompressMethod, Compressor, Pool};

    #[test]
    fn random_content_does_not_shrink_however_long_it_is_and_text_does() {
        for method in [CompressMethod::S2, CompressMethod::Zstd] {
            for (data, at_most, at_least) in [(Data::Random, 1.01, 0.99), (Data::Text, 0.8, 0.1)] {
                let mut feed = Feed::new(data);
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
    fn a_feed_never_runs_dry() {
        let mut feed = Feed::new(Data::Random);
        for _ in 0..100_000 {
            assert_eq!(feed.exactly(64).len(), 64);
        }
        feed.advance(BLOCK * 2);
        assert!(!feed.next(1).is_empty());
    }

    #[test]
    fn content_is_told_by_its_name() {
        for data in [Data::Random, Data::Text] {
            assert_eq!(data.to_string().parse(), Ok(data));
        }
        assert!("prose".parse::<Data>().is_err());
    }
}
