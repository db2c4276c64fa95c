//! Attach requests of clients: their admission, and their expiry and eviction.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ChannelPair, ChannelRef, LinkRef, MAINTENANCE_INTERVAL, MAX_FIRST_MESSAGE, PAIR_COST, PairSide,
    PendingAttach, Router, now,
};
use crate::{
    link::channel::OpenError,
    master::{
        account::ReserveError,
        channel_queue::Overflow,
        limits::{EVICTED, LinkNumber, RETRY_AFTER},
        policies::{DeniedRequest, denied_notice},
    },
};
use report_proto::frame::{AttachHeader, Code, Frame, Notice};

/// The most attach requests that one maintenance tick expires.
const MAX_EXPIRED_PER_TICK: usize = 1_000;

/// The most links evicted for one attach request. More than one is needed only when the first link
/// held less than the request needs.
const MAX_EVICTIONS: usize = 64;

/// Returns the reason for the metrics, for the notice that answers an attach request.
pub(super) fn refusal_reason(notice: &Notice) -> &'static str {
    match notice.code {
        Code::Limit => "channel_limit",
        Code::Overflow => "memory",
        Code::Refused => "server_unresponsive",
        Code::Timeout => "no_server",
        _ => "other",
    }
}

impl Router {
    /// Opens a channel of a client (PROTOCOL 5.3). The link's task calls this.
    ///
    /// # Errors
    /// When the client violated the protocol; the caller must end its link.
    pub(in crate::master) fn attach(
        self: &Arc<Self>,
        client: &Arc<LinkRef>,
        channel: u32,
        header: AttachHeader,
        message: Bytes,
    ) -> Result<(), Notice> {
        if message.len() > MAX_FIRST_MESSAGE {
            return Err(Notice::new(
                Code::Protocol,
                format!("a first handshake message of {} bytes", message.len()),
            ));
        }
        if let Err(denied) = self.decide_attach(&client.peer, header.port) {
            self.report_denied(&client.peer, DeniedRequest::Attach(header.port), denied);
            let notice = denied_notice(denied);
            client.outbox.control(&Frame::Close { channel, notice });
            return Ok(());
        }
        let cost = PAIR_COST + message.len();
        if !self.reserve(client, cost) {
            let notice = Notice::new(Code::Overflow, Overflow::Memory.to_string());
            self.refusals.count("attach", refusal_reason(&notice));
            client.outbox.control(&Frame::Close { channel, notice });
            return Ok(());
        }
        let client_end = ChannelRef {
            link: Arc::clone(client),
            channel,
        };
        // A copy, so that a waiting request does not keep the whole read buffer alive.
        let message = Bytes::copy_from_slice(&message);
        let attach = PendingAttach { header, message };
        let pair = ChannelPair::new(self, client_end, cost, attach);
        match client
            .outbox
            .open(channel, pair.channel_end(PairSide::Client))
        {
            Ok(()) => pair.find_server(),
            Err(OpenError::InUse(_)) => {
                return Err(Notice::new(
                    Code::Protocol,
                    format!("ATTACH to channel {channel}, which is in use"),
                ));
            }
            Err(OpenError::Ended(_)) => {}
        }
        Ok(())
    }

    /// Reserves `cost` for an attach request of this client and evicts links that hold more.
    fn reserve(&self, client: &LinkRef, cost: usize) -> bool {
        for _ in 0..MAX_EVICTIONS {
            match self.budget.reserve(client.party(), client.number, cost) {
                Ok(()) => return true,
                Err(ReserveError::Refused) => return false,
                Err(ReserveError::Evict(link)) if self.evict(link) => {}
                Err(ReserveError::Evict(_)) => return false,
            }
        }
        false
    }

    /// Expires attach requests and evicts unproven links above their share, until the future is
    /// dropped.
    ///
    /// # Cancel safety
    /// Safe: the function completes all work between two awaits.
    pub(in crate::master) async fn run_maintenance(&self) {
        let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => self.expire(),
                () = self.budget.over_quota.notified() => {}
            }
            while self
                .budget
                .link_over_quota()
                .is_some_and(|link| self.evict(link))
            {}
        }
    }

    fn expire(&self) {
        let (expired, dispatch) = self.registry().expire(now(), MAX_EXPIRED_PER_TICK);
        for late in expired {
            let (code, reason) = match late.was_pending {
                true => (Code::Refused, "the server did not answer"),
                false => (Code::Timeout, "no server registered this port in time"),
            };
            late.attach.abandon(&Notice::new(code, reason));
        }
        self.dispatch(dispatch);
    }

    /// Evicts the link's oldest attach request. If the link has none but holds other memory as an
    /// unproven link, ends the link. Returns whether anything was evicted.
    fn evict(&self, link: LinkNumber) -> bool {
        let attach = self.registry().oldest_of(link);
        if let Some(pair) = attach {
            pair.abandon(&Notice::new(
                Code::Overflow,
                "evicted for a link that holds less of the master's memory",
            ));
            return true;
        }
        let link = self.registry().handle(link);
        let Some(link) = link.filter(|link| link.account.mark_proven() > 0) else {
            return false;
        };
        let full = Notice::new(
            Code::Limit,
            "this link holds more of the master's memory than other links without a tunnel",
        );
        self.refusals.count("link", EVICTED);
        link.outbox.end(full.with_retry_after(RETRY_AFTER));
        true
    }
}
