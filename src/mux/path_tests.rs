//! Windows on long paths: tunnels over a path of a rate and a length that buffers without limit, in virtual time. Nobody but the receivers of the data
//! keeps the queue short here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    delivery::{Delivery, Sample},
    *,
};

const TICK: Duration = Duration::from_micros(500);
const MESSAGE: usize = 64 * 1024;
const CLIENT: usize = 0;
const SERVER: usize = 1;

const MEGABIT: f64 = 1e6 / 8.0;

/// What the roles grant.
const WINDOWS: Parameters = Parameters {
    stream_window: WindowSize {
        initial: 16 << 10,
        max: 16 << 20,
    },
    tunnel_window: WindowSize {
        initial: 1 << 20,
        max: 32 << 20,
    },
    streams_max: 5000,
};

/// How much an application writes or reads in a second, in bytes.
const FULL: f64 = f64::INFINITY;

/// A direction of a stream.
#[derive(Debug)]
struct Flow {
    tunnel: usize,
    stream: StreamId,
    from: usize,
    writes: f64,
    reads: f64,
    /// What it may still write and read by now.
    to_write: f64,
    to_read: f64,
    unread: Option<Bytes>,
    arrived: u64,
}

/// A stream whose small messages come back, one after the other.
#[derive(Debug)]
struct Echo {
    stream: StreamId,
    sent: Option<Instant>,
    /// When each came back, and how long it took, in seconds.
    round_trips: Vec<(f64, f64)>,
}

#[derive(Debug)]
struct Tunnel {
    muxes: [Mux; 2],
    /// Toward each side.
    lanes: [VecDeque<(Instant, Bytes)>; 2],
    echo: Echo,
}

/// The path, and who uses it.
struct World {
    start: Instant,
    tick: u32,
    rate: f64,
    delay: Duration,
    /// When the narrowest place is free toward each side, and how long what comes waited for it, by the tick.
    free: [Instant; 2],
    queues: [Vec<f64>; 2],
    /// The sides whose processes get no processor.
    stopped: [bool; 2],
    tunnels: Vec<Tunnel>,
    flows: Vec<Flow>,
}

impl World {
    /// A path of megabits a second and milliseconds, with one tunnel.
    fn new(megabits: f64, round_trip_ms: u32) -> World {
        let start = Instant::now();
        let mut world = World {
            start,
            tick: 0,
            rate: megabits * MEGABIT,
            delay: Duration::from_millis(round_trip_ms.into()) / 2,
            free: [start; 2],
            queues: Default::default(),
            stopped: [false; 2],
            tunnels: Vec::new(),
            flows: Vec::new(),
        };
        world.tunnel();
        world
    }

    fn now(&self) -> Instant {
        self.start + TICK * self.tick
    }

    fn seconds(&self) -> f64 {
        (TICK * self.tick).as_secs_f64()
    }

    fn tunnel(&mut self) -> usize {
        let now = self.now();
        let grant = PeerGrant {
            stream_window: WINDOWS.stream_window.initial,
            tunnel_window: WINDOWS.tunnel_window.initial,
        };
        let mut muxes =
            [Side::Client, Side::Server].map(|side| Mux::new(side, WINDOWS, grant, now));
        let echo = Echo {
            stream: muxes[CLIENT].open(Bytes::new()),
            sent: None,
            round_trips: Vec::new(),
        };
        self.tunnels.push(Tunnel {
            muxes,
            lanes: Default::default(),
            echo,
        });
        let tunnel = self.tunnels.len() - 1;
        for side in [CLIENT, SERVER] {
            let mut first = BytesMut::new();
            self.tunnels[tunnel].muxes[side].write_ping(now, &mut first);
            self.send(tunnel, side, first.freeze());
        }
        self.run(0.5);
        tunnel
    }

    fn flow(&mut self, tunnel: usize, from: usize, writes: f64, reads: f64) -> usize {
        let stream = self.tunnels[tunnel].muxes[CLIENT].open(Bytes::new());
        self.flows.push(Flow {
            tunnel,
            stream,
            from,
            writes,
            reads,
            to_write: 0.0,
            to_read: 0.0,
            unread: None,
            arrived: 0,
        });
        self.flows.len() - 1
    }

    /// The link takes everything at once, and the path keeps it.
    fn send(&mut self, tunnel: usize, from: usize, message: Bytes) {
        let (to, now) = (1 - from, self.now());
        self.free[to] =
            self.free[to].max(now) + Duration::from_secs_f64(message.len() as f64 / self.rate);
        let lane = &mut self.tunnels[tunnel].lanes[to];
        let after = lane.back().map_or(now, |(at, _)| *at);
        lane.push_back((after.max(self.free[to] + self.delay), message));
    }

    fn transmit(&mut self, tunnel: usize, side: usize) -> bool {
        let (mut out, now) = (BytesMut::new(), self.now());
        let any = self.tunnels[tunnel].muxes[side].poll_transmit(now, &mut out, MESSAGE);
        if any {
            self.send(tunnel, side, out.freeze());
        }
        any
    }

    fn step(&mut self) {
        self.tick += 1;
        let (now, stopped) = (self.now(), self.stopped);
        for Tunnel { muxes, lanes, echo } in &mut self.tunnels {
            for ((mux, lane), _) in muxes
                .iter_mut()
                .zip(lanes)
                .zip(stopped)
                .filter(|(_, stopped)| !stopped)
            {
                while let Some((_, message)) = lane.pop_front_if(|(at, _)| *at <= now) {
                    mux.handle_message(now, message).unwrap();
                }
                mux.handle_timeout(now);
                while mux.poll_event().is_some() {}
            }
            if stopped == [false; 2] {
                echo.step(muxes, now, (TICK * self.tick).as_secs_f64());
            }
        }
        self.flows.iter_mut().for_each(|flow| flow.earn());
        loop {
            let mut moved = false;
            for side in [CLIENT, SERVER].into_iter().filter(|side| !stopped[*side]) {
                for flow in &mut self.flows {
                    let mux = &mut self.tunnels[flow.tunnel].muxes[side];
                    if side == flow.from {
                        flow.write(mux)
                    } else {
                        flow.read(mux, now)
                    }
                }
                for tunnel in 0..self.tunnels.len() {
                    moved |= self.transmit(tunnel, side);
                }
            }
            if !moved {
                break;
            }
        }
        for (queue, free) in self.queues.iter_mut().zip(self.free) {
            queue.push(free.saturating_duration_since(now).as_secs_f64());
        }
    }

    fn run(&mut self, seconds: f64) {
        let until = self.tick + (seconds / TICK.as_secs_f64()).round() as u32;
        while self.tick < until {
            self.step();
        }
    }

    /// The share of the path that these flows have got while it runs on for so long.
    fn share(&mut self, flows: &[usize], seconds: f64) -> f64 {
        let arrived = |world: &World| {
            flows
                .iter()
                .map(|&flow| world.flows[flow].arrived)
                .sum::<u64>()
        };
        let before = arrived(self);
        self.run(seconds);
        (arrived(self) - before) as f64 / (seconds * self.rate)
    }

    /// How long the queue toward a side was since that second, in round trips of the path: the share of time that is given has no longer one.
    fn queue(&self, toward: usize, since: f64, share: f64) -> f64 {
        let mut queue = self.queues[toward][(since / TICK.as_secs_f64()) as usize..].to_vec();
        queue.sort_by(f64::total_cmp);
        queue[((queue.len() - 1) as f64 * share) as usize] / (self.delay * 2).as_secs_f64()
    }

    /// The median round trip of the small messages since that second, in round trips of the path.
    fn echo(&self, tunnel: usize, since: f64) -> f64 {
        let all = self.tunnels[tunnel].echo.round_trips.iter();
        let mut times: Vec<f64> = all
            .filter(|(at, _)| *at >= since)
            .map(|(_, time)| *time)
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2] / (self.delay * 2).as_secs_f64()
    }

    fn window(&mut self, tunnel: usize, side: usize) -> f64 {
        self.tunnels[tunnel].muxes[side].window.delivery().size() as f64
            / (self.rate * (self.delay * 2).as_secs_f64())
    }
}

impl Flow {
    fn earn(&mut self) {
        for (may, rate) in [
            (&mut self.to_write, self.writes),
            (&mut self.to_read, self.reads),
        ] {
            // What was not used is lost, but for a little.
            *may = (*may + rate * TICK.as_secs_f64()).min((rate * 0.01).max(1e4));
        }
    }

    fn write(&mut self, mux: &mut Mux) {
        static ZEROS: [u8; 1 << 17] = [0; 1 << 17];
        let length = mux
            .write_room(self.stream)
            .unwrap_or(0)
            .min(ZEROS.len())
            .min(self.to_write as usize);
        if length > 0 {
            mux.write(self.stream, Bytes::from_static(&ZEROS[..length]))
                .unwrap();
            self.to_write -= length as f64;
        }
    }

    fn read(&mut self, mux: &mut Mux, now: Instant) {
        while self.to_read >= 1.0 {
            let next = self.unread.take().or_else(|| match mux.read(self.stream) {
                Ok(Read::Data(bytes)) => Some(bytes),
                _ => None,
            });
            let Some(mut bytes) = next else { break };
            let length = bytes.len().min(self.to_read as usize);
            bytes.advance(length);
            mux.consume(now, self.stream, length);
            self.to_read -= length as f64;
            self.arrived += length as u64;
            self.unread = Some(bytes).filter(|bytes| !bytes.is_empty());
        }
    }
}

impl Echo {
    fn step(&mut self, [client, server]: &mut [Mux; 2], now: Instant, seconds: f64) {
        while let Ok(Read::Data(bytes)) = server.read(self.stream) {
            server.consume(now, self.stream, bytes.len());
            server.write(self.stream, bytes).unwrap();
        }
        while let Ok(Read::Data(bytes)) = client.read(self.stream) {
            client.consume(now, self.stream, bytes.len());
            let took = self.sent.take().map(|sent| now - sent);
            self.round_trips
                .extend(took.map(|took| (seconds, took.as_secs_f64())));
        }
        if self.sent.is_none() {
            client
                .write(self.stream, Bytes::from_static(&[7; 64]))
                .unwrap();
            self.sent = Some(now);
        }
    }
}

/// A transfer that has run on this path for some seconds.
fn running(megabits: f64, round_trip_ms: u32, from: usize) -> (World, usize) {
    let mut world = World::new(megabits, round_trip_ms);
    let flow = world.flow(0, from, FULL, FULL);
    world.run(4.0);
    (world, flow)
}

#[test]
fn a_cold_start_fills_a_long_path_each_way() {
    for (megabits, round_trip, seconds, least) in [
        (200.0, 100, 8.0, 0.93),
        (500.0, 200, 15.0, 0.85),
        (100.0, 10, 8.0, 0.93),
        (1000.0, 2, 4.0, 0.93),
    ] {
        for from in [CLIENT, SERVER] {
            let mut world = World::new(megabits, round_trip);
            let flow = world.flow(0, from, FULL, FULL);
            let share = world.share(&[flow], seconds);
            assert!(
                share > least,
                "{megabits} Mbit/s, {round_trip} ms, from {from}: {share}"
            );
        }
    }
}

#[test]
fn a_start_beside_others_that_take_the_processor_goes_on_when_they_are_done() {
    const STOPS_AND_RUNS: [(f64, f64); 4] = [(0.3, 0.2), (0.1, 0.1), (0.2, 0.2), (0.3, 0.1)];
    for (megabits, round_trip) in [(500.0, 200), (200.0, 100), (500.0, 20)] {
        for (side, first) in [
            (CLIENT, 0),
            (CLIENT, 2),
            (SERVER, 0),
            (SERVER, 1),
            (SERVER, 2),
            (SERVER, 3),
        ] {
            let mut world = World::new(megabits, round_trip);
            let flow = world.flow(0, SERVER, FULL, FULL);
            for (stops, runs) in STOPS_AND_RUNS.into_iter().cycle().skip(first).take(12) {
                world.stopped[side] = true;
                world.run(stops);
                world.stopped[side] = false;
                world.run(runs);
            }
            world.run(f64::from(round_trip) / 1000.0 * 8.0);
            let share = world.share(&[flow], 1.0);
            assert!(
                share > 0.9,
                "{megabits} Mbit/s, {round_trip} ms, side {side} from {first}: {share}"
            );
        }
    }
}

/// How long a copy takes beside so many applications that read this much a second, in seconds.
fn copy_beside(megabits: f64, round_trip_ms: u32, beside: usize, reads: f64) -> f64 {
    let mut world = World::new(megabits, round_trip_ms);
    for _ in 0..beside {
        world.flow(0, SERVER, FULL, reads);
    }
    world.run(if beside > 0 { 5.0 } else { 0.0 });
    copy(&mut world, 64 << 20).1
}

/// Downloads so many bytes. Says on which stream, and how long that took, in seconds.
fn copy(world: &mut World, bytes: u64) -> (usize, f64) {
    let flow = world.flow(0, SERVER, FULL, FULL);
    let start = world.seconds();
    while world.flows[flow].arrived < bytes {
        world.step();
        assert!(
            world.seconds() - start < 60.0,
            "{} bytes came",
            world.flows[flow].arrived
        );
    }
    (flow, world.seconds() - start)
}

#[test]
fn a_copy_on_a_long_path_takes_as_long_beside_stalled_and_slow_readers_as_alone() {
    let alone = copy_beside(100.0, 100, 0, 0.0);
    for (beside, reads) in [
        (1, 0.0),
        (8, 0.0),
        (20, 0.0),
        (200, 0.0),
        (20, 1000.0),
        (200, 1000.0),
    ] {
        let time = copy_beside(100.0, 100, beside, reads);
        assert!(
            time < alone * 1.3,
            "{time} s beside {beside} readers of {reads} bytes a second, {alone} s alone"
        );
    }
}

#[test]
fn a_copy_on_a_long_path_takes_as_long_beside_ten_readers_that_stopped_one_after_the_other_as_alone()
 {
    let alone = copy_beside(100.0, 100, 0, 0.0);
    let mut world = World::new(100.0, 100);
    for _ in 0..10 {
        let (stopped, _) = copy(&mut world, 4 << 20);
        world.flows[stopped].reads = 0.0;
        world.run(1.0);
    }
    let (_, time) = copy(&mut world, 64 << 20);
    assert!(time < alone * 1.3, "{time} s beside them, {alone} s alone");
}

#[test]
fn the_queue_of_a_full_path_is_a_third_of_a_round_trip_and_an_echo_beside_it_feels_no_more() {
    for (megabits, round_trip) in [(200.0, 100), (500.0, 200), (100.0, 50)] {
        for from in [CLIENT, SERVER] {
            let (mut world, flow) = running(megabits, round_trip, from);
            let since = world.seconds();
            let share = world.share(&[flow], 10.0);
            let (queue, echo) = (world.queue(1 - from, since, 0.75), world.echo(0, since));
            assert!(
                share > 0.97 && queue < 0.37 && echo < 1.35,
                "{megabits} Mbit/s: {share} {queue} {echo}"
            );
        }
    }
}

#[test]
fn looking_for_the_empty_path_costs_less_than_two_percent() {
    let (mut world, flow) = running(200.0, 100, SERVER);
    let share = world.share(&[flow], 60.0);
    assert!(share > 0.98, "{share}");
}

#[test]
fn a_path_that_becomes_faster_or_slower_by_four_is_followed_within_some_seconds() {
    let (mut world, flow) = running(200.0, 100, SERVER);
    for factor in [4.0, 0.25, 0.25, 4.0] {
        world.rate *= factor;
        world.run(4.0);
        let since = world.seconds();
        let share = world.share(&[flow], 4.0);
        let queue = world.queue(CLIENT, since, 0.5);
        // A quarter of the round trip, and what is granted beside it, which is a tenth of the slowest of these.
        assert!(
            share > 0.95 && queue < 0.37,
            "after {factor}: {share} {queue}"
        );
    }
}

#[test]
fn a_path_that_becomes_longer_is_filled_within_some_seconds_and_a_shorter_one_is_noticed() {
    let (mut world, flow) = running(200.0, 100, SERVER);
    world.delay *= 2;
    world.run(3.0);
    let share = world.share(&[flow], 4.0);
    assert!(share > 0.95, "{share}");
    world.delay /= 2;
    world.run(14.0);
    let since = world.seconds();
    world.run(4.0);
    assert!(
        world.queue(CLIENT, since, 0.5) < 0.35,
        "{}",
        world.queue(CLIENT, since, 0.5)
    );
}

#[test]
fn little_traffic_and_a_slow_reader_leave_the_window_as_it_was() {
    let (mut world, flow) = running(200.0, 100, SERVER);
    let before = world.window(0, CLIENT);
    world.flows[flow].writes = 1e6;
    world.run(30.0);
    assert!(world.window(0, CLIENT) > before * 0.9, "little to send");
    world.flows[flow].writes = FULL;
    assert!(world.share(&[flow], 2.0) > 0.9, "and much at once again");
    world.flows[flow].reads = 1e6;
    world.run(30.0);
    assert!(world.window(0, CLIENT) > before * 0.9, "a slow reader");
    let other = world.flow(0, SERVER, FULL, FULL);
    world.run(1.0);
    let share = world.share(&[other], 2.0);
    assert!(share > 0.85, "beside a slow reader: {share}");
}

#[test]
fn two_tunnels_share_a_path_evenly_and_keep_its_queue_short() {
    let (mut world, one) = running(200.0, 100, SERVER);
    let tunnel = world.tunnel();
    let two = world.flow(tunnel, SERVER, FULL, FULL);
    world.run(20.0);
    let since = world.seconds();
    let before = world.flows[one].arrived;
    let second = world.share(&[two], 10.0);
    let first = (world.flows[one].arrived - before) as f64 / (10.0 * world.rate);
    assert!(
        first + second > 0.95 && first.min(second) > 0.35,
        "{first} {second}"
    );
    assert!(
        world.queue(CLIENT, since, 0.5) < 0.5,
        "{}",
        world.queue(CLIENT, since, 0.5)
    );
}

#[test]
fn both_directions_at_once_do_not_starve_each_other() {
    let (mut world, down) = running(200.0, 100, SERVER);
    let up = world.flow(0, CLIENT, FULL, FULL);
    world.run(5.0);
    let share = world.share(&[down, up], 30.0);
    assert!(share > 1.3, "{share} of the two");
}

#[test]
fn a_path_that_becomes_many_times_longer_while_little_flows_or_much_is_filled_from_then_on() {
    for quiet in [true, false] {
        let (mut world, flow) = running(200.0, 2, CLIENT);
        world.flows[flow].writes = if quiet { 0.0 } else { FULL };
        world.run(1.0);
        world.delay *= 50;
        world.run(4.0);
        world.flows[flow].writes = FULL;
        world.run(2.0);
        let since = world.seconds();
        let share = world.share(&[flow], 4.0);
        let queue = world.queue(SERVER, since, 0.5);
        assert!(share > 0.9 && queue < 0.4, "quiet {quiet}: {share} {queue}");
    }
}

/// What a path of a gigabyte a second and no length is given, after some time at this rate.
fn window_on_loopback(delivery: &mut Delivery, now: &mut Instant, received: &mut u64) -> u64 {
    const STEP: Duration = Duration::from_micros(100);
    for _ in 0..2000 {
        let sample = Sample {
            sent: *now,
            round_trip: STEP,
            used_up: true,
            both_ways: false,
            quiet: false,
        };
        delivery.answered(*now, sample);
        delivery.told(*now, *received, *received + delivery.size());
        *now += STEP;
        *received += 100_000;
        delivery.arrived(*now, *received, *received + delivery.size());
    }
    delivery.size()
}

#[test]
fn a_stream_that_moves_little_keeps_the_window_of_a_short_path_small_while_it_is_heard_of() {
    let (mut now, mut received) = (Instant::now(), 0);
    let mut delivery = Delivery::new(now, 256 * 1024, 16 << 20);
    let alone = window_on_loopback(&mut delivery, &mut now, &mut received);
    delivery.company().comes(now, 7);
    let beside = window_on_loopback(&mut delivery, &mut now, &mut received);
    assert!(
        alone > 500 * 1024 && beside < 150 * 1024,
        "{alone} {beside}"
    );
    delivery.company().leaves(8);
    assert_eq!(
        window_on_loopback(&mut delivery, &mut now, &mut received),
        beside,
        "another one moves much"
    );
    delivery.company().leaves(7);
    assert_eq!(
        window_on_loopback(&mut delivery, &mut now, &mut received),
        alone,
        "it was the beginning of much"
    );
    delivery.company().comes(now, 9);
    let _ = window_on_loopback(&mut delivery, &mut now, &mut received);
    now += Duration::from_secs(1);
    let later = window_on_loopback(&mut delivery, &mut now, &mut received);
    assert!(later > 500 * 1024, "{later}");
}
