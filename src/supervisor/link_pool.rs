//! The sets of links of a role. A change of the configuration replaces them: the former sets stay in
//! use until the new ones have a link, and their tunnels then move without a pause.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info};

use super::{
    drain::Drain,
    handover::Handover,
    link_set::LinkSet,
    uplink::{Connector, LinkedRole, RetirementCause},
};
use crate::net::dial::Dialer;
use report_proto::frame::Slot;

/// The sets of links of a role.
pub struct LinkPool<R, W = Dialer> {
    role: Arc<R>,
    tasks: TaskTracker,
    /// Cancelled at the end of a drain: closes all links.
    stop: CancellationToken,
    running: Mutex<Vec<RunningSet>>,
    connector: std::marker::PhantomData<fn(W)>,
}

/// A set of links that runs.
struct RunningSet {
    place: SetPlace,
    task: JoinHandle<()>,
}

/// The master to which a set is linked.
#[derive(Clone)]
struct SetPlace {
    /// The names of the masters.
    masters: Vec<String>,
    /// The first slot.
    slot: Option<Slot>,
    handover: Handover,
}

impl SetPlace {
    fn of<W: Connector>(link_set: &LinkSet<W>, handover: Handover) -> Self {
        SetPlace {
            masters: link_set
                .uplink()
                .dialers
                .iter()
                .map(Connector::name)
                .collect(),
            slot: link_set.slots().first().copied(),
            handover,
        }
    }

    /// Whether this set reaches one of the masters of another.
    fn shares_a_master(&self, other: &SetPlace) -> bool {
        self.masters
            .iter()
            .any(|master| other.masters.contains(master))
    }

    /// Returns the sets that take over from this one, and why its links retire then.
    fn successors(&self, sets: &[SetPlace]) -> (Vec<Handover>, RetirementCause) {
        let handover = |set: &SetPlace| set.handover.clone();
        let same: Vec<&SetPlace> = sets
            .iter()
            .filter(|set| self.shares_a_master(set))
            .collect();
        let Some(first) = same.first() else {
            return (
                sets.iter().map(handover).collect(),
                RetirementCause::Surplus,
            );
        };
        // A link with another slot does not take over the registrations.
        let cause = if first.slot == self.slot {
            RetirementCause::Replaced
        } else {
            RetirementCause::Surplus
        };
        (same.into_iter().map(handover).collect(), cause)
    }
}

impl<R: LinkedRole, W: Connector> LinkPool<R, W> {
    /// Creates the pool of a role without links. Its tasks belong to `drain`.
    #[must_use]
    pub fn new(role: Arc<R>, drain: &Drain) -> Self {
        LinkPool {
            role,
            tasks: drain.tasks.clone(),
            stop: drain.stop.clone(),
            running: Mutex::default(),
            connector: std::marker::PhantomData,
        }
    }

    /// Links the role with each of the sets. Must be called within a tokio runtime.
    pub fn start(&self, link_sets: Vec<LinkSet<W>>) {
        let mut running = self.lock();
        for link_set in link_sets {
            running.push(self.run(link_set, Handover::default()));
        }
    }

    /// Replaces all sets. A former set retires when a set with one of its masters has a link, or any
    /// new set if there is none. One that has no link yet ends at once.
    pub fn replace(&self, link_sets: Vec<LinkSet<W>>) {
        let mut running = self.lock();
        running.retain(|set| !set.task.is_finished());
        let former: Vec<SetPlace> = running.iter().map(|set| set.place.clone()).collect();
        let mut new = Vec::new();
        for link_set in link_sets {
            let set = self.run(link_set, Handover::of_successor());
            new.push(set.place.clone());
            running.push(set);
        }
        drop(running);
        info!("links move to the changed configuration");
        for set in &former {
            if !set.handover.has_joined() {
                set.handover.supersede(RetirementCause::Surplus);
            }
        }
        let handing_over = hand_over(former, new);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! { () = handing_over => {}, () = stop.cancelled() => {} }
        });
    }

    /// Starts a set. A separate task: the caller's future may be the one on which the main thread
    /// blocks. A wake-up of a link would then wake that thread, while a worker that is already awake
    /// can run a task.
    fn run(&self, link_set: LinkSet<W>, handover: Handover) -> RunningSet {
        let place = SetPlace::of(&link_set, handover.clone());
        let (role, stop) = (Arc::clone(&self.role), self.stop.clone());
        let running = async move {
            link_set.run_with(role, &stop, &handover).await;
            handover.set_ended();
        };
        RunningSet {
            place,
            task: self.tasks.spawn(running.in_current_span()),
        }
    }

    /// Waits until all sets have ended. A panic of one continues here, so that it is not lost.
    pub(super) async fn ended(&self) {
        let running = std::mem::take(&mut *self.lock());
        for set in running {
            if let Err(error) = set.task.await
                && let Ok(panic) = error.try_into_panic()
            {
                resume_unwind(panic);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RunningSet>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the former sets retire as soon as the new ones have links, and waits until they have ended.
async fn hand_over(former: Vec<SetPlace>, new: Vec<SetPlace>) {
    let retiring = former.iter().map(|set| {
        let (successors, cause) = set.successors(&new);
        async move {
            let mut joins: FuturesUnordered<_> = successors
                .iter()
                .map(|successor| successor.joined())
                .collect();
            if joins.next().await.is_some() {
                set.handover.supersede(cause);
            }
            set.handover.ended().await;
        }
    });
    futures_util::future::join_all(retiring).await;
    for set in &new {
        set.handover.forget_predecessor();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(masters: &[&str], slot: usize) -> SetPlace {
        SetPlace {
            masters: masters.iter().map(|&master| master.to_owned()).collect(),
            slot: Slot::all().nth(slot),
            handover: Handover::default(),
        }
    }

    #[test]
    fn a_set_is_replaced_by_the_one_with_its_master_else_by_any() {
        let former = place(&["a", "b"], 0);
        for (new, successors, cause) in [
            (
                vec![place(&["c"], 0), place(&["b"], 0)],
                1,
                RetirementCause::Replaced,
            ),
            (vec![place(&["a"], 1)], 1, RetirementCause::Surplus),
            (
                vec![place(&["c"], 0), place(&["d"], 1)],
                2,
                RetirementCause::Surplus,
            ),
            (Vec::new(), 0, RetirementCause::Surplus),
        ] {
            let found = former.successors(&new);
            assert_eq!((found.0.len(), found.1), (successors, cause));
        }
    }
}
