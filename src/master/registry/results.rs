//! The results of the registry's operations.

use crate::{
    master::{attach_queue::Ticket, limits::LinkNumber},
    policy::{AccountId, Denied},
};
use report_proto::id::Id;

/// The server and channel that an attach request is assigned to. The registry has counted the
/// channel on the server's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) struct Assignment<L> {
    pub(in crate::master) server: LinkNumber,
    pub(in crate::master) handle: L,
    pub(in crate::master) channel: u32,
    pub(in crate::master) ticket: Ticket,
    /// Whether this number uses up half of the link's channel numbers. The server must then make a
    /// new link.
    pub(in crate::master) is_half_used: bool,
}

/// The result of [`Registry::attach`](super::Registry::attach).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) enum RouteResult<L> {
    /// The request is assigned to a server.
    Assigned(Assignment<L>),
    /// No server exists, or none has room. The registry keeps the request.
    Waiting(Ticket),
    /// The client, or every server of the key id, is at its channel limit. Nothing was counted.
    Full,
}

/// Waiting attach requests that can proceed now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) struct Dispatch<L, A> {
    /// Requests with their assigned servers.
    pub(in crate::master) assigned: Vec<(A, Assignment<L>)>,
    /// Requests for which the server has no channel left.
    pub(in crate::master) rejected: Vec<A>,
}

impl<L, A> Default for Dispatch<L, A> {
    fn default() -> Self {
        Dispatch {
            assigned: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl<L, A> Dispatch<L, A> {
    pub(super) fn append(&mut self, mut other: Self) {
        self.assigned.append(&mut other.assigned);
        self.rejected.append(&mut other.rejected);
    }
}

/// A key id that a server asks to register, with the numbers of the other registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct Candidate {
    /// The key id.
    pub(in crate::master) key: Id,
    /// The account of another link that has registered it, or inherited it from the older link of its
    /// slot. If there are several, that of the asking link if possible.
    pub(in crate::master) holder: Option<AccountId>,
    /// The other links that have registered it.
    pub(in crate::master) key_links: u32,
    /// The other key ids of the account.
    pub(in crate::master) account_keys: u32,
}

/// The result of [`Registry::register`](super::Registry::register).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) struct Registered<L, A> {
    /// The requested key ids that are registered, in the order of the request.
    pub(in crate::master) accepted: Vec<Id>,
    /// The requested key ids that a policy refuses, in the order of the request.
    pub(in crate::master) refused: Vec<(Id, Denied)>,
    /// Attach requests that waited for this server.
    pub(in crate::master) dispatch: Dispatch<L, A>,
}

/// An attach request whose deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct Expired<A> {
    pub(in crate::master) attach: A,
    /// Whether a server had received the request and did not answer.
    pub(in crate::master) was_pending: bool,
}

/// The slot already has a link with this epoch or a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this instance already has a link with epoch {0} in this slot")]
pub(in crate::master) struct Superseded(pub(in crate::master) u64);

/// The result of `Registry::choose_server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Server(LinkNumber),
    /// No server is registered, or no server has room at present.
    NoServer,
    /// All servers are at their channel limit.
    Full,
}
