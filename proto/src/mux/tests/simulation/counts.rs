//! Counts of what happened in the simulated network.

/// Event counts, which show that the simulation covers its cases.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NetworkCounts {
    pub cuts: u64,
    pub resumptions: u64,
    /// The number of lanes that joined others.
    pub joins: u64,
    /// The number of lanes that an end left without a loss.
    pub leaves: u64,
    /// The number of lanes that were lost while another remained.
    pub losses: u64,
    /// The number of times that one direction of an attachment stalled.
    pub stalls: u64,
    pub refused: u64,
    /// The number of lists begun.
    pub lists: u64,
    /// The number of further messages of a list.
    pub parts: u64,
    /// The number of times that the server asked for another number of lanes.
    pub lane_requests: u64,
    /// The number of requests that arrived again, or after a later one.
    pub old_lane_requests: u64,
    /// The number of datagrams that arrived.
    pub datagrams: u64,
    /// The number of flows that one side ended and the other learned of.
    pub ended_flows: u64,
}

impl std::ops::AddAssign for NetworkCounts {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.resumptions += other.resumptions;
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.losses += other.losses;
        self.stalls += other.stalls;
        self.refused += other.refused;
        self.lists += other.lists;
        self.parts += other.parts;
        self.lane_requests += other.lane_requests;
        self.old_lane_requests += other.old_lane_requests;
        self.datagrams += other.datagrams;
        self.ended_flows += other.ended_flows;
    }
}
