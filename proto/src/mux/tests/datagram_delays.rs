//! Tests of the delay of datagrams, in virtual time: what expires at the sender, what is late at the
//! receiver, and how long datagrams wait on a path.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    MAX_DELAY, PARAMETERS, Pair, carry,
    datagrams::{exchange, open_flow, read_all, send},
    drain, message, next_message,
    path_simulation::{CLIENT, FULL, MEGABIT, PathSimulation, SERVER, TICK},
};
use crate::mux::*;

const STEP: Duration = Duration::from_millis(10);

#[test]
fn datagrams_expire_without_a_lane_and_free_their_memory() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    let since = pair.now;
    send(&mut pair, flow, b"old");
    pair.now += MAX_DELAY / 2;
    send(&mut pair, flow, b"new");
    assert_eq!(pair.client.poll_timeout(), Some(since + MAX_DELAY));
    pair.client.handle_timeout(since + MAX_DELAY).unwrap();
    assert_eq!(pair.client.datagram_counts().expired, 1);
    let next = pair.client.poll_timeout().expect("another waits");
    assert_eq!(next, pair.now + MAX_DELAY);
    pair.client.handle_timeout(next).unwrap();
    assert_eq!(pair.client.datagram_counts().expired, 2);
    assert_eq!(pair.client.poll_timeout(), None);
    assert!(!pair.client.has_transmit(LaneId::FIRST));
    assert_eq!(next_message(&mut pair.client, next), None);
}

#[test]
fn old_datagrams_are_dropped_first_and_the_others_leave_in_order() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    for number in 0..30_u8 {
        send(&mut pair, flow, &[number]);
        pair.now += STEP;
    }
    carry(&mut pair.client, &mut pair.server, pair.now);
    let received = read_all(&mut pair.server, flow);
    let numbers: Vec<u8> = received.iter().map(|datagram| datagram[0]).collect();
    // One that has waited for most of the delay would arrive too late.
    let first = *numbers.first().unwrap();
    assert!((10..16).contains(&first), "{numbers:?}");
    assert_eq!(numbers, (first..30).collect::<Vec<_>>());
    let counts = pair.client.datagram_counts();
    assert_eq!(counts.expired, u64::from(first));
}

#[test]
fn after_a_resumption_nothing_old_arrives_and_nothing_twice() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    let (start, mut number) = (pair.now, 0_u64);
    let mut send_for = |pair: &mut Pair, time: Duration| {
        let until = pair.now + time;
        while pair.now < until {
            let sent = millis(start, pair.now);
            let content = [number.to_be_bytes(), sent.to_be_bytes()].concat();
            send(pair, flow, &content);
            number += 1;
            pair.now += STEP;
        }
    };
    let mut all = Vec::new();
    for _ in 0..5 {
        // Some arrive, some are lost with the lane, and some wait without one.
        send_for(&mut pair, STEP * 5);
        carry(&mut pair.client, &mut pair.server, pair.now);
        all.extend(received(&mut pair, flow, start));
        send_for(&mut pair, STEP * 5);
        Pair::drop_outgoing(&mut pair.client, pair.now);
        pair.client.lose_lane(pair.now, LaneId::FIRST);
        pair.server.lose_lane(pair.now, LaneId::FIRST);
        send_for(&mut pair, MAX_DELAY * 3);
        pair.attach();
        carry(&mut pair.client, &mut pair.server, pair.now);
        let after = received(&mut pair, flow, start);
        assert!(after.len() > 10, "{}", after.len());
        all.extend(after);
        exchange(&mut pair);
    }
    assert!(all.is_sorted_by(|one, next| one < next), "each once");
}

/// Reads what has arrived at the server. Returns the numbers of the datagrams, which are young.
fn received(pair: &mut Pair, flow: FlowId, start: Instant) -> Vec<u64> {
    let now = millis(start, pair.now);
    let datagrams = read_all(&mut pair.server, flow).into_iter();
    let numbers = datagrams.map(|datagram| {
        let (number, sent) = datagram.split_at(8);
        let sent = u64::from_be_bytes(sent.try_into().unwrap());
        assert!(u128::from(now - sent) <= MAX_DELAY.as_millis());
        u64::from_be_bytes(number.try_into().unwrap())
    });
    numbers.collect()
}

/// Returns the time since the start of a test, in milliseconds.
fn millis(start: Instant, now: Instant) -> u64 {
    now.duration_since(start).as_millis() as u64
}

/// A datagram of the flow 0 that its sender got at this time of its clock, in milliseconds.
fn sent_at(sent: u64) -> TunnelFrame {
    TunnelFrame::Datagram {
        flow: FlowId(0),
        sent,
        bytes: Bytes::new(),
    }
}

#[test]
fn datagram_that_a_lane_holds_back_is_dropped_whatever_the_clock_of_its_sender() {
    for clock in [0, 5_000_000, u64::MAX >> 3] {
        let mut pair = Pair::new();
        let open = TunnelFrame::OpenFlow {
            flow: FlowId(0),
            details: Bytes::new(),
        };
        let mut arrive = |at: u64, frames: &[TunnelFrame]| {
            let now = pair.now + Duration::from_millis(at);
            let message = message(frames);
            pair.server
                .handle_message(now, LaneId::FIRST, message)
                .unwrap();
            let counts = pair.server.datagram_counts();
            (counts.received, counts.late)
        };
        assert_eq!(arrive(30, &[open, sent_at(clock)]), (1, 0));
        assert_eq!(arrive(1030, &[sent_at(clock + 1000)]), (2, 0));
        // A stall: these have waited for 201 and for 200 milliseconds.
        let held = [sent_at(clock + 1100), sent_at(clock + 1101)];
        assert_eq!(arrive(1331, &held), (3, 1));
        let end = [sent_at(clock + 1301)];
        assert_eq!(arrive(1331, &end), (4, 1));
    }
}

#[test]
fn peer_that_reports_nothing_stops_datagrams_and_nothing_else() {
    let mut pair = Pair::new();
    let flow = open_flow(&mut pair);
    // The server reports nothing, as if its lane had stalled.
    for _ in 0..500 {
        send(&mut pair, flow, &[1; 1000]);
        pair.now += STEP;
        pair.client.handle_timeout(pair.now).unwrap();
        while next_message(&mut pair.client, pair.now).is_some() {}
    }
    let counts = pair.client.datagram_counts();
    assert!(counts.sent < 70, "no more than the window: {counts:?}");
    assert!(counts.expired > 400, "{counts:?}");
    let stream = pair.client.open(Bytes::new());
    exchange(&mut pair);
    let is_open = |event: &MuxEvent| matches!(event, MuxEvent::Opened { stream: opened, .. } if *opened == stream);
    assert!(drain(&mut pair.server).iter().any(is_open));
}

/// Datagrams of 64 bytes that the server of a simulated tunnel echoes.
struct DatagramEcho {
    flow: FlowId,
    sent: u64,
    round_trips: Vec<Duration>,
}

impl DatagramEcho {
    fn new(simulation: &mut PathSimulation) -> Self {
        DatagramEcho {
            flow: simulation.tunnels[0].muxes[CLIENT].open_flow(Bytes::new()),
            sent: 0,
            round_trips: Vec::new(),
        }
    }

    /// Sends a hundred datagrams a second for some seconds.
    fn run(&mut self, simulation: &mut PathSimulation, seconds: f64) {
        let ticks = (seconds / TICK.as_secs_f64()) as u32;
        for tick in 0..ticks {
            simulation.step();
            let (now, start) = (simulation.now(), simulation.start);
            let [client, server] = &mut simulation.tunnels[0].muxes;
            while let Ok(Some(datagram)) = server.read_datagram(self.flow) {
                server.send_datagram(now, self.flow, datagram).unwrap();
            }
            while let Ok(Some(datagram)) = client.read_datagram(self.flow) {
                let sent = u64::from_be_bytes(datagram[..8].try_into().unwrap());
                let sent = start + Duration::from_micros(sent);
                self.round_trips.push(now - sent);
            }
            if tick % 20 == 0 {
                let mut content = [0; 64];
                let at = (now - start).as_micros() as u64;
                content[..8].copy_from_slice(&at.to_be_bytes());
                let content = Bytes::copy_from_slice(&content);
                client.send_datagram(now, self.flow, content).unwrap();
                self.sent += 1;
            }
        }
    }

    fn quantile(&mut self, share: f64) -> Duration {
        self.round_trips.sort();
        self.round_trips[((self.round_trips.len() - 1) as f64 * share) as usize]
    }
}

#[test]
fn datagrams_beside_bulk_data_on_a_slow_path_wait_little() {
    for (megabits, round_trip_ms) in [(20.0, 50), (100.0, 100)] {
        for from in [CLIENT, SERVER] {
            let mut simulation = PathSimulation::new(megabits, round_trip_ms);
            let bulk = simulation.flow(0, from, FULL, FULL);
            let mut echo = DatagramEcho::new(&mut simulation);
            echo.run(&mut simulation, 4.0);
            echo.round_trips.clear();
            let (before, sent) = (simulation.flows[bulk].arrived, echo.sent);
            echo.run(&mut simulation, 10.0);
            let round_trip = Duration::from_millis(round_trip_ms.into());
            let path = format!("{megabits} Mbit/s from {from}");
            let (median, slowest) = (echo.quantile(0.5), echo.quantile(0.99));
            assert!(median < round_trip.mul_f64(1.75), "{path}: {median:?}");
            assert!(slowest < round_trip.mul_f64(2.5), "{path}: {slowest:?}");
            let arrived = echo.round_trips.len() as f64 / (echo.sent - sent) as f64;
            assert!(arrived > 0.98, "{path}: {arrived}");
            let bytes = simulation.flows[bulk].arrived - before;
            let share = bytes as f64 / (10.0 * simulation.rate);
            assert!(share > 0.9, "{path}: {share} of the rate");
        }
    }
}

#[test]
fn flood_beyond_the_rate_of_a_path_is_dropped_before_it_and_what_arrives_is_young() {
    const LENGTH: usize = 1200;
    for (megabits, round_trip_ms) in [(10.0, 50), (50.0, 20)] {
        let mut simulation = PathSimulation::new(megabits, round_trip_ms);
        let flow = simulation.tunnels[0].muxes[CLIENT].open_flow(Bytes::new());
        let rate = megabits * MEGABIT;
        let (mut to_send, mut arrived, mut oldest) = (0.0, 0, Duration::ZERO);
        for tick in 0..12_000 {
            simulation.step();
            let (now, start) = (simulation.now(), simulation.start);
            let [client, server] = &mut simulation.tunnels[0].muxes;
            to_send += 3.0 * rate * TICK.as_secs_f64();
            while to_send >= LENGTH as f64 {
                to_send -= LENGTH as f64;
                let mut content = vec![0; LENGTH];
                let at = (now - start).as_micros() as u64;
                content[..8].copy_from_slice(&at.to_be_bytes());
                client.send_datagram(now, flow, content.into()).unwrap();
            }
            while let Ok(Some(datagram)) = server.read_datagram(flow) {
                let sent = u64::from_be_bytes(datagram[..8].try_into().unwrap());
                let sent = start + Duration::from_micros(sent);
                oldest = oldest.max(now - sent);
                arrived += u64::from(tick >= 6000) * datagram.len() as u64;
            }
        }
        let share = arrived as f64 / (3.0 * rate);
        assert!(share > 0.85, "{megabits} Mbit/s: {share} of the rate");
        let most = MAX_DELAY + Duration::from_millis(round_trip_ms.into());
        assert!(oldest <= most, "{megabits} Mbit/s: {oldest:?}");
        let [client, server] = simulation.tunnels[0].muxes.each_ref();
        let (sent, late) = (client.datagram_counts().sent, server.datagram_counts().late);
        assert!(late <= sent / 20, "{late} of {sent} were late");
    }
}

#[test]
fn longer_max_delay_keeps_datagrams_for_longer() {
    let mut pair = Pair::with(Parameters {
        max_delay: Duration::from_secs(2),
        ..PARAMETERS
    });
    let flow = open_flow(&mut pair);
    send(&mut pair, flow, b"patient");
    pair.now += Duration::from_secs(1);
    carry(&mut pair.client, &mut pair.server, pair.now);
    assert_eq!(read_all(&mut pair.server, flow), ["patient"]);
}
