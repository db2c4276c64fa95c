//! Acknowledges received bytes at once if the sender waits for it.
//!
//! A proxy that leaves Nagle's algorithm on holds a part of a segment back until everything before
//! it is acknowledged. The kernel of the receiver delays an acknowledgement by 40 ms if it expects
//! data to carry it. A transfer then moves one segment in 40 ms. The receiver sees such pauses in a
//! row, and asks its kernel from then on not to delay.
//!
//! The round trips of a longer path look the same, so the kernel's round-trip time excludes them.
//! An application that sends every 50 ms over a short path is mistaken for such a proxy. The cost
//! is a system call for each read, and an acknowledgement that data could have carried.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::{tcp_stats::TcpStatsReader, write_through::write_through};
use crate::tcp_table::TcpConnection;

/// The pause in front of bytes that waited for a delayed acknowledgement. Linux delays by 40 ms, and
/// rounds up to its clock tick. The round trip adds to it.
const DELAYED: Range<Duration> = Duration::from_millis(36)..Duration::from_millis(60);

/// After this many such pauses without a longer one, the sender waits for acknowledgements.
const PAUSES: u8 = 6;

/// A path with this round-trip time or a longer one has such pauses without a delay. With a delay of
/// 40 ms they would be longer than [`DELAYED`].
const LONG_RTT: Duration = Duration::from_millis(20);

/// A connection whose kernel can acknowledge at once.
pub trait AcknowledgeNow {
    /// Sends an acknowledgement that waits. Best effort, because not every system can.
    fn acknowledge_now(&self);

    /// Returns the shortest round-trip time of the path, if the system knows it. Takes some
    /// microseconds.
    fn min_rtt(&self) -> Option<Duration>;
}

impl AcknowledgeNow for TcpStream {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn acknowledge_now(&self) {
        let _ = socket2::SockRef::from(self).set_tcp_quickack(true);
    }

    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    fn acknowledge_now(&self) {}

    fn min_rtt(&self) -> Option<Duration> {
        let connection = TcpConnection::of(self)?;
        let stats = TcpStatsReader::open().and_then(|mut reader| reader.read(&connection));
        stats.map(|stats| stats.min_rtt)
    }
}

/// A connection that acknowledges at once if its peer waits for it.
#[derive(Debug)]
pub struct PromptAcks<S> {
    stream: S,
    pauses: PauseDetector,
}

impl<S> PromptAcks<S> {
    /// Wraps a connection.
    pub fn new(stream: S) -> Self {
        PromptAcks {
            stream,
            pauses: PauseDetector::default(),
        }
    }
}

impl<S: AsyncRead + AcknowledgeNow + Unpin> AsyncRead for PromptAcks<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let PromptAcks { stream, pauses } = self.get_mut();
        ready!(Pin::new(&mut *stream).poll_read(context, out))?;
        if pauses.on_read(Instant::now(), || stream.min_rtt()) {
            stream.acknowledge_now();
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(PromptAcks);

/// Recognizes the pauses of delayed acknowledgements.
#[derive(Debug, Default)]
struct PauseDetector {
    last_read: Option<Instant>,
    pauses: u8,
    /// Whether the sender waits for acknowledgements, once that is decided.
    sender_waits: Option<bool>,
}

impl PauseDetector {
    /// Records that bytes were read. Returns whether the sender waits for acknowledgements. Reads
    /// the round-trip time of the path once, when the pauses suggest that.
    fn on_read(&mut self, now: Instant, min_rtt: impl FnOnce() -> Option<Duration>) -> bool {
        if let Some(waits) = self.sender_waits {
            return waits;
        }
        let last = self.last_read.replace(now);
        let pause = now.saturating_duration_since(last.unwrap_or(now));
        if DELAYED.contains(&pause) {
            self.pauses = self.pauses.saturating_add(1);
        } else if pause >= DELAYED.end {
            // The link was idle.
            self.pauses = 0;
        }
        if self.pauses < PAUSES {
            return false;
        }
        // An unneeded acknowledgement costs less than a slow transfer.
        let waits = min_rtt().is_none_or(|rtt| rtt < LONG_RTT);
        self.sender_waits = Some(waits);
        waits
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    #[cfg(target_os = "linux")]
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    #[cfg(target_os = "linux")]
    use tokio::net::TcpListener;

    use super::*;

    /// Whether a sender counts as waiting after reads with these pauses on a short path, in
    /// milliseconds.
    fn waits_after(pauses: impl IntoIterator<Item = u64>) -> bool {
        waits_on_path(Some(1), pauses)
    }

    /// As [`waits_after`], on a path with this round-trip time.
    fn waits_on_path(rtt: Option<u64>, pauses: impl IntoIterator<Item = u64>) -> bool {
        let mut detector = PauseDetector::default();
        let reads = Cell::new(0);
        let min_rtt = || {
            reads.set(reads.get() + 1);
            rtt.map(Duration::from_millis)
        };
        let mut now = Instant::now();
        let mut waits = detector.on_read(now, min_rtt);
        for pause in pauses {
            now += Duration::from_millis(pause);
            waits = detector.on_read(now, min_rtt);
        }
        assert!(reads.get() <= 1, "{} reads of the path", reads.get());
        waits
    }

    #[test]
    fn repeated_pauses_of_a_delayed_acknowledgement_are_recognized() {
        assert!(waits_after([40; 6]));
        assert!(waits_after([44, 0, 0, 1].repeat(6)));
        assert!(
            waits_after([40, 40, 40, 40, 40, 40, 0, 1000, 3]),
            "for good"
        );
    }

    #[test]
    fn other_pauses_are_ignored() {
        assert!(!waits_after([]));
        assert!(!waits_after([40; 5]));
        assert!(!waits_after([20; 100]));
        assert!(!waits_after([0; 100]));
        assert!(!waits_after([40, 40, 200].repeat(20)), "a link with pauses");
    }

    #[test]
    fn pauses_of_a_long_path_are_ignored() {
        for (rtt, waits) in [(0, true), (19, true), (20, false), (45, false)] {
            assert_eq!(waits_on_path(Some(rtt), [45; 100]), waits, "{rtt} ms");
        }
        assert!(waits_on_path(None, [45; 100]), "the path is unknown");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn round_trip_time_of_a_connection_is_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        assert!(dialled.min_rtt().is_some());
    }

    /// A stream that counts the acknowledgements.
    struct Counting(DuplexStream, Cell<usize>);

    impl AcknowledgeNow for Counting {
        fn acknowledge_now(&self) {
            self.1.set(self.1.get() + 1);
        }

        fn min_rtt(&self) -> Option<Duration> {
            None
        }
    }

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, out)
        }
    }

    #[tokio::test]
    async fn each_read_is_acknowledged_once_the_sender_waits() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut reader = PromptAcks::new(Counting(stream, Cell::new(0)));
        let mut byte = [0];
        for _ in 0..3 {
            peer.write_all(&byte).await.unwrap();
            reader.read_exact(&mut byte).await.unwrap();
        }
        assert_eq!(reader.stream.1.get(), 0);
        reader.pauses.pauses = PAUSES;
        for _ in 0..3 {
            peer.write_all(&byte).await.unwrap();
            reader.read_exact(&mut byte).await.unwrap();
        }
        assert_eq!(reader.stream.1.get(), 3);
    }
}
