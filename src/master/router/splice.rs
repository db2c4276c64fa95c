//! Finds a server for a channel pair, and splices the client's channel to a channel of the server.

use std::sync::Arc;

use super::{
    ChannelPair, ChannelRef, LinkRef, MemoryClass, PairPhase, PairSide, PendingAttach,
    RouterDispatch, now, requests::refusal_reason, too_many_channels,
};
use crate::{
    link::ChannelEnd,
    master::{
        attach_queue::Ticket,
        limits::LinkNumber,
        registry::{Assignment, RouteResult},
    },
};
use report_proto::frame::{Code, Frame, Notice};

/// Queued control bytes of a server's link above which the router opens no more channels to it:
/// half of the link's limit. Without this bound, a client that knows a key id could open and close
/// channels faster than the server reads, and so end the server's link.
const MAX_CONTROL_BACKLOG: usize = 512 * 1024;

impl ChannelPair {
    /// Asks the registry for a server, or waits for one. The client's end must be open.
    pub(super) fn find_server(self: &Arc<Self>) {
        let mut state = self.state();
        let PairPhase::New(attach) = std::mem::take(&mut state.phase) else {
            return;
        };
        let (client, bytes, pair) = (
            self.client.link.number,
            attach.message.len(),
            Arc::clone(self),
        );
        // Holds the pair's lock: a thread that dispatches this request in the meantime must find
        // the ticket in `phase`.
        let attached = self
            .router
            .registry()
            .attach(client, &attach.header, bytes, now(), pair);
        match attached {
            RouteResult::Waiting(ticket) => {
                state.counted = true;
                state.phase = PairPhase::Waiting(attach, ticket);
            }
            RouteResult::Assigned(assignment) => {
                state.counted = true;
                state.phase = PairPhase::Waiting(attach, assignment.ticket);
                drop(state);
                if let Some(dispatch) = self.splice(assignment) {
                    self.router.dispatch(dispatch);
                }
            }
            RouteResult::Full => {
                drop(state);
                self.reject(&too_many_channels());
            }
        }
    }

    /// Splices the pair to the channel that the registry has counted at a server. On failure,
    /// returns the requests that can use the freed room.
    pub(super) fn splice(
        self: &Arc<Self>,
        assignment: Assignment<Arc<LinkRef>>,
    ) -> Option<RouterDispatch> {
        let Assignment {
            server,
            handle: link,
            channel,
            ticket,
            is_half_used,
        } = assignment;
        // The server replaces its link long before the numbers run out.
        if is_half_used {
            link.outbox.control(&Frame::GoAway(Notice::new(
                Code::Limit,
                "half of the channel numbers of this link are used up",
            )));
        }
        if link.outbox.queued_control_bytes() > MAX_CONTROL_BACKLOG {
            return Some(self.reject_for_slow_server(server, ticket));
        }
        // The end must exist before the server learns of the channel. Its drop releases the
        // channel in the registry.
        let opened = link
            .outbox
            .open(channel, self.open_server_end(&link, channel));
        if opened.is_err() {
            return self.find_another_server(&link, ticket);
        }
        self.forward_attach(&link, channel, ticket)
    }

    /// Sends the ATTACH to the server whose channel was opened, unless the client has closed its
    /// channel in the meantime.
    fn forward_attach(
        &self,
        link: &LinkRef,
        channel: u32,
        ticket: Ticket,
    ) -> Option<RouterDispatch> {
        let mut state = self.state();
        match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(attach, ticket) => {
                state.phase = PairPhase::Pending(ticket);
                let PendingAttach {
                    mut header,
                    message,
                } = *attach;
                // `avoid` concerns only the choice of the server.
                header.avoid.clear();
                // Queued under the lock, so that a CLOSE of the client follows the ATTACH.
                link.outbox.control(&Frame::Attach {
                    channel,
                    header,
                    message,
                });
                None
            }
            closed => {
                state.phase = closed;
                drop(state);
                // The client closed the channel in the meantime. The server never learned of it and
                // ignores this CLOSE.
                link.outbox.close(
                    channel,
                    &Notice::new(Code::Cancelled, "the client closed the channel"),
                );
                let (_, dispatch) = self.router.registry().cancel(ticket, now());
                Some(dispatch)
            }
        }
    }

    /// Rejects the attach request because its server leaves too many control frames unread. Returns
    /// the requests that can use the freed room.
    fn reject_for_slow_server(&self, server: LinkNumber, ticket: Ticket) -> RouterDispatch {
        let mut registry = self.router.registry();
        registry.release_channel(server);
        let (_, dispatch) = registry.cancel(ticket, now());
        drop(registry);
        self.reject(&Notice::new(
            Code::Refused,
            "the server is too slow to accept new channels",
        ));
        dispatch
    }

    fn open_server_end(self: &Arc<Self>, link: &Arc<LinkRef>, channel: u32) -> Arc<dyn ChannelEnd> {
        self.state().server = Some(ChannelRef {
            link: Arc::clone(link),
            channel,
        });
        self.channel_end(PairSide::Server)
    }

    /// Handles a server link that ended before the splice: withdraws its registrations and looks
    /// for another server.
    fn find_another_server(
        self: &Arc<Self>,
        ended: &LinkRef,
        ticket: Ticket,
    ) -> Option<RouterDispatch> {
        let mut registry = self.router.registry();
        registry.withdraw_all(ended.number);
        let (_, dispatch) = registry.cancel(ticket, now());
        self.router.recheck_refused(registry);
        let mut state = self.state();
        state.server = None;
        match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(attach, _) => {
                state.phase = PairPhase::New(attach);
                // The next attach counts the channel again, so release the present count.
                let counted = std::mem::take(&mut state.counted);
                drop(state);
                if counted {
                    self.router
                        .registry()
                        .release_channel(self.client.link.number);
                }
                self.find_server();
            }
            closed => state.phase = closed,
        }
        Some(dispatch)
    }

    /// Rejects the attach request and closes the client's channel with `notice`.
    pub(super) fn reject(&self, notice: &Notice) {
        let mut state = self.state();
        state.phase = PairPhase::Closed;
        self.recharge(&mut state, MemoryClass::Uncharged);
        drop(state);
        self.count_refusal(notice);
        self.client.link.outbox.close(self.client.channel, notice);
    }

    /// Gives up an unanswered attach request and closes both ends.
    pub(super) fn abandon(&self, notice: &Notice) {
        let mut state = self.state();
        let ticket = match std::mem::take(&mut state.phase) {
            PairPhase::Waiting(_, ticket) | PairPhase::Pending(ticket) => ticket,
            other => return state.phase = other,
        };
        self.recharge(&mut state, MemoryClass::Uncharged);
        let server = state.server.clone();
        drop(state);
        self.count_refusal(notice);
        self.client.link.outbox.close(self.client.channel, notice);
        if let Some(ChannelRef { link, channel }) = server {
            link.outbox.close(
                channel,
                &Notice::new(Code::Cancelled, "the attach timed out or was evicted"),
            );
        }
        self.router.cancel(ticket);
    }

    fn count_refusal(&self, notice: &Notice) {
        self.router.refusals.count("attach", refusal_reason(notice));
    }

    /// Handles the server's first answer. It proves that the server holds the port key, and so does
    /// the client that made the offer.
    pub(super) fn on_answer(&self, ticket: Ticket) {
        self.client.link.mark_attached();
        let dispatch = self.router.registry().on_answer(ticket, now());
        self.router.dispatch(dispatch);
    }
}
