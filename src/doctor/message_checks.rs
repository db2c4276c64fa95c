//! The checks with messages over a link: small ones, and one of several packets.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    DoctorStep,
    verdicts::{self, milliseconds},
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        tcp,
        websocket::{MessageSocket, SocketError},
    },
};
use report_proto::frame::{Frame, FrameError, Notice};

/// The number of small messages, sent one at a time.
const SMALL_MESSAGES: u64 = 10;

/// The time limit of each small message.
const SMALL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The token of the PING after the large message.
const LARGE_TOKEN: u64 = SMALL_MESSAGES;

/// The size of the large message in bytes. It needs several packets.
const LARGE_MESSAGE: usize = 8 * 1024;

/// The time limit of the PING after the large message. A path with 16 kbit/s keeps it.
const LARGE_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends small messages one at a time, and compares their round trips with the time of a
/// connection.
pub(super) async fn small_messages(
    master: &str,
    socket: &mut MessageSocket,
    connection: Option<Duration>,
) -> DoctorStep {
    let started = Instant::now();
    let mut round_trips = Vec::new();
    for token in 0..SMALL_MESSAGES {
        match ping(socket, token, SMALL_MESSAGE_TIMEOUT).await {
            Ok(took) => round_trips.push(took),
            Err(error) => return small_message_lost(master, started.elapsed(), &error),
        }
    }
    match verdicts::small_messages(&round_trips, connection) {
        Ok(evidence) => DoctorStep::ok("small_messages", master, started.elapsed(), evidence),
        Err(diagnosis) => {
            DoctorStep::warning("small_messages", master, started.elapsed(), diagnosis)
        }
    }
}

/// Sends a message of several packets, which every master ignores, and then a PING. Returns a
/// failed step when the PONG is missing.
pub(super) async fn large_message(master: &str, socket: &mut MessageSocket) -> Option<DoctorStep> {
    let started = Instant::now();
    // A frame of a type that no version knows.
    let sent = socket.feed(vec![0xff; LARGE_MESSAGE].into()).await;
    if sent.is_ok() {
        // A link that ends here is no sign of a black hole.
        match ping(socket, LARGE_TOKEN, LARGE_MESSAGE_TIMEOUT).await {
            Err(PingError::TimedOut(_)) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    let evidence = format!(
        "the master answered small messages, but none within {} after one of {LARGE_MESSAGE} bytes",
        milliseconds(LARGE_MESSAGE_TIMEOUT)
    );
    Some(DoctorStep::failed(
        "large_messages",
        master,
        started.elapsed(),
        tcp::black_hole(evidence),
    ))
}

fn small_message_lost(master: &str, took: Duration, error: &PingError) -> DoctorStep {
    let cause =
        "a device on the path delays messages until more arrive, or closes WebSockets at once";
    let remedy = "use wss:// in `master`, another port or another network; in nginx turn `proxy_buffering` off";
    DoctorStep::failed(
        "small_messages",
        master,
        took,
        Diagnosis::new(
            DiagnosisCode::SmallMessagesLost,
            error.to_string(),
            cause,
            remedy,
        ),
    )
}

/// Why a PING has no PONG.
#[derive(Debug, thiserror::Error)]
pub(super) enum PingError {
    /// The PONG did not arrive in time.
    #[error("a small message was not answered within {}", milliseconds(*.0))]
    TimedOut(Duration),
    /// The connection failed.
    #[error("the link was lost: {0}")]
    Lost(#[from] SocketError),
    /// The master closed the link.
    #[error("the master closed the link")]
    Closed,
    /// The master ended the link with this reason.
    #[error("the master ended the link: {0}")]
    Ended(Notice),
    /// The master sent something else.
    #[error("the message is not a rePort frame: {0}")]
    NotAFrame(#[from] FrameError),
}

/// Sends a PING and waits for its PONG, at most for `limit`. Answers the PINGs of the master in the
/// meantime.
pub(super) async fn ping(
    socket: &mut MessageSocket,
    token: u64,
    limit: Duration,
) -> Result<Duration, PingError> {
    timeout(limit, ping_without_limit(socket, token))
        .await
        .unwrap_or(Err(PingError::TimedOut(limit)))
}

async fn ping_without_limit(socket: &mut MessageSocket, token: u64) -> Result<Duration, PingError> {
    let sent = Instant::now();
    socket.feed(Frame::Ping(token).to_message()).await?;
    socket.flush().await?;
    loop {
        let message = socket.receive().await?.ok_or(PingError::Closed)?;
        match Frame::decode(message.freeze())? {
            Frame::Pong(answered) if answered == token => return Ok(sent.elapsed()),
            Frame::Ping(asked) => {
                socket.feed(Frame::Pong(asked).to_message()).await?;
                socket.flush().await?;
            }
            Frame::Error(notice) => return Err(PingError::Ended(notice)),
            _ => {}
        }
    }
}
