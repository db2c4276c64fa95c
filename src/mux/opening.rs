//! The opening of a stream, at its opener: whether OPEN has left, and whether it has come. Owns what OPEN says for as long as it may have to be
//! said again.

use bytes::Bytes;

/// How far the opening of a stream has come, at its opener.
#[derive(Debug)]
pub enum Opening {
    /// OPEN, with these details, has never left.
    Fresh(Bytes),
    /// It left, and nothing has come of the peer that shows that it arrived.
    Left(Bytes),
    /// It left, was lost with its attachment, and is to leave again.
    Again(Bytes),
    /// Both ends know of the stream.
    Known,
}

impl Opening {
    /// The details of an OPEN that is to leave.
    pub fn due(&self) -> Option<&Bytes> {
        match self {
            Opening::Fresh(details) | Opening::Again(details) => Some(details),
            Opening::Left(_) | Opening::Known => None,
        }
    }

    /// Whether OPEN has ever left: the peer may speak of the stream.
    pub fn is_announced(&self) -> bool {
        !matches!(self, Opening::Fresh(_))
    }

    /// Whether both ends know of the stream.
    pub fn is_known(&self) -> bool {
        matches!(self, Opening::Known)
    }

    /// OPEN leaves.
    pub fn leave(&mut self) {
        if let Opening::Fresh(details) | Opening::Again(details) = self {
            *self = Opening::Left(std::mem::take(details));
        }
    }

    /// The peer spoke of the stream. One that is to be opened again is opened all the same: its bytes wait for that.
    pub fn heard(&mut self) {
        if let Opening::Left(_) = self {
            *self = Opening::Known;
        }
    }

    /// A resumption tells whether the peer has `seen` the OPEN, if it has left.
    pub fn resume(&mut self, seen: bool) {
        match self {
            Opening::Left(_) | Opening::Again(_) if seen => *self = Opening::Known,
            Opening::Left(details) => *self = Opening::Again(std::mem::take(details)),
            _ => {}
        }
    }
}
