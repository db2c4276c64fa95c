//! Handles the frames that a role sends to its master once its link is up. Knows the roles and
//! their frames, but not how the link was authenticated.

use std::sync::Arc;

use tracing::{debug, info};

use super::router::{LinkRef, Router};
use crate::link::Handler;
use report_proto::frame::{Code, Frame, Notice, Ports, Registered, Role};

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
                let accepted = self.router.register(&self.link, &ports);
                info!(
                    requested = ports.len(),
                    accepted = accepted.len(),
                    "registered"
                );
                for frame in Registered::new(accepted).into_frames() {
                    self.link.outbox.control(&frame);
                }
                Ok(())
            }
            (Role::Server, Frame::Unregister(Ports { ports })) => {
                self.router.registry().unregister(self.link.number, &ports);
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
