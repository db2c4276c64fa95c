//! Acknowledges received bytes at once if the sender waits for it.
//!
//! A proxy that leaves Nagle's algorithm on holds a part of a segment back until everything before
//! it is acknowledged. The kernel of the receiver delays an acknowledgement by 40 ms if it expects
//! data to carry it. A transfer then moves one segment in 40 ms. The receiver sees such pauses in a
//! row, and asks its kernel from then on not to delay.

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

use super::write_through::write_through;

/// The pause in front of bytes that waited for a delayed acknowledgement. Linux delays by 40 ms, and
/// rounds up to its clock tick.
const DELAYED: Range<Duration> = Duration::from_millis(36)..Duration::from_millis(60);

/// After this many such pauses without a longer one, the sender waits for acknowledgements.
const PAUSES: u8 = 6;

/// A connection whose kernel can acknowledge at once.
pub trait AcknowledgeNow {
    /// Sends an acknowledgement that waits. Best effort, because not every system can.
    fn acknowledge_now(&self);
}

impl AcknowledgeNow for TcpStream {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn acknowledge_now(&self) {
        let _ = socket2::SockRef::from(self).set_tcp_quickack(true);
    }

    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    fn acknowledge_now(&self) {}
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(context, out))?;
        if self.pauses.on_read(Instant::now()) {
            self.stream.acknowledge_now();
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
}

impl PauseDetector {
    /// Records that bytes were read. Returns whether the sender waits for acknowledgements.
    fn on_read(&mut self, now: Instant) -> bool {
        if self.pauses >= PAUSES {
            return true;
        }
        let last = self.last_read.replace(now);
        let pause = now.saturating_duration_since(last.unwrap_or(now));
        if DELAYED.contains(&pause) {
            self.pauses = self.pauses.saturating_add(1);
        } else if pause >= DELAYED.end {
            // The link was idle.
            self.pauses = 0;
        }
        self.pauses >= PAUSES
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Whether a sender counts as waiting after reads with these pauses, in milliseconds.
    fn waits_after(pauses: impl IntoIterator<Item = u64>) -> bool {
        let mut detector = PauseDetector::default();
        let mut now = Instant::now();
        let mut waits = detector.on_read(now);
        for pause in pauses {
            now += Duration::from_millis(pause);
            waits = detector.on_read(now);
        }
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

    /// A stream that counts the acknowledgements.
    struct Counting(DuplexStream, Cell<usize>);

    impl AcknowledgeNow for Counting {
        fn acknowledge_now(&self) {
            self.1.set(self.1.get() + 1);
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
