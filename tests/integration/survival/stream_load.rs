//! Eight simultaneous streams whose every byte is checked: four up, four down, each with a digest
//! after its content.
//!
//! A connection begins with a request, `direction (1) ‖ seed (8) ‖ length (8)`. Then the content
//! and its SHA-256 go up or down, followed by an end of file. The receiver reports its verdict. The
//! service sends its verdict to the application as one word.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::lab::{Lab, METHODS};
use crate::support::{
    content::Content,
    proxy::{Cut, Path, Proxy},
    services::{self, Ending, Service},
    wait,
};

const BLOCK: usize = 32 * 1024;

/// The verdict of the service on a complete stream.
const COMPLETE: &str = "complete";

const UP: u8 = b'u';
const DOWN: u8 = b'd';

/// The service that the streams connect to.
pub(crate) fn service() -> Service {
    Service::start(|mut stream| {
        let mut request = [0; 17];
        if let Err(error) = stream.read_exact(&mut request) {
            return error.into();
        }
        let number =
            |at: usize| u64::from_be_bytes(std::array::from_fn(|index| request[at + index]));
        let content = Content {
            seed: number(1),
            length: number(9),
        };
        let ignored = AtomicU64::new(0);
        let answered = if request[0] == UP {
            let verdict = receive(stream, content, &ignored)
                .map_or_else(|error| error.to_string(), |()| COMPLETE.to_owned());
            stream.write_all(verdict.as_bytes())
        } else {
            send(stream, content, &ignored)
                .and_then(|()| io::copy(&mut stream, &mut io::sink()).map(drop))
        };
        answered.map_or_else(Ending::from, |()| Ending::Clean)
    })
}

/// A set of running streams.
pub(crate) struct Load {
    streams: Vec<RunningStream>,
}

struct RunningStream {
    name: String,
    moved: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Load {
    /// Starts four streams up and four down, each of this length.
    pub(crate) fn start(address: SocketAddr, length: u64) -> Load {
        Load::of(address, length, [[DOWN; 4], [UP; 4]].concat())
    }

    fn of(address: SocketAddr, length: u64, directions: Vec<u8>) -> Load {
        let start = |(number, direction): (usize, u8)| {
            let moved = Arc::new(AtomicU64::new(0));
            let counter = moved.clone();
            let content = Content {
                seed: fastrand::u64(..),
                length,
            };
            let name = format!(
                "stream {number}, {}",
                if direction == UP { "up" } else { "down" }
            );
            let thread = thread::spawn(move || run(address, direction, content, &counter));
            RunningStream {
                name,
                moved,
                thread,
            }
        };
        Load {
            streams: directions.into_iter().enumerate().map(start).collect(),
        }
    }

    /// Bytes that the applications have sent or received.
    pub(crate) fn moved(&self) -> u64 {
        self.streams
            .iter()
            .map(|stream| stream.moved.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether every stream has ended, with or without an error.
    pub(crate) fn is_done(&self) -> bool {
        self.streams
            .iter()
            .all(|stream| stream.thread.is_finished())
    }

    /// Whether some stream has ended before the others.
    pub(crate) fn is_broken(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.thread.is_finished())
            && !self.is_done()
    }

    /// Waits for all streams and asserts that every one is complete, up to its end.
    #[track_caller]
    pub(crate) fn finish(self, under: &str) {
        let ended = self.streams.into_iter().filter_map(|stream| {
            let error = stream.thread.join().expect("a stream's thread").err()?;
            Some(format!(
                "{} ({} bytes moved): {error}",
                stream.name,
                stream.moved.load(Ordering::Relaxed)
            ))
        });
        let broken: Vec<String> = ended.collect();
        assert!(
            broken.is_empty(),
            "{under}: {} streams did not survive:\n{}",
            broken.len(),
            broken.join("\n")
        );
    }
}

fn run(address: SocketAddr, direction: u8, content: Content, moved: &AtomicU64) -> io::Result<()> {
    let mut stream = &services::connect(address);
    let request = [
        &[direction][..],
        &content.seed.to_be_bytes(),
        &content.length.to_be_bytes(),
    ]
    .concat();
    stream.write_all(&request)?;
    if direction == DOWN {
        return receive(stream, content, moved);
    }
    send(stream, content, moved)?;
    let mut verdict = String::new();
    stream
        .read_to_string(&mut verdict)
        .map_err(|error| with_context("waiting for the service's verdict", &error))?;
    if verdict == COMPLETE {
        Ok(())
    } else {
        Err(io::Error::other(format!("the service reports {verdict:?}")))
    }
}

fn send(mut stream: &TcpStream, content: Content, moved: &AtomicU64) -> io::Result<()> {
    let mut digest = Context::new(&SHA256);
    let (mut block, mut offset) = (vec![0; BLOCK], 0);
    while offset < content.length {
        let piece = content.fill(offset, &mut block);
        digest.update(piece);
        stream.write_all(piece).map_err(|error| {
            with_context(&format!("sending, at byte {offset} or before"), &error)
        })?;
        offset += piece.len() as u64;
        moved.store(offset, Ordering::Relaxed);
    }
    stream
        .write_all(digest.finish().as_ref())
        .and_then(|()| stream.shutdown(Shutdown::Write))
}

/// Reads to the end of file and reports where the content differs.
fn receive(stream: &TcpStream, content: Content, moved: &AtomicU64) -> io::Result<()> {
    let mut digest = Context::new(&SHA256);
    let (mut block, mut offset, mut trailer) = (vec![0; BLOCK], 0, Vec::new());
    loop {
        let count = services::read(stream, &mut block)
            .map_err(|error| with_context(&format!("receiving, at byte {offset}"), &error))?;
        if count == 0 {
            break;
        }
        let of_content = usize::try_from(content.length - offset)
            .unwrap_or(usize::MAX)
            .min(count);
        let (received, behind) = block[..count].split_at(of_content);
        if let Some(at) = content.first_difference(offset, received) {
            return Err(io::Error::other(format!(
                "byte {at} differs from the sent one"
            )));
        }
        digest.update(received);
        trailer.extend_from_slice(behind);
        offset += received.len() as u64;
        moved.store(offset, Ordering::Relaxed);
        if trailer.len() > SHA256_OUTPUT_LEN {
            return Err(io::Error::other("more bytes arrived than were sent"));
        }
    }
    let ended_at = offset + trailer.len() as u64;
    if trailer.len() < SHA256_OUTPUT_LEN {
        return Err(io::Error::other(format!(
            "a clean end at byte {ended_at}, before the last byte"
        )));
    }
    if digest.finish().as_ref() == trailer {
        Ok(())
    } else {
        Err(io::Error::other("the digests differ"))
    }
}

fn with_context(doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}

#[test]
fn eight_undisturbed_streams_are_complete() {
    let lab = Lab::new();
    for methods in METHODS {
        lab.start_load(methods).finish(&methods.to_string());
    }
}

/// The failure of eight streams that go directly to their service over a path that is cut.
fn failure_of_cut_streams(cut: Cut) -> String {
    let service = service();
    let proxy = Proxy::start(service.address());
    proxy.set_path(Path::limited(1_000_000));
    let load = Load::start(proxy.address(), 1 << 20);
    wait::until_true("the streams run", || {
        proxy
            .forwarded()
            .iter()
            .all(|forwarded| *forwarded > 100_000)
    });
    proxy.cut(cut);
    let broken = std::panic::catch_unwind(AssertUnwindSafe(|| load.finish("a path that is cut")))
        .expect_err("no stream can be complete");
    broken.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_truncated_stream_is_detected() {
    for (cut, words) in [(Cut::Reset, "reset"), (Cut::EndOfFile, "a clean end")] {
        let message = failure_of_cut_streams(cut);
        assert!(
            message.contains("8 streams did not survive") && message.contains(words),
            "{message}"
        );
        assert!(
            message.contains("down (") && message.contains("at byte"),
            "{message}"
        );
    }
}

#[test]
fn a_changed_byte_is_detected() {
    let content = Content {
        seed: 1,
        length: 10_000,
    };
    let mut block = vec![0; 6000];
    let mut received = content.fill(3000, &mut block).to_vec();
    assert_eq!(
        (received.len(), content.first_difference(3000, &received)),
        (6000, None)
    );
    received[1234] ^= 1;
    assert_eq!(content.first_difference(3000, &received), Some(4234));
    assert_eq!(content.fill(9000, &mut [0; 6000]).len(), 1000);
    let doubled = [&received[..100], &received[..100]].concat();
    assert_eq!(content.first_difference(3000, &doubled), Some(3100));
}
