//! The interface between a link and the content of its channels. A [`ChannelEnd`] is the local end
//! of one channel. The link asks it for the next payload only when the socket has room. Nothing is
//! queued at a role, and the order of sending is decided as late as possible.
//!
//! In the other direction, a [`ChannelHandle`] lets the owner of a channel end act on its channel.
//!
//! This module knows bytes and channel numbers, and not the meaning of a payload.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::BytesMut;

use report_proto::frame::Notice;

use crate::net::websocket::MessageBody;

/// The number of a link, unique in the process. A newer link has a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u64);

impl LinkId {
    /// Returns a number that no other link has.
    pub(super) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        LinkId(NEXT.fetch_add(1, Relaxed))
    }

    /// Returns the number of a link that exists only in a test.
    #[cfg(test)]
    pub(crate) fn of_test(number: u64) -> Self {
        LinkId(number)
    }
}

/// Acts on one channel of a link. Every method does nothing after the channel was closed.
pub trait ChannelHandle: Send + Sync {
    /// Returns the link of the channel.
    fn link(&self) -> LinkId;

    /// Marks the channel end ready: it may have something to send.
    fn ready(&self);

    /// Closes the channel at once. The link drops the channel end without a further call.
    fn close(&self, notice: &Notice);

    /// Closes the channel once its end has nothing more to send.
    fn close_after_drain(&self, notice: &Notice);
}

/// The local end of one channel.
///
/// The link calls it from its own task, so no method may block. The link holds no lock during a
/// call: a channel end may call its [`Outbox`](super::Outbox) from every method.
pub trait ChannelEnd: Send + Sync + 'static {
    /// Receives a payload of the channel. The channel end owns its memory exclusively, but the
    /// block may also hold other received data: a channel end that keeps a short payload for long
    /// should copy it.
    ///
    /// # Errors
    /// The notice with which to close the channel. The link drops the channel end after it.
    fn receive(&self, payload: BytesMut) -> Result<(), Notice>;

    /// Returns the next payload, of at most `MAX_MESSAGE` less the DATA header, and whether more
    /// may follow at once. A channel end that builds the payload uses `buffer`, which is empty, and
    /// splits the payload off it.
    ///
    /// The link only calls it after the channel end was marked ready at its
    /// [`Outbox`](super::Outbox), and never while the channel is paused.
    fn transmit(&self, buffer: &mut BytesMut) -> Transmit;

    /// Reports that the peer paused (`true`) or resumed the channel. The link itself requests no
    /// payloads from a paused channel end.
    fn paused(&self, paused: bool) {
        let _ = paused;
    }

    /// Reports that the peer closed the channel or that the link ended. It is the last call, and
    /// happens once. It does not happen if this side closed the channel.
    fn closed(&self, notice: Notice);
}

/// The result of [`ChannelEnd::transmit`].
#[derive(Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A payload, and another may follow: the channel end stays scheduled.
    More(MessageBody),
    /// A payload, and no other for now: the channel end is not scheduled until it is marked ready.
    Last(MessageBody),
    /// No payload: the channel end is not scheduled until it is marked ready.
    Nothing,
    /// No payload yet, although one waits: a rate limit holds it back. The channel end is not
    /// scheduled until it is marked ready, and a channel that drains is not closed before.
    Held,
}

/// An error of [`Outbox::open`](super::Outbox::open).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The channel number is in use on this link.
    #[error("channel {0} is in use")]
    InUse(u32),
    /// The link has ended.
    #[error("the link has ended ({0})")]
    Ended(Notice),
}
