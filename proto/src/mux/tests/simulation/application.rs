//! The applications of both sides: they write, read, finish and reset streams, and check what they
//! receive. They compare every byte with the byte written at its offset.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use super::Simulation;
use crate::mux::{Mux, MuxEvent, ResetCode, StreamError, StreamId, StreamRead};

/// The state of one application's end of a stream.
#[derive(Debug, Default)]
pub(super) struct Application {
    pub written: u64,
    pub finished: bool,
    read: u64,
    ended: bool,
    pub released: bool,
    unconsumed: VecDeque<usize>,
    stalled: bool,
    /// Whether the application waits for an event. A lost event would leave it waiting forever.
    awaits_data: bool,
    awaits_room: bool,
}

/// Returns the byte at `offset` of the direction that `side` writes on `stream`.
fn pattern(stream: StreamId, side: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
        ^ (stream.0 as u8).wrapping_mul(31)
        ^ (side as u8) << 7
}

fn written(stream: StreamId, side: usize, from: u64, length: usize) -> Bytes {
    (from..from + length as u64)
        .map(|offset| pattern(stream, side, offset))
        .collect()
}

/// Returns the details of an OPEN: short, or longer than a small message.
fn details(stream: u64) -> Bytes {
    let length = if stream % 16 < 2 { 300 } else { 1 };
    Bytes::from(format!("[{stream:length$}]"))
}

impl Simulation {
    fn any_stream(&mut self, side: usize) -> Option<StreamId> {
        let applications = &self.peers[side].applications;
        // Some applications have released their stream; a few tries usually find one that has not.
        (0..4).find_map(|_| {
            let (&first, _) = applications.first_key_value()?;
            let (&last, _) = applications.last_key_value()?;
            let (&id, application) = applications
                .range(StreamId(self.rng.u64(first.0..=last.0))..)
                .next()?;
            (!application.released).then_some(id)
        })
    }

    fn application(&mut self, side: usize, id: StreamId) -> &mut Application {
        self.peers[side]
            .applications
            .get_mut(&id)
            .expect("an opened stream")
    }

    pub(super) fn open(&mut self, side: usize) {
        let peer = &mut self.peers[side];
        if peer.applications.len().max(peer.mux.streams()) < self.streams_max / 2 {
            let id = peer.mux.open(details(peer.mux.next_local));
            peer.applications.insert(id, Application::default());
        }
    }

    pub(super) fn write(&mut self, side: usize) {
        if let Some(id) = self.any_stream(side) {
            self.write_to(side, id);
        }
    }

    pub(super) fn write_to(&mut self, side: usize, id: StreamId) {
        if self.peers[side].applications[&id].awaits_room {
            return;
        }
        match self.peers[side].mux.write_room(id) {
            Ok(0) => self.application(side, id).awaits_room = true,
            Ok(room) => {
                let length = self.rng.usize(0..=room.min(self.write_max));
                let peer = &mut self.peers[side];
                let application = peer.applications.get_mut(&id).unwrap();
                assert!(!application.finished);
                peer.mux
                    .write(id, written(id, side, application.written, length))
                    .unwrap();
                application.written += length as u64;
            }
            Err(StreamError::Finished) => assert!(self.peers[side].applications[&id].finished),
            Err(error) => self.on_error(side, id, error),
        }
    }

    fn on_error(&mut self, side: usize, id: StreamId, error: StreamError) {
        assert!(matches!(error, StreamError::Reset(_)), "{id:?}: {error}");
        assert!(
            self.resets.contains(&id),
            "{id:?} was reset although no side did so"
        );
        self.release(side, id);
    }

    pub(super) fn finish(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.finish_stream(side, id);
    }

    fn finish_stream(&mut self, side: usize, id: StreamId) {
        self.peers[side].mux.finish(id);
        self.application(side, id).finished = true;
    }

    pub(super) fn reset(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.resets.insert(id);
        self.peers[side].mux.reset(self.now, id, ResetCode::Reset);
        self.release(side, id);
    }

    /// Releases a stream before its end, which resets it.
    pub(super) fn abandon(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.resets.insert(id);
        self.release(side, id);
    }

    fn release(&mut self, side: usize, id: StreamId) {
        self.peers[side].mux.release(self.now, id);
        self.application(side, id).released = true;
    }

    pub(super) fn read(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        if !self.peers[side].applications[&id].stalled {
            self.read_from(side, id);
        }
    }

    pub(super) fn read_from(&mut self, side: usize, id: StreamId) {
        if self.peers[side].applications[&id].awaits_data {
            return self.consume(side, id);
        }
        let result = self.peers[side].mux.read(id);
        let application = self.application(side, id);
        match result {
            Ok(StreamRead::Data(bytes)) => {
                assert!(!application.ended);
                for (&byte, offset) in bytes.iter().zip(application.read..) {
                    assert_eq!(byte, pattern(id, 1 - side, offset), "{id:?} at {offset}");
                }
                application.read += bytes.len() as u64;
                application.unconsumed.push_back(bytes.len());
            }
            Ok(StreamRead::Wait) => application.awaits_data = true,
            Ok(StreamRead::End) => {
                application.ended = true;
                let (read, other) = (application.read, &self.peers[1 - side].applications[&id]);
                assert!(
                    other.finished && read == other.written,
                    "{id:?} ended at {read}: {other:?}"
                );
            }
            Err(error) => return self.on_error(side, id, error),
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
        if application.ended
            && application.finished
            && application.unconsumed.is_empty()
            && !application.awaits_room
        {
            self.release_when_delivered(side, id);
        }
    }

    /// Releases a stream that is read and written completely. Half of the applications wait first
    /// until the peer has received everything.
    fn release_when_delivered(&mut self, side: usize, id: StreamId) {
        let waits = id.0 % 4 < 2;
        match if waits {
            self.peers[side].mux.is_delivered(id)
        } else {
            Ok(true)
        } {
            Ok(true) => self.release(side, id),
            Ok(false) => self.application(side, id).awaits_room = true,
            Err(error) => self.on_error(side, id, error),
        }
    }

    pub(super) fn toggle_stall(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        let application = self.application(side, id);
        application.stalled = !application.stalled;
    }

    pub(super) fn handle_events(&mut self, side: usize) {
        while let Some(event) = self.peers[side].mux.poll_event() {
            let peer = &mut self.peers[side];
            match event {
                MuxEvent::Opened {
                    stream,
                    details: received,
                } => {
                    assert!(
                        stream.0 % 2 == peer.opened_parity && peer.opened.insert(stream),
                        "each stream is opened once"
                    );
                    assert_eq!(received, details(stream.0));
                    peer.applications.insert(stream, Application::default());
                }
                MuxEvent::Readable(stream) => {
                    peer.update_application(stream, |application| application.awaits_data = false)
                }
                MuxEvent::Writable(stream) => {
                    peer.update_application(stream, |application| application.awaits_room = false)
                }
                MuxEvent::Reset(stream) => peer.update_application(stream, |application| {
                    application.awaits_data = false;
                    application.awaits_room = false;
                }),
                MuxEvent::LaneLost(lane) => self.on_lane_lost(side, lane),
                MuxEvent::Resumed { .. } => peer.resumed += 1,
                MuxEvent::LanesRequested => self.on_lanes_requested(side),
                MuxEvent::FlowOpened { flow, details } => {
                    self.on_flow_opened(side, flow, &details);
                }
                MuxEvent::FlowEnded { flow, .. } => self.on_flow_ended(side, flow),
                MuxEvent::FlowReadable(_) => {}
                MuxEvent::Closed(code) => panic!("no side ended the tunnel: {code}"),
            }
        }
    }

    /// Removes streams that both sides have released.
    pub(super) fn remove_released(&mut self) {
        let [one, other] = &mut self.peers;
        let is_released = |id: &StreamId| {
            other
                .applications
                .get(id)
                .is_some_and(|other| other.released)
        };
        let released: Vec<_> = one
            .applications
            .iter()
            .filter(|(id, one)| one.released && is_released(id))
            .map(|(&id, _)| id)
            .collect();
        for id in released {
            one.applications.remove(&id);
            other.applications.remove(&id);
            self.resets.remove(&id);
        }
    }

    /// Advances an application that writes up to `complete_at` bytes and then finishes. This
    /// exceeds the initial windows, so it depends on returned credit.
    pub(super) fn complete(&mut self, side: usize, id: StreamId) {
        let application = &self.peers[side].applications[&id];
        if !application.finished && application.written < self.complete_at {
            return self.write_to(side, id);
        }
        self.finish_stream(side, id);
    }
}

/// One side of the simulation.
pub(super) struct SimulatedPeer {
    pub mux: Mux,
    pub applications: std::collections::BTreeMap<StreamId, Application>,
    /// The next stream that the other side opens.
    pub opened_parity: u64,
    pub opened: HashSet<StreamId>,
    /// The number of resumptions.
    pub resumed: u64,
}

impl SimulatedPeer {
    fn update_application(&mut self, stream: StreamId, update: impl FnOnce(&mut Application)) {
        if let Some(application) = self.applications.get_mut(&stream) {
            update(application);
        }
    }

    /// Returns the streams that the application has not released.
    pub(super) fn live(&self) -> Vec<StreamId> {
        self.applications
            .iter()
            .filter(|(_, application)| !application.released)
            .map(|(&id, _)| id)
            .collect()
    }
}
