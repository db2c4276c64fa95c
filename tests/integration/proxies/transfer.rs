//! One connection through the tunnel to an echo service. Every byte and the digest are checked as
//! the content comes back.

use std::{
    io::Write as _,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, Digest, SHA256};

use crate::support::{bytes, content::Content, scale, services, wait};

const BLOCK: usize = 64 * 1024;

/// The minimum duration of a transfer that a test disturbs.
const MIN_DURATION: Duration = Duration::from_secs(3);

/// The longest time of half a transfer at full scale on a busy machine. It allows for a program in
/// Python and for programs that leave Nagle's algorithm on (tinyproxy, microsocks). With loopback's
/// segments of 64 KiB their every write waits for an acknowledgement.
const HALF_TRANSFER_LIMIT: Duration = Duration::from_secs(300);

/// Bytes of a transfer in each direction: 256 MiB at full scale.
pub(super) fn length() -> u64 {
    scale().file_bytes as u64 / 4
}

/// A running transfer.
pub(super) struct Transfer {
    content: Content,
    back: Arc<AtomicU64>,
    started: Instant,
    limit: Arc<Mutex<f64>>,
    thread: JoinHandle<[String; 2]>,
}

impl Transfer {
    /// Starts a transfer over a connection to an echo service, at full speed.
    pub(super) fn start(echo: SocketAddr) -> Transfer {
        Transfer::read_with(echo, |_| {})
    }

    /// Starts a transfer that takes at least [`MIN_DURATION`] and stops reading at a limit: see
    /// [`Transfer::allow_up_to`].
    pub(super) fn slow(echo: SocketAddr, limit: f64) -> Transfer {
        let started = Instant::now();
        let limit = Arc::new(Mutex::new(limit));
        let known = limit.clone();
        let pace = move |share| {
            wait::pause(
                MIN_DURATION
                    .mul_f64(share)
                    .saturating_sub(started.elapsed()),
            );
            while share > *known.lock().unwrap_or_else(PoisonError::into_inner) {
                wait::pause(Duration::from_millis(10));
            }
        };
        Transfer {
            limit,
            ..Transfer::read_with(echo, pace)
        }
    }

    /// Lets a slow transfer continue up to this share.
    pub(super) fn allow_up_to(&self, limit: f64) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// `pace` receives the share that has come back.
    fn read_with(echo: SocketAddr, pace: impl Fn(f64) + Send + 'static) -> Transfer {
        let content = Content {
            seed: fastrand::u64(..),
            length: length(),
        };
        let back = Arc::new(AtomicU64::new(0));
        let counter = back.clone();
        let stream = services::connect(echo);
        let thread = thread::spawn(move || {
            let sends = stream
                .try_clone()
                .expect("a second handle of the connection");
            let sent = thread::spawn(move || send(&sends, content));
            let received = receive(&stream, content, &counter, pace);
            [sent.join().expect("the sending side"), received]
                .map(|digest| bytes::hexadecimal(digest.as_ref()))
        });
        Transfer {
            content,
            back,
            started: Instant::now(),
            limit: Arc::default(),
            thread,
        }
    }

    /// Waits until this share of the content has come back.
    #[track_caller]
    pub(super) fn wait_for(&self, share: f64) {
        let have = || self.back.load(Ordering::Relaxed) as f64 / self.content.length as f64;
        let is_so_far = || (have() >= share || self.thread.is_finished()).then_some(());
        wait::within(HALF_TRANSFER_LIMIT, is_so_far).unwrap_or_else(|| {
            panic!(
                "{:.2} of the transfer within {HALF_TRANSFER_LIMIT:?}",
                have()
            )
        });
        assert!(
            !self.thread.is_finished(),
            "the transfer ended before the disturbance"
        );
    }

    /// Waits for the end and asserts that every byte came back once, in order.
    #[track_caller]
    pub(super) fn finish(self, what: &str) {
        let [sent, received] = self
            .thread
            .join()
            .unwrap_or_else(|_| panic!("{what}: the transfer is not complete"));
        let seconds = self.started.elapsed().as_secs_f64();
        let length = self.content.length;
        assert_eq!(sent, received, "{what}: digests");
        println!(
            "{what}: {length} bytes there and back in {seconds:.2} s, {:.0} MB/s each way; SHA-256 sent {sent}, received {received}",
            length as f64 / seconds / 1e6
        );
    }
}

fn send(mut stream: &TcpStream, content: Content) -> Digest {
    let mut digest = Context::new(&SHA256);
    let (mut block, mut offset) = (vec![0; BLOCK], 0);
    while offset < content.length {
        let piece = content.fill(offset, &mut block);
        digest.update(piece);
        stream
            .write_all(piece)
            .unwrap_or_else(|error| panic!("sending at byte {offset}: {error}"));
        offset += piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write).expect("an end of file");
    digest.finish()
}

fn receive(stream: &TcpStream, content: Content, back: &AtomicU64, pace: impl Fn(f64)) -> Digest {
    let mut digest = Context::new(&SHA256);
    let (mut block, mut offset) = (vec![0; BLOCK], 0);
    loop {
        let count = services::read(stream, &mut block)
            .unwrap_or_else(|error| panic!("receiving at byte {offset}: {error}"));
        if count == 0 {
            assert_eq!(
                offset, content.length,
                "the stream ended before the last byte"
            );
            return digest.finish();
        }
        let received = &block[..count];
        assert!(
            offset + count as u64 <= content.length,
            "more bytes came back than were sent"
        );
        assert_eq!(
            content.first_difference(offset, received),
            None,
            "a byte differs from the sent one"
        );
        digest.update(received);
        offset += count as u64;
        back.store(offset, Ordering::Relaxed);
        pace(offset as f64 / content.length as f64);
    }
}
