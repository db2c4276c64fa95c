//! One connection through the proxy: its two sockets, the data in flight between them, and the four
//! threads that carry it.
//!
//! The threads depend only on the connection's [`ConnectionPhase`]. Every change of it wakes them.
//! A socket closes when the last thread has released it.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{Cut, Flow, Path, ProxyState, lock};

/// Bytes that a thread reads at a time.
const BLOCK: usize = 64 * 1024;

/// The rate that sizes the data in flight of a path without a limit: bytes per second, more than
/// the roles move.
const UNLIMITED_RATE: u32 = 300_000_000;

/// Bytes that may always be in flight, so that the two threads of a lane do not wait for each
/// other.
const MIN_IN_FLIGHT: usize = 1 << 20;

/// The buffer of a limited path beyond its delay, like a router's.
const ROUTER_BUFFER: Duration = Duration::from_millis(250);

/// The duration of one piece on a limited path, so that the rate is smooth and has no bursts.
const PIECE_TIME: Duration = Duration::from_millis(10);

/// How soon a thread that is blocked in a write notices the end of the connection.
const WRITE_TIMEOUT: Duration = Duration::from_millis(5);

/// The phase of a connection. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ConnectionPhase {
    Forwarding,
    /// Data is read and discarded.
    Discarding,
    /// Both ends have received an end of file. Further data is read and discarded.
    Ended,
    /// The threads release their sockets.
    Closed,
}

/// How one direction ended, after the data in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneEnd {
    EndOfFile,
    Reset,
}

#[derive(Debug, Default)]
struct Lane {
    blocks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last: Option<(Instant, LaneEnd)>,
}

impl Lane {
    /// Whether a reset has arrived. It does not wait behind data that the peer does not read.
    fn is_reset(&self) -> bool {
        self.last
            .is_some_and(|(due, last)| last == LaneEnd::Reset && due <= Instant::now())
    }
}

#[derive(Debug)]
struct ConnectionState {
    phase: ConnectionPhase,
    lanes: [Lane; 2],
}

/// The sockets are the near one, whose peer connected to the proxy, and the far one, to the target.
/// Lane 0 leads from near to far.
#[derive(Debug)]
pub(super) struct Connection {
    sockets: [TcpStream; 2],
    state: Mutex<ConnectionState>,
    /// One for each lane.
    changed: [Condvar; 2],
    shared: Arc<ProxyState>,
}

/// The next action of a writer.
enum WriterAction {
    Write(Vec<u8>),
    Finish(LaneEnd),
    Stop,
}

impl Connection {
    /// Carries the connection until it ends.
    pub(super) fn start(
        near: TcpStream,
        far: TcpStream,
        number: u64,
        shared: &Arc<ProxyState>,
    ) -> [JoinHandle<()>; 4] {
        for socket in [&near, &far] {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_write_timeout(Some(WRITE_TIMEOUT));
        }
        let state = Mutex::new(ConnectionState {
            phase: ConnectionPhase::Forwarding,
            lanes: Default::default(),
        });
        let connection = Arc::new(Connection {
            sockets: [near, far],
            state,
            changed: Default::default(),
            shared: shared.clone(),
        });
        let stopping = {
            let mut connections = lock(&shared.connections);
            connections
                .live
                .retain(|connection| connection.strong_count() > 0);
            connections.live.push(Arc::downgrade(&connection));
            connections.stopping
        };
        if stopping {
            connection.stop();
        }
        let seed = shared.settings().path.seed.wrapping_add(number);
        let [up, down, toward, back] = [(); 4].map(|()| connection.clone());
        [
            thread::spawn(move || up.read(0, seed)),
            thread::spawn(move || down.read(1, seed)),
            thread::spawn(move || toward.write(0)),
            thread::spawn(move || back.write(1)),
        ]
    }

    /// Makes the threads check the state again.
    pub(super) fn wake(&self) {
        // A thread between its check and its wait holds this lock.
        drop(lock(&self.state));
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// Whether it has neither ended nor become a black hole.
    pub(super) fn is_forwarding(&self) -> bool {
        lock(&self.state).phase == ConnectionPhase::Forwarding
    }

    /// Discards all data from now on.
    pub(super) fn black_hole(&self) {
        self.advance_to(ConnectionPhase::Discarding);
    }

    /// Ends it in this way.
    pub(super) fn cut(&self, cut: Cut) {
        match cut {
            Cut::EndOfFile => {
                if self.advance_to(ConnectionPhase::Ended) {
                    self.sockets
                        .iter()
                        .for_each(|socket| drop(socket.shutdown(Shutdown::Write)));
                }
            }
            Cut::Reset => self.reset(),
            Cut::NearSide => {
                if let Ok(far) = self.sockets[1].try_clone() {
                    lock(&self.shared.connections).abandoned.push(far);
                }
                self.reset_of(&self.sockets[..1]);
            }
        }
    }

    /// Ends it because the proxy stops.
    pub(super) fn stop(&self) {
        self.advance_to(ConnectionPhase::Closed);
        self.sockets
            .iter()
            .for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }

    fn reset(&self) {
        self.reset_of(&self.sockets);
    }

    fn reset_of(&self, sockets: &[TcpStream]) {
        if !self.advance_to(ConnectionPhase::Closed) {
            return;
        }
        for socket in sockets {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        // This wakes the readers and sends nothing. The sockets close when all threads have
        // noticed.
        self.sockets
            .iter()
            .for_each(|socket| drop(socket.shutdown(Shutdown::Read)));
    }

    /// Advances the phase. Returns false if the connection had reached it already.
    fn advance_to(&self, phase: ConnectionPhase) -> bool {
        let mut state = lock(&self.state);
        let news = state.phase < phase;
        if news {
            state.phase = phase;
            state.lanes = Default::default();
        }
        drop(state);
        self.changed.iter().for_each(Condvar::notify_all);
        news
    }

    fn read(&self, lane: usize, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(2).wrapping_add(lane as u64));
        let mut due = Instant::now();
        let mut block = vec![0; BLOCK];
        loop {
            let read = (&self.sockets[lane]).read(&mut block);
            let Path { delay, jitter, .. } = self.shared.settings().path;
            // Never before the previous block.
            due = due.max(Instant::now() + delay + jitter.mul_f64(random.f64()));
            match read {
                Ok(0) => return self.end_lane(lane, due, LaneEnd::EndOfFile),
                Ok(count) if !self.take(lane, due, &block[..count]) => return,
                Ok(_) => {}
                Err(error) if would_block(&error) => {}
                Err(_) => return self.end_lane(lane, due, LaneEnd::Reset),
            }
        }
    }

    /// Queues a block when there is room for it. Returns false when the reader must stop.
    fn take(&self, lane: usize, due: Instant, block: &[u8]) -> bool {
        let mut state = lock(&self.state);
        loop {
            match state.phase {
                ConnectionPhase::Closed => return false,
                ConnectionPhase::Discarding | ConnectionPhase::Ended => return true,
                ConnectionPhase::Forwarding => {}
            }
            if state.lanes[lane].bytes < capacity(&self.shared.settings().path) {
                break;
            }
            state = self.wait(lane, state, None);
        }
        let queue = &mut state.lanes[lane];
        queue.blocks.push_back((due, block.to_vec()));
        queue.bytes += block.len();
        self.shared.record(lane, block);
        drop(state);
        self.changed[lane].notify_all();
        true
    }

    /// Records how the direction ended. A connection that discards keeps its sockets until a cut.
    fn end_lane(&self, lane: usize, due: Instant, last: LaneEnd) {
        let mut state = lock(&self.state);
        state.lanes[lane].last = Some((due, last));
        self.changed[lane].notify_all();
        while state.phase == ConnectionPhase::Discarding {
            state = self.wait(lane, state, None);
        }
    }

    fn write(&self, lane: usize) {
        let mut free = Instant::now();
        loop {
            match self.next(lane, free) {
                WriterAction::Stop => return,
                WriterAction::Finish(LaneEnd::Reset) => return self.reset(),
                WriterAction::Finish(LaneEnd::EndOfFile) => {
                    let _ = self.sockets[1 - lane].shutdown(Shutdown::Write);
                    return;
                }
                WriterAction::Write(block) => {
                    if self.write_block(lane, &block, &mut free).is_err() {
                        return self.failed();
                    }
                }
            }
        }
    }

    /// Writes piece by piece, each when the path is free. The rest is lost when the connection ends
    /// first.
    fn write_block(&self, lane: usize, block: &[u8], free: &mut Instant) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() && self.wait_until(lane, *free) {
            let path = self.shared.settings().path;
            let (piece, after) = rest.split_at(piece_length(&path).min(rest.len()));
            *free = (*free).max(Instant::now().checked_sub(PIECE_TIME).unwrap_or(*free))
                + duration_of(piece.len(), &path);
            self.write_piece(lane, piece)?;
            rest = after;
        }
        Ok(())
    }

    /// Waits for the next item of the lane: for its time, and for an open path.
    fn next(&self, lane: usize, free: Instant) -> WriterAction {
        let mut state = lock(&self.state);
        loop {
            if state.phase != ConnectionPhase::Forwarding {
                return WriterAction::Stop;
            }
            let open = self.shared.settings().flow == Flow::Open;
            let queue = &mut state.lanes[lane];
            let due = match (queue.blocks.front(), queue.last) {
                (Some((due, _)), _) => Some(free.max(*due)),
                (None, last) => last.map(|(due, _)| due),
            };
            if open && due.is_some_and(|due| due <= Instant::now()) {
                let Some((_, block)) = queue.blocks.pop_front() else {
                    return queue
                        .last
                        .map_or(WriterAction::Stop, |(_, last)| WriterAction::Finish(last));
                };
                queue.bytes -= block.len();
                self.changed[lane].notify_all();
                return WriterAction::Write(block);
            }
            let due = due.filter(|_| open);
            state = self.wait(lane, state, due);
        }
    }

    /// Waits until this moment and for an open path. Returns false when the connection ended first.
    fn wait_until(&self, lane: usize, moment: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.phase != ConnectionPhase::Forwarding {
                return false;
            }
            let open = self.shared.settings().flow == Flow::Open;
            if open && moment <= Instant::now() {
                return true;
            }
            state = self.wait(lane, state, open.then_some(moment));
        }
    }

    fn wait<'a>(
        &self,
        lane: usize,
        state: MutexGuard<'a, ConnectionState>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, ConnectionState> {
        let changed = &self.changed[lane];
        match until {
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let rest = until.saturating_duration_since(Instant::now());
                changed
                    .wait_timeout(state, rest)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Writes the whole piece unless the connection ends first.
    fn write_piece(&self, lane: usize, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() && lock(&self.state).phase == ConnectionPhase::Forwarding {
            match (&self.sockets[1 - lane]).write(rest) {
                Ok(count) => {
                    self.shared.forwarded[lane].fetch_add(count as u64, Ordering::Relaxed);
                    rest = &rest[count..];
                }
                Err(error) if would_block(&error) && !lock(&self.state).lanes[lane].is_reset() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The written end is gone, so the other end is reset too, unless the two ends are separated on
    /// purpose.
    fn failed(&self) {
        if lock(&self.state).phase == ConnectionPhase::Forwarding {
            self.reset();
        }
    }
}

/// Bytes that may be in flight in one direction.
fn capacity(path: &Path) -> usize {
    if path.unbounded {
        return usize::MAX;
    }
    let held = |rate: u32, time: Duration| (f64::from(rate) * time.as_secs_f64()) as usize;
    let delay = path.delay + path.jitter;
    path.bytes_per_second
        .map_or(MIN_IN_FLIGHT + held(UNLIMITED_RATE, delay), |rate| {
            held(rate, delay + ROUTER_BUFFER)
        })
}

/// Bytes that are written at a time.
fn piece_length(path: &Path) -> usize {
    match (path.dribble, path.bytes_per_second) {
        (Some(_), _) => 1,
        (None, Some(rate)) => {
            ((f64::from(rate) * PIECE_TIME.as_secs_f64()) as usize).clamp(256, BLOCK)
        }
        (None, None) => BLOCK,
    }
}

/// How long the path takes for that many bytes.
fn duration_of(length: usize, path: &Path) -> Duration {
    let limited = path
        .bytes_per_second
        .map(|rate| Duration::from_secs_f64(length as f64 / f64::from(rate)));
    path.dribble.or(limited).unwrap_or_default()
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
