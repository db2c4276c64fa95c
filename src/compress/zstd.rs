//! Zstandard, in two ways: whole frames with a borrowed context, and a running frame with a context of its own.
//!
//! A running frame is better by about a tenth and costs memory at both ends, so it has a window of 2^17 bytes and comes out of a budget.

use bytes::Bytes;
use zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective,
    zstd_sys::ZSTD_EndDirective::ZSTD_e_flush,
};

use super::{
    chunk::{Body, MAX_CHUNK},
    error::CompressError,
    pool::Permit,
};

/// The fastest of the ordinary levels: measured, level 3 costs a quarter to two fifths more time for 5 to 14% less data.
const LEVEL: i32 = 1;

/// The window of a running frame as a power of two: measured, larger ones gain nothing on text and need a third more memory.
const WINDOW_LOG: u32 = 17;

/// Room that compressing a chunk needs.
pub(super) fn longest_body() -> usize {
    zstd_safe::compress_bound(MAX_CHUNK)
}

/// Makes whole frames; its context is made with the first one.
#[derive(Default)]
pub(super) struct Encoder(Option<CCtx<'static>>);

impl Encoder {
    /// Writes `raw` as a frame to the beginning of `to`, and returns its length; nothing when the library fails.
    pub(super) fn compress(&mut self, raw: &[u8], to: &mut [u8]) -> Option<usize> {
        if self.0.is_none() {
            self.0 = Some(encoder(&[])?);
        }
        self.0.as_mut()?.compress2(to, raw).ok()
    }
}

/// Reads whole frames; its context is made with the first one.
#[derive(Default)]
pub(super) struct Decoder(Option<DCtx<'static>>);

impl Decoder {
    /// Reads `body`, which must be one frame that holds `raw_length` bytes.
    pub(super) fn decompress(
        &mut self,
        body: &[u8],
        raw_length: usize,
    ) -> Result<Bytes, CompressError> {
        if zstd_safe::find_frame_compressed_size(body) != Ok(body.len()) {
            return Err(CompressError::Body);
        }
        if self.0.is_none() {
            self.0 = DCtx::try_create();
        }
        let mut raw = Vec::with_capacity(raw_length);
        let context = self.0.as_mut().ok_or(CompressError::Body)?;
        match context.decompress(&mut raw, body) {
            Ok(length) if length == raw_length => Ok(Bytes::from(raw)),
            _ => Err(CompressError::Body),
        }
    }
}

/// One direction's running frame at the sender.
pub(super) struct RunningEncoder {
    context: CCtx<'static>,
    begun: bool,
    _permit: Permit,
}

impl RunningEncoder {
    /// Nothing when there is no memory for it.
    pub(super) fn new(permit: Permit) -> Option<Self> {
        let context = encoder(&[CParameter::WindowLog(WINDOW_LOG)])?;
        Some(RunningEncoder {
            context,
            begun: false,
            _permit: permit,
        })
    }

    /// Writes the next part of the frame, flushed, to the beginning of `to`. Nothing when it would be longer than `raw`: then the
    /// frame is given up, and the next part begins another one.
    pub(super) fn compress(&mut self, raw: &[u8], to: &mut [u8]) -> Option<(Body, usize)> {
        let length = self.flush(raw, to).filter(|length| *length <= raw.len());
        let Some(length) = length else {
            self.begun = false;
            return None;
        };
        let how = if self.begun {
            Body::RunningNext
        } else {
            Body::RunningFirst
        };
        self.begun = true;
        Some((how, length))
    }

    fn flush(&mut self, raw: &[u8], to: &mut [u8]) -> Option<usize> {
        if !self.begun {
            self.context.reset(ResetDirective::SessionOnly).ok()?;
        }
        let mut output = OutBuffer::around(to);
        let mut input = InBuffer::around(raw);
        loop {
            let before = (input.pos(), output.pos());
            let left = self
                .context
                .compress_stream2(&mut output, &mut input, ZSTD_e_flush)
                .ok()?;
            if left == 0 && input.pos() == raw.len() {
                return Some(output.pos());
            }
            if before == (input.pos(), output.pos()) {
                return None;
            }
        }
    }
}

/// One direction's running frame at the receiver.
pub(super) struct RunningDecoder {
    context: DCtx<'static>,
    _permit: Permit,
}

impl RunningDecoder {
    /// Nothing when there is no memory for it.
    pub(super) fn new(permit: Permit) -> Option<Self> {
        let mut context = DCtx::try_create()?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG))
            .ok()?;
        Some(RunningDecoder {
            context,
            _permit: permit,
        })
    }

    /// Begins with a new frame.
    pub(super) fn restart(&mut self) -> Result<(), CompressError> {
        self.context
            .reset(ResetDirective::SessionOnly)
            .map(|_| ())
            .map_err(|_| CompressError::Body)
    }

    /// Reads the next part of the frame, which must hold `raw_length` bytes and not end it.
    pub(super) fn decompress(
        &mut self,
        body: &[u8],
        raw_length: usize,
    ) -> Result<Bytes, CompressError> {
        // One byte of room more than is declared: when it stays free, nothing is left behind in the context.
        let mut raw = Vec::with_capacity(raw_length.saturating_add(1));
        let mut output = OutBuffer::around(&mut raw);
        let mut input = InBuffer::around(body);
        loop {
            let before = (input.pos(), output.pos());
            let hint = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|_| CompressError::Body)?;
            let stuck = before == (input.pos(), output.pos());
            if hint == 0 || output.pos() > raw_length || (stuck && input.pos() < body.len()) {
                return Err(CompressError::Body);
            }
            if stuck || input.pos() == body.len() {
                break;
            }
        }
        if raw.len() == raw_length {
            Ok(Bytes::from(raw))
        } else {
            Err(CompressError::Body)
        }
    }
}

/// A context with our level, without checksums: a sealed message is authenticated.
fn encoder(parameters: &[CParameter]) -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    let common = [
        CParameter::CompressionLevel(LEVEL),
        CParameter::ChecksumFlag(false),
    ];
    for parameter in common.iter().chain(parameters) {
        context.set_parameter(*parameter).ok()?;
    }
    Some(context)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compress::{Pool, PoolLimits};

    /// What [`PoolLimits`] says about memory.
    #[test]
    fn a_running_frame_costs_what_its_budget_says() {
        let pool = Arc::new(Pool::new(PoolLimits::default()));
        let mut encoder = pool
            .running_encoder()
            .and_then(RunningEncoder::new)
            .unwrap();
        let mut decoder = pool
            .running_decoder()
            .and_then(RunningDecoder::new)
            .unwrap();
        let raw: Vec<u8> = (0..MAX_CHUNK)
            .map(|index| (index % 251) as u8 ^ (index >> 9) as u8)
            .collect();
        let mut room = vec![0; longest_body()];
        for _ in 0..8 {
            let (_, length) = encoder.compress(&raw, &mut room).unwrap();
            assert_eq!(decoder.decompress(&room[..length], raw.len()).unwrap(), raw);
        }
        let (sending, receiving) = (encoder.context.sizeof(), decoder.context.sizeof());
        assert!(sending <= 1024 * 1024, "{sending}");
        assert!(receiving <= 640 * 1024, "{receiving}");
        println!("{sending} bytes at the sender, {receiving} at the receiver");
    }
}
