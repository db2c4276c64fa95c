//! The drain of a server: it withdraws its ports on all links.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::port::{ServerPort, ports_frames};
use crate::link::Outbox;
use report_proto::{frame::Frame, id::Id};

/// Tracks whether the server is draining. A draining server does not offer its ports.
#[derive(Clone)]
pub(super) struct Draining {
    ports: Arc<HashMap<Id, Arc<ServerPort>>>,
    state: Arc<Mutex<DrainState>>,
}

#[derive(Default)]
struct DrainState {
    started: bool,
    /// The outboxes of the links that have not ended.
    outboxes: Vec<Arc<Outbox>>,
}

impl Draining {
    pub(super) fn new(ports: Arc<HashMap<Id, Arc<ServerPort>>>) -> Self {
        Draining {
            ports,
            state: Arc::default(),
        }
    }

    /// Starts draining: from now on the server accepts no new tunnels and no new streams.
    pub(super) fn start(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.started = true;
        let unregister = ports_frames(&self.ports, Frame::Unregister);
        for outbox in &state.outboxes {
            unregister.iter().for_each(|frame| outbox.control(frame));
        }
    }

    /// Returns whether [`Draining::start`] was called.
    pub(super) fn has_started(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .started
    }

    /// Adds the outbox of a new link. Returns whether the server is draining.
    pub(super) fn linked(&self, outbox: &Arc<Outbox>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outboxes.retain(|outbox| outbox.ended().is_none());
        state.outboxes.push(Arc::clone(outbox));
        state.started
    }
}
