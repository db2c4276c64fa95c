//! A TCP proxy that stands in for the path between two roles: it records every byte, and can be slow, silent or cut.
//!
//! For each connection and direction one thread reads and stamps, another writes when the time has come, so that delay costs no throughput.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

/// How soon a blocked thread notices a cut.
const NOTICE: Duration = Duration::from_millis(20);

/// Blocks under way in one direction: with those of 16 KiB, four megabytes for a delayed path.
const UNDER_WAY: usize = 256;

/// How a path behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path {
    /// Each way.
    pub delay: Duration,
    /// At most as much more, drawn anew for each block; order is kept.
    pub jitter: Duration,
    /// Each way and for each connection; no limit when absent.
    pub bytes_per_second: Option<u32>,
    /// Of the jitter.
    pub seed: u64,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides see a reset.
    Reset,
    /// Both sides see an end of file.
    EndOfFile,
    /// The side that made the connection sees a reset; the target sees nothing, as when a cable is pulled beyond its last router.
    NearSide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Nothing is forwarded, and nothing is closed.
    Frozen,
    /// As frozen, and new connections are reset.
    Refusing,
}

#[derive(Debug)]
struct State {
    path: Path,
    flow: Flow,
    /// Counts cuts; a connection from before the last one is over.
    cuts: u64,
    cut: Cut,
    stopping: bool,
    recorded: [Vec<u8>; 2],
    connections: usize,
    /// The target's halves of connections that were cut at the near side.
    abandoned: Vec<Arc<TcpStream>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// The cut that ends connections of this generation, when there was one.
    fn cut_since(&self, generation: u64) -> Option<Cut> {
        let state = self.lock();
        (state.cuts != generation).then_some(state.cut)
    }

    /// Waits until the moment has come and the flow is open; false when the connection was cut meanwhile.
    fn wait_for_turn(&self, generation: u64, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if state.cuts != generation {
                return false;
            }
            let now = Instant::now();
            let rest = if state.flow == Flow::Open { due.saturating_duration_since(now) } else { NOTICE };
            if rest.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to the target, which need not be there yet.
    pub fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the proxy");
        let address = listener.local_addr().expect("the address of a listener");
        let state = State {
            path: Path::default(),
            flow: Flow::Open,
            cuts: 0,
            cut: Cut::EndOfFile,
            stopping: false,
            recorded: [Vec::new(), Vec::new()],
            connections: 0,
            abandoned: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let forwarding = shared.clone();
        let acceptor = thread::spawn(move || accept(&listener, target, &forwarding));
        Proxy { address, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All bytes toward the target, then all bytes from it, of all connections.
    pub fn recorded(&self) -> [Vec<u8>; 2] {
        self.shared.lock().recorded.clone()
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Behaves so from now on.
    pub fn set_path(&self, path: Path) {
        self.shared.change(|state| state.path = path);
    }

    /// Ends all connections that there are; new ones are served.
    pub fn cut(&self, cut: Cut) {
        self.shared.change(|state| {
            state.cut = cut;
            state.cuts += 1;
        });
    }

    /// Goes silent without closing anything: a half-dead path. New connections are silent too.
    pub fn freeze(&self) {
        self.shared.change(|state| state.flow = Flow::Frozen);
    }

    /// Goes silent, and resets new connections.
    pub fn refuse(&self) {
        self.shared.change(|state| state.flow = Flow::Refusing);
    }

    /// Forwards again.
    pub fn thaw(&self) {
        self.shared.change(|state| state.flow = Flow::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.stopping = true;
            state.cuts += 1;
        });
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((near, _)) = listener.accept() {
        let (stopping, flow, generation, seed) = {
            let mut state = shared.lock();
            state.connections += 1;
            (state.stopping, state.flow, state.cuts, state.path.seed.wrapping_add(state.connections as u64))
        };
        if stopping {
            break;
        }
        match TcpStream::connect(target) {
            Ok(far) if flow != Flow::Refusing => {
                let (near, far, reset) = (Arc::new(near), Arc::new(far), Arc::new(AtomicBool::new(false)));
                for (index, from, to) in [(0, near.clone(), far.clone()), (1, far, near)] {
                    let direction = Direction { index, generation, from, to, reset: reset.clone(), shared: shared.clone() };
                    threads.extend(direction.start(seed));
                }
            }
            _ => {
                let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
            }
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

#[derive(Debug, Clone)]
struct Direction {
    index: usize,
    generation: u64,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    /// The connection ends by a reset: from now on nobody may send an end of file.
    reset: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Direction {
    fn start(self, seed: u64) -> [JoinHandle<()>; 2] {
        let _ = self.from.set_nodelay(true);
        let _ = self.from.set_read_timeout(Some(NOTICE));
        let _ = self.to.set_write_timeout(Some(NOTICE));
        let (sender, receiver) = mpsc::sync_channel(UNDER_WAY);
        let reader = self.clone();
        let random = fastrand::Rng::with_seed(seed.wrapping_mul(2).wrapping_add(self.index as u64));
        [thread::spawn(move || reader.read(&sender, random)), thread::spawn(move || self.write(&receiver))]
    }

    fn read(&self, sender: &SyncSender<(Instant, Vec<u8>)>, mut random: fastrand::Rng) {
        let mut block = vec![0; 16 * 1024];
        let mut due = Instant::now();
        while self.shared.cut_since(self.generation).is_none() {
            match (&*self.from).read(&mut block) {
                Ok(0) => return,
                Ok(count) => {
                    let path = {
                        let mut state = self.shared.lock();
                        state.recorded[self.index].extend_from_slice(&block[..count]);
                        state.path
                    };
                    // Never before the block that went before it.
                    due = due.max(Instant::now() + path.delay + path.jitter.mul_f64(random.f64()));
                    if sender.send((due, block[..count].to_vec())).is_err() {
                        return;
                    }
                }
                Err(error) if would_block(&error) => {}
                Err(_) => return self.end(Cut::Reset),
            }
        }
    }

    fn write(&self, receiver: &Receiver<(Instant, Vec<u8>)>) {
        let mut free = Instant::now();
        loop {
            if let Some(cut) = self.shared.cut_since(self.generation) {
                return self.end(cut);
            }
            match receiver.recv_timeout(NOTICE) {
                Ok((due, block)) => {
                    if !self.shared.wait_for_turn(self.generation, due.max(free)) {
                        continue;
                    }
                    if let Some(rate) = self.shared.lock().path.bytes_per_second {
                        free = free.max(due) + Duration::from_secs_f64(block.len() as f64 / f64::from(rate));
                    }
                    if self.write_all(&block).is_err() {
                        return self.end(Cut::Reset);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    /// Passes the end of file on, unless it was the end of more than that.
    fn finish(&self) {
        match self.shared.cut_since(self.generation) {
            Some(cut) => self.end(cut),
            None if self.reset.load(Ordering::Acquire) => {}
            None => {
                let _ = self.to.shutdown(Shutdown::Write);
            }
        }
    }

    /// Writes all of it unless the connection is cut meanwhile.
    fn write_all(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() && self.shared.cut_since(self.generation).is_none() {
            match (&*self.to).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends both sides. A reset goes out when the last thread lets its socket go.
    fn end(&self, cut: Cut) {
        self.reset.fetch_or(cut != Cut::EndOfFile, Ordering::Release);
        for (index, stream) in [&self.from, &self.to].into_iter().enumerate() {
            match cut {
                Cut::NearSide if index != self.index => self.shared.lock().abandoned.push(stream.clone()),
                Cut::Reset | Cut::NearSide => {
                    let _ = SockRef::from(&**stream).set_linger(Some(Duration::ZERO));
                    // The other direction's threads may be waiting in it; reading ends, and nothing is sent by it.
                    let _ = stream.shutdown(Shutdown::Read);
                }
                Cut::EndOfFile => {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
