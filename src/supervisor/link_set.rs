//! Several links of one role to the same master. The first slot of the set is always linked. The
//! others are linked while the role wants them.
//!
//! ```text
//!   LinkCount ──wanted──► LinkSet ──────wanted?──────► LinkSupervisor of (slot, master)
//!                           ▲                               │
//!                           └─────────── UpLinks ◄──────────┤
//!                                                  LinkSupervisor of the first slot, all masters
//! ```
//!
//! The first slot decides about the master. A further slot is wanted at the master of the first
//! one, or, while the first is down, at that of any other slot that is up. If all are down, only
//! the first dials. The slots follow it to another master: those at the old one retire.
//!
//! A server keeps at least two links if one name leads to several masters (`master_spread`).

use std::{collections::BTreeMap, panic::resume_unwind, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    handover::Handover,
    link_demand::{BUSY_BYTES, LinkDemand},
    link_monitor::monitor_links,
    link_supervisor::LinkSupervisor,
    master_spread::{SPREAD_LINKS, keep_apart},
    membership::{FIRST, Membership, SetLink, UpLinks},
    uplink::{Connector, LinkedRole, MoveRequests, Uplink},
};
use crate::net::dial::Dialer;
use report_proto::frame::{Role, Slot};

/// The number of links that a set keeps. Clones share it.
#[derive(Debug, Clone)]
pub struct LinkCount {
    numbers: watch::Sender<LinkNumbers>,
    min: usize,
    max: usize,
    slots: usize,
}

/// Two numbers of links. The larger one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LinkNumbers {
    /// The links that the traffic needs.
    wanted: usize,
    /// The links to keep in any case.
    floor: usize,
}

impl LinkNumbers {
    fn links(self) -> usize {
        self.wanted.max(self.floor)
    }
}

impl LinkCount {
    /// Creates a count that begins with `min`. Limits it to the range from 1 to `max`.
    fn new(min: usize, max: usize, slots: usize) -> Self {
        let max = max.max(1);
        let min = min.clamp(1, max);
        let numbers = LinkNumbers {
            wanted: min,
            floor: 1,
        };
        LinkCount {
            numbers: watch::Sender::new(numbers),
            min,
            max,
            slots,
        }
    }

    /// Sets how many links to keep, from [`min`](Self::min) to [`max`](Self::max). A larger number
    /// dials further links, a smaller one retires those with the highest slots.
    pub fn set_wanted(&self, links: usize) {
        let wanted = links.clamp(self.min, self.max);
        self.change(|numbers| LinkNumbers { wanted, ..numbers });
    }

    /// Sets how many links to keep in any case, also beyond [`max`](Self::max), as far as there are
    /// slots.
    pub(super) fn set_floor(&self, links: usize) {
        let floor = links.clamp(1, self.slots);
        self.change(|numbers| LinkNumbers { floor, ..numbers });
    }

    fn change(&self, change: impl FnOnce(LinkNumbers) -> LinkNumbers) {
        self.numbers.send_if_modified(|numbers| {
            let before = *numbers;
            *numbers = change(before);
            *numbers != before
        });
    }

    /// Returns how many links the set is asked to keep.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.numbers.borrow().links()
    }

    /// Returns the number of links that the set always keeps.
    #[must_use]
    pub fn min(&self) -> usize {
        self.min
    }

    /// Returns the maximum number of links.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }
}

/// Links of one role to the same master.
#[derive(Debug)]
pub struct LinkSet<W = Dialer> {
    uplink: Uplink<W>,
    /// The slots of the set. The first is that of the uplink.
    slots: Vec<Slot>,
    count: LinkCount,
}

impl<W: Connector> LinkSet<W> {
    /// Creates a set of up to `max` links, with the slots from that of the uplink on. It keeps one
    /// link until [`LinkCount::set_wanted`] asks for more, unless [`with_min`](Self::with_min) sets
    /// another minimum.
    #[must_use]
    pub fn new(uplink: Uplink<W>, max: usize) -> Self {
        Self::with_every_slot(1, uplink, max)
    }

    /// Creates a set of up to `max` links for each master of the uplink. The sets divide the slots
    /// among themselves, because several addresses may lead to one master.
    #[must_use]
    pub fn each(uplink: Uplink<W>, max: usize) -> Vec<Self> {
        let uplinks = uplink.each();
        let sets = uplinks.len();
        uplinks
            .into_iter()
            .map(|uplink| Self::with_every_slot(sets, uplink, max))
            .collect()
    }

    /// Uses every `step`th slot from that of the uplink on.
    fn with_every_slot(step: usize, uplink: Uplink<W>, max: usize) -> Self {
        let max = max.max(1);
        let needed = match uplink.role {
            Role::Server => max.max(SPREAD_LINKS),
            Role::Client => max,
        };
        let slots: Vec<_> = Slot::all()
            .skip_while(|slot| *slot != uplink.slot)
            .step_by(step.max(1))
            .take(needed)
            .collect();
        LinkSet {
            uplink,
            count: LinkCount::new(1, max.min(slots.len()), slots.len()),
            slots,
        }
    }

    /// Makes the set keep at least `min` links, or all it may have if that is less. The handles of
    /// an earlier [`count`](Self::count) do not control the set any more.
    #[must_use]
    pub fn with_min(mut self, min: usize) -> Self {
        self.count = LinkCount::new(min, self.count.max(), self.slots.len());
        self
    }

    /// Returns the control over the number of links.
    #[must_use]
    pub fn count(&self) -> LinkCount {
        self.count.clone()
    }

    /// Returns the slots of the set, the first one first.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Returns the uplink of the first slot.
    #[must_use]
    pub fn uplink(&self) -> &Uplink<W> {
        &self.uplink
    }

    /// Keeps `role` linked until `cancel` is cancelled, then closes the links gracefully. Returns
    /// when they have ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the links.
    pub async fn run<R: LinkedRole>(self, role: Arc<R>, cancel: &CancellationToken) {
        self.run_with(role, cancel, &Handover::default()).await;
    }

    /// Keeps `role` linked as [`run`](Self::run) does, until another set takes over. Returns when the
    /// links have ended, after their tunnels have moved.
    pub(super) async fn run_with<R: LinkedRole>(
        self,
        role: Arc<R>,
        cancel: &CancellationToken,
        handover: &Handover,
    ) {
        let LinkSet {
            uplink,
            slots,
            count,
        } = self;
        let (uplink, up_links) = (uplink.shared(), UpLinks::new(handover));
        let (moves, kind) = (uplink.move_requests.clone(), uplink.role);
        let connector = uplink.dialers.first().map(Arc::clone);
        let first = Membership::first(&up_links);
        let connections = up_links.connections().clone();
        let supervisor = LinkSupervisor::new(uplink.clone(), Arc::clone(&role), first);
        let further = FurtherSlots {
            uplink,
            role,
            slots,
            up_links,
            supervisors: BTreeMap::new(),
            reported_lanes: 1,
            tasks: JoinSet::new(),
        };
        let monitor = monitor_links(
            LinkDemand::new(count.max()).with_min(count.min()),
            || connections.moved_bytes(),
            || connections.wait_until_moved(BUSY_BYTES),
            || connections.all(),
            |wanted| count.set_wanted(wanted),
        );
        let spread = async {
            if let Some(connector) = connector.filter(|_| kind == Role::Server) {
                keep_apart(&connector, &connections, &count, &moves).await;
            }
        };
        let in_use = async {
            tokio::select! {
                () = handover.superseded() => {}
                _ = async { tokio::join!(monitor, spread) } => {}
            }
        };
        tokio::join!(
            supervisor.run(cancel),
            further.run(&count, cancel, handover),
            cancel.run_until_cancelled(in_use)
        );
    }
}

/// The supervisors of the slots other than the first.
struct FurtherSlots<R, W> {
    uplink: Uplink<Arc<W>>,
    role: Arc<R>,
    slots: Vec<Slot>,
    up_links: UpLinks,
    /// Whether the set wants the link of each supervisor that was started. A supervisor remains
    /// for the next time, with what it has learned about the path.
    supervisors: BTreeMap<SetLink, watch::Sender<bool>>,
    /// The number of lanes that was last reported to the role.
    reported_lanes: usize,
    tasks: JoinSet<()>,
}

impl<R: LinkedRole, W: Connector> FurtherSlots<R, W> {
    async fn run(mut self, count: &LinkCount, cancel: &CancellationToken, handover: &Handover) {
        let mut wanted = count.numbers.subscribe();
        let mut up = self.up_links.subscribe();
        loop {
            let numbers = *wanted.borrow_and_update();
            // The links are in the order of their slots.
            let (master, links_up) = {
                let up = up.borrow_and_update();
                (up.first().map(|(_, master)| *master), up.len())
            };
            self.report_lanes(numbers.wanted.min(links_up).max(1));
            self.update(numbers.links(), master, cancel);
            // No channel closes: `count` and `up_links` hold a sender of each.
            tokio::select! {
                () = cancel.cancelled() => break,
                // The supervisors retire their links themselves.
                () = handover.superseded() => break,
                _ = wanted.changed() => {}
                _ = up.changed() => {}
                Some(ended) = self.tasks.join_next() => resume_panic(ended),
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            resume_panic(ended);
        }
    }

    /// Reports a new number of lanes. It follows the links that are up, because a lane that comes
    /// earlier would share one. It precedes the retirement of links, whose lanes then are left
    /// instead of moved.
    fn report_lanes(&mut self, lanes: usize) {
        if std::mem::replace(&mut self.reported_lanes, lanes) != lanes {
            self.role.on_lanes_wanted(&self.slots, lanes);
        }
    }

    /// Wants the first `links` slots at `master`, and no others.
    fn update(&mut self, links: usize, master: Option<usize>, cancel: &CancellationToken) {
        for ((index, at), wanted) in &self.supervisors {
            let is_wanted = *index < links && Some(*at) == master;
            wanted.send_if_modified(|wanted| {
                let before = std::mem::replace(wanted, is_wanted);
                before != is_wanted
            });
        }
        let Some(master) = master else { return };
        for index in FIRST + 1..links {
            if !self.supervisors.contains_key(&(index, master)) {
                self.start((index, master), cancel);
            }
        }
    }

    /// Starts the supervisor of a slot at a master. It dials at once.
    fn start(&mut self, place: SetLink, cancel: &CancellationToken) {
        let (index, master) = place;
        let dialer = self.uplink.dialers.get(master).map(Arc::clone);
        let Some((dialer, slot)) = dialer.zip(self.slots.get(index).copied()) else {
            return;
        };
        let uplink = Uplink {
            dialers: vec![dialer],
            slot,
            move_requests: MoveRequests::default(),
            ..self.uplink.clone()
        };
        let (wanted, is_wanted) = watch::channel(true);
        self.supervisors.insert(place, wanted);
        let membership = Membership::additional(&self.up_links, place, is_wanted);
        let supervisor = LinkSupervisor::new(uplink, Arc::clone(&self.role), membership);
        let cancel = cancel.clone();
        self.tasks
            .spawn(async move { supervisor.run(&cancel).await }.in_current_span());
    }
}

/// Continues the panic of a supervisor, so that it is not lost.
fn resume_panic(ended: Result<(), JoinError>) {
    if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
        resume_unwind(panic);
    }
}
