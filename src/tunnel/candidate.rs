//! An attachment whose peer has not proven itself: the caller that waits for the outcome, and the
//! limit of the wait.

use tokio::sync::oneshot;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    attach_error::AttachError,
    core::{CANDIDATE_TIMEOUT, Channel},
    handle::Tunnel,
    handshake::ServerInfo,
};
use report_proto::frame::{Code, Notice};

/// The result of a successful attach request.
pub enum AttachOutcome {
    /// A new tunnel on this server.
    New(Tunnel, ServerInfo),
    /// The tunnel was resumed.
    Resumed,
}

/// Reports the outcome of an attach request to the client.
pub(super) type OutcomeSender = oneshot::Sender<Result<AttachOutcome, AttachError>>;

/// The extra state of an attachment until the peer's first message has opened.
pub(super) struct Candidate {
    /// At the client, the caller that waits for the outcome.
    outcome: Option<(OutcomeSender, AttachOutcome)>,
    /// Cancels the proof timeout when dropped.
    _unproven: DropGuard,
}

impl Candidate {
    /// Creates the state of an attachment on `channel`. `outcome` is set at a client, whose caller
    /// waits for it.
    pub(super) fn new(
        channel: Channel,
        outcome: Option<(OutcomeSender, AttachOutcome)>,
        tasks: &TaskTracker,
    ) -> Self {
        Candidate {
            outcome,
            _unproven: await_proof(channel, tasks),
        }
    }

    /// Reports the outcome to the caller.
    pub(super) fn succeed(self) {
        if let Some((sender, outcome)) = self.outcome {
            // The receiver is gone when the client is shutting down.
            let _ = sender.send(Ok(outcome));
        }
    }

    /// Reports the end of the channel to the caller.
    pub(super) fn fail(self, notice: Notice) {
        if let Some((sender, _)) = self.outcome {
            let _ = sender.send(Err(AttachError::Closed(notice)));
        }
    }
}

/// Closes the channel of an attachment that is still a candidate after [`CANDIDATE_TIMEOUT`].
fn await_proof(channel: Channel, tasks: &TaskTracker) -> DropGuard {
    let unproven = CancellationToken::new();
    let proven = unproven.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = proven.cancelled() => {}
            () = tokio::time::sleep(CANDIDATE_TIMEOUT) => {
                channel.close(&Notice::new(Code::Timeout, ""));
            }
        }
    });
    unproven.drop_guard()
}
