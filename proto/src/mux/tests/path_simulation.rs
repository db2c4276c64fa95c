//! A path of fixed rate and length with an unlimited buffer, in virtual time, and the tunnels that
//! share it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes, BytesMut};

use super::{WINDOWS, tcp_losses::TcpLosses};
use crate::mux::*;

pub(super) const TICK: Duration = Duration::from_micros(500);
pub(super) const MESSAGE: usize = 64 * 1024;
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

pub(super) const MEGABIT: f64 = 1e6 / 8.0;

/// The unlimited rate of an application. Rates are in bytes per second.
pub(super) const FULL: f64 = f64::INFINITY;

/// One direction of a stream.
#[derive(Debug)]
pub(super) struct Flow {
    pub tunnel: usize,
    pub stream: StreamId,
    pub from: usize,
    pub writes: f64,
    pub reads: f64,
    /// Token buckets of the application: how much it may write and read now.
    pub to_write: f64,
    pub to_read: f64,
    pub unread: Option<Bytes>,
    pub arrived: u64,
}

/// A stream that echoes small messages, one after the other.
#[derive(Debug)]
pub(super) struct SimulatedEcho {
    pub stream: StreamId,
    pub sent: Option<Instant>,
    /// The time of each echo and its round trip, in seconds.
    pub round_trips: Vec<(f64, f64)>,
}

#[derive(Debug)]
pub(super) struct SimulatedTunnel {
    pub muxes: [Mux; 2],
    /// Messages in flight toward each side.
    pub lanes: [VecDeque<(Instant, Bytes)>; 2],
    pub echo: SimulatedEcho,
}

/// A path and the tunnels that share it.
pub(super) struct PathSimulation {
    pub start: Instant,
    pub tick: u32,
    pub rate: f64,
    pub delay: Duration,
    /// What TCP loses and repeats below the messages.
    pub losses: TcpLosses,
    /// When the bottleneck is free toward each side, and the queueing delay at each tick.
    pub free: [Instant; 2],
    pub queues: [Vec<f64>; 2],
    /// The sides whose processes get no processor time.
    pub stopped: [bool; 2],
    pub tunnels: Vec<SimulatedTunnel>,
    pub flows: Vec<Flow>,
}

impl PathSimulation {
    /// Creates a path with a rate in megabits per second and a round trip, with one tunnel.
    pub(super) fn new(megabits: f64, round_trip_ms: u32) -> PathSimulation {
        let start = Instant::now();
        let mut simulation = PathSimulation {
            start,
            tick: 0,
            rate: megabits * MEGABIT,
            delay: Duration::from_millis(round_trip_ms.into()) / 2,
            losses: TcpLosses::none(),
            free: [start; 2],
            queues: Default::default(),
            stopped: [false; 2],
            tunnels: Vec::new(),
            flows: Vec::new(),
        };
        simulation.tunnel();
        simulation
    }

    pub(super) fn now(&self) -> Instant {
        self.start + TICK * self.tick
    }

    pub(super) fn seconds(&self) -> f64 {
        (TICK * self.tick).as_secs_f64()
    }

    pub(super) fn tunnel(&mut self) -> usize {
        let now = self.now();
        let grant = PeerGrant {
            stream_window: WINDOWS.stream_window.initial,
            tunnel_window: WINDOWS.tunnel_window.initial,
        };
        let mut muxes = [TunnelSide::Client, TunnelSide::Server]
            .map(|side| Mux::new(side, WINDOWS, grant, now));
        let echo = SimulatedEcho {
            stream: muxes[CLIENT].open(Bytes::new()),
            sent: None,
            round_trips: Vec::new(),
        };
        self.tunnels.push(SimulatedTunnel {
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

    pub(super) fn flow(&mut self, tunnel: usize, from: usize, writes: f64, reads: f64) -> usize {
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

    /// The link accepts every message at once; the path buffers it. Messages arrive in order, so
    /// that one that waits for a lost segment delays those behind it.
    pub(super) fn send(&mut self, tunnel: usize, from: usize, message: Bytes) {
        let (to, now) = (1 - from, self.now());
        let (repeated, stall) = self.losses.draw(message.len(), self.delay * 2);
        let length = (message.len() + repeated) as f64;
        self.free[to] = self.free[to].max(now) + Duration::from_secs_f64(length / self.rate);
        let lane = &mut self.tunnels[tunnel].lanes[to];
        let after = lane.back().map_or(now, |(at, _)| *at);
        lane.push_back((after.max(self.free[to] + self.delay + stall), message));
    }

    pub(super) fn transmit(&mut self, tunnel: usize, side: usize) -> bool {
        let (mut out, now) = (BytesMut::new(), self.now());
        let any =
            self.tunnels[tunnel].muxes[side].poll_transmit(now, LaneId::FIRST, &mut out, MESSAGE);
        if any {
            self.send(tunnel, side, out.freeze());
        }
        any
    }

    pub(super) fn step(&mut self) {
        self.tick += 1;
        let (now, stopped) = (self.now(), self.stopped);
        for SimulatedTunnel { muxes, lanes, echo } in &mut self.tunnels {
            for ((mux, lane), _) in muxes
                .iter_mut()
                .zip(lanes)
                .zip(stopped)
                .filter(|(_, stopped)| !stopped)
            {
                while lane.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, message) = lane.pop_front().unwrap();
                    mux.handle_message(now, LaneId::FIRST, message).unwrap();
                }
                mux.handle_timeout(now).unwrap();
                while mux.poll_event().is_some() {}
            }
            if stopped == [false; 2] {
                echo.step(muxes, now, (TICK * self.tick).as_secs_f64());
            }
        }
        self.flows.iter_mut().for_each(|flow| flow.refill());
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

    pub(super) fn run(&mut self, seconds: f64) {
        let until = self.tick + (seconds / TICK.as_secs_f64()).round() as u32;
        while self.tick < until {
            self.step();
        }
    }

    /// Runs for `seconds`, and returns the share of the path's rate that these flows received.
    pub(super) fn share(&mut self, flows: &[usize], seconds: f64) -> f64 {
        let arrived = |simulation: &PathSimulation| {
            flows
                .iter()
                .map(|&flow| simulation.flows[flow].arrived)
                .sum::<u64>()
        };
        let before = arrived(self);
        self.run(seconds);
        (arrived(self) - before) as f64 / (seconds * self.rate)
    }

    /// Returns a quantile of the queue toward a side since a time in seconds, in round trips of the
    /// path. `share` is the quantile.
    pub(super) fn queue(&self, toward: usize, since: f64, share: f64) -> f64 {
        let mut queue = self.queues[toward][(since / TICK.as_secs_f64()) as usize..].to_vec();
        queue.sort_by(f64::total_cmp);
        queue[((queue.len() - 1) as f64 * share) as usize] / (self.delay * 2).as_secs_f64()
    }

    /// Returns the median round trip of the echoes since a time in seconds, in round trips of the
    /// path.
    pub(super) fn echo(&self, tunnel: usize, since: f64) -> f64 {
        let all = self.tunnels[tunnel].echo.round_trips.iter();
        let mut times: Vec<f64> = all
            .filter(|(at, _)| *at >= since)
            .map(|(_, time)| *time)
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2] / (self.delay * 2).as_secs_f64()
    }

    pub(super) fn window(&mut self, tunnel: usize, side: usize) -> f64 {
        self.tunnels[tunnel].muxes[side].window.bandwidth().size() as f64
            / (self.rate * (self.delay * 2).as_secs_f64())
    }
}

impl Flow {
    pub(super) fn refill(&mut self) {
        for (may, rate) in [
            (&mut self.to_write, self.writes),
            (&mut self.to_read, self.reads),
        ] {
            // Unused tokens are lost, except for a small burst.
            *may = (*may + rate * TICK.as_secs_f64()).min((rate * 0.01).max(1e4));
        }
    }

    pub(super) fn write(&mut self, mux: &mut Mux) {
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

    pub(super) fn read(&mut self, mux: &mut Mux, now: Instant) {
        while self.to_read >= 1.0 {
            let next = self.unread.take().or_else(|| match mux.read(self.stream) {
                Ok(StreamRead::Data(bytes)) => Some(bytes),
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

impl SimulatedEcho {
    pub(super) fn step(&mut self, [client, server]: &mut [Mux; 2], now: Instant, seconds: f64) {
        while let Ok(StreamRead::Data(bytes)) = server.read(self.stream) {
            server.consume(now, self.stream, bytes.len());
            server.write(self.stream, bytes).unwrap();
        }
        while let Ok(StreamRead::Data(bytes)) = client.read(self.stream) {
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
