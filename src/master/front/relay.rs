//! A visitor's connection while it belongs to a web server: the very bytes go both ways, so that nothing tells the master from that server. Each head
//! is looked at on its way, for a proxy in front may send a role's upgrade, or another visitor's request, on a connection that carried other requests
//! before. Such a request waits until all of those have been answered.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use tracing::warn;

use super::{
    answers::{Answers, Progress},
    chunks::Chunks,
    head::{Beginning, Body, Head, MAX_FIELDS},
};
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
    /// A role's upgrade with more fields than it may have.
    Crowded(Head),
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
        timeout(self.header_timeout, self.head(visitor))
            .await
            .unwrap_or(Wish::Foreign)
    }

    async fn head(&mut self, visitor: &mut (impl AsyncRead + Unpin)) -> Wish {
        loop {
            match Beginning::of(&self.waiting) {
                Beginning::Head(head) => return self.judge(head),
                Beginning::Foreign => return Wish::Foreign,
                Beginning::Partial if self.waiting.len() >= self.header_bytes => {
                    return Wish::Foreign;
                }
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
            Some(_) if head.is_crowded() => {
                warn!(
                    fields = head.headers.len(),
                    "refused with 431: the request of a server or client has more than {MAX_FIELDS} header fields: \
                     write fewer `headers` there, or let the proxy in front of this master add fewer"
                );
                Wish::Crowded(head)
            }
            Some(accept) => {
                drop(self.waiting.split_to(head.length));
                Wish::Upgrade(head, accept)
            }
            None => Wish::Web(head),
        }
    }

    /// Takes the visitor's bytes to the web server, beginning with those of `wish`, up to a wish that is not `of_web`, which is given back once everything
    /// before it has been answered. Nothing when the visitor sends no more.
    async fn forward<V, W>(
        &mut self,
        mut wish: Wish,
        (visitor, web): (&mut V, &mut W),
        answers: &Answers,
        of_web: &impl Fn(&Wish) -> bool,
    ) -> io::Result<Option<Wish>>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match &wish {
                Wish::Web(head) | Wish::Crowded(head)
                    if self.request(head, visitor, web, answers).await? => {}
                Wish::Nothing => {
                    web.shutdown().await?;
                    return Ok(None);
                }
                _ => {
                    web.write_all(&self.waiting.split()).await?;
                    io::copy(visitor, web).await?;
                    web.shutdown().await?;
                    return Ok(None);
                }
            }
            wish = self.next(visitor).await;
            if !matches!(wish, Wish::Nothing) && !of_web(&wish) {
                if self.settled(visitor, answers).await == Some(Progress::Settled) {
                    return Ok(Some(wish));
                }
                web.shutdown().await?;
                return Ok(None);
            }
        }
    }

    /// A head and its body. Whether a head may follow: what has not been sent by then is waiting.
    async fn request<V, W>(
        &mut self,
        head: &Head,
        visitor: &mut V,
        web: &mut W,
        answers: &Answers,
    ) -> io::Result<bool>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match head.body {
            Body::Open => return Ok(false),
            Body::Length(_) | Body::Chunked | Body::Upgrade => answers.expect(head.is_head),
        }
        match head.body {
            Body::Chunked => self.chunks(head.length, visitor, web).await,
            Body::Length(body) => {
                // What is there of both in one piece, as it came.
                let here = self
                    .waiting
                    .len()
                    .saturating_sub(head.length)
                    .min(usize::try_from(body).unwrap_or(usize::MAX));
                web.write_all(&self.waiting.split_to(head.length.saturating_add(here)))
                    .await?;
                io::copy(&mut visitor.take(body.saturating_sub(here as u64)), web).await?;
                Ok(true)
            }
            Body::Upgrade | Body::Open => {
                web.write_all(&self.waiting.split_to(head.length)).await?;
                Ok(self.settled(visitor, answers).await == Some(Progress::Settled))
            }
        }
    }

    /// A head, and a body in chunks: the same.
    async fn chunks<V, W>(&mut self, head: usize, visitor: &mut V, web: &mut W) -> io::Result<bool>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (mut chunks, mut head) = (Chunks::default(), head);
        loop {
            let Ok((length, is_over)) = chunks.feed(self.waiting.get(head..).unwrap_or_default())
            else {
                return Ok(false);
            };
            web.write_all(&self.waiting.split_to(head.saturating_add(length)))
                .await?;
            head = 0;
            if is_over || !more(visitor, &mut self.waiting).await {
                return Ok(true);
            }
        }
    }

    /// Waits for the answers to what was sent. Nothing when the visitor sends no more by then.
    async fn settled(
        &mut self,
        visitor: &mut (impl AsyncRead + Unpin),
        answers: &Answers,
    ) -> Option<Progress> {
        loop {
            let has_room = self.waiting.len() < self.header_bytes;
            tokio::select! {
                biased;
                progress = answers.settled() => return Some(progress),
                there_is_more = more(visitor, &mut self.waiting), if has_room => if !there_is_more { return None },
            }
        }
    }
}

/// Reads what has come, and waits for it if nothing has. Whether there was anything.
async fn more(visitor: &mut (impl AsyncRead + Unpin), waiting: &mut BytesMut) -> bool {
    waiting.reserve(READ_BYTES);
    matches!(visitor.read_buf(waiting).await, Ok(length) if length > 0)
}

/// Carries a connection between a visitor, who began with `wish`, and a web server, until one of them ends it or the visitor has a wish that is not
/// `of_web`, whose turn it then is.
///
/// # Cancel safety
/// Dropping the future cuts both connections.
pub(super) async fn carry<S: ByteStream>(
    heads: &mut Heads<'_>,
    wish: Wish,
    stream: S,
    web: impl ByteStream,
    of_web: impl Fn(&Wish) -> bool,
) -> Option<(S, Wish)> {
    let answers = Answers::default();
    let (mut from_visitor, mut to_visitor) = io::split(stream);
    let (mut from_web, mut to_web) = io::split(web);
    let next = {
        let mut upward = std::pin::pin!(heads.forward(
            wish,
            (&mut from_visitor, &mut to_web),
            &answers,
            &of_web
        ));
        let mut downward = std::pin::pin!(back(&mut from_web, &mut to_visitor, &answers));
        let mut is_sending = true;
        loop {
            tokio::select! {
                sent = &mut upward, if is_sending => match sent {
                    Ok(Some(wish)) => break Some(wish),
                    // A web server that takes no more may still have an answer on its way.
                    Ok(None) | Err(_) => is_sending = false,
                },
                () = &mut downward => break None,
            }
        }
    };
    match next {
        Some(wish) => Some((from_visitor.unsplit(to_visitor), wish)),
        None => {
            let _ = timeout(LINGER, io::copy(&mut from_visitor, &mut io::sink())).await;
            None
        }
    }
}

/// What the web server says, to its end.
async fn back<W: ByteStream, S: ByteStream>(
    web: &mut ReadHalf<W>,
    visitor: &mut WriteHalf<S>,
    answers: &Answers,
) {
    let mut said = BytesMut::new();
    while more(web, &mut said).await {
        answers.feed(&said);
        if visitor.write_all(&said).await.is_err() || visitor.flush().await.is_err() {
            break;
        }
        answers.passed();
        said.clear();
    }
    let _ = visitor.shutdown().await;
}
