//! The links of a server, and the ports that the masters have registered on each or refuse. For the
//! readiness and the log of the server only: no decision depends on it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tracing::{debug, error};

use super::port::ServerPort;
use crate::link::Outbox;
use report_proto::{
    frame::{MAX_PORTS_PER_FRAME, Notice, Registered},
    id::Id,
};

/// The most ports that [`Registrations::missing`] names.
const NAMED_PORTS: usize = 20;

/// The links of a server with their registrations. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Registrations(Arc<LinkTable>);

#[derive(Default)]
struct LinkTable {
    links: Mutex<Vec<RegisteredLink>>,
    /// The refusals that were reported, until the key id is registered somewhere.
    reported: Mutex<HashMap<Id, Notice>>,
    /// Links that masters have accepted so far.
    established: AtomicU64,
}

struct RegisteredLink {
    outbox: Arc<Outbox>,
    /// Whether the master has accepted the link.
    is_up: bool,
    /// The key ids that its master has registered.
    ports: HashSet<Id>,
    /// The key ids that its master refuses, with its reasons.
    refused: HashMap<Id, Notice>,
}

/// The changes by an answer of a master.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Key ids that are refused with a reason that was not reported before.
    pub(super) refused: Vec<(Id, Notice)>,
    /// Key ids that are neither registered nor refused.
    pub(super) unregistered: Vec<Id>,
}

impl Changes {
    /// Logs the answer of a master to a server with these ports. Another link to the same master
    /// logs the same if this one is additional.
    pub(super) fn log(
        &self,
        answer: &Registered,
        ports: &HashMap<Id, Arc<ServerPort>>,
        is_additional: bool,
    ) {
        let mark = |id: &Id| ports.get(id).map(|port| Arc::clone(&port.port.mark));
        for (id, notice) in &self.refused {
            if let Some(port) = mark(id) {
                error!(%port, "the master refuses to register the port: {notice}; ask its operator");
            }
        }
        if is_additional {
            return;
        }
        debug!(ports = answer.ports.len(), "registered");
        // An answer with refusals alone is a part of a longer one, or reports a change. The answer
        // to more ports than fit into one frame is not checked.
        let is_part = answer.ports.is_empty() && !answer.refused.is_empty();
        if is_part || ports.len() > MAX_PORTS_PER_FRAME {
            return;
        }
        for port in self.unregistered.iter().filter_map(mark) {
            error!(%port, "the master did not register the port: it has reached its limit of ports per link");
        }
    }
}

impl Registrations {
    /// Adds a link that is being established.
    pub(super) fn begin(&self, outbox: &Arc<Outbox>) {
        let mut links = self.links();
        links.retain(|link| link.outbox.ended().is_none());
        links.push(RegisteredLink {
            outbox: Arc::clone(outbox),
            is_up: false,
            ports: HashSet::new(),
            refused: HashMap::new(),
        });
    }

    /// Records that the master has accepted a link.
    pub(super) fn joined(&self, outbox: &Arc<Outbox>) {
        self.0.established.fetch_add(1, Relaxed);
        self.update(outbox, |link| link.is_up = true);
    }

    /// Records the answer of a master on a link. Only the key ids of `ports` count: without this
    /// bound, those that a hostile master invents would fill the memory.
    pub(super) fn registered(
        &self,
        outbox: &Arc<Outbox>,
        answer: &Registered,
        ports: &HashMap<Id, Arc<ServerPort>>,
    ) -> Changes {
        let known = |id: &Id| ports.contains_key(id);
        let registered = answer.ports.iter().copied().filter(known);
        let refused = answer.refused.iter().filter(|one| known(&one.port));
        let mut changes = Changes::default();
        self.update(outbox, |link| {
            for id in registered {
                link.refused.remove(&id);
                link.ports.insert(id);
            }
            for one in refused {
                link.ports.remove(&one.port);
                link.refused.insert(one.port, one.notice.clone());
            }
            let is_missing =
                |id: &&Id| !link.ports.contains(*id) && !link.refused.contains_key(*id);
            changes.unregistered = ports.keys().filter(is_missing).copied().collect();
        });
        changes.refused = self.unreported(answer, ports);
        changes
    }

    /// Returns the refusals of the answer that were not reported yet, and records them as reported.
    fn unreported(
        &self,
        answer: &Registered,
        ports: &HashMap<Id, Arc<ServerPort>>,
    ) -> Vec<(Id, Notice)> {
        let reported = &self.0.reported;
        let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &answer.ports {
            reported.remove(id);
        }
        let mut new = Vec::new();
        for one in answer
            .refused
            .iter()
            .filter(|one| ports.contains_key(&one.port))
        {
            let before = reported.insert(one.port, one.notice.clone());
            if before.as_ref() != Some(&one.notice) {
                new.push((one.port, one.notice.clone()));
            }
        }
        new
    }

    /// Records that the server withdraws its ports on a link.
    pub(super) fn withdrawn(&self, outbox: &Arc<Outbox>) {
        self.update(outbox, |link| {
            link.ports.clear();
            link.refused.clear();
        });
    }

    /// Forgets key ids that the server has withdrawn on all links.
    pub(super) fn forget(&self, ids: &[Id]) {
        for link in self.links().iter_mut() {
            for id in ids {
                link.ports.remove(id);
                link.refused.remove(id);
            }
        }
    }

    /// Returns the number of links that are up.
    pub(super) fn links_up(&self) -> usize {
        self.links().iter().filter(|link| link.is_usable()).count()
    }

    /// Returns how many links masters have accepted so far.
    pub(super) fn established(&self) -> u64 {
        self.0.established.load(Relaxed)
    }

    /// Returns how many ports are registered on a link that is up.
    pub(super) fn registered_ports(&self) -> usize {
        let links = self.links();
        let up = links.iter().filter(|link| link.is_usable());
        up.flat_map(|link| &link.ports)
            .collect::<HashSet<_>>()
            .len()
    }

    /// Returns what is missing until clients can reach all of these ports, in words.
    pub(super) fn missing(&self, ports: &HashMap<Id, Arc<ServerPort>>) -> Vec<String> {
        let links = self.links();
        let up: Vec<_> = links.iter().filter(|link| link.is_usable()).collect();
        if up.is_empty() {
            return vec!["no link to a master".to_owned()];
        }
        let is_registered = |id: &Id| up.iter().any(|link| link.ports.contains(id));
        let refusal = |id: &Id| up.iter().find_map(|link| link.refused.get(id));
        let mut marks: Vec<_> = ports
            .iter()
            .filter(|&(id, _)| !is_registered(id))
            .map(|(id, port)| (&*port.port.mark, refusal(id)))
            .collect();
        marks.sort_unstable_by_key(|(mark, _)| *mark);
        let more = marks.len().saturating_sub(NAMED_PORTS);
        let named = marks.iter().take(NAMED_PORTS);
        let mut missing: Vec<String> = named
            .map(|(mark, refusal)| match refusal {
                Some(notice) => format!("port \"{mark}\" is refused by the master ({notice})"),
                None => format!("port \"{mark}\" is not registered"),
            })
            .collect();
        if more > 0 {
            missing.push(format!("{more} more ports are not registered"));
        }
        missing
    }

    fn update(&self, outbox: &Arc<Outbox>, update: impl FnOnce(&mut RegisteredLink)) {
        let mut links = self.links();
        let found = links
            .iter_mut()
            .find(|link| Arc::ptr_eq(&link.outbox, outbox));
        if let Some(link) = found {
            update(link);
        }
    }

    fn links(&self) -> MutexGuard<'_, Vec<RegisteredLink>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegisteredLink {
    fn is_usable(&self) -> bool {
        self.is_up && self.outbox.ended().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Target, tunnel::tests::plain_port};
    use report_proto::frame::{Code, RefusedPort};

    /// Returns two ports with the marks `a` and `b`.
    fn ports() -> HashMap<Id, Arc<ServerPort>> {
        let plain = plain_port();
        let port = |(number, mark): (u8, &str)| {
            let mut port = plain.clone();
            port.mark = mark.into();
            let offered = ServerPort {
                port,
                service: "localhost:1".parse::<Target>().unwrap().into(),
                proxy_protocol: false,
            };
            (Id([number; 16]), Arc::new(offered))
        };
        [(1, "a"), (2, "b")].into_iter().map(port).collect()
    }

    fn refusal(port: u8, reason: &str) -> RefusedPort {
        RefusedPort {
            port: Id([port; 16]),
            notice: Notice::new(Code::Denied, reason),
        }
    }

    /// Returns an answer that registers these ports and refuses those.
    fn answer(registered: &[u8], refused: &[u8]) -> Registered {
        Registered {
            ports: registered.iter().map(|number| Id([*number; 16])).collect(),
            refused: refused
                .iter()
                .map(|number| refusal(*number, "not yours"))
                .collect(),
        }
    }

    #[test]
    fn a_refusal_is_reported_once_with_its_reason_until_the_port_is_registered() {
        let (registrations, ports) = (Registrations::default(), ports());
        let reported = |outbox: &Arc<Outbox>, answer: &Registered| {
            let changes = registrations.registered(outbox, answer, &ports);
            assert_eq!(changes.unregistered, []);
            let text = |(id, notice): (Id, Notice)| (id.0[0], notice.reason);
            changes.refused.into_iter().map(text).collect::<Vec<_>>()
        };
        let outbox = Outbox::new();
        registrations.begin(&outbox);
        registrations.joined(&outbox);
        let not_yours = [(2, "not yours".to_owned())];
        assert_eq!(reported(&outbox, &answer(&[1], &[2])), not_yours);
        assert_eq!(
            registrations.missing(&ports),
            ["port \"b\" is refused by the master (denied: not yours)"]
        );
        assert_eq!(registrations.registered_ports(), 1);
        // The same refusal on another link is not reported again.
        let later = Outbox::new();
        registrations.begin(&later);
        registrations.joined(&later);
        assert_eq!(reported(&later, &answer(&[1], &[2])), []);
        let expired = Registered {
            ports: Vec::new(),
            refused: vec![refusal(2, "expired")],
        };
        assert_eq!(reported(&outbox, &expired), [(2, "expired".to_owned())]);
        // An unasked answer changes the registrations.
        assert_eq!(reported(&outbox, &answer(&[2], &[])), []);
        assert!(registrations.missing(&ports).is_empty());
        assert_eq!(reported(&outbox, &answer(&[], &[2])), not_yours);
        assert_eq!(registrations.missing(&ports).len(), 1);
    }

    #[test]
    fn ports_that_an_answer_does_not_name_are_unregistered() {
        let (registrations, ports) = (Registrations::default(), ports());
        let outbox = Outbox::new();
        registrations.begin(&outbox);
        let changes = registrations.registered(&outbox, &answer(&[1], &[]), &ports);
        assert_eq!(changes.unregistered, [Id([2; 16])]);
        let changes = registrations.registered(&outbox, &answer(&[], &[2]), &ports);
        assert_eq!(changes.unregistered, []);
        registrations.withdrawn(&outbox);
        let changes = registrations.registered(&outbox, &answer(&[], &[]), &ports);
        assert_eq!(changes.unregistered.len(), 2);
    }

    #[test]
    fn a_server_is_ready_when_a_link_is_up_and_all_ports_are_registered() {
        let (registrations, ports) = (Registrations::default(), ports());
        let missing = || registrations.missing(&ports);
        let no_link = ["no link to a master"];
        assert_eq!(missing(), no_link);
        let outbox = Outbox::new();
        registrations.begin(&outbox);
        registrations.registered(&outbox, &answer(&[1], &[]), &ports);
        assert_eq!(missing(), no_link, "the master has not accepted the link");
        registrations.joined(&outbox);
        assert_eq!(missing(), ["port \"b\" is not registered"]);
        registrations.registered(&outbox, &answer(&[2], &[]), &ports);
        assert!(missing().is_empty(), "{:?}", missing());
        assert_eq!(registrations.links_up(), 1);
        registrations.withdrawn(&outbox);
        assert_eq!(missing().len(), 2);
        outbox.finish(&Notice::new(Code::PeerLost, ""));
        assert_eq!(missing(), no_link);
        assert_eq!(registrations.links_up(), 0);
    }

    #[test]
    fn key_ids_that_the_server_does_not_have_are_not_recorded() {
        let (registrations, ports) = (Registrations::default(), ports());
        let outbox = Outbox::new();
        registrations.begin(&outbox);
        registrations.joined(&outbox);
        for number in 2..=9 {
            let invented = answer(&[number], &[number + 10]);
            let changes = registrations.registered(&outbox, &invented, &ports);
            assert_eq!(changes.refused, []);
        }
        assert_eq!(registrations.registered_ports(), 1);
        assert_eq!(
            registrations.missing(&ports),
            ["port \"a\" is not registered"]
        );
    }
}
