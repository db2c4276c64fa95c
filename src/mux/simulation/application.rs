//! The applications of both sides: what they write, read, finish and reset, and what they may never see. They compare every byte that they read with the one
//! that was written there.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    super::{Event, Mux, Read, ResetCode, StreamError, StreamId},
    Simulation,
};

/// What one side's application knows of a stream.
#[derive(Debug, Default)]
pub struct Application {
    pub written: u64,
    pub finished: bool,
    read: u64,
    ended: bool,
    pub gone: bool,
    unconsumed: VecDeque<usize>,
    stalled: bool,
    /// It was told to wait, and does until an event says otherwise: what is not told in time is lost.
    awaits_data: bool,
    awaits_room: bool,
}

/// The byte at `offset` of the direction that `side` writes on `stream`.
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

/// What the opening of a stream says: a little, or more than a small message holds.
fn details(stream: u64) -> Bytes {
    let length = if stream % 16 < 2 { 300 } else { 1 };
    Bytes::from(format!("[{stream:length$}]"))
}

impl Simulation {
    fn any_stream(&mut self, side: usize) -> Option<StreamId> {
        let applications = &self.peers[side].applications;
        // Some of them are gone: a few tries find one that is not, most of the time.
        (0..4).find_map(|_| {
            let (&first, _) = applications.first_key_value()?;
            let (&last, _) = applications.last_key_value()?;
            let (&id, application) = applications
                .range(StreamId(self.rng.u64(first.0..=last.0))..)
                .next()?;
            (!application.gone).then_some(id)
        })
    }

    fn application(&mut self, side: usize, id: StreamId) -> &mut Application {
        self.peers[side]
            .applications
            .get_mut(&id)
            .expect("a stream that was opened")
    }

    pub fn open(&mut self, side: usize) {
        let peer = &mut self.peers[side];
        if peer.applications.len().max(peer.mux.streams()) < self.streams_max / 2 {
            let id = peer.mux.open(details(peer.mux.next_local));
            peer.applications.insert(id, Application::default());
        }
    }

    pub fn write(&mut self, side: usize) {
        if let Some(id) = self.any_stream(side) {
            self.write_to(side, id);
        }
    }

    pub fn write_to(&mut self, side: usize, id: StreamId) {
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
            Err(error) => self.failed(side, id, error),
        }
    }

    fn failed(&mut self, side: usize, id: StreamId, error: StreamError) {
        assert!(matches!(error, StreamError::Reset(_)), "{id:?}: {error}");
        assert!(
            self.resets.contains(&id),
            "{id:?} was reset though nobody did"
        );
        self.release(side, id);
    }

    pub fn finish(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.finish_it(side, id);
    }

    fn finish_it(&mut self, side: usize, id: StreamId) {
        self.peers[side].mux.finish(id);
        self.application(side, id).finished = true;
    }

    pub fn reset(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.resets.insert(id);
        self.peers[side].mux.reset(self.now, id, ResetCode::Reset);
        self.release(side, id);
    }

    /// Lets go of a stream in the midst of it: a reset by another name.
    pub fn abandon(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        self.resets.insert(id);
        self.release(side, id);
    }

    fn release(&mut self, side: usize, id: StreamId) {
        self.peers[side].mux.release(self.now, id);
        self.application(side, id).gone = true;
    }

    pub fn read(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        if !self.peers[side].applications[&id].stalled {
            self.read_from(side, id);
        }
    }

    pub fn read_from(&mut self, side: usize, id: StreamId) {
        if self.peers[side].applications[&id].awaits_data {
            return self.consume(side, id);
        }
        let result = self.peers[side].mux.read(id);
        let application = self.application(side, id);
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
                assert!(
                    other.finished && read == other.written,
                    "{id:?} ended at {read}: {other:?}"
                );
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
        if application.ended
            && application.finished
            && application.unconsumed.is_empty()
            && !application.awaits_room
        {
            self.leave(side, id);
        }
    }

    /// Everything is read and written. Every other application lets go only when the peer has it.
    fn leave(&mut self, side: usize, id: StreamId) {
        let waits = id.0 % 4 < 2;
        match if waits {
            self.peers[side].mux.is_delivered(id)
        } else {
            Ok(true)
        } {
            Ok(true) => self.release(side, id),
            Ok(false) => self.application(side, id).awaits_room = true,
            Err(error) => self.failed(side, id, error),
        }
    }

    pub fn toggle_stall(&mut self, side: usize) {
        let Some(id) = self.any_stream(side) else {
            return;
        };
        let application = self.application(side, id);
        application.stalled = !application.stalled;
    }

    pub fn events(&mut self, side: usize) {
        while let Some(event) = self.peers[side].mux.poll_event() {
            let peer = &mut self.peers[side];
            match event {
                Event::Opened {
                    stream,
                    details: told,
                } => {
                    assert_eq!(
                        stream.0, peer.opened,
                        "each stream is opened once, and in order"
                    );
                    assert_eq!(told, details(stream.0));
                    peer.opened += 2;
                    peer.applications.insert(stream, Application::default());
                }
                Event::Readable(stream) => {
                    peer.told(stream, |application| application.awaits_data = false)
                }
                Event::Writable(stream) => {
                    peer.told(stream, |application| application.awaits_room = false)
                }
                Event::Reset(stream) => peer.told(stream, |application| {
                    application.awaits_data = false;
                    application.awaits_room = false;
                }),
                Event::Resumed { .. } => peer.resumed += 1,
                Event::Closed(code) => panic!("nobody ended the tunnel: {code}"),
            }
        }
    }

    /// Streams that are gone at both sides need not be looked at again.
    pub fn sweep(&mut self) {
        let [one, other] = &mut self.peers;
        let is_gone = |id: &StreamId| other.applications.get(id).is_some_and(|other| other.gone);
        let gone: Vec<_> = one
            .applications
            .iter()
            .filter(|(id, one)| one.gone && is_gone(id))
            .map(|(&id, _)| id)
            .collect();
        for id in gone {
            one.applications.remove(&id);
            other.applications.remove(&id);
            self.resets.remove(&id);
        }
    }

    /// One more step of an application that still has something to write, and then finishes. What it has goes beyond the first windows: it
    /// depends on credit that comes back.
    pub fn complete(&mut self, side: usize, id: StreamId) {
        let application = &self.peers[side].applications[&id];
        if !application.finished && application.written < self.complete_at {
            return self.write_to(side, id);
        }
        self.finish_it(side, id);
    }
}

/// One side.
pub struct Peer {
    pub mux: Mux,
    pub applications: std::collections::BTreeMap<StreamId, Application>,
    /// The next stream that the other side opens.
    pub opened: u64,
    /// How often the flow went on.
    pub resumed: u64,
}

impl Peer {
    fn told(&mut self, stream: StreamId, tell: impl FnOnce(&mut Application)) {
        if let Some(application) = self.applications.get_mut(&stream) {
            tell(application);
        }
    }

    /// The streams that the application has not let go of.
    pub fn live(&self) -> Vec<StreamId> {
        self.applications
            .iter()
            .filter(|(_, application)| !application.gone)
            .map(|(&id, _)| id)
            .collect()
    }
}
