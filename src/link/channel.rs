//! Where a link meets what its channels carry: a [`Lane`] is one channel's end, and the link asks it for the next payload only when the
//! socket has room. So nothing queues at a role, and the order of sending is decided as late as can be.
//!
//! Knows bytes and channel numbers; not what a payload means.

use bytes::BytesMut;

pub use super::{
    outbox::{OpenError, Outbox},
    websocket::Body,
};
pub use crate::frame::{Code, Notice};

/// One end of a channel. The link calls it from its own task; none of the calls may block or wait. The link holds no lock meanwhile: a lane
/// may call its [`Outbox`] from inside any of them.
pub trait Lane: Send + Sync + 'static {
    /// Takes a payload that arrived on the channel. Nobody else writes to its memory, but what it was read with may be in the same block:
    /// a short payload that is kept for long is better copied.
    ///
    /// # Errors
    /// The notice with which the channel is to be closed; the lane is dropped after it.
    fn receive(&self, payload: BytesMut) -> Result<(), Notice>;

    /// The next payload, at most `MAX_MESSAGE` less the DATA header, and whether more may follow at once. A payload that is made here is made in
    /// `memory`, which is empty, and split off it. Called only after the lane has been marked ready at its [`Outbox`], and while the channel is
    /// not paused.
    fn transmit(&self, memory: &mut BytesMut) -> Transmit;

    /// The peer paused (`true`) or resumed the channel. The link itself stops asking for payloads meanwhile.
    fn paused(&self, paused: bool) {
        let _ = paused;
    }

    /// The channel is over: the peer closed it, or the link ended. Called once, and nothing after it; not called when this side closed it.
    fn closed(&self, notice: Notice);
}

/// What [`Lane::transmit`] gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A payload, and another may follow: the lane stays in the round.
    More(Body),
    /// A payload, and there is no other now: the lane leaves the round until it is marked ready.
    Last(Body),
    /// Nothing: the lane leaves the round until it is marked ready.
    Nothing,
}
