//! Encodes and decodes WebSocket frame headers (RFC 6455, section 5) and applies the mask. Knows no
//! streams and no messages.

use bytes::{BufMut, BytesMut};

/// The maximum length of a header: two bytes, eight of length, four of mask.
pub(super) const MAX_HEADER_LENGTH: usize = 14;

/// The maximum payload of a control frame (RFC 6455, 5.5).
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// The length of a masking key, in bytes.
const KEY: usize = 4;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    /// A further part of a message.
    Continuation,
    /// A text message, or its first part.
    Text,
    /// A binary message, or its first part.
    Binary,
    /// The sender will send no more frames.
    Close,
    /// Asks the peer for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn of(first: u8) -> Result<Self, &'static str> {
        Ok(match first & 0x0f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err("an opcode that is not defined"),
        })
    }

    const fn code(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xa,
        }
    }

    /// Returns whether this is a control frame, which carries no part of a message.
    pub(super) const fn is_control(self) -> bool {
        self.code() & 0x08 != 0
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub is_final: bool,
    pub opcode: Opcode,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload, in bytes.
    pub length: u64,
}

impl FrameHeader {
    /// Returns the header of an unfragmented binary message.
    pub(super) const fn message(length: usize, mask: Option<[u8; 4]>) -> Self {
        FrameHeader {
            is_final: true,
            opcode: Opcode::Binary,
            mask,
            length: length as u64,
        }
    }

    /// Decodes the header at the front of `bytes` and returns it with its own length. Returns
    /// `None` until the header is complete.
    ///
    /// # Errors
    /// If the header violates RFC 6455.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, &'static str> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err("a frame of an extension that was not agreed");
        }
        let (is_final, opcode) = (first & 0x80 != 0, Opcode::of(first)?);
        let short = second & 0x7f;
        if opcode.is_control() && (!is_final || usize::from(short) > MAX_CONTROL_PAYLOAD) {
            return Err("a control frame in parts or too long");
        }
        let (length, rest) = match (short, rest) {
            (126, &[a, b, ref rest @ ..]) => (u64::from(u16::from_be_bytes([a, b])), rest),
            (127, &[a, b, c, d, e, f, g, h, ref rest @ ..]) => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
            }
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        let (mask, rest) = match rest {
            _ if second & 0x80 == 0 => (None, rest),
            &[a, b, c, d, ref rest @ ..] => (Some([a, b, c, d]), rest),
            _ => return Ok(None),
        };
        Ok(Some((
            FrameHeader {
                is_final,
                opcode,
                mask,
                length,
            },
            bytes.len().saturating_sub(rest.len()),
        )))
    }

    /// Appends the header in its shortest form.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let is_final = if self.is_final { 0x80 } else { 0 };
        out.put_u8(is_final | self.opcode.code());
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(short @ ..=125), _) => out.put_u8(masked | short),
            (_, Ok(long)) => {
                out.put_u8(masked | 126);
                out.put_u16(long);
            }
            _ => {
                out.put_u8(masked | 127);
                out.put_u64(self.length);
            }
        }
        if let Some(mask) = self.mask {
            out.put_slice(&mask);
        }
    }
}

/// Masks or unmasks `payload`, whose first byte is at `offset` in the masked data.
pub(super) fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let mut turned = key;
    turned.rotate_left(offset % KEY);
    // The compiler turns chunks of this size into vector instructions.
    let (chunks, rest) = payload.as_chunks_mut::<{ 8 * KEY }>();
    chunks
        .iter_mut()
        .flat_map(|chunk| chunk.as_chunks_mut().0)
        .for_each(|word| mask_word(word, turned));
    let (words, rest) = rest.as_chunks_mut();
    words.iter_mut().for_each(|word| mask_word(word, turned));
    rest.iter_mut()
        .zip(turned)
        .for_each(|(byte, key)| *byte ^= key);
}

fn mask_word(word: &mut [u8; KEY], key: [u8; KEY]) {
    *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = FrameHeader> {
        let opcode = prop_oneof![
            Just(Opcode::Continuation),
            Just(Opcode::Text),
            Just(Opcode::Binary),
            Just(Opcode::Close),
            Just(Opcode::Ping),
            Just(Opcode::Pong),
        ];
        let length = prop_oneof![0..=125_u64, 126..=65_535_u64, any::<u64>()];
        (any::<bool>(), opcode, any::<Option<[u8; 4]>>(), length).prop_map(
            |(is_final, opcode, mask, length)| {
                let is_control = opcode.is_control();
                FrameHeader {
                    is_final: is_final || is_control,
                    opcode,
                    mask,
                    length: if is_control { length % 126 } else { length },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn header_round_trips_and_partial_header_is_incomplete(header in header(), behind in any::<[u8; 3]>()) {
            let mut out = BytesMut::new();
            header.encode(&mut out);
            let length = out.len();
            for cut in 0..length {
                prop_assert_eq!(FrameHeader::decode(&out[..cut]), Ok(None));
            }
            let bytes = [&out[..], &behind].concat();
            prop_assert_eq!(FrameHeader::decode(&bytes), Ok(Some((header, length))));
        }

        #[test]
        fn mask_equals_bytewise_mask_at_any_offset(
            clear in proptest::collection::vec(any::<u8>(), 0..200), key in any::<[u8; 4]>(), offset in 0_usize..9,
        ) {
            let mut masked = clear.clone();
            apply_mask(&mut masked, key, offset);
            let expected: Vec<u8> = (offset..).zip(&clear).map(|(index, byte)| byte ^ key[index % 4]).collect();
            prop_assert_eq!(masked, expected);
        }

        #[test]
        fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = FrameHeader::decode(&bytes);
        }
    }

    #[test]
    fn forbidden_headers_are_rejected() {
        for bytes in [
            &[0xc2, 0][..],
            &[0x83, 0],
            &[0x8b, 0],
            &[0x09, 0],
            &[0x89, 126, 0, 200],
        ] {
            assert!(FrameHeader::decode(bytes).is_err(), "{bytes:x?}");
        }
    }
}
