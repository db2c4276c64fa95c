//! Connections that carry data while roles reload.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::support::{
    bytes,
    services::{self, Ending, Service},
    wait,
};

/// Far above a pause that a reload could explain on a busy machine, far below any timeout. The
/// longest pause is printed.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A service that answers with the digest of everything that it has received until the end.
pub(super) fn digest_service() -> Service {
    Service::start(|mut stream| {
        let (mut digest, mut block) = (Context::new(&SHA256), vec![0; 64 << 10]);
        loop {
            match services::read(stream, &mut block) {
                Ok(0) => break,
                Ok(count) => digest.update(&block[..count]),
                Err(error) => return error.into(),
            }
        }
        match stream.write_all(digest.finish().as_ref()) {
            Ok(()) => Ending::Clean,
            Err(error) => error.into(),
        }
    })
}

/// A transfer to a service with digests, until the test ends it.
pub(super) struct Transfer {
    is_over: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
}

impl Transfer {
    pub(super) fn start(address: SocketAddr) -> Transfer {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let mut stream = services::connect(address);
        let sender = thread::spawn(move || {
            let block = bytes::random(7, 64 << 10);
            let (mut digest, mut sent) = (Context::new(&SHA256), 0);
            while !over.load(Relaxed) {
                stream.write_all(&block).expect("the connection is up");
                digest.update(&block);
                sent += block.len() as u64;
                wait::pause(Duration::from_millis(2));
            }
            stream.shutdown(Shutdown::Write).expect("still up");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("a clean end");
            assert_eq!(received, digest.finish().as_ref(), "bytes were lost");
            sent
        });
        Transfer { is_over, sender }
    }

    /// Ends the transfer, and checks that every byte has arrived. Returns their number.
    pub(super) fn finish(self) -> u64 {
        self.is_over.store(true, Relaxed);
        self.sender.join().expect("the transfer is complete")
    }
}

/// An echo every few milliseconds on one connection, and the longest time without an answer.
pub(super) struct PauseProbe {
    is_over: Arc<AtomicBool>,
    prober: JoinHandle<Duration>,
}

impl PauseProbe {
    pub(super) fn start(address: SocketAddr) -> PauseProbe {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let stream = services::connect(address);
        let prober = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !over.load(Relaxed) {
                let start = Instant::now();
                services::ping(&stream, b"still there?").expect("the connection is up");
                longest = longest.max(start.elapsed());
                wait::pause(Duration::from_millis(2));
            }
            longest
        });
        PauseProbe { is_over, prober }
    }

    pub(super) fn finish(self, during: &str) {
        self.is_over.store(true, Relaxed);
        let longest = self.prober.join().expect("no echo failed");
        println!("longest echo during {during}: {longest:?}");
        assert!(longest < PAUSE_MAX, "{during}: {longest:?}");
    }
}
