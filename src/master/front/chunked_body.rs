//! Finds the end of a chunked body (RFC 9112, 7.1). Accepts only bodies that every parser reads in
//! the same way. A parser that saw another end would take part of the body for the next message
//! (request smuggling).

/// The longest line with a chunk size, and the longest trailer line, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// The most digits of a chunk size: those that fit 63 bits, rounded down.
const MAX_SIZE_DIGITS: usize = 15;

/// The bytes are not a valid chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidChunk;

/// A partially read chunked body.
#[derive(Debug, Clone, Default)]
pub(super) struct ChunkedBody {
    /// The remaining bytes of the current chunk, including its line end.
    missing: u64,
    /// Whether the last chunk has been read, so that only trailers follow.
    is_last: bool,
    /// The current line, until its end.
    line: Vec<u8>,
}

impl ChunkedBody {
    /// Reads more bytes. Returns how many of them belong to the body, and whether the body ends
    /// with them.
    ///
    /// # Errors
    /// When the bytes are not valid chunks.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), InvalidChunk> {
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
                if self.line.len() > MAX_LINE_BYTES {
                    return Err(InvalidChunk);
                }
            } else if self.end_of_line()? {
                return Ok((bytes.len() - rest.len(), true));
            }
        }
    }

    /// Skips chunk data and verifies the line end behind it.
    fn skip<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], InvalidChunk> {
        let mut rest = bytes;
        let data = self.missing.saturating_sub(2);
        let skipped = rest.len().min(usize::try_from(data).unwrap_or(usize::MAX));
        rest = rest.get(skipped..).unwrap_or_default();
        self.missing -= skipped as u64;
        while let Some((byte, behind)) = rest.split_first().filter(|_| self.missing > 0) {
            if *byte != if self.missing == 2 { b'\r' } else { b'\n' } {
                return Err(InvalidChunk);
            }
            rest = behind;
            self.missing -= 1;
        }
        Ok(rest)
    }

    /// Whether the line just read ends the body.
    fn end_of_line(&mut self) -> Result<bool, InvalidChunk> {
        let line = std::mem::take(&mut self.line);
        let line = line
            .strip_suffix(b"\r\n")
            .filter(|line| !line.contains(&b'\r'))
            .ok_or(InvalidChunk)?;
        if self.is_last {
            return Ok(line.is_empty());
        }
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).map_err(|_| InvalidChunk)?;
        if text.len() > MAX_SIZE_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidChunk);
        }
        match u64::from_str_radix(text, 16).map_err(|_| InvalidChunk)? {
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

    /// Feeds the bytes in pieces of this length.
    fn feed_pieces(bytes: &[u8], piece: usize) -> Result<(usize, bool), InvalidChunk> {
        let (mut chunks, mut taken) = (ChunkedBody::default(), 0);
        for part in bytes.chunks(piece) {
            let (length, is_complete) = chunks.feed(part)?;
            taken += length;
            if is_complete {
                return Ok((taken, true));
            }
        }
        Ok((taken, false))
    }

    #[test]
    fn body_end_is_found_for_any_split() {
        let next = [BODY, b"GET / HTTP/1.1\r\n"].concat();
        for piece in 1..=next.len() {
            assert_eq!(
                feed_pieces(&next, piece),
                Ok((BODY.len(), true)),
                "in pieces of {piece}"
            );
        }
        assert_eq!(
            feed_pieces(&BODY[..BODY.len() - 1], 7),
            Ok((BODY.len() - 1, false))
        );
    }

    #[test]
    fn ambiguous_chunked_bodies_are_rejected() {
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
                feed_pieces(body, body.len()),
                Err(InvalidChunk),
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(
            feed_pieces(&[b'0'; 2 * MAX_LINE_BYTES], 100),
            Err(InvalidChunk)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), piece in 1_usize..64) {
            let _ = feed_pieces(&bytes, piece);
            let _ = feed_pieces(&[&b"3\r\n"[..], &bytes].concat(), piece);
        }
    }
}
