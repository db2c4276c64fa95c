//! Carries one stream of a tunnel to and from two queues of bytes, as for the standard input and
//! output of a process. Each direction ends on its own.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::tunnel::{
    TunnelStream,
    raw::{RawError, RawReceiver, RawSender},
};
use report_proto::compress::CompressMethod;

/// The local ends of a stream.
pub struct PipeEnds {
    /// The bytes to send. The channel closes at their end.
    pub input: mpsc::Receiver<io::Result<Bytes>>,
    /// Takes the received bytes. The pipe drops it at their end. A consumer that needs no more closes
    /// the channel.
    pub output: mpsc::Sender<Bytes>,
    /// The first bytes of the stream if they were read already. The peer has no new credit for them
    /// yet.
    pub early: Bytes,
}

/// How a stream ended without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeEnd {
    /// Both directions have ended, and the peer has received everything.
    Finished,
    /// The consumer of the output has closed its channel.
    OutputClosed,
}

/// Why a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The input cannot be read.
    #[error("cannot read the input: {0}")]
    Input(#[source] io::Error),
    /// The stream was reset or is corrupt, or the tunnel has ended.
    #[error(transparent)]
    Stream(#[from] RawError),
}

/// Why a direction stops both of them.
enum Stop {
    OutputClosed,
    Failed(PipeError),
}

impl From<PipeError> for Stop {
    fn from(error: PipeError) -> Self {
        Stop::Failed(error)
    }
}

impl From<RawError> for Stop {
    fn from(error: RawError) -> Self {
        Stop::Failed(error.into())
    }
}

/// Carries `stream` until both directions have ended. Backpressure reaches the service and the
/// producer of the input: each queue is bounded by its channel.
///
/// # Errors
/// When the stream fails, or the input cannot be read.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub async fn carry(
    stream: TunnelStream,
    compress: CompressMethod,
    ends: PipeEnds,
) -> Result<PipeEnd, PipeError> {
    let PipeEnds {
        input,
        output,
        early,
    } = ends;
    let receiver = RawReceiver::after(&stream, compress, early);
    let carried = tokio::try_join!(send(&stream, compress, input), receive(receiver, output));
    match carried {
        Ok(_) => Ok(PipeEnd::Finished),
        Err(Stop::OutputClosed) => Ok(PipeEnd::OutputClosed),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Sends the input and its end. Returns when the peer has acknowledged both.
async fn send(
    stream: &TunnelStream,
    compress: CompressMethod,
    mut input: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<(), Stop> {
    let mut sender = RawSender::new(stream, compress);
    while let Some(bytes) = next_input(stream, &mut input).await? {
        sender.send_all(bytes).await?;
    }
    stream.finish();
    stream.delivered().await.map_err(RawError::from)?;
    Ok(())
}

/// Returns the next bytes of the input; `None` at its end. Also notices a failure of the stream, for
/// which an idle input would wait forever.
async fn next_input(
    stream: &TunnelStream,
    input: &mut mpsc::Receiver<io::Result<Bytes>>,
) -> Result<Option<Bytes>, PipeError> {
    tokio::select! {
        biased;
        error = stream.failed() => Err(PipeError::Stream(error.into())),
        bytes = input.recv() => bytes.transpose().map_err(PipeError::Input),
    }
}

/// Passes the received bytes to the output. Drops it at their end.
async fn receive(mut receiver: RawReceiver<'_>, output: mpsc::Sender<Bytes>) -> Result<(), Stop> {
    loop {
        let received = tokio::select! {
            received = receiver.receive() => received?,
            () = output.closed() => return Err(Stop::OutputClosed),
        };
        let Some(bytes) = received else {
            return Ok(());
        };
        if output.send(bytes).await.is_err() {
            return Err(Stop::OutputClosed);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::tunnel::{
        ResetCode, Tunnel,
        confirmation::{confirm, confirmed},
        tests::TunnelTestbed,
    };
    use report_proto::crypto::EncryptMethod;

    const METHOD: CompressMethod = CompressMethod::Null;

    /// Returns the producer of the input, the consumer of the output, and the ends between them.
    fn ends() -> (
        mpsc::Sender<io::Result<Bytes>>,
        mpsc::Receiver<Bytes>,
        PipeEnds,
    ) {
        let (producer, input) = mpsc::channel(1);
        let (output, consumer) = mpsc::channel(1);
        let ends = PipeEnds {
            input,
            output,
            early: Bytes::new(),
        };
        (producer, consumer, ends)
    }

    async fn bed(method: CompressMethod) -> (TunnelTestbed, Tunnel, Tunnel) {
        let bed = TunnelTestbed::new();
        let (client, server) = bed.tunnels(EncryptMethod::Plain, method).await;
        (bed, client, server)
    }

    async fn received(stream: &TunnelStream, method: CompressMethod) -> Bytes {
        let mut receiver = RawReceiver::new(stream, method);
        let mut content = BytesMut::new();
        while let Some(bytes) = receiver.receive().await.unwrap() {
            content.extend_from_slice(&bytes);
        }
        content.freeze()
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let content: Bytes = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
        for method in CompressMethod::ALL {
            let (bed, client, server) = bed(method).await;
            let (producer, mut consumer, ends) = ends();
            let carried = carry(client.open(Bytes::new()), method, ends);
            let local = async {
                let mut answer = BytesMut::new();
                while let Some(bytes) = consumer.recv().await {
                    answer.extend_from_slice(&bytes);
                }
                // The service has ended its direction. The other one continues.
                producer.send(Ok(content.clone())).await.unwrap();
                drop(producer);
                answer.freeze()
            };
            let service = async {
                let (stream, _) = server.accept().await.unwrap();
                RawSender::new(&stream, method)
                    .send_all(Bytes::from_static(b"that was all"))
                    .await
                    .unwrap();
                stream.finish();
                let request = received(&stream, method).await;
                stream.delivered().await.unwrap();
                request
            };
            let (carried, answer, request) = tokio::join!(carried, local, service);
            assert_eq!(carried.unwrap(), PipeEnd::Finished, "{method}");
            assert_eq!(answer, "that was all", "{method}");
            assert!(request == content, "{method}");
            bed.end().await;
        }
    }

    #[tokio::test]
    async fn data_that_arrived_with_the_confirmation_is_the_first() {
        for method in CompressMethod::ALL {
            let (bed, client, server) = bed(method).await;
            let (producer, mut consumer, mut ends) = ends();
            drop(producer);
            let stream = client.open(Bytes::new());
            let service = async {
                let (stream, _) = server.accept().await.unwrap();
                confirm(&stream).await.unwrap();
                RawSender::new(&stream, method)
                    .send_all(Bytes::from_static(b"SSH-2.0"))
                    .await
                    .unwrap();
                stream.finish();
                assert!(received(&stream, method).await.is_empty());
                stream.delivered().await.unwrap();
            };
            let local = async {
                ends.early = confirmed(&stream).await.unwrap();
                carry(stream, method, ends).await
            };
            let answer = async {
                let mut answer = BytesMut::new();
                while let Some(bytes) = consumer.recv().await {
                    answer.extend_from_slice(&bytes);
                }
                answer.freeze()
            };
            let (carried, answer, ()) = tokio::join!(local, answer, service);
            assert_eq!(carried.unwrap(), PipeEnd::Finished, "{method}");
            assert_eq!(answer, "SSH-2.0", "{method}");
            bed.end().await;
        }
    }

    #[tokio::test]
    async fn an_idle_input_notices_a_reset() {
        let (bed, client, server) = bed(METHOD).await;
        let (_producer, _consumer, ends) = ends();
        let service = async {
            let (stream, _) = server.accept().await.unwrap();
            stream.reset(ResetCode::Refused);
        };
        let carried = carry(client.open(Bytes::new()), METHOD, ends);
        let (carried, ()) = tokio::join!(carried, service);
        let code = match carried {
            Err(PipeError::Stream(RawError::Stream(error))) => error.reset_code(),
            other => panic!("{other:?}"),
        };
        assert_eq!(code, Some(ResetCode::Refused));
        bed.end().await;
    }

    #[tokio::test]
    async fn a_closed_output_ends_an_idle_stream() {
        let (bed, client, server) = bed(METHOD).await;
        let (_producer, consumer, ends) = ends();
        let service = async {
            let (stream, _) = server.accept().await.unwrap();
            drop(consumer);
            stream.failed().await.reset_code()
        };
        let carried = carry(client.open(Bytes::new()), METHOD, ends);
        let (carried, code) = tokio::join!(carried, service);
        assert_eq!(carried.unwrap(), PipeEnd::OutputClosed);
        assert!(code.is_some(), "the peer gets a reset");
        bed.end().await;
    }

    #[tokio::test]
    async fn an_unreadable_input_is_not_an_end() {
        let (bed, client, server) = bed(METHOD).await;
        let (producer, _consumer, ends) = ends();
        let service = async {
            let (stream, _) = server.accept().await.unwrap();
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            producer.send(Err(error)).await.unwrap();
            RawReceiver::new(&stream, METHOD).receive().await
        };
        let carried = carry(client.open(Bytes::new()), METHOD, ends);
        let (carried, ended) = tokio::join!(carried, service);
        assert!(matches!(carried, Err(PipeError::Input(_))), "{carried:?}");
        assert!(ended.is_err(), "a reset instead of an end: {ended:?}");
        bed.end().await;
    }
}
