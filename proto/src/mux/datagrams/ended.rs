//! The flows that have ended at this end, as far as it remembers them, and those to report to the
//! peer.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    map::Map,
    mux::{ResetCode, frame::FlowId},
};

/// The flows that an end remembers (PROTOCOL 12). An OPEN_FLOW that a slow lane delivers after the
/// end of its flow does not open it again.
const REMEMBERED_MAX: usize = 1024;

/// The most reports that wait to be sent. Others follow when the peer uses the flow again.
const REPORTS_MAX: usize = 1024;

/// The latest ends that are reported again after the loss of a lane. A peer that misses one keeps
/// its flow until it is idle for too long.
const REPEATED_MAX: usize = 64;

/// The ends of flows.
#[derive(Debug, Default)]
pub(super) struct EndedFlows {
    codes: Map<FlowId, ResetCode>,
    /// The keys of `codes`, oldest first.
    order: VecDeque<FlowId>,
    due: BTreeMap<FlowId, ResetCode>,
}

impl EndedFlows {
    /// Remembers the end of a flow. The first code counts.
    pub(super) fn remember(&mut self, id: FlowId, code: ResetCode) {
        if self.codes.contains_key(&id) {
            return;
        }
        self.codes.insert(id, code);
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.codes.remove(&oldest);
        }
    }

    /// Returns how a flow ended, if this end remembers it.
    pub(super) fn code(&self, id: FlowId) -> Option<ResetCode> {
        self.codes.get(&id).copied()
    }

    /// Queues an END_FLOW for the peer.
    pub(super) fn report(&mut self, id: FlowId, code: ResetCode) {
        if self.due.len() < REPORTS_MAX {
            self.due.entry(id).or_insert(code);
        }
    }

    /// Returns whether an END_FLOW waits to be sent.
    pub(super) fn is_report_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Returns the next END_FLOW to send.
    pub(super) fn next_report(&mut self) -> Option<(FlowId, ResetCode)> {
        self.due.pop_first()
    }

    /// Queues the latest ends again.
    pub(super) fn report_again(&mut self) {
        let latest: Vec<FlowId> = self
            .order
            .iter()
            .rev()
            .take(REPEATED_MAX)
            .copied()
            .collect();
        for id in latest {
            let code = self.code(id).unwrap_or(ResetCode::Cancelled);
            self.report(id, code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_ends_are_remembered_and_the_very_latest_repeated() {
        let mut ended = EndedFlows::default();
        let last = 3 * REMEMBERED_MAX as u64;
        for id in 0..last {
            ended.remember(FlowId(id), ResetCode::Refused);
            ended.remember(FlowId(id), ResetCode::Cancelled);
        }
        let oldest = last - REMEMBERED_MAX as u64;
        assert_eq!(ended.code(FlowId(oldest - 1)), None);
        assert_eq!(ended.code(FlowId(oldest)), Some(ResetCode::Refused));
        assert_eq!(ended.codes.len(), REMEMBERED_MAX);
        ended.report_again();
        let repeated = std::iter::from_fn(|| ended.next_report()).count();
        assert_eq!(repeated, REPEATED_MAX);
    }

    #[test]
    fn reports_are_bounded_and_the_first_code_counts() {
        let mut ended = EndedFlows::default();
        for id in 0..10_000 {
            ended.report(FlowId(id), ResetCode::Limit);
            ended.report(FlowId(id), ResetCode::Cancelled);
        }
        let reports: Vec<_> = std::iter::from_fn(|| ended.next_report()).collect();
        assert_eq!(reports.len(), REPORTS_MAX);
        assert!(reports.iter().all(|(_, code)| *code == ResetCode::Limit));
        assert!(!ended.is_report_due());
    }
}
