//! The links of a server, and the ports that the masters have registered on each. For the readiness
//! of the server only: no decision depends on it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::port::ServerPort;
use crate::link::Outbox;
use report_proto::id::Id;

/// The most ports that [`Registrations::missing`] names.
const NAMED_PORTS: usize = 20;

/// The links of a server with their registrations. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Registrations(Arc<LinkTable>);

#[derive(Default)]
struct LinkTable {
    links: Mutex<Vec<RegisteredLink>>,
    /// Links that masters have accepted so far.
    established: AtomicU64,
}

struct RegisteredLink {
    outbox: Arc<Outbox>,
    /// Whether the master has accepted the link.
    is_up: bool,
    /// The key ids that its master has registered.
    ports: HashSet<Id>,
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
        });
    }

    /// Records that the master has accepted a link.
    pub(super) fn joined(&self, outbox: &Arc<Outbox>) {
        self.0.established.fetch_add(1, Relaxed);
        self.update(outbox, |link| link.is_up = true);
    }

    /// Records that the master has registered key ids on a link. Only those of `ports` count:
    /// without this bound, the key ids that a hostile master invents would fill the memory.
    pub(super) fn registered(
        &self,
        outbox: &Arc<Outbox>,
        key_ids: &[Id],
        ports: &HashMap<Id, Arc<ServerPort>>,
    ) {
        let known = key_ids.iter().filter(|id| ports.contains_key(*id));
        self.update(outbox, |link| link.ports.extend(known));
    }

    /// Records that the server withdraws its ports on a link.
    pub(super) fn withdrawn(&self, outbox: &Arc<Outbox>) {
        self.update(outbox, |link| link.ports.clear());
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
        let mut marks: Vec<_> = ports
            .iter()
            .filter(|&(id, _)| !is_registered(id))
            .map(|(_, port)| &*port.port.mark)
            .collect();
        marks.sort_unstable();
        let more = marks.len().saturating_sub(NAMED_PORTS);
        let named = marks.iter().take(NAMED_PORTS);
        let mut missing: Vec<String> = named
            .map(|mark| format!("port \"{mark}\" is not registered"))
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
    use crate::tunnel::tests::plain_port;
    use report_proto::frame::{Code, Notice};

    /// Returns two ports with the marks `a` and `b`.
    fn ports() -> HashMap<Id, Arc<ServerPort>> {
        let plain = plain_port();
        let port = |(number, mark): (u8, &str)| {
            let mut port = plain.clone();
            port.mark = mark.into();
            let offered = ServerPort {
                port,
                host: "localhost".to_owned(),
                tcp_port: 1,
                proxy_protocol: false,
            };
            (Id([number; 16]), Arc::new(offered))
        };
        [(1, "a"), (2, "b")].into_iter().map(port).collect()
    }

    #[test]
    fn a_server_is_ready_when_a_link_is_up_and_all_ports_are_registered() {
        let (registrations, ports) = (Registrations::default(), ports());
        let missing = || registrations.missing(&ports);
        let no_link = ["no link to a master"];
        assert_eq!(missing(), no_link);
        let outbox = Outbox::new();
        registrations.begin(&outbox);
        registrations.registered(&outbox, &[Id([1; 16])], &ports);
        assert_eq!(missing(), no_link, "the master has not accepted the link");
        registrations.joined(&outbox);
        assert_eq!(missing(), ["port \"b\" is not registered"]);
        registrations.registered(&outbox, &[Id([2; 16])], &ports);
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
            registrations.registered(&outbox, &[Id([number; 16])], &ports);
        }
        assert_eq!(registrations.registered_ports(), 1);
        assert_eq!(
            registrations.missing(&ports),
            ["port \"a\" is not registered"]
        );
    }
}
