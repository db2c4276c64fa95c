//! A steady stream of small messages to an echo service, and the time at which each came back. It
//! shows the pauses that an application sees.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::lab::Lab;
use crate::support::{services, wait};

/// A running stream. The test fails when the stream breaks.
pub(crate) struct EchoProbe {
    stream: TcpStream,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    stopping: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<()>>,
    receiver: JoinHandle<io::Result<()>>,
}

impl EchoProbe {
    /// Sends a message to the echo at each interval.
    pub(crate) fn start(echo: SocketAddr, interval: Duration) -> EchoProbe {
        let stream = services::connect(echo);
        let (stopping, arrivals) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let (stop, to) = (
            stopping.clone(),
            stream.try_clone().expect("a second handle"),
        );
        let sender = thread::spawn(move || send(&to, interval, &stop));
        let (seen, from) = (
            arrivals.clone(),
            stream.try_clone().expect("a third handle"),
        );
        let receiver = thread::spawn(move || receive(&from, &seen));
        let echo_probe = EchoProbe {
            stream,
            arrivals,
            stopping,
            sender,
            receiver,
        };
        wait::until_true("the first messages came back", || echo_probe.count() >= 3);
        echo_probe
    }

    /// Messages that came back.
    pub(crate) fn count(&self) -> usize {
        self.arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The longest time without a message that overlaps the period from `from` to `to`.
    pub(crate) fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let pauses = arrivals
            .windows(2)
            .rev()
            .take_while(|pair| pair[1] >= from)
            .filter(|pair| pair[0] <= to);
        pauses
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }

    /// Waits until a message that is sent after this call has come back, and some more.
    pub(crate) fn settle(&self) {
        let now = self.count();
        wait::until_true("messages come back", || self.count() > now + 10);
    }

    /// Ends the stream and asserts that every message came back.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.stopping.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender");
        sent.and_then(|()| self.stream.shutdown(Shutdown::Write))
            .expect("every message is sent");
        self.receiver
            .join()
            .expect("the receiver")
            .expect("every message comes back in order, then the end");
    }
}

fn send(mut to: &TcpStream, interval: Duration, stopping: &AtomicBool) -> io::Result<()> {
    for number in 0u64.. {
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        to.write_all(&number.to_be_bytes())?;
        wait::pause(interval);
    }
    Ok(())
}

fn receive(mut from: &TcpStream, arrivals: &Mutex<Vec<Instant>>) -> io::Result<()> {
    let mut block = vec![0; 64 << 10];
    let (mut number, mut rest) = (0u64, Vec::new());
    loop {
        let count = from.read(&mut block)?;
        let now = Instant::now();
        if count == 0 {
            return if rest.is_empty() {
                Ok(())
            } else {
                Err(io::Error::other("the stream ended within a message"))
            };
        }
        rest.extend_from_slice(&block[..count]);
        let whole = rest.len() / 8 * 8;
        for message in rest.drain(..whole).collect::<Vec<_>>().chunks(8) {
            if message != number.to_be_bytes() {
                return Err(io::Error::other(format!("message {number} is {message:?}")));
            }
            number += 1;
        }
        arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(now);
    }
}

#[test]
fn a_pause_of_the_path_is_measured_and_no_message_is_lost() {
    const FROZEN: Duration = Duration::from_millis(400);
    let lab = Lab::new();
    let echo_probe = EchoProbe::start(lab.echo(), Duration::from_millis(5));
    echo_probe.settle();
    let start = Instant::now();
    lab.client_path.freeze();
    wait::pause(FROZEN);
    let thawed = Instant::now();
    lab.client_path.thaw();
    echo_probe.settle();
    let seen = echo_probe.longest_pause(start, thawed);
    assert!(
        (FROZEN - Duration::from_millis(20)..FROZEN * 4).contains(&seen),
        "{seen:?}"
    );
    echo_probe.finish();
}
