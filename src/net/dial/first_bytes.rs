//! A stream that captures the first bytes it receives, as evidence when a port speaks another
//! protocol.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::net::write_through::write_through;

/// The number of bytes captured: about one line of text.
const CAPTURED: usize = 128;

/// The first bytes received. Unset until the first read; empty if the peer closed without sending.
pub(super) type FirstBytes = Arc<OnceLock<Box<[u8]>>>;

/// A stream that captures the first bytes it receives.
pub(super) struct CapturingStream<S> {
    stream: S,
    /// Taken at the first read.
    first: Option<FirstBytes>,
}

impl<S> CapturingStream<S> {
    pub(super) fn new(stream: S) -> (Self, FirstBytes) {
        let first = FirstBytes::default();
        (
            CapturingStream {
                stream,
                first: Some(Arc::clone(&first)),
            },
            first,
        )
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CapturingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(first) = self.first.take() {
            let received = buffer.filled().get(before..).unwrap_or_default();
            let _ = first.set(received.iter().copied().take(CAPTURED).collect());
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(CapturingStream);
