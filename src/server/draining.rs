//! The ports that a server offers on its links. A change of the configuration replaces them, and
//! the drain removes them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::port::{OfferedPorts, PortMap, id_frames, ports_frames};
use crate::link::Outbox;
use report_proto::{frame::Frame, id::Id};

/// Tracks whether the server is draining. A draining server does not offer its ports.
#[derive(Clone)]
pub(super) struct Draining {
    ports: OfferedPorts,
    state: Arc<Mutex<DrainState>>,
}

#[derive(Default)]
struct DrainState {
    started: bool,
    /// The outboxes of the links that have not ended.
    links: Vec<DrainedLink>,
}

struct DrainedLink {
    outbox: Arc<Outbox>,
    /// A newer link has taken over the registrations, or the ports were withdrawn.
    is_retiring: bool,
}

impl Draining {
    pub(super) fn new(ports: OfferedPorts) -> Self {
        Draining {
            ports,
            state: Arc::default(),
        }
    }

    /// Starts draining: from now on the server accepts no new tunnels and no new streams.
    pub(super) fn start(&self) {
        let mut state = self.state();
        state.started = true;
        let unregister = ports_frames(&self.ports.all(), Frame::Unregister);
        for link in &state.links {
            unregister
                .iter()
                .for_each(|frame| link.outbox.control(frame));
        }
    }

    /// Returns whether [`Draining::start`] was called.
    pub(super) fn has_started(&self) -> bool {
        self.state().started
    }

    /// Adds the outbox of a new link. Returns the frames of its first flight, which register the
    /// ports unless the server is draining.
    pub(super) fn linked(&self, outbox: &Arc<Outbox>) -> Vec<Frame> {
        let mut state = self.state();
        state.links.retain(|link| link.outbox.ended().is_none());
        state.links.push(DrainedLink {
            outbox: Arc::clone(outbox),
            is_retiring: false,
        });
        if state.started {
            Vec::new()
        } else {
            // Under the lock, so that a change of the ports follows.
            ports_frames(&self.ports.all(), Frame::Register)
        }
    }

    /// Registers no further ports on a link.
    pub(super) fn retiring(&self, outbox: &Arc<Outbox>) {
        let mut state = self.state();
        let links = state.links.iter_mut();
        for link in links.filter(|link| Arc::ptr_eq(&link.outbox, outbox)) {
            link.is_retiring = true;
        }
    }

    /// Replaces the ports. Registers the new ones on all links, and withdraws those that are gone.
    /// Returns the ids of the latter.
    pub(super) fn replace_ports(&self, ports: PortMap) -> Vec<Id> {
        let state = self.state();
        let former = self.ports.replace(ports);
        let present = self.ports.all();
        let missing = |from: &PortMap, id: &&Id| !from.contains_key(*id);
        let added = present.keys().filter(|id| missing(&former, id)).copied();
        let removed: Vec<Id> = former
            .keys()
            .filter(|id| missing(&present, id))
            .copied()
            .collect();
        if state.started {
            return removed;
        }
        let register = id_frames(added, Frame::Register);
        let unregister = id_frames(removed.iter().copied(), Frame::Unregister);
        for link in state.links.iter().filter(|link| !link.is_retiring) {
            let frames = register.iter().chain(&unregister);
            frames.for_each(|frame| link.outbox.control(frame));
        }
        removed
    }

    fn state(&self) -> MutexGuard<'_, DrainState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
