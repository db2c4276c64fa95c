//! The entry of a link in the registry of a master.

use std::sync::Arc;

use tracing::{debug, info};

use super::{
    registry::{AuthenticatedLink, Superseded},
    router::{LinkRef, Router, now},
    serve_link::log_link,
    shared::MasterShared,
};
use crate::link::authenticate::Hello;
use report_proto::frame::{Code, Notice, Role};

/// A link's entry in the registry. Dropping it removes the link.
pub(super) struct Registration {
    router: Arc<Router>,
    link: Arc<LinkRef>,
    role: Role,
}

impl Registration {
    /// Adds a link to the registry, and ends the links that it replaces.
    ///
    /// # Errors
    /// If a newer link of the instance and slot is there.
    pub(super) fn enter(
        shared: &MasterShared,
        link: &Arc<LinkRef>,
        hello: &Hello,
    ) -> Result<Self, Superseded> {
        let (router, claims) = (&shared.router, &hello.claims);
        let mut registry = router.registry();
        let ended = registry.add_link(AuthenticatedLink {
            link: link.number,
            party: link.party(),
            role: claims.role,
            account: link.peer.identity.account(),
            instance: claims.instance,
            slot: claims.slot,
            epoch: claims.epoch,
            moves: claims.moves,
            handle: Arc::clone(link),
        })?;
        router.recheck_refused(registry);
        for old in ended {
            let (number, identity) = (old.number, link.peer.identity);
            // An anonymous client needs no secret to cause this, so it must not fill the log.
            if identity.is_proven() {
                log_link(shared, identity, |left_out| {
                    info!(
                        old = number,
                        left_out, "takes over from an older link of its instance and slot"
                    );
                });
            } else {
                debug!(
                    old = number,
                    "takes over from an older link of its instance and slot"
                );
            }
            old.outbox.end(Notice::new(
                Code::Superseded,
                "a newer link of this instance and slot took over",
            ));
        }
        Ok(Registration {
            router: Arc::clone(router),
            link: Arc::clone(link),
            role: claims.role,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = self.router.registry();
        // Under the lock, as a scrape reads both: no byte is counted twice or not at all.
        self.router.ended_links.add(self.role, &self.link);
        let (removed, dispatch) = registry.remove_link(self.link.number, now());
        self.router.recheck_refused(registry);
        drop(removed);
        self.router.dispatch(dispatch);
    }
}
