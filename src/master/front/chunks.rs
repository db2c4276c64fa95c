//! Where a body in chunks ends (RFC 9112, 7.1). Only what every reader understands in the same way is taken: whoever was told another end would take
//! part of a body for the next message.

/// The longest line with a chunk's size, and the longest trailer, in bytes.
const LINE_BYTES: usize = 4096;

/// The digits of a chunk's size: as many as 63 bits have, rounded down.
const SIZE_DIGITS: usize = 15;

/// The bytes are no body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoChunks;

/// A body of which a part was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks {
    /// What is missing of the present chunk, its end of line included.
    missing: u64,
    /// Whether the last chunk was there, and only trailers follow.
    is_last: bool,
    /// A line that has begun.
    line: Vec<u8>,
}

impl Chunks {
    /// Reads on: how many of these bytes belong to the body, and whether it ends with them.
    ///
    /// # Errors
    /// When they are no chunks.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), NoChunks> {
        let mut rest = bytes;
        loop {
            rest = if self.missing > 0 {
                self.skip(rest)?
            } else {
                rest
            };
            let Some((&byte, behind)) = rest.split_first() else {
                return Ok((bytes.len(), false));
            };
            rest = behind;
            self.line.push(byte);
            if byte != b'\n' {
                if self.line.len() > LINE_BYTES {
                    return Err(NoChunks);
                }
            } else if self.end_of_line()? {
                return Ok((bytes.len() - rest.len(), true));
            }
        }
    }

    /// Passes a chunk's data, and looks at the end of line behind it.
    fn skip<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], NoChunks> {
        let mut rest = bytes;
        let data = self.missing.saturating_sub(2);
        let skipped = rest.len().min(usize::try_from(data).unwrap_or(usize::MAX));
        rest = rest.get(skipped..).unwrap_or_default();
        self.missing -= skipped as u64;
        while let Some((byte, behind)) = rest.split_first().filter(|_| self.missing > 0) {
            if *byte != if self.missing == 2 { b'\r' } else { b'\n' } {
                return Err(NoChunks);
            }
            rest = behind;
            self.missing -= 1;
        }
        Ok(rest)
    }

    /// Whether the line that has come ends the body.
    fn end_of_line(&mut self) -> Result<bool, NoChunks> {
        let line = std::mem::take(&mut self.line);
        let line = line
            .strip_suffix(b"\r\n")
            .filter(|line| !line.contains(&b'\r'))
            .ok_or(NoChunks)?;
        if self.is_last {
            return Ok(line.is_empty());
        }
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).map_err(|_| NoChunks)?;
        if text.len() > SIZE_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoChunks);
        }
        match u64::from_str_radix(text, 16).map_err(|_| NoChunks)? {
            0 => self.is_last = true,
            size => self.missing = size + 2,
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] =
        b"3\r\nabc\r\n10;name=\"value\"\r\n0123\r\n0\r\n\r\n789ab\r\n0\r\nX-Sum: 1\r\n\r\n";

    /// Feeds in pieces that end at these places.
    fn fed(bytes: &[u8], piece: usize) -> Result<(usize, bool), NoChunks> {
        let (mut chunks, mut taken) = (Chunks::default(), 0);
        for part in bytes.chunks(piece) {
            let (length, is_over) = chunks.feed(part)?;
            taken += length;
            if is_over {
                return Ok((taken, true));
            }
        }
        Ok((taken, false))
    }

    #[test]
    fn a_body_ends_where_it_ends_however_it_is_cut_up() {
        let next = [BODY, b"GET / HTTP/1.1\r\n"].concat();
        for piece in 1..=next.len() {
            assert_eq!(
                fed(&next, piece),
                Ok((BODY.len(), true)),
                "in pieces of {piece}"
            );
        }
        assert_eq!(fed(&BODY[..BODY.len() - 1], 7), Ok((BODY.len() - 1, false)));
    }

    #[test]
    fn what_readers_understand_in_different_ways_is_refused() {
        for body in [
            &b"3\nabc\n0\n\n"[..],
            b"3\r\nabc0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabc\r0\r\n\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b" 3\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b"\r\n",
            b";a\r\n",
            b"3;a\r;b\r\nabc\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nA: b\n\r\n",
            b"zz\r\n",
        ] {
            assert_eq!(
                fed(body, body.len()),
                Err(NoChunks),
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(fed(&[b'0'; 2 * LINE_BYTES], 100), Err(NoChunks));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1_usize..64) {
            let _ = fed(&bytes, piece);
            let _ = fed(&[&b"3\r\n"[..], &bytes].concat(), piece);
        }
    }
}
