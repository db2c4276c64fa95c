//! One connection through the proxy: its two sockets, what is under way between them, and the four threads that carry it.
//!
//! The threads go by the connection's [`Fate`] alone; whoever changes it wakes them. A socket closes when the last thread has let go of it.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{Cut, Flow, Path, Shared, lock};

/// Bytes that a thread reads at a time.
const BLOCK: usize = 64 * 1024;

/// Bytes that a path without a limit carries each second when it comes to what is under way in its delay: more than the roles move.
const UNLIMITED: u32 = 300_000_000;

/// Bytes under way in any case, so that neither thread waits for the other's turn.
const UNDER_WAY: usize = 1 << 20;

/// What a limited path holds beyond its delay, as the buffer of a router does.
const ROUTER: Duration = Duration::from_millis(250);

/// How long a limited path takes for one piece: it is smooth, not a burst now and then.
const PIECE: Duration = Duration::from_millis(10);

/// How soon a thread that is writing to somebody who does not read notices that the connection is over.
const NOTICE: Duration = Duration::from_millis(5);

/// What becomes of a connection. It goes down this list, and never up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Forwarded,
    /// Read and thrown away.
    Swallowed,
    /// Both ends have been told; the rest is read and thrown away.
    Ended,
    /// The threads let their sockets go.
    Over,
}

/// How one direction ended, after what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    EndOfFile,
    Reset,
}

#[derive(Debug, Default)]
struct Lane {
    blocks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last: Option<(Instant, Last)>,
}

impl Lane {
    /// Whether a reset has come through: it does not wait behind what nobody reads.
    fn is_reset(&self) -> bool {
        self.last
            .is_some_and(|(due, last)| last == Last::Reset && due <= Instant::now())
    }
}

#[derive(Debug)]
struct State {
    fate: Fate,
    lanes: [Lane; 2],
}

/// The sockets are the near one, whose maker came to the proxy, and the far one. Lane 0 leads from the near to the far one.
#[derive(Debug)]
pub struct Connection {
    sockets: [TcpStream; 2],
    state: Mutex<State>,
    /// One for each lane.
    changed: [Condvar; 2],
    shared: Arc<Shared>,
}

/// What a writer is to do next.
enum Next {
    Write(Vec<u8>),
    Finish(Last),
    Over,
}

impl Connection {
    /// Carries the connection until it ends.
    pub fn start(
        near: TcpStream,
        far: TcpStream,
        number: u64,
        shared: &Arc<Shared>,
    ) -> [JoinHandle<()>; 4] {
        for socket in [&near, &far] {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_write_timeout(Some(NOTICE));
        }
        let state = Mutex::new(State {
            fate: Fate::Forwarded,
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

    /// Lets the threads look again.
    pub fn wake(&self) {
        // Whoever is between its look and its waiting holds this.
        drop(lock(&self.state));
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// From now on nothing comes out.
    pub fn swallow(&self) {
        self.decide(Fate::Swallowed);
    }

    /// Ends it in this way.
    pub fn cut(&self, cut: Cut) {
        match cut {
            Cut::EndOfFile => {
                if self.decide(Fate::Ended) {
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

    /// Ends it because the proxy does.
    pub fn stop(&self) {
        self.decide(Fate::Over);
        self.sockets
            .iter()
            .for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
    }

    fn reset(&self) {
        self.reset_of(&self.sockets);
    }

    fn reset_of(&self, sockets: &[TcpStream]) {
        if !self.decide(Fate::Over) {
            return;
        }
        for socket in sockets {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        // Wakes who reads, and sends nothing; the sockets are closed when all threads have noticed.
        self.sockets
            .iter()
            .for_each(|socket| drop(socket.shutdown(Shutdown::Read)));
    }

    /// Whether the fate was news.
    fn decide(&self, fate: Fate) -> bool {
        let mut state = lock(&self.state);
        let news = state.fate < fate;
        if news {
            state.fate = fate;
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
            // Never before the block that went before it.
            due = due.max(Instant::now() + delay + jitter.mul_f64(random.f64()));
            match read {
                Ok(0) => return self.end_lane(lane, due, Last::EndOfFile),
                Ok(count) if !self.take(lane, due, &block[..count]) => return,
                Ok(_) => {}
                Err(error) if would_block(&error) => {}
                Err(_) => return self.end_lane(lane, due, Last::Reset),
            }
        }
    }

    /// Puts a block under way when there is room for it; false when there is nothing more to read for.
    fn take(&self, lane: usize, due: Instant, block: &[u8]) -> bool {
        let mut state = lock(&self.state);
        loop {
            match state.fate {
                Fate::Over => return false,
                Fate::Swallowed | Fate::Ended => return true,
                Fate::Forwarded => {}
            }
            if state.lanes[lane].bytes < room(&self.shared.settings().path) {
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

    /// Notes how the direction ended. A swallowed connection keeps its sockets until somebody cuts it.
    fn end_lane(&self, lane: usize, due: Instant, last: Last) {
        let mut state = lock(&self.state);
        state.lanes[lane].last = Some((due, last));
        self.changed[lane].notify_all();
        while state.fate == Fate::Swallowed {
            state = self.wait(lane, state, None);
        }
    }

    fn write(&self, lane: usize) {
        let mut free = Instant::now();
        loop {
            match self.next(lane, free) {
                Next::Over => return,
                Next::Finish(Last::Reset) => return self.reset(),
                Next::Finish(Last::EndOfFile) => {
                    let _ = self.sockets[1 - lane].shutdown(Shutdown::Write);
                    return;
                }
                Next::Write(block) => {
                    if self.write_block(lane, &block, &mut free).is_err() {
                        return self.failed();
                    }
                }
            }
        }
    }

    /// Writes piece by piece, each when the path is free; what is left when the connection ends meanwhile is lost.
    fn write_block(&self, lane: usize, block: &[u8], free: &mut Instant) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() && self.wait_until(lane, *free) {
            let path = self.shared.settings().path;
            let (piece, after) = rest.split_at(piece_length(&path).min(rest.len()));
            *free = (*free).max(Instant::now().checked_sub(PIECE).unwrap_or(*free))
                + duration_of(piece.len(), &path);
            self.write_piece(lane, piece)?;
            rest = after;
        }
        Ok(())
    }

    /// Waits for what comes next in the lane: its time, and a path that is open.
    fn next(&self, lane: usize, free: Instant) -> Next {
        let mut state = lock(&self.state);
        loop {
            if state.fate != Fate::Forwarded {
                return Next::Over;
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
                        .map_or(Next::Over, |(_, last)| Next::Finish(last));
                };
                queue.bytes -= block.len();
                self.changed[lane].notify_all();
                return Next::Write(block);
            }
            let due = due.filter(|_| open);
            state = self.wait(lane, state, due);
        }
    }

    /// Waits for the moment, and until the path is open; false when the connection ended meanwhile.
    fn wait_until(&self, lane: usize, moment: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.fate != Fate::Forwarded {
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
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
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

    /// Writes all of it unless the connection ends meanwhile.
    fn write_piece(&self, lane: usize, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() && lock(&self.state).fate == Fate::Forwarded {
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

    /// The end that was written to is gone: so is the other, unless they are meant to know nothing of each other.
    fn failed(&self) {
        if lock(&self.state).fate == Fate::Forwarded {
            self.reset();
        }
    }
}

/// Bytes that may be under way in one direction.
fn room(path: &Path) -> usize {
    if path.unbounded {
        return usize::MAX;
    }
    let held = |rate: u32, time: Duration| (f64::from(rate) * time.as_secs_f64()) as usize;
    let delay = path.delay + path.jitter;
    path.bytes_per_second
        .map_or(UNDER_WAY + held(UNLIMITED, delay), |rate| {
            held(rate, delay + ROUTER)
        })
}

/// Bytes that are written at a time.
fn piece_length(path: &Path) -> usize {
    match (path.dribble, path.bytes_per_second) {
        (Some(_), _) => 1,
        (None, Some(rate)) => ((f64::from(rate) * PIECE.as_secs_f64()) as usize).clamp(256, BLOCK),
        (None, None) => BLOCK,
    }
}

/// How long the path takes for as many bytes.
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
