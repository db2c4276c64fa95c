//! The attach requests of a port: for a new tunnel, or to resume one. Each request is followed to
//! its outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::port::{PortState, PortSupervisor, RESUME_PATIENCE, ReattachReason};
use crate::{
    link::Outbox,
    supervisor::{MoveRequests, backoff::RetryBackoff},
    tunnel::{
        Tunnel,
        attach::{self, AttachError, AttachRequest},
    },
};
use report_proto::frame::{AttachHeader, CHANNEL_RENEWAL_THRESHOLD, Code, Frame, Notice};

/// First wait before a failed request is retried. Usually the server is away, and the retry waits
/// at the master until it is back.
const MIN_RETRY_WAIT: Duration = Duration::from_millis(50);

/// Longest wait before a retry.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(15);

/// A link of the client, as its ports use it.
#[derive(Clone)]
pub(super) struct PortLink {
    pub outbox: Arc<Outbox>,
    /// Counts links: the newest has the largest number.
    pub number: u64,
    /// Number of channels allocated so far. The counter cannot wrap, unlike a channel number.
    channels: Arc<AtomicU64>,
    /// Requests another link before the channel numbers are used up.
    move_requests: MoveRequests,
}

impl PortLink {
    /// Creates the handle of a link that is being established.
    pub(super) fn new(outbox: &Arc<Outbox>, move_requests: &MoveRequests) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        PortLink {
            outbox: Arc::clone(outbox),
            number,
            channels: Arc::default(),
            move_requests: move_requests.clone(),
        }
    }

    /// Returns whether the link has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.outbox.ended().is_some()
    }

    /// Allocates an unused channel number, while there is one.
    fn next_channel(&self) -> Option<u32> {
        let channel = u32::try_from(self.channels.fetch_add(1, Ordering::Relaxed)).ok();
        // Replace the link long before its numbers run out: the tunnels move without a pause.
        if channel == Some(CHANNEL_RENEWAL_THRESHOLD) {
            info!("half of the channel numbers of this link are used up: requesting another link");
            self.move_requests.request_new_link();
        }
        if channel.is_none() {
            error!("no channel numbers left on this link: the attachment waits for another link");
        }
        channel
    }
}

type OutcomeReceiver = oneshot::Receiver<Result<attach::AttachOutcome, AttachError>>;

/// An attach request whose channel is open at a link.
struct PreparedAttach {
    frame: Frame,
    outcome: OutcomeReceiver,
}

impl PortSupervisor {
    /// Requests a new tunnel, and spawns a task that follows the outcome.
    pub(super) fn attach_new(
        self: &Arc<Self>,
        state: &mut PortState,
        link: &PortLink,
    ) -> Option<Frame> {
        let channel = link.next_channel()?;
        let request = attach::request(&self.parameters, &link.outbox, channel, &self.tasks);
        let PreparedAttach { frame, outcome } =
            self.open_channel(request, link, channel, self.new_attach_header(state))?;
        state.pending_new = Some((link.clone(), channel));
        let (port, link) = (Arc::clone(self), link.clone());
        self.spawn(async move { port.drive_new_attach(outcome, link, channel).await });
        Some(frame)
    }

    /// Requests to resume a tunnel, and spawns a task that follows the outcome.
    pub(super) fn reattach(
        self: &Arc<Self>,
        state: &mut PortState,
        tunnel: &Tunnel,
        link: &PortLink,
    ) -> Option<Frame> {
        let entry = state
            .tunnels
            .iter_mut()
            .find(|entry| entry.tunnel.id() == tunnel.id())?;
        let channel = link.next_channel()?;
        let request = attach::request_resume(
            tunnel,
            tunnel.is_attached(),
            &link.outbox,
            channel,
            &self.tasks,
        );
        let header = AttachHeader {
            port: self.parameters.keys.id,
            instance: Some(tunnel.instance()),
            avoid: Vec::new(),
        };
        let PreparedAttach { frame, outcome } =
            self.open_channel(request, link, channel, header)?;
        entry.attaching_on.push(link.number);
        let (port, tunnel, link) = (Arc::clone(self), tunnel.clone(), link.clone());
        self.spawn(async move { port.drive_reattach(&tunnel, outcome, &link).await });
        Some(frame)
    }

    fn new_attach_header(&self, state: &PortState) -> AttachHeader {
        let avoid = state.refused.at(Instant::now()).collect();
        AttachHeader {
            port: self.parameters.keys.id,
            instance: None,
            avoid,
        }
    }

    /// Opens the channel of a request. Returns `None` if the link has ended; the next link starts
    /// again.
    fn open_channel(
        &self,
        request: Result<AttachRequest, AttachError>,
        link: &PortLink,
        channel: u32,
        header: AttachHeader,
    ) -> Option<PreparedAttach> {
        let request = request
            .inspect_err(|error| error!("cannot start an attachment: {error}"))
            .ok()?;
        link.outbox.open(channel, request.lane).ok()?;
        let frame = Frame::Attach {
            channel,
            header,
            message: request.message,
        };
        Some(PreparedAttach {
            frame,
            outcome: request.outcome,
        })
    }

    async fn drive_new_attach(
        self: Arc<Self>,
        mut outcome: OutcomeReceiver,
        link: PortLink,
        mut channel: u32,
    ) {
        let mut backoff = RetryBackoff::new(MIN_RETRY_WAIT, MAX_RETRY_WAIT);
        loop {
            let wait = match (&mut outcome).await {
                Ok(Ok(attach::AttachOutcome::New(tunnel, server_info))) => {
                    self.clear_pending_new(&link, channel);
                    return self.adopt(tunnel, server_info);
                }
                // A request for a new tunnel cannot resume one; an error means that the link is
                // gone.
                Ok(Ok(attach::AttachOutcome::Resumed)) | Err(_) => {
                    return self.clear_pending_new(&link, channel);
                }
                // No server in time. Ask again at once: the request only expired at the master
                // (`WAITING_TIMEOUT`).
                Ok(Err(AttachError::Closed(notice))) if notice.code == Code::Timeout => {
                    debug!("attach request expired at the master, sent again: {notice}");
                    backoff = RetryBackoff::new(MIN_RETRY_WAIT, MAX_RETRY_WAIT);
                    MIN_RETRY_WAIT.mul_f64(fastrand::f64())
                }
                Ok(Err(error)) => {
                    log_failure(&error);
                    self.refusals.send_replace(Some(error.clone()));
                    if error.is_retryable() {
                        backoff.next_wait()
                    } else {
                        MAX_RETRY_WAIT
                    }
                }
            };
            if link.has_ended() {
                return self.clear_pending_new(&link, channel);
            }
            tokio::time::sleep(wait).await;
            let mut state = self.state();
            let is_this =
                |(on, pending): &(PortLink, u32)| on.number == link.number && *pending == channel;
            // The request was cancelled or replaced during the wait.
            if state.is_ending || !state.pending_new.as_ref().is_some_and(is_this) {
                return;
            }
            let next = link.next_channel().and_then(|channel| {
                let request = attach::request(&self.parameters, &link.outbox, channel, &self.tasks);
                Some((
                    channel,
                    self.open_channel(request, &link, channel, self.new_attach_header(&state))?,
                ))
            });
            let Some((next_channel, prepared)) = next else {
                state.pending_new = None;
                return;
            };
            channel = next_channel;
            state.pending_new = Some((link.clone(), channel));
            drop(state);
            link.outbox.control(&prepared.frame);
            outcome = prepared.outcome;
        }
    }

    async fn drive_reattach(
        self: Arc<Self>,
        tunnel: &Tunnel,
        outcome: OutcomeReceiver,
        link: &PortLink,
    ) {
        let outcome = outcome.await;
        let mut reattach_due = false;
        if let Some(entry) = self
            .state()
            .tunnels
            .iter_mut()
            .find(|entry| entry.tunnel.id() == tunnel.id())
        {
            entry.attaching_on.retain(|&number| number != link.number);
            // A request for a new channel may have arrived while this one was pending.
            reattach_due = std::mem::take(&mut entry.reattach_due);
        }
        match outcome {
            Ok(Ok(attach::AttachOutcome::Resumed)) if reattach_due => {
                return self.ensure_attached(tunnel, ReattachReason::NewChannel);
            }
            Ok(Ok(attach::AttachOutcome::Resumed)) => return,
            Ok(Ok(attach::AttachOutcome::New(new, server_info)))
                if new.instance() != tunnel.instance() =>
            {
                // Another process answered. That it does not know the tunnel says nothing about the
                // server that holds it.
                self.adopt(new, server_info);
                tokio::time::sleep(RESUME_PATIENCE).await;
                return self.ensure_attached(tunnel, ReattachReason::NewLink);
            }
            Ok(Ok(attach::AttachOutcome::New(new, server_info))) => {
                warn!(tunnel = %tunnel.id(), "the server does not know the tunnel: connections that it has seen are reset");
                tunnel.end_unknown_at_server(
                    server_info.seen,
                    Notice::new(Code::PeerLost, "the server does not know the tunnel"),
                );
                return self.adopt(new, server_info);
            }
            Ok(Err(error)) if link.has_ended() => {
                return debug!("cannot reattach, the link has ended: {error}");
            }
            Ok(Err(error)) => log_failure(&error),
            Err(_) => {}
        }
        // A new link reattaches all tunnels itself, so only retry on this one.
        if !link.has_ended() {
            tokio::time::sleep(MIN_RETRY_WAIT.mul_f64(fastrand::f64())).await;
            self.ensure_attached(tunnel, ReattachReason::NewLink);
        }
    }

    fn clear_pending_new(&self, link: &PortLink, channel: u32) {
        self.state()
            .pending_new
            .take_if(|(on, pending)| on.number == link.number && *pending == channel);
    }
}

fn log_failure(error: &AttachError) {
    match error {
        AttachError::Closed(Notice {
            code: Code::PeerLost | Code::Cancelled | Code::Superseded | Code::Timeout,
            ..
        }) => {
            debug!("attachment failed: {error}");
        }
        AttachError::Closed(_) | AttachError::Superseded => {
            warn!(code = %error.diagnosis_code(), "attachment failed: {error}")
        }
        _ => error!(code = %error.diagnosis_code(), "attachment failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn channel_numbers_are_unique_and_the_link_is_replaced_in_time() {
        let move_requests = MoveRequests::default();
        let link = PortLink::new(&Outbox::new(), &move_requests);
        assert_eq!(link.next_channel(), Some(0));
        link.channels
            .store(u64::from(CHANNEL_RENEWAL_THRESHOLD) - 1, Ordering::Relaxed);
        let is_asked = || move_requests.new_link_requested().now_or_never().is_some();
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD - 1));
        assert!(!is_asked());
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD));
        assert!(is_asked());
        assert_eq!(link.next_channel(), Some(CHANNEL_RENEWAL_THRESHOLD + 1));
        assert!(!is_asked(), "once");
        link.channels.store(u64::from(u32::MAX), Ordering::Relaxed);
        assert_eq!(link.next_channel(), Some(u32::MAX));
        for _ in 0..3 {
            assert_eq!(link.next_channel(), None);
        }
    }
}
