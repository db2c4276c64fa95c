//! Proxies a visitor's connection to a web server. The original bytes pass in both directions, so a
//! visitor cannot tell the master from that server.
//!
//! The proxy parses each request head, because a reverse proxy in front of the master may reuse a
//! connection. It may send a role's upgrade, or another visitor's request, after other requests.
//! Such a request waits until all earlier requests have been answered.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use tracing::warn;

use super::{
    chunked_body::ChunkedBody,
    request_head::{HeadParse, MAX_FIELDS, RequestBody, RequestHead},
    response_tracker::{ResponseProgress, ResponseTracker},
};
use crate::net::websocket::ByteStream;

/// The bytes of one read.
const READ_BYTES: usize = 8 * 1024;

/// How long the proxy drains a visitor that still sends after the web server has closed. A close
/// with unread data would reset the connection, and the visitor could lose the response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A visitor's unforwarded bytes, and the limits of its request heads.
#[derive(Debug)]
pub(super) struct RequestReader<'a> {
    pub buffered: BytesMut,
    /// The path that upgrades.
    pub path: &'a str,
    /// The longest head, in bytes.
    pub header_bytes: usize,
    /// The timeout for a head, from its first byte on.
    pub header_timeout: Duration,
}

/// The next request of a visitor.
#[derive(Debug)]
pub(super) enum NextRequest {
    /// A role's upgrade, with its `Sec-WebSocket-Accept`. Its head is no longer buffered.
    Upgrade(RequestHead, String),
    /// A role's upgrade with too many header fields.
    TooManyFields(RequestHead),
    /// A request for the web server.
    Forward(RequestHead),
    /// Input that only the web server can judge: no HTTP, or a head that is too long or incomplete.
    Unparsable,
    /// No request: the visitor has closed its direction or is gone.
    Closed,
}

impl RequestReader<'_> {
    /// Reads the next request.
    ///
    /// # Cancel safety
    /// Safe: `buffered` keeps all bytes read.
    pub(super) async fn next(&mut self, visitor: &mut (impl AsyncRead + Unpin)) -> NextRequest {
        if self.buffered.is_empty() && !read_more(visitor, &mut self.buffered).await {
            return NextRequest::Closed;
        }
        timeout(self.header_timeout, self.head(visitor))
            .await
            .unwrap_or(NextRequest::Unparsable)
    }

    async fn head(&mut self, visitor: &mut (impl AsyncRead + Unpin)) -> NextRequest {
        loop {
            match HeadParse::of(&self.buffered) {
                HeadParse::Complete(head) => return self.classify(head),
                HeadParse::Invalid => return NextRequest::Unparsable,
                HeadParse::Partial if self.buffered.len() >= self.header_bytes => {
                    return NextRequest::Unparsable;
                }
                HeadParse::Partial => {}
            }
            if !read_more(visitor, &mut self.buffered).await {
                return NextRequest::Unparsable;
            }
        }
    }

    fn classify(&mut self, mut head: RequestHead) -> NextRequest {
        if head.length > self.header_bytes {
            return NextRequest::Unparsable;
        }
        match head.accept.take().filter(|_| head.path == self.path) {
            Some(_) if head.has_too_many_fields() => {
                warn!(
                    fields = head.headers.len(),
                    "link refused with 431: the request of a server or client has more than {MAX_FIELDS} header fields \
                     (configure fewer `headers` there, or let the proxy in front of this master add fewer)"
                );
                NextRequest::TooManyFields(head)
            }
            Some(accept) => {
                drop(self.buffered.split_to(head.length));
                NextRequest::Upgrade(head, accept)
            }
            None => NextRequest::Forward(head),
        }
    }

    /// Forwards the visitor's bytes to the web server, beginning with `next_request`. Stops at a
    /// request that is not `is_for_web`, and returns it once all earlier requests have been
    /// answered. Returns `None` when the visitor sends nothing more.
    async fn forward<V, W>(
        &mut self,
        mut next_request: NextRequest,
        (visitor, web): (&mut V, &mut W),
        responses: &ResponseTracker,
        is_for_web: &impl Fn(&NextRequest) -> bool,
    ) -> io::Result<Option<NextRequest>>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match &next_request {
                NextRequest::Forward(head) | NextRequest::TooManyFields(head)
                    if self.forward_request(head, visitor, web, responses).await? => {}
                NextRequest::Closed => {
                    web.shutdown().await?;
                    return Ok(None);
                }
                _ => {
                    web.write_all(&self.buffered.split()).await?;
                    io::copy(visitor, web).await?;
                    web.shutdown().await?;
                    return Ok(None);
                }
            }
            next_request = self.next(visitor).await;
            if !matches!(next_request, NextRequest::Closed) && !is_for_web(&next_request) {
                if self.completed(visitor, responses).await == Some(ResponseProgress::Complete) {
                    return Ok(Some(next_request));
                }
                web.shutdown().await?;
                return Ok(None);
            }
        }
    }

    /// Forwards a head and its body. Returns whether another head may follow; its bytes are in
    /// `buffered`.
    async fn forward_request<V, W>(
        &mut self,
        head: &RequestHead,
        visitor: &mut V,
        web: &mut W,
        responses: &ResponseTracker,
    ) -> io::Result<bool>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match head.body {
            RequestBody::Unknown => return Ok(false),
            RequestBody::Length(_) | RequestBody::Chunked | RequestBody::Upgrade => {
                responses.expect_response(head.is_head)
            }
        }
        match head.body {
            RequestBody::Chunked => self.forward_chunked(head.length, visitor, web).await,
            RequestBody::Length(body) => {
                // Sends the buffered part of head and body in one write, as it arrived.
                let here = self
                    .buffered
                    .len()
                    .saturating_sub(head.length)
                    .min(usize::try_from(body).unwrap_or(usize::MAX));
                web.write_all(&self.buffered.split_to(head.length.saturating_add(here)))
                    .await?;
                io::copy(&mut visitor.take(body.saturating_sub(here as u64)), web).await?;
                Ok(true)
            }
            RequestBody::Upgrade | RequestBody::Unknown => {
                web.write_all(&self.buffered.split_to(head.length)).await?;
                Ok(self.completed(visitor, responses).await == Some(ResponseProgress::Complete))
            }
        }
    }

    /// Forwards a head and its chunked body. Returns whether another head may follow.
    async fn forward_chunked<V, W>(
        &mut self,
        head: usize,
        visitor: &mut V,
        web: &mut W,
    ) -> io::Result<bool>
    where
        V: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (mut chunks, mut head) = (ChunkedBody::default(), head);
        loop {
            let Ok((length, is_complete)) =
                chunks.feed(self.buffered.get(head..).unwrap_or_default())
            else {
                return Ok(false);
            };
            web.write_all(&self.buffered.split_to(head.saturating_add(length)))
                .await?;
            head = 0;
            if is_complete || !read_more(visitor, &mut self.buffered).await {
                return Ok(true);
            }
        }
    }

    /// Waits for the responses to all forwarded requests. Returns `None` when the visitor closes
    /// before.
    async fn completed(
        &mut self,
        visitor: &mut (impl AsyncRead + Unpin),
        responses: &ResponseTracker,
    ) -> Option<ResponseProgress> {
        loop {
            // Reads on to notice a close, but buffers no more than one head.
            let has_room = self.buffered.len() < self.header_bytes;
            tokio::select! {
                biased;
                progress = responses.completed() => return Some(progress),
                has_more = read_more(visitor, &mut self.buffered), if has_room => if !has_more { return None },
            }
        }
    }
}

/// Waits for input and buffers it. Returns whether there was any.
async fn read_more(visitor: &mut (impl AsyncRead + Unpin), buffered: &mut BytesMut) -> bool {
    buffered.reserve(READ_BYTES);
    matches!(visitor.read_buf(buffered).await, Ok(length) if length > 0)
}

/// Proxies between a visitor, whose first request is `next_request`, and a web server. Ends when
/// one of them closes, or when the visitor sends a request that is not `is_for_web`. Returns that
/// request.
///
/// # Cancel safety
/// Dropping the future aborts both connections.
pub(super) async fn proxy_connection<S: ByteStream>(
    reader: &mut RequestReader<'_>,
    next_request: NextRequest,
    stream: S,
    web: impl ByteStream,
    is_for_web: impl Fn(&NextRequest) -> bool,
) -> Option<(S, NextRequest)> {
    let responses = ResponseTracker::default();
    let (mut from_visitor, mut to_visitor) = io::split(stream);
    let (mut from_web, mut to_web) = io::split(web);
    let returned = {
        let mut upward = std::pin::pin!(reader.forward(
            next_request,
            (&mut from_visitor, &mut to_web),
            &responses,
            &is_for_web
        ));
        let mut downward =
            std::pin::pin!(copy_responses(&mut from_web, &mut to_visitor, &responses));
        let mut is_sending = true;
        loop {
            tokio::select! {
                sent = &mut upward, if is_sending => match sent {
                    Ok(Some(next_request)) => break Some(next_request),
                    // A web server that reads no more may still be sending a response.
                    Ok(None) | Err(_) => is_sending = false,
                },
                () = &mut downward => break None,
            }
        }
    };
    match returned {
        Some(next_request) => Some((from_visitor.unsplit(to_visitor), next_request)),
        None => {
            let _ = timeout(LINGER_TIMEOUT, io::copy(&mut from_visitor, &mut io::sink())).await;
            None
        }
    }
}

/// Copies the web server's output to the visitor until its end.
async fn copy_responses<W: ByteStream, S: ByteStream>(
    web: &mut ReadHalf<W>,
    visitor: &mut WriteHalf<S>,
    responses: &ResponseTracker,
) {
    let mut buffer = BytesMut::new();
    while read_more(web, &mut buffer).await {
        responses.feed(&buffer);
        if visitor.write_all(&buffer).await.is_err() || visitor.flush().await.is_err() {
            break;
        }
        responses.mark_forwarded();
        buffer.clear();
    }
    let _ = visitor.shutdown().await;
}
