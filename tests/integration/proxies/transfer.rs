//! One connection through the tunnel whose content comes back: what was sent is checked byte by byte, and by its digest, as it arrives again.

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

/// How long a transfer takes that is to be disturbed.
const DISTURBED: Duration = Duration::from_secs(3);

/// How long half of a transfer may take at full scale, on a busy machine: through a program in Python, or through one that leaves Nagle's algorithm on
/// (tinyproxy, microsocks), whose every write over loopback's segments of 64 KiB waits for an acknowledgement.
const SLOWEST: Duration = Duration::from_secs(300);

/// Bytes of a transfer each way: 256 MiB at full scale.
pub fn length() -> u64 {
    scale().file_bytes as u64 / 4
}

/// A transfer that runs.
pub struct Transfer {
    content: Content,
    back: Arc<AtomicU64>,
    started: Instant,
    limit: Arc<Mutex<f64>>,
    thread: JoinHandle<[String; 2]>,
}

impl Transfer {
    /// Begins one over a connection to an echo, as fast as it goes.
    pub fn start(echo: SocketAddr) -> Transfer {
        Transfer::read_with(echo, |_| {})
    }

    /// Begins one that takes [`DISTURBED`] at least, and is read no further than it is let: see [`Transfer::let_on`].
    pub fn slow(echo: SocketAddr, limit: f64) -> Transfer {
        let started = Instant::now();
        let limit = Arc::new(Mutex::new(limit));
        let known = limit.clone();
        let pace = move |share| {
            wait::pause(DISTURBED.mul_f64(share).saturating_sub(started.elapsed()));
            while share > *known.lock().unwrap_or_else(PoisonError::into_inner) {
                wait::pause(Duration::from_millis(10));
            }
        };
        Transfer {
            limit,
            ..Transfer::read_with(echo, pace)
        }
    }

    /// Lets a slow one go on up to this share.
    pub fn let_on(&self, limit: f64) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// `pace` is told which share of all has come back.
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

    /// Waits until this share of all has come back.
    #[track_caller]
    pub fn wait_for(&self, share: f64) {
        let have = || self.back.load(Ordering::Relaxed) as f64 / self.content.length as f64;
        let is_so_far = || (have() >= share || self.thread.is_finished()).then_some(());
        wait::within(SLOWEST, is_so_far)
            .unwrap_or_else(|| panic!("{:.2} of the transfer within {SLOWEST:?}", have()));
        assert!(
            !self.thread.is_finished(),
            "the transfer is over before it is disturbed"
        );
    }

    /// Waits for the end and expects every byte back once, in order.
    #[track_caller]
    pub fn finish(self, what: &str) {
        let [sent, received] = self
            .thread
            .join()
            .unwrap_or_else(|_| panic!("{what}: the transfer is not whole"));
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
            assert_eq!(offset, content.length, "an end before the last byte");
            return digest.finish();
        }
        let received = &block[..count];
        assert!(
            offset + count as u64 <= content.length,
            "more comes back than was sent"
        );
        assert_eq!(
            content.first_difference(offset, received),
            None,
            "a byte is another one than was sent"
        );
        digest.update(received);
        offset += count as u64;
        back.store(offset, Ordering::Relaxed);
        pace(offset as f64 / content.length as f64);
    }
}
