//! S2 blocks: written as their Snappy subset, which is the faster compressor; read whole.

use bytes::Bytes;

use super::{chunk::MAX_CHUNK, error::CompressError};

/// Makes blocks; its table is made with the first one.
#[derive(Default)]
pub(super) struct Encoder(Option<Box<snap::raw::Encoder>>);

impl Encoder {
    /// Writes `raw` as a block to the beginning of `to`, which has [`longest_body`] bytes, and returns its length.
    pub(super) fn compress(&mut self, raw: &[u8], to: &mut [u8]) -> Option<usize> {
        self.0.get_or_insert_with(|| Box::new(snap::raw::Encoder::new())).compress(raw, to).ok()
    }
}

/// Room that compressing a chunk needs.
pub(super) fn longest_body() -> usize {
    snap::raw::max_compress_len(MAX_CHUNK)
}

/// Reads a block that must hold `raw_length` bytes. Nothing is allocated before the length that it declares has been compared.
pub(super) fn decompress(body: &[u8], raw_length: usize) -> Result<Bytes, CompressError> {
    match minlz::s2::decode_len(body) {
        Ok((declared, _)) if declared == raw_length => {}
        _ => return Err(CompressError::Body),
    }
    let raw = minlz::s2::decode(body).map_err(|_| CompressError::Body)?;
    Ok(Bytes::from(raw))
}
