//! A pair of muxes joined by a network in virtual time, driven by a seeded stream of operations: the main test bed of this layer.
//! After each operation the ledgers are checked, and every byte that is read is compared with the one that was written there.
//! A failing seed is printed and reproduces.

mod application;
mod network;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::{Duration, Instant},
};

use fastrand::Rng;

use self::{
    application::Peer,
    network::{Counts, Network},
};
use super::{
    load::{STREAM_RESERVE, STREAM_UNSENT_MAX},
    *,
};

struct Simulation {
    rng: Rng,
    now: Instant,
    peers: [Peer; 2],
    network: Network,
    resets: HashSet<StreamId>,
    /// Live streams, at most.
    streams_max: usize,
    /// What an application writes at a time, at most.
    write_max: usize,
    /// Bytes that a direction carries at least, if nobody resets it.
    complete_at: u64,
    message_sizes: Range<usize>,
}

/// What a run is about.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// One attachment that lasts, and few streams.
    Quiet,
    /// Attachments that are cut.
    Cut,
    /// The same, with so many streams that a list takes several messages.
    Crowded,
}

impl Simulation {
    fn new(seed: u64, run: Run) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::now();
        let streams_max = if let Run::Crowded = run { 400 } else { 24 };
        let mut window = |least: u64| WindowSize {
            initial: least << rng.u32(0..4),
            max: least << rng.u32(3..7),
        };
        // Nobody is refused: what the peer has not heard the end of counts as well.
        let permitted = 16 * streams_max;
        let parameters = [0, 1].map(|_| Parameters {
            stream_window: window(4096),
            tunnel_window: window(16384),
            streams_max: permitted,
        });
        let grant = |of: &Parameters| PeerGrant {
            stream_window: of.stream_window.initial,
            tunnel_window: of.tunnel_window.initial,
        };
        let [client, server] = parameters;
        let peer = |side, opened, own: Parameters, other: Parameters| Peer {
            mux: Mux::new(side, own, grant(&other), now),
            applications: BTreeMap::new(),
            opened,
            resumed: 0,
        };
        let peers = [
            peer(Side::Client, 1, client, server),
            peer(Side::Server, 0, server, client),
        ];
        let (delay_max, complete_at, message_sizes) = match run {
            // More than the largest first window.
            Run::Quiet => (20_000, 48 * 1024, 600..40_000),
            Run::Cut => (
                2000 >> rng.u32(0..4),
                rng.u64(0..48 * 1024) >> rng.u32(0..4),
                100..(1000 << rng.u32(0..6)),
            ),
            Run::Crowded => (1000, rng.u64(0..1024), 100..1500),
        };
        let network = Network::new(now, delay_max);
        let write_max = 20_000
            >> if let Run::Quiet = run {
                0
            } else {
                rng.u32(0..5)
            };
        let resets = HashSet::new();
        Simulation {
            rng,
            now,
            peers,
            network,
            resets,
            streams_max,
            write_max,
            complete_at,
            message_sizes,
        }
    }

    fn step(&mut self) {
        let side = self.rng.usize(0..2);
        match self.rng.u32(0..100) {
            0..4 => (0..self.streams_max.div_ceil(32)).for_each(|_| self.open(side)),
            4..30 => self.write(side),
            30..34 => self.finish(side),
            34..35 => self.reset(side),
            35..36 if self.rng.u32(0..8) == 0 => self.abandon(side),
            36..60 => self.read(side),
            60..62 => self.toggle_stall(side),
            62..80 => self.transmit(side),
            80..95 => self.deliver(side),
            _ => self.pass_time(),
        }
        self.events(side);
        self.check();
    }

    /// A step, after something may have happened to an attachment: a cut in one of `calm` steps.
    fn disturbed_step(&mut self, calm: u32) {
        if self.network.is_detached() && self.rng.u32(0..8) == 0 {
            self.attach();
        }
        if self.rng.u32(0..calm) == 0 {
            self.cut();
        }
        let side = self.rng.usize(0..2);
        match self.rng.u32(0..calm * 8) {
            0..2 => self.give_up(side),
            2..8 => self.attach(),
            _ => {}
        }
        self.step();
    }

    /// The ledgers of both sides, alone and together.
    fn check(&self) {
        for side in 0..2 {
            let (mux, other) = (&self.peers[side].mux, &self.peers[1 - side].mux);
            mux.check();
            assert!(
                other.window.received() <= mux.tunnel_sent
                    && mux.tunnel_sent <= other.window.limit(),
                "credit is conserved"
            );
            let reserves = STREAM_RESERVE * mux.streams.len() as u64;
            let most = mux.parameters.tunnel_window.max + STREAM_UNSENT_MAX + reserves;
            assert!(mux.load.kept <= most, "{} bytes are kept", mux.load.kept);
            assert!(
                mux.updates.due.len() + mux.updates.pending.len() + mux.ends.len()
                    <= 8 * (mux.streams.len() + 64),
                "queues do not grow"
            );
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_micros(self.rng.u64(0..10_000));
        for peer in &mut self.peers {
            peer.mux.handle_timeout(self.now);
            assert!(
                peer.mux
                    .poll_timeout()
                    .is_none_or(|deadline| deadline > self.now),
                "a deadline passes once"
            );
        }
    }

    /// Lets everything that was begun come to its end, and checks that nothing is left.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.now += Duration::from_millis(5);
            if self.network.is_detached() {
                self.attach();
            }
            for side in 0..2 {
                self.peers[side].mux.handle_timeout(self.now);
                for id in self.peers[side].live() {
                    self.complete(side, id);
                    if !self.peers[side].applications[&id].gone {
                        self.read_from(side, id);
                    }
                }
                (0..16).for_each(|_| self.transmit(side));
                (0..32).for_each(|_| self.deliver(side));
                self.events(side);
            }
            self.sweep();
            let idle = |peer: &Peer| peer.mux.streams() == 0 && peer.applications.is_empty();
            if self.network.is_quiet() && self.peers.iter().all(idle) {
                break;
            }
        }
        self.check();
        for side in 0..2 {
            let (peer, other) = (&self.peers[side], &self.peers[1 - side]);
            assert_eq!(
                peer.mux.streams(),
                0,
                "every stream is forgotten: {:?}",
                peer.mux.streams
            );
            assert_eq!(peer.mux.held_bytes(), 0, "nothing is held");
            assert_eq!(
                peer.mux.tunnel_sent,
                other.mux.window.received(),
                "what was sent has come"
            );
            assert_eq!(
                (
                    peer.mux.load.unsent,
                    peer.mux.load.again,
                    peer.mux.load.kept
                ),
                (0, 0, 0)
            );
            assert!(
                peer.applications.is_empty(),
                "{:?}, {:?}",
                peer.applications,
                other.applications
            );
        }
    }
}

/// Runs `run` for each seed; one that fails is named. Fresh seeds in each run would find more, but a test that fails must fail again: the seeds are
/// fixed, and another range can be asked for.
fn for_each_seed(seeds: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let first: u64 = std::env::var("REPORT_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed: REPORT_SEED={seed} reproduces it"
        );
    }
}

#[test]
fn a_million_operations_keep_every_byte_and_every_credit() {
    const SEEDS: u64 = 100;
    const OPERATIONS: u64 = 1_000_000 / SEEDS;
    for_each_seed(SEEDS, |seed| {
        let mut simulation = Simulation::new(seed, Run::Quiet);
        for step in 0..OPERATIONS {
            simulation.step();
            if step % 64 == 0 {
                simulation.sweep();
            }
        }
        simulation.settle();
    });
}

#[test]
fn a_hundred_thousand_cuts_lose_no_byte_and_reset_no_stream() {
    const SEEDS: u64 = 400;
    const PHASES: u64 = 5;
    const CUTS: u64 = 100_000 / SEEDS / PHASES;
    let all = std::sync::Mutex::new(Counts::default());
    for_each_seed(SEEDS, |seed| {
        let run = if seed % 16 == 0 {
            Run::Crowded
        } else {
            Run::Cut
        };
        let mut simulation = Simulation::new(seed, run);
        for phase in 1..=PHASES {
            let calm = 8 << simulation.rng.u32(0..6);
            while simulation.network.counts.cuts < CUTS * phase {
                (0..64).for_each(|_| simulation.disturbed_step(calm));
                simulation.sweep();
            }
            // What a lost update holds up for ever shows only when nothing else comes.
            simulation.settle();
        }
        *all.lock().unwrap() += simulation.network.counts;
    });
    let counts = *all.lock().unwrap();
    println!("{counts:?}");
    assert!(counts.cuts >= 100_000, "{counts:?}");
    assert!(
        counts.resumptions > 50_000
            && counts.moves > 5000
            && counts.refused > 1000
            && counts.parts > 2000,
        "{counts:?}"
    );
}
