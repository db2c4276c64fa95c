//! Tells what came from the far end on a WebSocket's stream from what a proxy may have said by itself: bytes of messages, be it parts of them,
//! from those of WebSocket pings and pongs (PROTOCOL 2.3, 6.2).
//!
//! Knows the framing of RFC 6455, 5.2; checks nothing, since the WebSocket itself does.

/// The longest header: two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;

/// The payload of PING and PONG. What is longer is neither, which can be said before all of it is there.
const HEARTBEAT_LENGTH: u64 = 9;

/// What has been heard so far.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Bytes of frames that carry messages.
    pub(super) messages: u64,
    /// Those of them whose message is too long for a heartbeat.
    pub(super) long: u64,
    /// The header of the frame that comes in.
    header: [u8; LONGEST_HEADER],
    /// How much of it has come.
    filled: usize,
    /// What is still to come of the payload.
    left: u64,
    frame: Frame,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Frame {
    #[default]
    Control,
    Short,
    Long,
}

impl Hearing {
    /// These bytes came next.
    pub(super) fn hear(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.header_byte(*first);
                bytes = rest;
                continue;
            }
            let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= part as u64;
            self.count(part as u64);
            bytes = bytes.get(part..).unwrap_or_default();
        }
    }

    fn header_byte(&mut self, byte: u8) {
        if let Some(place) = self.header.get_mut(self.filled) {
            *place = byte;
        }
        self.filled += 1;
        let [first, second, long @ ..] = self.header;
        // The upper half of the opcodes is for control frames: the first byte says it.
        self.frame = if first & 0x08 == 0 { Frame::Short } else { Frame::Control };
        self.count(1);
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.filled < 2 + extended + mask {
            return;
        }
        self.left = match extended {
            0 => u64::from(second & 0x7f),
            bytes => long.iter().take(bytes).fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if self.frame == Frame::Short && self.left > HEARTBEAT_LENGTH {
            self.frame = Frame::Long;
            self.long += 1;
        }
        self.filled = 0;
    }

    fn count(&mut self, bytes: u64) {
        match self.frame {
            Frame::Control => {}
            Frame::Short => self.messages += bytes,
            Frame::Long => {
                self.messages += bytes;
                self.long += bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of this opcode with a payload of zeros, masked or not.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(mask | length as u8),
            126..=65_535 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // A mask whose bytes look like the beginning of a control frame.
        frame.extend(if masked { &[0x89, 0, 0x8a, 0][..] } else { &[] });
        frame.resize(frame.len() + length, 0x89);
        frame
    }

    const BINARY: u8 = 2;
    const PING: u8 = 9;

    #[test]
    fn pings_of_the_websocket_are_not_heard_and_messages_are_however_the_stream_is_cut() {
        for masked in [false, true] {
            let (mut stream, mut messages, mut long) = (Vec::new(), 0, 0);
            for length in [0, 1, 9, 10, 125, 126, 65_535, 65_536, 131_072] {
                let header = frame(BINARY, length, masked).len() - length;
                messages += header + length;
                long += if length > 9 { 1 + length } else { 0 };
                stream.extend(frame(BINARY, length, masked));
                stream.extend(frame(PING, length % 126, masked));
            }
            for piece in [1, 2, 3, 7, 1000, usize::MAX] {
                let mut hearing = Hearing::default();
                stream.chunks(piece.min(stream.len())).for_each(|piece| hearing.hear(piece));
                assert_eq!((hearing.messages, hearing.long), (messages as u64, long as u64), "in pieces of {piece}");
                assert_eq!((hearing.left, hearing.filled), (0, 0));
            }
        }
    }

    #[test]
    fn no_part_of_a_ping_is_heard_and_each_part_of_a_message_is() {
        let mut hearing = Hearing::default();
        for byte in frame(PING, 125, true) {
            hearing.hear(&[byte]);
            assert_eq!((hearing.messages, hearing.long), (0, 0));
        }
        for (count, byte) in (1..).zip(frame(BINARY, 300, true)) {
            hearing.hear(&[byte]);
            assert_eq!(hearing.messages, count);
            assert_eq!(hearing.long > 0, count >= 8, "once its length is known");
        }
    }

    #[test]
    fn no_bytes_at_all_can_do_harm() {
        let mut hearing = Hearing::default();
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..fastrand::usize(..40)).map(|_| fastrand::u8(..)).collect();
            hearing.hear(&bytes);
            if fastrand::u8(..) < 20 {
                hearing = Hearing::default();
            }
        }
        hearing.hear(&[0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }
}
