//! A stream that remembers what came first: what listens at a port that was taken for another.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::link::write_through::write_through;

/// What is remembered, in bytes: a line of text.
const REMEMBERED: usize = 128;

/// What came first; nothing until something has, empty when the peer ended without a word.
pub(super) type FirstBytes = Arc<OnceLock<Box<[u8]>>>;

/// The stream.
pub(super) struct Remembering<S> {
    stream: S,
    /// Until something has come.
    first: Option<FirstBytes>,
}

impl<S> Remembering<S> {
    pub fn new(stream: S) -> (Self, FirstBytes) {
        let first = FirstBytes::default();
        (
            Remembering {
                stream,
                first: Some(Arc::clone(&first)),
            },
            first,
        )
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Remembering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(first) = self.first.take() {
            let came = buffer.filled().get(before..).unwrap_or_default();
            let _ = first.set(came.iter().copied().take(REMEMBERED).collect());
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(Remembering);
