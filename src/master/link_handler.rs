//! Handles the frames that a role sends to its master once its link is up. Knows the roles and
//! their frames, but not how the link was authenticated.

use std::sync::Arc;

use tracing::{debug, info};

use super::{
    events::{EventKind, EventPeer},
    policies::{DeniedRequest, answer},
    router::{LinkRef, Router},
};
use crate::link::Handler;
use report_proto::{
    frame::{Code, Frame, Notice, Ports, Role},
    id::Id,
};

/// Handles the frames that a role may send to its master.
pub(super) struct LinkHandler {
    pub(super) router: Arc<Router>,
    pub(super) link: Arc<LinkRef>,
    pub(super) role: Role,
}

impl Handler for LinkHandler {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match (self.role, frame) {
            (Role::Server, Frame::Register(Ports { ports })) => {
                self.register(&ports);
                Ok(())
            }
            (Role::Server, Frame::Unregister(Ports { ports })) => {
                self.router.unregister(&self.link, &ports);
                info!(ports = ports.len(), "unregistered");
                Ok(())
            }
            (
                Role::Client,
                Frame::Attach {
                    channel,
                    header,
                    message,
                },
            ) => self.router.attach(&self.link, channel, header, message),
            (_, Frame::GoAway(notice)) => {
                debug!(%notice, "GOAWAY received");
                Ok(())
            }
            (role, other) => Err(Notice::new(
                Code::Protocol,
                format!("{} from a {role}", other.name()),
            )),
        }
    }
}

impl LinkHandler {
    /// Registers key ids, and answers with those that are registered and those that are refused.
    fn register(&self, ports: &[Id]) {
        let (accepted, refused) = self.router.register(&self.link, ports);
        info!(
            requested = ports.len(),
            accepted = accepted.len(),
            refused = (!refused.is_empty()).then_some(refused.len()),
            "registered"
        );
        let peer = &self.link.peer;
        for (key, denied) in &refused {
            self.router
                .report_denied(peer, DeniedRequest::Register(*key), *denied);
        }
        let policies = &self.router.policies;
        if !accepted.is_empty() {
            let at = policies.clock().seconds();
            policies.events.send(at, || EventKind::Registered {
                peer: EventPeer::of(peer),
                keys: accepted.clone(),
            });
        }
        answer(&self.link, accepted, &refused);
    }
}
