//! The streams of tunnels: those that echo, and those that download.

use anyhow::Context;
use bytes::Bytes;
use report::tunnel::{Tunnel, TunnelStream};

/// The details of a stream through which the server sends as much as it can.
const DOWNLOAD: &[u8] = b"download";

/// The bytes of one write of a download.
const DOWNLOAD_PIECE: usize = 64 * 1024;

/// Serves a stream with these details until it ends.
pub(crate) async fn answer(stream: &TunnelStream, details: &[u8]) -> anyhow::Result<()> {
    if details == DOWNLOAD {
        send_forever(stream).await
    } else {
        echo(stream).await
    }
}

async fn echo(stream: &TunnelStream) -> anyhow::Result<()> {
    while let Some(bytes) = stream.read().await? {
        let length = bytes.len();
        send(stream, bytes).await?;
        stream.consume(length);
    }
    stream.finish();
    Ok(stream.delivered().await?)
}

/// Sends until the stream fails.
async fn send_forever(stream: &TunnelStream) -> anyhow::Result<()> {
    let piece = Bytes::from(vec![b'd'; DOWNLOAD_PIECE]);
    loop {
        send(stream, piece.clone()).await?;
    }
}

async fn send(stream: &TunnelStream, mut bytes: Bytes) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        let room = stream.write_room().await?;
        stream.write(bytes.split_to(room.min(bytes.len())))?;
    }
    Ok(())
}

/// A stream whose other end echoes.
pub(crate) struct EchoStream(TunnelStream);

impl EchoStream {
    /// Opens a stream.
    pub(crate) fn open(tunnel: &Tunnel) -> Self {
        EchoStream(tunnel.open(Bytes::new()))
    }

    /// Sends a message and waits until all of it has come back.
    pub(crate) async fn echo(&mut self, message: Bytes) -> anyhow::Result<()> {
        let length = message.len();
        // Send and receive concurrently: a message may exceed what the path can buffer.
        tokio::try_join!(send(&self.0, message), self.receive(length))?;
        Ok(())
    }

    async fn receive(&self, mut left: usize) -> anyhow::Result<()> {
        while left > 0 {
            let length = self.0.read().await?.context("the stream has ended")?.len();
            self.0.consume(length);
            left = left
                .checked_sub(length)
                .context("received more bytes than sent")?;
        }
        Ok(())
    }
}

/// A stream through which the server sends as much as it can.
pub(crate) struct Download(TunnelStream);

impl Download {
    /// Opens a stream.
    pub(crate) fn open(tunnel: &Tunnel) -> Self {
        Download(tunnel.open(Bytes::from_static(DOWNLOAD)))
    }

    /// Waits for the next bytes and returns their number.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<usize> {
        let length = self.0.read().await?.context("the stream has ended")?.len();
        self.0.consume(length);
        Ok(length)
    }
}
