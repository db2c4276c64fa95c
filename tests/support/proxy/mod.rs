//! A TCP proxy that acts as the path between two roles. It can be slow, silent, a black hole or
//! cut, and it can record every byte.
//!
//! In each direction of a connection one thread reads and timestamps, and another one writes when
//! the time has come. So delay costs no throughput ([`connection`]). The data in flight is bounded
//! like on a real path, so memory does not grow with the traffic.

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

/// The properties of a path.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Path {
    /// In each direction.
    pub delay: Duration,
    /// The maximum of an additional random delay, drawn for each block. Order is kept.
    pub jitter: Duration,
    /// For each connection in each direction. `None` means no limit.
    pub bytes_per_second: Option<u32>,
    /// Forwards one byte at a time, with this pause after each.
    pub dribble: Option<Duration>,
    /// Buffers everything until its time comes. Memory grows with the data that the two ends keep
    /// in flight.
    pub unbounded: bool,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Path {
    /// A path with this delay in each direction and no other impairment.
    pub(crate) fn delayed(delay: Duration) -> Path {
        Path {
            delay,
            ..Path::default()
        }
    }

    /// A path with this rate in each direction.
    pub(crate) fn limited(bytes_per_second: u32) -> Path {
        Path {
            bytes_per_second: Some(bytes_per_second),
            ..Path::default()
        }
    }
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both sides see a reset.
    Reset,
    /// Both sides see an end of file. Data that they still send is read and discarded.
    EndOfFile,
    /// The side that made the connection sees a reset. The target sees nothing, as when a cable is
    /// pulled beyond its last router.
    NearSide,
}

/// Which connections become black holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlackHole {
    /// The existing ones, as when a router has lost its connection table. New ones are served.
    Existing,
    /// New ones too, as when the path beyond the last router is down.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Forwards nothing and closes nothing.
    Frozen,
    /// Like `Frozen`, and resets new connections.
    Refusing,
    /// Accepts new connections and sends nothing on them.
    BlackHole,
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
    /// Accepted while new connections became black holes.
    black_holed: Vec<TcpStream>,
    /// The target's halves of connections that were cut at the near side.
    abandoned: Vec<TcpStream>,
}

/// The shared state of the proxy's threads. Lock order: a connection's lock comes before these
/// locks.
#[derive(Debug)]
struct ProxyState {
    settings: Mutex<Settings>,
    connections: Mutex<Connections>,
    recorded: Option<Mutex<[Vec<u8>; 2]>>,
    forwarded: [AtomicU64; 2],
}

impl ProxyState {
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
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to the target, which may start later.
    pub(crate) fn start(target: SocketAddr) -> Proxy {
        Proxy::with(target, None)
    }

    /// The same, and records every byte that it forwards.
    pub(crate) fn recording(target: SocketAddr) -> Proxy {
        Proxy::with(target, Some(Mutex::default()))
    }

    fn with(target: SocketAddr, recorded: Option<Mutex<[Vec<u8>; 2]>>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the proxy");
        let address = listener.local_addr().expect("the address of a listener");
        let settings = Mutex::new(Settings {
            path: Path::default(),
            flow: Flow::Open,
        });
        let shared = Arc::new(ProxyState {
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

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All bytes toward the target and all bytes from it, of all connections of a recording proxy.
    pub(crate) fn recorded(&self) -> [Vec<u8>; 2] {
        lock(self.shared.recorded.as_ref().expect("a recording proxy")).clone()
    }

    /// The number of bytes forwarded toward the target, and from it.
    pub(crate) fn forwarded(&self) -> [u64; 2] {
        [0, 1].map(|direction: usize| self.shared.forwarded[direction].load(Ordering::Relaxed))
    }

    /// The number of connections that were accepted.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared.connections).made
    }

    /// Applies these properties from now on.
    pub(crate) fn set_path(&self, path: Path) {
        self.shared.change(|settings| settings.path = path);
    }

    /// Ends the oldest connection only. Calls in a row take turns, because a connection that
    /// replaces the ended one is the youngest.
    pub(crate) fn cut_oldest(&self, cut: Cut) {
        let live = self.shared.live();
        if let Some(oldest) = live.iter().find(|connection| connection.is_forwarding()) {
            oldest.cut(cut);
        }
    }

    /// Ends all existing connections. New ones are served as before.
    pub(crate) fn cut(&self, cut: Cut) {
        for connection in self.shared.live() {
            connection.cut(cut);
        }
        for near in std::mem::take(&mut lock(&self.shared.connections).black_holed) {
            if cut != Cut::EndOfFile {
                let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// Stops forwarding without closing anything. New connections are silent too. Data arrives
    /// after [`Proxy::thaw`].
    pub(crate) fn freeze(&self) {
        self.shared.change(|settings| settings.flow = Flow::Frozen);
    }

    /// Stops forwarding and resets new connections.
    pub(crate) fn refuse(&self) {
        self.shared
            .change(|settings| settings.flow = Flow::Refusing);
    }

    /// Reads and discards everything, including an end of file and a reset, so neither end notices.
    /// These connections never recover. Only a cut ends them.
    pub(crate) fn black_hole(&self, which: BlackHole) {
        if which == BlackHole::All {
            self.shared
                .change(|settings| settings.flow = Flow::BlackHole);
        }
        for connection in self.shared.live() {
            connection.black_hole();
        }
    }

    /// Forwards again what is not lost.
    pub(crate) fn thaw(&self) {
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

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<ProxyState>) {
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
            Flow::BlackHole => lock(&shared.connections).black_holed.push(near),
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
