//! A visitor's connection while it belongs to a web server: the very bytes go both ways, so that nothing tells the master from that server. Each head
//! is looked at on its way, for a proxy in front may send a role's upgrade on a connection that carried other requests before.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};

use super::head::{Beginning, Body, Head};
use crate::link::websocket::ByteStream;

/// Read at a time.
const READ_BYTES: usize = 8 * 1024;

/// How long a visitor who still sends is listened to after the web server has closed, so that its answer arrives and no reset in its place.
const LINGER: Duration = Duration::from_secs(2);

/// What a visitor has sent that went nowhere yet, and the rules for its heads.
#[derive(Debug)]
pub(super) struct Heads<'a> {
    pub waiting: BytesMut,
    /// The one path that upgrades.
    pub path: &'a str,
    /// A head may be as long as that.
    pub header_bytes: usize,
    /// The time for a head from its first byte on.
    pub header_timeout: Duration,
}

/// What a visitor wants next.
#[derive(Debug)]
pub(super) enum Wish {
    /// A role's upgrade, with its `Sec-WebSocket-Accept`. The head is not waiting any more.
    Upgrade(Head, String),
    /// Something of the web server.
    Web(Head),
    /// Something that only the web server can judge: no HTTP, or a head that is too long or does not end.
    Foreign,
    /// Nothing: the visitor has closed its direction, or is gone.
    Nothing,
}

impl Heads<'_> {
    /// The next wish.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept in `waiting`.
    pub async fn next(&mut self, visitor: &mut (impl AsyncRead + Unpin)) -> Wish {
        if self.waiting.is_empty() && !more(visitor, &mut self.waiting).await {
            return Wish::Nothing;
        }
        timeout(self.header_timeout, self.head(visitor)).await.unwrap_or(Wish::Foreign)
    }

    async fn head(&mut self, visitor: &mut (impl AsyncRead + Unpin)) -> Wish {
        loop {
            match Beginning::of(&self.waiting) {
                Beginning::Head(head) => return self.judge(head),
                Beginning::Foreign => return Wish::Foreign,
                Beginning::Partial if self.waiting.len() >= self.header_bytes => return Wish::Foreign,
                Beginning::Partial => {}
            }
            if !more(visitor, &mut self.waiting).await {
                return Wish::Foreign;
            }
        }
    }

    fn judge(&mut self, mut head: Head) -> Wish {
        if head.length > self.header_bytes {
            return Wish::Foreign;
        }
        match head.accept.take().filter(|_| head.path == self.path) {
            Some(accept) => {
                drop(self.waiting.split_to(head.length));
                Wish::Upgrade(head, accept)
            }
            None => Wish::Web(head),
        }
    }

    /// Takes the visitor's bytes to the web server, beginning with those of `wish`, up to an upgrade. Nothing when the visitor sends no more.
    async fn forward<V, W>(&mut self, mut wish: Wish, visitor: &mut V, web: &mut W) -> io::Result<Option<(Head, String)>>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match wish {
                Wish::Upgrade(head, accept) => return Ok(Some((head, accept))),
                Wish::Web(Head { body: Body::Open, .. }) | Wish::Foreign => return self.rest(visitor, web).await,
                Wish::Web(Head { length, body: Body::Length(body), .. }) => self.request(length, body, visitor, web).await?,
                Wish::Nothing => {
                    web.shutdown().await?;
                    return Ok(None);
                }
            }
            wish = self.next(visitor).await;
        }
    }

    /// A head and its body: what is there of both in one piece, as it came.
    async fn request<V, W>(&mut self, head: usize, body: u64, visitor: &mut V, web: &mut W) -> io::Result<()>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let here = self.waiting.len().saturating_sub(head).min(usize::try_from(body).unwrap_or(usize::MAX));
        web.write_all(&self.waiting.split_to(head.saturating_add(here))).await?;
        io::copy(&mut visitor.take(body.saturating_sub(here as u64)), web).await?;
        Ok(())
    }

    /// Everything that is still to come is the web server's.
    async fn rest<T, V, W>(&mut self, visitor: &mut V, web: &mut W) -> io::Result<Option<T>>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        web.write_all(&self.waiting.split()).await?;
        io::copy(visitor, web).await?;
        web.shutdown().await?;
        Ok(None)
    }
}

/// Reads what has come, and waits for it if nothing has. Whether there was anything.
async fn more(visitor: &mut (impl AsyncRead + Unpin), waiting: &mut BytesMut) -> bool {
    waiting.reserve(READ_BYTES);
    matches!(visitor.read_buf(waiting).await, Ok(length) if length > 0)
}

/// Carries a connection between a visitor, who began with `wish`, and a web server, until one of them ends it or the visitor asks for an upgrade.
///
/// # Cancel safety
/// Dropping the future cuts both connections.
pub(super) async fn carry<S: ByteStream>(
    heads: &mut Heads<'_>,
    wish: Wish,
    stream: S,
    web: impl ByteStream,
) -> Option<(S, Head, String)> {
    let (mut from_visitor, mut to_visitor) = io::split(stream);
    let (mut from_web, mut to_web) = io::split(web);
    let upgrade = {
        let mut upward = std::pin::pin!(heads.forward(wish, &mut from_visitor, &mut to_web));
        let mut downward = std::pin::pin!(back(&mut from_web, &mut to_visitor));
        let mut is_sending = true;
        loop {
            tokio::select! {
                sent = &mut upward, if is_sending => match sent {
                    Ok(Some(upgrade)) => break Some(upgrade),
                    // A web server that takes no more may still have an answer on its way.
                    Ok(None) | Err(_) => is_sending = false,
                },
                () = &mut downward => break None,
            }
        }
    };
    match upgrade {
        Some((head, accept)) => Some((from_visitor.unsplit(to_visitor), head, accept)),
        None => {
            let _ = timeout(LINGER, io::copy(&mut from_visitor, &mut io::sink())).await;
            None
        }
    }
}

/// What the web server says, to its end.
async fn back<W: ByteStream, S: ByteStream>(web: &mut ReadHalf<W>, visitor: &mut WriteHalf<S>) {
    let _ = io::copy(web, visitor).await;
    let _ = visitor.shutdown().await;
}
