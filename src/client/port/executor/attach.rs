//! Sends the attach requests of a port.

use tokio::sync::oneshot;
use tracing::{Span, debug, error, info, warn};

use super::PortExecutor;
use crate::{
    client::port::{
        event::{AttachPurpose, AttachResult, RequestNumber},
        port_link::PortLink,
    },
    link::LinkId,
    tunnel::attach::{self, AttachError, AttachOutcome, AttachRequest},
};
use report_proto::{
    frame::{AttachHeader, Code, Frame, Notice},
    id::Id,
};

/// The channel of an attach request.
pub(super) struct OpenRequest {
    pub(super) link: PortLink,
    pub(super) channel: u32,
    purpose: AttachPurpose,
}

/// An attach request that was sent, for the task that waits for its outcome.
pub(in crate::client::port) struct StartedRequest {
    pub(in crate::client::port) request: RequestNumber,
    pub(in crate::client::port) outcome: oneshot::Receiver<AttachReply>,
}

/// The reply to an attach request.
pub(in crate::client::port) type AttachReply = Result<AttachOutcome, AttachError>;

impl PortExecutor {
    /// Opens the channel of an attach request and sends ATTACH. Returns `None` if that is not
    /// possible; the next link starts again.
    pub(super) fn attach(
        &mut self,
        request: RequestNumber,
        link: LinkId,
        purpose: AttachPurpose,
        avoid: Vec<Id>,
    ) -> Option<()> {
        let link = self.links.iter().find(|entry| entry.id() == link)?;
        let channel = self.span.in_scope(|| link.next_channel())?;
        let (prepared, instance) = self.prepare(link, channel, purpose)?;
        let AttachRequest {
            attachment,
            message,
            outcome,
        } = prepared
            .inspect_err(|error| error!(parent: &self.span, "cannot start an attachment: {error}"))
            .ok()?;
        link.outbox.open(channel, attachment).ok()?;
        if let AttachPurpose::Alternative { refused } = purpose {
            info!(server = %refused, "service refused a connection: requesting another server");
        }
        let header = AttachHeader {
            port: self.parameters.keys.id,
            instance,
            avoid,
        };
        let frame = Frame::Attach {
            channel,
            header,
            message,
        };
        match &mut self.first_flight {
            Some(frames) => frames.push(frame),
            None => link.outbox.control(&frame),
        }
        let open = OpenRequest {
            link: link.clone(),
            channel,
            purpose,
        };
        self.requests.insert(request, open);
        self.started.push(StartedRequest { request, outcome });
        Some(())
    }

    /// Prepares the handshake of an attach request. Returns it with the server that it is for, if
    /// only one will do.
    fn prepare(
        &self,
        link: &PortLink,
        channel: u32,
        purpose: AttachPurpose,
    ) -> Option<(Result<AttachRequest, AttachError>, Option<Id>)> {
        let (outbox, tasks) = (&link.outbox, &self.tasks);
        let (AttachPurpose::Resume { tunnel }
        | AttachPurpose::Lane { tunnel }
        | AttachPurpose::RequestedLane { tunnel }) = purpose
        else {
            let request = attach::request(&self.parameters, outbox, channel, tasks);
            return Some((request, None));
        };
        let tunnel = &self.find(tunnel)?.tunnel;
        if !matches!(purpose, AttachPurpose::Resume { .. }) && !tunnel.accepts_lanes() {
            return None;
        }
        // A lane on a newer link replaces those on the older links of its slot.
        let is_older = |other: &&PortLink| other.slot == link.slot && other.id() < link.id();
        let replaces = self
            .links
            .iter()
            .filter(is_older)
            .map(|older| older.outbox.id())
            .collect();
        let request = attach::request_resume(tunnel, replaces, outbox, channel, tasks);
        Some((request, Some(tunnel.instance())))
    }

    /// Logs that a tunnel uses a further link. A lane that the server asked for may be the first one
    /// there.
    pub(super) fn log_lane(&self, open: &OpenRequest) {
        if let AttachPurpose::Lane { tunnel } | AttachPurpose::RequestedLane { tunnel } =
            open.purpose
            && open.link.slot != 0
        {
            let slot = open.link.slot;
            debug!(parent: &self.span, %tunnel, slot, "tunnel uses a further link");
        }
    }

    /// Logs and publishes why an attach request failed.
    pub(super) fn attach_failed(&self, open: &OpenRequest, error: AttachError) -> AttachResult {
        let span = &self.span;
        let (is_retryable, is_denied) = (error.is_retryable(), error.is_denied());
        let refusals = &self.parameters.process_shared.refusals;
        refusals.count("attach", error.diagnosis_code().name());
        match (open.purpose, &error) {
            (AttachPurpose::Lane { .. } | AttachPurpose::RequestedLane { .. }, _) => {
                debug!(parent: span, "no further lane for now: {error}");
            }
            (AttachPurpose::Resume { .. }, _) if open.link.has_ended() => {
                debug!(parent: span, "cannot reattach, the link has ended: {error}");
            }
            (AttachPurpose::Resume { .. }, _) => log_failure(span, &error),
            (_, AttachError::Closed(notice)) if notice.code == Code::Timeout => {
                debug!(parent: span, "attach request expired at the master, sent again: {notice}");
                return AttachResult::Expired;
            }
            _ => {
                log_failure(span, &error);
                self.refusals.send_replace(Some(error));
            }
        }
        if is_denied {
            AttachResult::Denied
        } else {
            AttachResult::Failed { is_retryable }
        }
    }
}

fn log_failure(span: &Span, error: &AttachError) {
    match error {
        AttachError::Closed(Notice {
            code: Code::PeerLost | Code::Cancelled | Code::Superseded | Code::Timeout,
            ..
        }) => {
            debug!(parent: span, "attachment failed: {error}");
        }
        AttachError::Closed(_) | AttachError::Superseded => {
            warn!(parent: span, code = %error.diagnosis_code(), "attachment failed: {error}");
        }
        _ => error!(parent: span, code = %error.diagnosis_code(), "attachment failed: {error}"),
    }
}
