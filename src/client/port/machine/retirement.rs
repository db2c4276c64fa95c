//! The end of tunnels that take no new streams: those that another tunnel has replaced, and those of a
//! port that is retired after a change of the configuration.

use std::time::Instant;

use super::{EMPTY_CHECK, PortMachine};
use crate::client::port::event::{EndTunnelReason, PortAction};

impl PortMachine {
    /// Takes no new streams, and requests no new tunnels.
    pub(super) fn on_retired(&mut self) {
        self.is_retired = true;
        if let Some(pending) = self.pending_new.take()
            && self.requests.contains_key(&pending.request)
        {
            self.actions.push(PortAction::CancelAttach {
                request: pending.request,
            });
        }
    }

    /// Whether the port is retired, and has neither tunnels nor requests.
    pub(in crate::client::port) fn has_retired(&self) -> bool {
        self.is_retired && self.tunnels.is_empty() && self.requests.is_empty()
    }

    /// Whether the port is retired.
    pub(in crate::client::port) fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Ends the tunnels that take no new streams and have none left.
    pub(super) fn end_empty_tunnels(&mut self, now: Instant) {
        let mut empty = Vec::new();
        for entry in &mut self.tunnels {
            let is_due = entry.empty_check_at.take_if(|at| *at <= now).is_some();
            if is_due && !entry.view.has_streams && !entry.view.is_ending {
                empty.push(entry.id);
            }
        }
        for tunnel in empty {
            self.end_tunnel(tunnel, EndTunnelReason::Unused);
        }
    }

    /// Schedules the checks of the tunnels that take no new streams.
    pub(super) fn schedule_empty_checks(&mut self, now: Instant) {
        let current = self.current().filter(|_| !self.is_retired);
        let current = current.map(|current| current.id);
        for entry in &mut self.tunnels {
            if Some(entry.id) == current {
                entry.empty_check_at = None;
            } else if entry.empty_check_at.is_none() {
                entry.empty_check_at = now.checked_add(EMPTY_CHECK);
            }
        }
    }
}
