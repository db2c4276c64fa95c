//! The confirmation of a stream to a destination that an application named (PROTOCOL 9.2): the first
//! byte from the server. It tells the client that the connection to the destination is up.

use bytes::{Buf, Bytes};

use super::stream::{TunnelStream, TunnelStreamError};
use report_proto::mux::ResetCode;

/// The only confirmation.
const CONFIRMED: u8 = 0;

/// Why a stream has no confirmation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmationError {
    /// The tunnel has ended, and the server certainly never saw the stream. Another tunnel can carry
    /// it.
    #[error("the tunnel ended before its server saw the stream")]
    Unseen,
    /// The server reset the stream, or the tunnel has ended.
    #[error(transparent)]
    Stream(#[from] TunnelStreamError),
    /// The server sent something else. The stream was reset.
    #[error("the server sent no confirmation")]
    Invalid,
}

/// Confirms a stream, as the server. Nothing may have been sent before.
///
/// # Errors
/// When the stream was reset or the tunnel has ended.
///
/// # Cancel safety
/// Nothing was sent when the future is dropped.
pub async fn confirm(stream: &TunnelStream) -> Result<(), TunnelStreamError> {
    stream.write_room().await?;
    stream.write(Bytes::from_static(&[CONFIRMED]))
}

/// Waits for the confirmation of a stream, as the client. Returns the data that arrived with it, for
/// which the server has no new credit yet.
///
/// # Errors
/// When there is no confirmation.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub async fn confirmed(stream: &TunnelStream) -> Result<Bytes, ConfirmationError> {
    match stream.read().await {
        Ok(Some(mut received)) if received.first() == Some(&CONFIRMED) => {
            received.advance(1);
            stream.consume(1);
            Ok(received)
        }
        Ok(_) => {
            stream.reset(ResetCode::Protocol);
            Err(ConfirmationError::Invalid)
        }
        Err(TunnelStreamError::TunnelEnded(_)) if stream.unseen().is_some() => {
            Err(ConfirmationError::Unseen)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::tunnel::{
        raw::{RawReceiver, RawSender},
        splice::{EarlyData, splice_after},
        tests::TunnelTestbed,
    };
    use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

    /// Sends this data from the server, and returns the outcome at the client.
    async fn outcome_of(data: &'static [u8]) -> Result<Bytes, ConfirmationError> {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let stream = client.open(Bytes::new());
        let (accepted, _) = server.accept().await.unwrap();
        if data.is_empty() {
            accepted.finish();
        } else {
            accepted.write(Bytes::from_static(data)).unwrap();
        }
        let outcome = confirmed(&stream).await;
        drop((stream, accepted));
        bed.end().await;
        outcome
    }

    #[tokio::test]
    async fn only_the_first_byte_zero_confirms() {
        assert_eq!(outcome_of(b"\0").await, Ok(Bytes::new()));
        assert_eq!(outcome_of(b"\0SSH-2.0").await, Ok(Bytes::from("SSH-2.0")));
        for other in [&b""[..], b"\x01", b"SSH-2.0", b"\x01\0"] {
            let outcome = outcome_of(other).await;
            assert_eq!(outcome, Err(ConfirmationError::Invalid), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_reset_in_place_of_the_confirmation_keeps_its_code() {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        for code in [ResetCode::Denied, ResetCode::NotFound, ResetCode::Refused] {
            let stream = client.open(Bytes::new());
            let (accepted, _) = server.accept().await.unwrap();
            accepted.reset(code);
            let Err(ConfirmationError::Stream(error)) = confirmed(&stream).await else {
                panic!("not confirmed");
            };
            assert_eq!(error.reset_code(), Some(code));
        }
        bed.end().await;
    }

    #[tokio::test]
    async fn the_data_of_both_ends_follows_the_confirmation() {
        for method in CompressMethod::ALL {
            let bed = TunnelTestbed::new();
            let (client, server) = bed.tunnels(EncryptMethod::Plain, method).await;
            let stream = client.open(Bytes::new());
            let (accepted, _) = server.accept().await.unwrap();
            confirm(&accepted).await.unwrap();
            RawSender::new(&accepted, method)
                .send_all(Bytes::from_static(b"banner"))
                .await
                .unwrap();
            accepted.finish();
            let from_stream = confirmed(&stream).await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (application, socket) = tokio::join!(
                TcpStream::connect(listener.local_addr().unwrap()),
                listener.accept()
            );
            let (mut application, (socket, _)) = (application.unwrap(), socket.unwrap());
            application.write_all(b" and rest").await.unwrap();
            application.shutdown().await.unwrap();
            let early = EarlyData {
                from_socket: Bytes::from_static(b"request"),
                from_stream,
            };
            let (spliced, banner, request) = tokio::join!(
                splice_after(early, socket.into(), stream, method),
                async {
                    let mut banner = Vec::new();
                    application.read_to_end(&mut banner).await.unwrap();
                    banner
                },
                async {
                    let mut receiver = RawReceiver::new(&accepted, method);
                    let mut request = Vec::new();
                    while let Some(raw) = receiver.receive().await.unwrap() {
                        request.extend_from_slice(&raw);
                    }
                    request
                }
            );
            assert!(spliced.error.is_none(), "{method}: {:?}", spliced.error);
            assert_eq!(banner, b"banner", "{method}");
            assert_eq!(request, b"request and rest", "{method}");
            drop(accepted);
            bed.end().await;
        }
    }
}
