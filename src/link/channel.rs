//! Where a link meets what its channels carry: a [`Lane`] is one channel's end, and the link asks it for the next payload only when the
//! socket has room. So nothing queues at a role, and the order of sending is decided as late as can be.
//!
//! Knows bytes and channel numbers; not what a payload means.

use bytes::{Bytes, BytesMut};

pub use super::outbox::{OpenError, Outbox};
pub use crate::frame::{Code, Notice};

/// One end of a channel. The link calls it from its own task; none of the calls may block or wait. The link holds no lock meanwhile: a lane
/// may call its [`Outbox`] from inside any of them.
pub trait Lane: Send + Sync + 'static {
    /// Takes a payload that arrived on the channel.
    ///
    /// # Errors
    /// The notice with which the channel is to be closed; the lane is dropped after it.
    fn receive(&self, payload: Bytes) -> Result<(), Notice>;

    /// Appends the next payload to `out`, at most `MAX_MESSAGE` less the DATA header, and says whether more may follow at once. Called only
    /// after the lane has been marked ready at its [`Outbox`], and while the channel is not paused.
    fn transmit(&self, out: &mut BytesMut) -> Transmit;

    /// The peer paused (`true`) or resumed the channel. The link itself stops asking for payloads meanwhile.
    fn paused(&self, paused: bool) {
        let _ = paused;
    }

    /// The channel is over: the peer closed it, or the link ended. Called once, and nothing after it; not called when this side closed it.
    fn closed(&self, notice: Notice);
}

/// What [`Lane::transmit`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// A payload was appended, and another may follow: the lane stays in the round.
    More,
    /// A payload was appended, and there is no other now: the lane leaves the round until it is marked ready.
    Last,
    /// Nothing was appended: the lane leaves the round until it is marked ready.
    Nothing,
}
