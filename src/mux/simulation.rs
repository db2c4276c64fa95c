//! A pair of muxes joined by a network in virtual time, driven by a seeded stream of operations: the main test bed of this layer.
//! After each operation the ledgers are checked, and every byte that is read is compared with the one that was written there.
//! A failing seed is printed and reproduces.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;

use super::*;

/// Live streams, at most: so that the full check stays on.
const STREAMS_MAX: usize = 24;

/// Bytes that a direction carries at least, if nobody resets it: more than the largest first window.
const COMPLETE_AT: u64 = 48 * 1024;

/// What one side's application knows of a stream.
#[derive(Debug, Default)]
struct Application {
    written: u64,
    finished: bool,
    read: u64,
    ended: bool,
    gone: bool,
    unconsumed: VecDeque<usize>,
    stalled: bool,
    /// It was told to wait, and does until an event says otherwise: what is not told in time is lost.
    awaits_data: bool,
    awaits_room: bool,
}

struct Peer {
    mux: Mux,
    applications: BTreeMap<StreamId, Application>,
    inbox: VecDeque<(Instant, Bytes)>,
    latest: Instant,
}

struct Simulation {
    rng: Rng,
    now: Instant,
    peers: [Peer; 2],
    resets: HashSet<StreamId>,
}

/// The byte at `offset` of the direction that `side` writes on `stream`.
fn pattern(stream: StreamId, side: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (stream.0 as u8).wrapping_mul(31) ^ (side as u8) << 7
}

fn written(stream: StreamId, side: usize, from: u64, length: usize) -> Bytes {
    (from..from + length as u64).map(|offset| pattern(stream, side, offset)).collect()
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::now();
        let mut window = |least: u64| WindowSize { initial: least << rng.u32(0..4), max: least << rng.u32(3..7) };
        let parameters =
            [0, 1].map(|_| Parameters { stream_window: window(4096), tunnel_window: window(16384), streams_max: STREAMS_MAX });
        let grant =
            |of: &Parameters| PeerGrant { stream_window: of.stream_window.initial, tunnel_window: of.tunnel_window.initial };
        let [client, server] = parameters;
        let peer = |side, own: Parameters, other: Parameters| Peer {
            mux: Mux::new(side, own, grant(&other), now),
            applications: BTreeMap::new(),
            inbox: VecDeque::new(),
            latest: now,
        };
        let peers = [peer(Side::Client, client, server), peer(Side::Server, server, client)];
        Simulation { rng, now, peers, resets: HashSet::new() }
    }

    fn any_stream(&mut self, side: usize) -> Option<StreamId> {
        let live: Vec<_> =
            self.peers[side].applications.iter().filter(|(_, application)| !application.gone).map(|(&id, _)| id).collect();
        self.rng.choice(live)
    }

    fn step(&mut self) {
        let side = self.rng.usize(0..2);
        match self.rng.u32(0..100) {
            0..4 => self.open(side),
            4..30 => self.write(side),
            30..34 => self.finish(side),
            34..35 => self.reset(side),
            35..60 => self.read(side, 1),
            60..62 => self.toggle_stall(side),
            62..80 => self.transmit(side),
            80..95 => self.deliver(side),
            _ => self.pass_time(),
        }
        self.events(side);
        self.peers.iter().for_each(|peer| peer.mux.check());
    }

    fn open(&mut self, side: usize) {
        if self.peers[side].applications.len() < STREAMS_MAX / 2 {
            let id = self.peers[side].mux.open(Bytes::new());
            self.peers[side].applications.insert(id, Application::default());
        }
    }

    fn write(&mut self, side: usize) {
        if let Some(id) = self.any_stream(side) {
            self.write_to(side, id);
        }
    }

    fn write_to(&mut self, side: usize, id: StreamId) {
        if self.peers[side].applications[&id].awaits_room {
            return;
        }
        match self.peers[side].mux.write_room(id) {
            Ok(0) => self.peers[side].applications.get_mut(&id).unwrap().awaits_room = true,
            Ok(room) => {
                let length = self.rng.usize(0..=room.min(20_000));
                let peer = &mut self.peers[side];
                let application = peer.applications.get_mut(&id).unwrap();
                assert!(!application.finished);
                peer.mux.write(id, written(id, side, application.written, length)).unwrap();
                application.written += length as u64;
            }
            Err(StreamError::Finished) => assert!(self.peers[side].applications[&id].finished),
            Err(error) => self.failed(side, id, error),
        }
    }

    fn failed(&mut self, side: usize, id: StreamId, error: StreamError) {
        assert!(matches!(error, StreamError::Reset(_)), "{id:?}: {error}");
        assert!(self.resets.contains(&id), "{id:?} was reset though nobody did");
        self.release(side, id);
    }

    fn finish(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else { return };
        self.peers[side].mux.finish(id);
        self.peers[side].applications.get_mut(&id).unwrap().finished = true;
    }

    fn reset(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else { return };
        self.resets.insert(id);
        self.peers[side].mux.reset(self.now, id, ResetCode::Reset);
        self.release(side, id);
    }

    fn release(&mut self, side: usize, id: StreamId) {
        self.peers[side].mux.release(self.now, id);
        self.peers[side].applications.get_mut(&id).unwrap().gone = true;
    }

    fn read(&mut self, side: usize, times: usize) {
        let Some(id) = self.any_stream(side) else { return };
        if self.peers[side].applications[&id].stalled {
            return;
        }
        for _ in 0..times {
            self.read_from(side, id);
        }
    }

    fn read_from(&mut self, side: usize, id: StreamId) {
        if self.peers[side].applications[&id].awaits_data {
            return self.consume(side, id);
        }
        let result = self.peers[side].mux.read(id);
        let application = self.peers[side].applications.get_mut(&id).unwrap();
        match result {
            Ok(Read::Data(bytes)) => {
                assert!(!application.ended);
                for (&byte, offset) in bytes.iter().zip(application.read..) {
                    assert_eq!(byte, pattern(id, 1 - side, offset), "{id:?} at {offset}");
                }
                application.read += bytes.len() as u64;
                application.unconsumed.push_back(bytes.len());
            }
            Ok(Read::Wait) => application.awaits_data = true,
            Ok(Read::End) => {
                application.ended = true;
                let (read, other) = (application.read, &self.peers[1 - side].applications[&id]);
                assert!(other.finished && read == other.written, "{id:?} ended at {read}: {other:?}");
            }
            Err(error) => return self.failed(side, id, error),
        }
        self.consume(side, id);
    }

    fn consume(&mut self, side: usize, id: StreamId) {
        let peer = &mut self.peers[side];
        let application = peer.applications.get_mut(&id).unwrap();
        while self.rng.bool()
            && let Some(length) = application.unconsumed.pop_front()
        {
            peer.mux.consume(self.now, id, length);
        }
        if application.ended && application.finished && application.unconsumed.is_empty() {
            self.release(side, id);
        }
    }

    fn toggle_stall(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else { return };
        let application = self.peers[side].applications.get_mut(&id).unwrap();
        application.stalled = !application.stalled;
    }

    fn transmit(&mut self, side: usize) {
        let room = self.rng.usize(600..40_000);
        let mut out = BytesMut::new();
        let had = self.peers[side].mux.has_transmit();
        if self.peers[side].mux.poll_transmit(self.now, &mut out, room) {
            assert!(had && out.len() <= room);
            let delay = Duration::from_micros(self.rng.u64(0..20_000));
            let other = &mut self.peers[1 - side];
            other.latest = other.latest.max(self.now + delay);
            other.inbox.push_back((other.latest, out.freeze()));
        }
    }

    fn deliver(&mut self, side: usize) {
        let peer = &mut self.peers[side];
        if let Some((_, message)) = peer.inbox.pop_front_if(|(at, _)| *at <= self.now) {
            peer.mux.handle_message(self.now, message).unwrap();
        }
    }

    fn events(&mut self, side: usize) {
        let Peer { mux, applications, .. } = &mut self.peers[side];
        while let Some(event) = mux.poll_event() {
            let (Event::Opened { stream, .. } | Event::Readable(stream) | Event::Writable(stream) | Event::Reset(stream)) = event
            else {
                continue;
            };
            if let Event::Opened { .. } = event {
                applications.insert(stream, Application::default());
            }
            let Some(application) = applications.get_mut(&stream) else { continue };
            application.awaits_data &= !matches!(event, Event::Readable(_) | Event::Reset(_));
            application.awaits_room &= !matches!(event, Event::Writable(_) | Event::Reset(_));
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_micros(self.rng.u64(0..10_000));
        for peer in &mut self.peers {
            peer.mux.handle_timeout(self.now);
        }
    }

    /// Streams that are gone at both sides need not be looked at again.
    fn sweep(&mut self) {
        let gone: Vec<_> = self.peers[0]
            .applications
            .iter()
            .filter(|(id, one)| one.gone && self.peers[1].applications.get(id).is_some_and(|other| other.gone))
            .map(|(&id, _)| id)
            .collect();
        for id in gone {
            self.peers.iter_mut().for_each(|peer| drop(peer.applications.remove(&id)));
            self.resets.remove(&id);
        }
    }

    /// One more step of an application that still has something to write, and then finishes. What it has goes beyond the first windows: it
    /// depends on credit that comes back.
    fn complete(&mut self, side: usize, id: StreamId) {
        let application = &self.peers[side].applications[&id];
        if !application.finished && application.written < COMPLETE_AT {
            return self.write_to(side, id);
        }
        self.peers[side].mux.finish(id);
        self.peers[side].applications.get_mut(&id).unwrap().finished = true;
    }

    /// Lets everything that was begun come to its end, and checks that nothing is left.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.now += Duration::from_millis(5);
            for side in 0..2 {
                self.peers[side].mux.handle_timeout(self.now);
                let ids: Vec<_> = self.peers[side].applications.iter().filter(|(_, a)| !a.gone).map(|(&id, _)| id).collect();
                for id in ids {
                    self.complete(side, id);
                    if !self.peers[side].applications[&id].gone {
                        self.read_from(side, id);
                    }
                }
                self.transmit(side);
                (0..4).for_each(|_| self.deliver(side));
                self.events(side);
            }
            self.sweep();
            let quiet = self.peers.iter().all(|peer| peer.mux.streams() == 0 && peer.inbox.is_empty());
            if quiet && self.peers.iter().all(|peer| peer.applications.is_empty()) {
                break;
            }
        }
        for side in 0..2 {
            let (peer, other) = (&self.peers[side], &self.peers[1 - side]);
            assert_eq!(peer.mux.streams(), 0, "every stream is forgotten: {:?}", peer.mux.streams);
            assert_eq!(peer.mux.held_bytes(), 0, "nothing is held");
            assert_eq!(peer.mux.tunnel_sent, other.mux.window.received(), "what was sent has come");
            assert_eq!((peer.mux.load.unsent, peer.mux.load.kept), (0, 0));
        }
    }
}

#[test]
fn a_million_operations_keep_every_byte_and_every_credit() {
    const SEEDS: u64 = 100;
    const OPERATIONS: u64 = 1_000_000 / SEEDS;
    // Fresh seeds in each run would find more, but a test that fails must fail again: the seeds are fixed, and another range can be asked for.
    let first: u64 = std::env::var("REPORT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in first..first + SEEDS {
        let outcome = std::panic::catch_unwind(|| {
            let mut simulation = Simulation::new(seed);
            for step in 0..OPERATIONS {
                simulation.step();
                if step % 64 == 0 {
                    simulation.sweep();
                }
            }
            simulation.settle();
        });
        assert!(outcome.is_ok(), "seed {seed} failed: REPORT_SEED={seed} reproduces it");
    }
}
