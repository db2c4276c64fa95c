//! The ports of a client and its links. Each port learns of each link, whichever comes first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::port::{PortLink, PortSupervisor};
use crate::link::Outbox;
use report_proto::frame::Frame;

/// The ports of a client, and its links that are in use. Clones share them.
#[derive(Clone, Default)]
pub(super) struct PortTable(Arc<Mutex<TableState>>);

#[derive(Default)]
struct TableState {
    ports: Vec<Arc<PortSupervisor>>,
    /// The links that are being established or up, and do not retire. The newest is the last one.
    links: Vec<KnownLink>,
}

struct KnownLink {
    link: PortLink,
    is_up: bool,
}

impl KnownLink {
    fn is(&self, outbox: &Arc<Outbox>) -> bool {
        Arc::ptr_eq(self.link.outbox(), outbox)
    }
}

impl PortTable {
    /// Returns the ports, with those that are retired and still have tunnels.
    pub(super) fn all(&self) -> Vec<Arc<PortSupervisor>> {
        self.lock().ports.clone()
    }

    /// Adds a port. It requests a tunnel on the links that are there.
    pub(super) fn add(&self, port: &Arc<PortSupervisor>) {
        let mut table = self.lock();
        table.links.retain(|known| !known.link.has_ended());
        for known in &table.links {
            let outbox = known.link.outbox();
            // Of a link that is being established, they follow its first flight.
            for frame in port.on_new_link(&known.link) {
                outbox.control(&frame);
            }
            if known.is_up {
                port.on_link_up(outbox);
            }
        }
        table.ports.push(Arc::clone(port));
    }

    /// Removes a port.
    pub(super) fn remove(&self, port: &Arc<PortSupervisor>) {
        let mut table = self.lock();
        table.ports.retain(|other| !Arc::ptr_eq(other, port));
    }

    /// Handles a link that is being established. Returns the frames of its first flight.
    pub(super) fn begin(&self, link: &PortLink) -> Vec<Frame> {
        let mut table = self.lock();
        table.links.retain(|known| !known.link.has_ended());
        table.links.push(KnownLink {
            link: link.clone(),
            is_up: false,
        });
        let ports = table.ports.iter();
        ports.flat_map(|port| port.on_new_link(link)).collect()
    }

    /// Handles a link that is established.
    pub(super) fn link_up(&self, outbox: &Arc<Outbox>) {
        let mut table = self.lock();
        for known in table.links.iter_mut().filter(|known| known.is(outbox)) {
            known.is_up = true;
        }
        table.ports.iter().for_each(|port| port.on_link_up(outbox));
    }

    /// Handles a link that will be closed.
    pub(super) fn link_retiring(&self, outbox: &Arc<Outbox>) {
        let mut table = self.lock();
        table.links.retain(|known| !known.is(outbox));
        let ports = table.ports.iter();
        ports.for_each(|port| port.on_link_retiring(outbox));
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{supervisor::MoveRequests, tunnel::tests::plain_port};

    fn port(stop: &CancellationToken) -> Arc<PortSupervisor> {
        PortSupervisor::new(plain_port(), 1, &TaskTracker::new(), stop)
    }

    fn link() -> PortLink {
        PortLink::new(&Outbox::new(), 0, &MoveRequests::default())
    }

    #[tokio::test]
    async fn a_port_requests_a_tunnel_whether_it_comes_before_or_after_the_link() {
        let stop = CancellationToken::new();
        let (table, link) = (PortTable::default(), link());
        table.add(&port(&stop));
        assert_eq!(table.begin(&link).len(), 1, "in the first flight");
        assert_eq!(link.outbox().len(), 1);
        // The link is being established.
        table.add(&port(&stop));
        assert_eq!(link.outbox().len(), 2);
        table.link_up(link.outbox());
        table.add(&port(&stop));
        assert_eq!(link.outbox().len(), 3);
        assert_eq!(table.all().len(), 3);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_later_port_uses_no_link_that_retires_or_has_ended() {
        let stop = CancellationToken::new();
        let table = PortTable::default();
        let (retiring, ended) = (link(), link());
        for link in [&retiring, &ended] {
            table.begin(link);
            table.link_up(link.outbox());
        }
        table.link_retiring(retiring.outbox());
        let notice = report_proto::frame::Notice::new(report_proto::frame::Code::PeerLost, "");
        ended.outbox().finish(&notice);
        let later = port(&stop);
        table.add(&later);
        assert_eq!((retiring.outbox().len(), ended.outbox().len()), (0, 0));
        table.remove(&later);
        assert!(table.all().is_empty());
        stop.cancel();
    }

    #[tokio::test]
    async fn a_retired_port_withdraws_its_request_and_ends() {
        let stop = CancellationToken::new();
        let (table, link) = (PortTable::default(), link());
        let port = port(&stop);
        table.add(&port);
        table.begin(&link);
        port.retire(None);
        tokio::time::timeout(std::time::Duration::from_secs(10), port.retired())
            .await
            .expect("nothing is left");
        assert_eq!(link.outbox().len(), 0);
        let next = self::link();
        assert!(table.begin(&next).is_empty(), "no new tunnel");
    }
}
