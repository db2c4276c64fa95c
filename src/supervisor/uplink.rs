//! The interface between a role and the supervision of its links: the role's callbacks, the
//! connectors to its masters, and the parameters of an uplink.

use std::{
    future::{Future, ready},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    link::{Handler, KeepAliveTiming, Outbox, authenticate::LinkSecret},
    net::{
        dial::{DialError, Dialer},
        websocket::MessageSocket,
    },
};
use report_proto::{
    frame::{Frame, Role, Slot, Terms},
    id::Id,
};

/// The role's side of its links.
pub trait LinkedRole: Send + Sync + 'static {
    /// The handler of one link's frames. The uplink handles GOAWAY itself.
    type Session: Handler + Send + 'static;

    /// Prepares a link that is being established, or that has joined first in a race. Returns the
    /// frames to send with HELLO or after it, and the link's handler. The role may open channels at
    /// the link's outbox. After the join the newest link of its slot is the one to use. If the link
    /// never joins, its channels are closed.
    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, Self::Session);

    /// Reports that the master accepted the role.
    fn joined(&self, link: &RoleLink, terms: &Terms);

    /// Reports that the traffic of this link should move to other links. The uplink closes this
    /// link when no channel is open on it, and after [`RETIREMENT`] at the latest.
    fn retiring(&self, link: &RoleLink, cause: RetirementCause);

    /// Reports how many lanes of a tunnel the links of a set carry best: as many as it has links
    /// because of the traffic. `slots` are those of the set. One until the first report.
    fn on_lanes_wanted(&self, slots: &[Slot], lanes: usize) {
        let _ = (slots, lanes);
    }

    /// Reports that a link joined or that an attempt failed, for callers that wait for the first
    /// link. The log contains the same. Not called for additional links.
    fn on_link_event(&self, event: LinkEvent<'_>) {
        let _ = event;
    }
}

/// A link of a role, as its callbacks see it.
#[derive(Debug, Clone)]
pub struct RoleLink {
    /// The sending side of the link.
    pub outbox: Arc<Outbox>,
    /// The slot of the link.
    pub slot: Slot,
    /// Whether the role keeps this link beside the first one of a [`LinkSet`](super::LinkSet).
    pub is_additional: bool,
    /// Requests another link in place of this one.
    pub move_requests: MoveRequests,
}

/// Why the traffic of a link should move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetirementCause {
    /// A newer link of its slot is up.
    Replaced,
    /// The role no longer keeps a link with its slot at this master, so no newer one follows.
    Surplus,
}

/// The result of an attempt to establish a link. Masters have their names from the configuration.
#[derive(Debug)]
pub enum LinkEvent<'a> {
    /// The link is up and in use.
    Joined {
        /// The master.
        master: &'a str,
    },
    /// The attempt failed. Another one follows.
    Failed {
        /// The master.
        master: &'a str,
        /// The layer, the evidence and the remedy.
        error: String,
    },
}

/// Connects to a master: a [`Dialer`], or memory in tests.
pub trait Connector: Send + Sync + 'static {
    /// Returns the master's address for the log.
    fn name(&self) -> String;

    /// Establishes a WebSocket with the master.
    ///
    /// # Errors
    /// The master cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    fn dial(&self) -> impl Future<Output = Result<MessageSocket, DialError>> + Send;

    /// Establishes a WebSocket like [`dial`](Self::dial), if possible at another address of the
    /// master's name than the role's other links. `used` has the address of each of them.
    ///
    /// # Errors
    /// The master cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    fn dial_apart(
        &self,
        used: Vec<IpAddr>,
    ) -> impl Future<Output = Result<MessageSocket, DialError>> + Send {
        drop(used);
        self.dial()
    }

    /// Returns the addresses of the master's name, or none if they are unknown.
    fn addresses(&self) -> impl Future<Output = Vec<IpAddr>> + Send {
        ready(Vec::new())
    }

    /// Returns whether the master accepts connections at this address.
    fn accepts_at(&self, address: IpAddr) -> impl Future<Output = bool> + Send {
        let _ = address;
        ready(false)
    }

    /// Uses small TCP segments for all further links, because the path drops large packets.
    fn use_small_segments(&self) {}
}

impl Connector for Dialer {
    fn name(&self) -> String {
        self.address().to_string()
    }

    fn dial(&self) -> impl Future<Output = Result<MessageSocket, DialError>> + Send {
        Dialer::dial(self)
    }

    async fn dial_apart(&self, used: Vec<IpAddr>) -> Result<MessageSocket, DialError> {
        Dialer::dial_apart(self, &used).await
    }

    fn addresses(&self) -> impl Future<Output = Vec<IpAddr>> + Send {
        self.master_addresses()
    }

    fn accepts_at(&self, address: IpAddr) -> impl Future<Output = bool> + Send {
        Dialer::accepts_at(self, address)
    }

    fn use_small_segments(&self) {
        Dialer::use_small_segments(self);
    }
}

impl<W: Connector> Connector for Arc<W> {
    fn name(&self) -> String {
        W::name(self)
    }

    fn dial(&self) -> impl Future<Output = Result<MessageSocket, DialError>> + Send {
        W::dial(self)
    }

    fn dial_apart(
        &self,
        used: Vec<IpAddr>,
    ) -> impl Future<Output = Result<MessageSocket, DialError>> + Send {
        W::dial_apart(self, used)
    }

    fn addresses(&self) -> impl Future<Output = Vec<IpAddr>> + Send {
        W::addresses(self)
    }

    fn accepts_at(&self, address: IpAddr) -> impl Future<Output = bool> + Send {
        W::accepts_at(self, address)
    }

    fn use_small_segments(&self) {
        W::use_small_segments(self);
    }
}

/// The longest time that an old link stays up beside the new one (PROTOCOL 12). Proxies and masters
/// that are about to end mostly give their connections this long. A tunnel that has not moved by
/// then is resumed on the new link.
pub const RETIREMENT: Duration = Duration::from_secs(30);

/// How to dial the masters of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DialStrategy {
    /// Dials one master at a time, and the next one after a failure.
    #[default]
    Ordered,
    /// Dials the masters in parallel, each shortly after the previous one of the list. Uses the
    /// first master that accepts the role.
    Raced,
}

/// The parameters with which a role reaches its masters, one at a time. [`LinkSet`](super::LinkSet)
/// runs it.
#[derive(Debug, Clone)]
pub struct Uplink<W = Dialer> {
    /// The connectors to the masters, in the order in which they are tried.
    pub dialers: Vec<W>,
    /// How to dial the masters of the list.
    pub strategy: DialStrategy,
    /// The secret with which the role and the master authenticate each other.
    pub secret: LinkSecret,
    /// The kind of role.
    pub role: Role,
    /// The id of this process.
    pub instance: Id,
    /// The slot of the links. At one master, the links of two uplinks of a process need two slots.
    pub slot: Slot,
    /// The keep-alive timing.
    pub timing: KeepAliveTiming,
    /// Replaces each link after this time.
    pub rotate_after: Option<Duration>,
    /// The role's requests for another link.
    pub move_requests: MoveRequests,
}

/// Requests a move of an uplink to another link. Clones share the requests.
#[derive(Debug, Clone, Default)]
pub struct MoveRequests(Arc<MoveSignals>);

#[derive(Debug, Default)]
struct MoveSignals {
    /// Requests a link to another master.
    other: Notify,
    /// Requests another link to the same master.
    renewal: Notify,
}

impl MoveRequests {
    /// Requests a move to the next master of the list. Takes effect if a link is up and there is
    /// another master. The current link continues until the new one has joined.
    pub fn request_other_master(&self) {
        self.0.other.notify_one();
    }

    /// Requests a new link to the same master, as if the current one had reached its maximum age
    /// (`rotate_after`).
    pub fn request_new_link(&self) {
        self.0.renewal.notify_one();
    }

    pub(super) async fn other_master_requested(&self) {
        self.0.other.notified().await;
    }

    pub(crate) async fn new_link_requested(&self) {
        self.0.renewal.notified().await;
    }
}

impl<W: Connector> Uplink<W> {
    /// Splits the uplink into one per master, for a role that is linked to all masters at the same
    /// time. Each has its own slot, because several addresses may lead to one master. Beyond
    /// [`MAX_SLOTS`](report_proto::frame::MAX_SLOTS) masters the slots repeat.
    #[must_use]
    pub fn each(self) -> Vec<Self> {
        let Uplink {
            dialers,
            strategy,
            secret,
            role,
            instance,
            slot: _,
            timing,
            rotate_after,
            move_requests: _,
        } = self;
        let one = |(dialer, slot)| Uplink {
            dialers: vec![dialer],
            strategy,
            secret: secret.clone(),
            role,
            instance,
            slot,
            timing,
            rotate_after,
            move_requests: MoveRequests::default(),
        };
        let slots = Slot::all().cycle();
        dialers.into_iter().zip(slots).map(one).collect()
    }

    /// Makes the connectors shareable, so that several uplinks can use them.
    pub(super) fn shared(self) -> Uplink<Arc<W>> {
        Uplink {
            dialers: self.dialers.into_iter().map(Arc::new).collect(),
            strategy: self.strategy,
            secret: self.secret,
            role: self.role,
            instance: self.instance,
            slot: self.slot,
            timing: self.timing,
            rotate_after: self.rotate_after,
            move_requests: self.move_requests,
        }
    }
}
