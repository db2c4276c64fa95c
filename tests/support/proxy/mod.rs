//! A TCP proxy that stands in for the path between two roles: it can be slow, silent, deaf or cut, and records every byte when asked.
//!
//! For each connection and direction one thread reads and stamps, another writes when the time has come, so that delay costs no throughput
//! ([`connection`]). What is under way is bounded, so that a path holds what a path holds and memory does not grow with what passes.

mod connection;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use connection::Connection;
use socket2::SockRef;

/// How a path behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path {
    /// Each way.
    pub delay: Duration,
    /// At most as much more, drawn anew for each block; order is kept.
    pub jitter: Duration,
    /// Each way and for each connection; no limit when absent.
    pub bytes_per_second: Option<u32>,
    /// Forwards one byte at a time, with this pause after each.
    pub dribble: Option<Duration>,
    /// Takes in whatever it is sent, and keeps it until its time comes: memory grows with what the two ends let be under way.
    pub unbounded: bool,
    /// Of the jitter.
    pub seed: u64,
}

impl Path {
    /// A path that takes so long each way and is otherwise perfect.
    pub fn delayed(delay: Duration) -> Path {
        Path {
            delay,
            ..Path::default()
        }
    }

    /// A path that carries so much each way.
    pub fn limited(bytes_per_second: u32) -> Path {
        Path {
            bytes_per_second: Some(bytes_per_second),
            ..Path::default()
        }
    }
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides see a reset.
    Reset,
    /// Both sides see an end of file, and what they still send is read and thrown away.
    EndOfFile,
    /// The side that made the connection sees a reset; the target sees nothing, as when a cable is pulled beyond its last router.
    NearSide,
}

/// Which connections are swallowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swallow {
    /// Those that there are: as when a router has forgotten its connections. New ones are served.
    Present,
    /// New ones too: as when the path beyond the last router is gone.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Nothing is forwarded, and nothing is closed.
    Frozen,
    /// As frozen, and new connections are reset.
    Refusing,
    /// New connections are accepted, and nothing comes out of them.
    Swallowing,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    path: Path,
    flow: Flow,
}

#[derive(Debug, Default)]
struct Connections {
    made: usize,
    stopping: bool,
    live: Vec<Weak<Connection>>,
    /// Accepted while new connections were swallowed.
    swallowed: Vec<TcpStream>,
    /// The target's halves of connections that were cut at the near side.
    abandoned: Vec<TcpStream>,
}

/// What the proxy's threads share. A lock of a connection may be held when one of these is taken, never the other way round.
#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    connections: Mutex<Connections>,
    recorded: Option<Mutex<[Vec<u8>; 2]>>,
    forwarded: [AtomicU64; 2],
}

impl Shared {
    fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections)
            .live
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
        for connection in self.live() {
            connection.wake();
        }
    }

    fn record(&self, direction: usize, block: &[u8]) {
        if let Some(recorded) = &self.recorded {
            lock(recorded)[direction].extend_from_slice(block);
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
        Proxy::with(target, None)
    }

    /// The same, and keeps every byte that it forwards.
    pub fn recording(target: SocketAddr) -> Proxy {
        Proxy::with(target, Some(Mutex::default()))
    }

    fn with(target: SocketAddr, recorded: Option<Mutex<[Vec<u8>; 2]>>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the proxy");
        let address = listener.local_addr().expect("the address of a listener");
        let settings = Mutex::new(Settings {
            path: Path::default(),
            flow: Flow::Open,
        });
        let shared = Arc::new(Shared {
            settings,
            connections: Mutex::default(),
            recorded,
            forwarded: Default::default(),
        });
        let forwarding = shared.clone();
        let acceptor = thread::spawn(move || accept(&listener, target, &forwarding));
        Proxy {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All bytes toward the target, then all bytes from it, of all connections of a recording proxy.
    pub fn recorded(&self) -> [Vec<u8>; 2] {
        lock(
            self.shared
                .recorded
                .as_ref()
                .expect("a proxy that was asked to record"),
        )
        .clone()
    }

    /// How many bytes it has forwarded toward the target, and from it.
    pub fn forwarded(&self) -> [u64; 2] {
        [0, 1].map(|direction: usize| self.shared.forwarded[direction].load(Ordering::Relaxed))
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).made
    }

    /// Behaves so from now on.
    pub fn set_path(&self, path: Path) {
        self.shared.change(|settings| settings.path = path);
    }

    /// Ends all connections that there are; new ones are served as before.
    pub fn cut(&self, cut: Cut) {
        for connection in self.shared.live() {
            connection.cut(cut);
        }
        for near in std::mem::take(&mut lock(&self.shared.connections).swallowed) {
            if cut != Cut::EndOfFile {
                let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Goes silent without closing anything: a half-dead path. New connections are silent too. What was sent arrives when it thaws.
    pub fn freeze(&self) {
        self.shared.change(|settings| settings.flow = Flow::Frozen);
    }

    /// Goes silent, and resets new connections.
    pub fn refuse(&self) {
        self.shared
            .change(|settings| settings.flow = Flow::Refusing);
    }

    /// Reads everything and throws it away, an end of file or a reset too: nobody learns anything. These connections never come back, only a
    /// cut ends them.
    pub fn swallow(&self, which: Swallow) {
        if which == Swallow::All {
            self.shared
                .change(|settings| settings.flow = Flow::Swallowing);
        }
        for connection in self.shared.live() {
            connection.swallow();
        }
    }

    /// Forwards again what is not lost for ever.
    pub fn thaw(&self) {
        self.shared.change(|settings| settings.flow = Flow::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.shared.connections).stopping = true;
        for connection in self.shared.live() {
            connection.stop();
        }
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((near, _)) = listener.accept() {
        let number = {
            let mut connections = lock(&shared.connections);
            if connections.stopping {
                break;
            }
            connections.made += 1;
            connections.made as u64
        };
        threads.retain(|thread| !thread.is_finished());
        match shared.settings().flow {
            Flow::Refusing => refuse(&near),
            Flow::Swallowing => lock(&shared.connections).swallowed.push(near),
            Flow::Open | Flow::Frozen => match TcpStream::connect(target) {
                Ok(far) => threads.extend(Connection::start(near, far, number, shared)),
                Err(_) => refuse(&near),
            },
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn refuse(near: &TcpStream) {
    let _ = SockRef::from(near).set_linger(Some(Duration::ZERO));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
