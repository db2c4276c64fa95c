//! The tasks that wait for a tunnel or for one of its streams, by their wakers.

use std::task::Waker;

use report_proto::{
    map::Map,
    mux::{FlowId, StreamId},
};

/// The tasks that wait. Each method that takes wakers returns them for the caller to wake.
#[derive(Default)]
pub(in crate::tunnel) struct WaitingTasks {
    streams: Map<StreamId, StreamWakers>,
    /// Wait for the next datagram of a flow, or its end.
    flow_readers: Map<FlowId, Waker>,
    /// Waits for the next stream that the peer opens.
    acceptor: Option<Waker>,
    /// Waits for the next flow that the peer opens.
    flow_acceptor: Option<Waker>,
}

/// The tasks that wait for one stream.
#[derive(Default)]
pub(in crate::tunnel) struct StreamWakers {
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Waits for the stream to fail.
    pub watcher: Option<Waker>,
}

impl StreamWakers {
    fn all(self) -> impl Iterator<Item = Waker> {
        [self.reader, self.writer, self.watcher]
            .into_iter()
            .flatten()
    }
}

impl WaitingTasks {
    /// Returns the wakers of `stream`, to set one of them.
    pub(in crate::tunnel) fn of(&mut self, stream: StreamId) -> &mut StreamWakers {
        self.streams.entry(stream).or_default()
    }

    /// Forgets the tasks of a stream that is released.
    pub(in crate::tunnel) fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    pub(super) fn set_acceptor(&mut self, waker: &Waker) {
        self.acceptor = Some(waker.clone());
    }

    pub(super) fn take_acceptor(&mut self) -> Option<Waker> {
        self.acceptor.take()
    }

    pub(super) fn set_flow_acceptor(&mut self, waker: &Waker) {
        self.flow_acceptor = Some(waker.clone());
    }

    pub(super) fn take_flow_acceptor(&mut self) -> Option<Waker> {
        self.flow_acceptor.take()
    }

    pub(super) fn set_flow_reader(&mut self, flow: FlowId, waker: &Waker) {
        self.flow_readers.insert(flow, waker.clone());
    }

    /// Takes the task that waits for a flow. Also forgets a flow that is released.
    pub(super) fn take_flow_reader(&mut self, flow: FlowId) -> Option<Waker> {
        self.flow_readers.remove(&flow)
    }

    pub(super) fn take_reader(&mut self, stream: StreamId) -> Option<Waker> {
        self.streams.get_mut(&stream)?.reader.take()
    }

    pub(super) fn take_writer(&mut self, stream: StreamId) -> Option<Waker> {
        self.streams.get_mut(&stream)?.writer.take()
    }

    pub(super) fn take_watcher(&mut self, stream: StreamId) -> Option<Waker> {
        self.streams.get_mut(&stream)?.watcher.take()
    }

    /// Takes all tasks of a stream that has failed.
    pub(super) fn take_stream(&mut self, stream: StreamId) -> impl Iterator<Item = Waker> {
        self.streams
            .remove(&stream)
            .into_iter()
            .flat_map(StreamWakers::all)
    }

    /// Takes all tasks.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waker> {
        self.acceptor
            .take()
            .into_iter()
            .chain(self.flow_acceptor.take())
            .chain(self.flow_readers.drain().map(|(_, waker)| waker))
            .chain(self.streams.drain().flat_map(|(_, wakers)| wakers.all()))
    }
}
