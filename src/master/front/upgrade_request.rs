//! The answers to a role's upgrade: 101, or 503 from a master without room.

use std::{io, net::IpAddr};

use bytes::Bytes;
use http::StatusCode;
use tokio::io::AsyncWriteExt;

use super::static_site::{page_text, title};
use crate::{master::limits::RETRY_AFTER, net::websocket::ByteStream};

/// A role's upgrade that the master has not answered yet.
pub(in crate::master) struct UpgradeRequest<S> {
    pub(super) stream: S,
    /// Bytes received behind the request.
    pub(super) read: Bytes,
    /// The value of `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    /// The visitor's address.
    pub(in crate::master) visitor: IpAddr,
}

/// A connection that has been upgraded to a WebSocket.
pub(in crate::master) struct Upgraded<S> {
    /// The stream below the WebSocket.
    pub(in crate::master) stream: S,
    /// Bytes received behind the request.
    pub(in crate::master) read: Bytes,
}

impl<S: ByteStream> UpgradeRequest<S> {
    /// Answers 101. Returns `None` if the connection failed.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the connection.
    pub(in crate::master) async fn accept(mut self) -> Option<Upgraded<S>> {
        let answer = switching_protocols(&self.accept);
        self.stream.write_all(answer.as_bytes()).await.ok()?;
        self.stream.flush().await.ok()?;
        Some(Upgraded {
            stream: self.stream,
            read: self.read,
        })
    }

    /// Answers 503 and closes the connection.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the connection.
    pub(in crate::master) async fn refuse(mut self) {
        send_unavailable(&mut self.stream).await;
    }
}

/// Answers a request with 503 and closes the connection.
///
/// # Cancel safety
/// Dropping the future aborts the connection.
pub(super) async fn send_unavailable(stream: &mut impl ByteStream) {
    let sent = async {
        stream.write_all(unavailable().as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    // A peer that has left needs no answer.
    let _: io::Result<()> = sent.await;
}

/// Returns the response to a role's upgrade.
fn switching_protocols(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Returns the response of a master without room: the page of a common web server.
fn unavailable() -> String {
    let title = title(StatusCode::SERVICE_UNAVAILABLE);
    let page = page_text(&title);
    format!(
        "HTTP/1.1 {title}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nRetry-After: {}\r\nConnection: close\r\n\r\n{page}",
        page.len(),
        RETRY_AFTER.as_secs()
    )
}
