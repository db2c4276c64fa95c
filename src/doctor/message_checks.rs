//! The checks with messages over a link: small ones, and one of several packets.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    DoctorStep,
    verdicts::{self, milliseconds},
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{tcp, websocket::MessageSocket},
};
use report_proto::frame::Frame;

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

/// Sends small messages one at a time, and compares their round trips with the time of a connection.
pub(super) async fn small_messages(
    master: &str,
    socket: &mut MessageSocket,
    connection: Option<Duration>,
) -> DoctorStep {
    let started = Instant::now();
    let mut round_trips = Vec::new();
    for token in 0..SMALL_MESSAGES {
        match timeout(SMALL_MESSAGE_TIMEOUT, ping(socket, token)).await {
            Ok(Ok(took)) => round_trips.push(took),
            Ok(Err(why)) => return small_message_lost(master, started.elapsed(), why),
            Err(_) => {
                let why = format!(
                    "a small message was not answered within {}",
                    milliseconds(SMALL_MESSAGE_TIMEOUT)
                );
                return small_message_lost(master, started.elapsed(), why);
            }
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
    if sent.is_ok()
        && timeout(LARGE_MESSAGE_TIMEOUT, ping(socket, LARGE_TOKEN))
            .await
            .is_ok()
    {
        return None;
    }
    let evidence = format!(
        "the master answered small messages, but none within {} after one of {LARGE_MESSAGE} bytes",
        milliseconds(LARGE_MESSAGE_TIMEOUT)
    );
    let diagnosis = Diagnosis::new(
        DiagnosisCode::LargeMessagesLost,
        evidence,
        tcp::BLACK_HOLE_CAUSE,
        tcp::BLACK_HOLE_REMEDY,
    );
    Some(DoctorStep::failed(
        "large_messages",
        master,
        started.elapsed(),
        diagnosis,
    ))
}

fn small_message_lost(master: &str, took: Duration, why: String) -> DoctorStep {
    let cause =
        "a device on the path delays messages until more arrive, or closes WebSockets at once";
    let remedy = "use wss:// in `master`, another port or another network; in nginx turn `proxy_buffering` off";
    DoctorStep::failed(
        "small_messages",
        master,
        took,
        Diagnosis::new(DiagnosisCode::SmallMessagesLost, why, cause, remedy),
    )
}

/// Sends a PING and waits for its PONG. Answers the PINGs of the master in the meantime.
pub(super) async fn ping(socket: &mut MessageSocket, token: u64) -> Result<Duration, String> {
    let sent = Instant::now();
    let failed = |error: crate::net::websocket::SocketError| format!("the link was lost: {error}");
    socket
        .feed(Frame::Ping(token).to_message())
        .await
        .map_err(failed)?;
    socket.flush().await.map_err(failed)?;
    loop {
        let Some(message) = socket.receive().await.map_err(failed)? else {
            return Err("the master closed the link".to_owned());
        };
        match Frame::decode(message.freeze()) {
            Ok(Frame::Pong(answered)) if answered == token => return Ok(sent.elapsed()),
            Ok(Frame::Ping(asked)) => {
                socket
                    .feed(Frame::Pong(asked).to_message())
                    .await
                    .map_err(failed)?;
                socket.flush().await.map_err(failed)?;
            }
            Ok(Frame::Error(notice)) => return Err(format!("the master ended the link: {notice}")),
            Ok(_) => {}
            Err(error) => return Err(format!("the message is not a rePort frame: {error}")),
        }
    }
}
