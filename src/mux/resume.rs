//! Resumption: what an attachment of the tunnel begins with and what ends it (PROTOCOL 10). Owns the two lists that say what was received, ours
//! and the peer's, and what follows from them; the streams own their offsets.
//!
//! ```text
//!   ours:      none ──resume, unless a fresh one went ahead──► due ──► sending, over several messages ──► none
//!   the peer's: no ──resume──► expected ──RESUME──► being read ──RESUMED──► whole ──other frames──► no
//!                                                     ▲  ▲──RESUME──┘        │
//!                                                     └────────RESUME────────┘ once: the first was made before its sender took over
//! ```
//! From `resume` to the peer's RESUMED nothing flows but lists and credit. Then every stream goes back to what the peer has acknowledged, which
//! is never more than it has: a list that is older than other news costs repetition, and the one that follows it settles the rest.

use std::{collections::VecDeque, time::Instant};

use bytes::BytesMut;

use super::{
    Event, Mux, MuxError, ResetCode, StreamId, TunnelFrame,
    frame::FRAME_MAX,
    stream::{SendHalf, Update},
    transmit::{has_room, put},
};

/// How often the peer may begin its list on an attachment: as a candidate, and once more when it has taken over.
const LISTS_MAX: u8 = 2;

/// What resumption keeps beside the streams.
#[derive(Debug, Default)]
pub struct Resumption {
    /// An attachment has taken over from another before: what comes may repeat what came.
    has_happened: bool,
    /// The peer has not said yet what it received: what was sent before cannot be continued.
    held: bool,
    ours: OurList,
    candidates: Candidates,
    theirs: TheirList,
    /// Lists that the peer has begun, on this attachment and in all.
    begun: u8,
    begun_ever: u64,
}

/// Our list, after we have taken over.
#[derive(Debug, Default)]
enum OurList {
    #[default]
    None,
    Due,
    /// RESUME has left, and these streams are still to be named.
    Sending(VecDeque<StreamId>),
}

/// The lists that candidates carry ahead. The next to take over may be any of them.
#[derive(Debug, Default)]
struct Candidates {
    written: usize,
    /// All of them are whole and still true.
    fresh: bool,
}

/// The peer's list.
#[derive(Debug, Default)]
enum TheirList {
    #[default]
    No,
    Expected,
    Reading(Scope),
    Whole,
}

/// What a list speaks of: the streams of each side below a number.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// Ours that the peer has seen.
    seen: u64,
    /// Its own that it has opened.
    opened: u64,
}

/// The end of the tunnel as a whole.
#[derive(Debug, Default)]
pub struct Closing {
    ours: Option<ResetCode>,
    is_sent: bool,
    ended_by_peer: bool,
}

impl Mux {
    /// Appends the list that a candidate for the next attachment sends first, as much of it as `room` bytes hold. Nothing else changes: the
    /// candidate may never take over. [`Mux::resume`] knows what became untrue since, and has the list sent again then.
    pub fn write_resume(&mut self, out: &mut BytesMut, room: usize) {
        let end = out.len().saturating_add(room);
        let whole = self.put_list(out, end);
        self.resumption.candidates.add(whole);
    }

    /// All candidates that [`Mux::write_resume`] was called for are gone, and none of them will take over: the list of the next one counts alone.
    /// Without this nothing is wrong, but what those carried is taken for what the next one carries, and the list is sent again in vain.
    pub fn drop_candidates(&mut self) {
        self.resumption.candidates = Candidates::default();
    }

    /// Appends the PING that another candidate sends first, one of a new tunnel or of a move.
    pub fn write_ping(&mut self, now: Instant, out: &mut BytesMut) {
        let progress = self.progress();
        TunnelFrame::Ping {
            token: self.round_trip.ping(now, progress),
        }
        .encode(out);
    }

    /// A candidate takes over. What was sent by the attachment before and not acknowledged may be lost; it is sent again when the peer has said
    /// what it received. What the attachment before still delivers must not come here any more.
    pub fn resume(&mut self, now: Instant) {
        self.round_trip.void();
        self.window.delivery().restart(now);
        self.pong = None;
        self.closing.is_sent = false;
        self.resumption.take_over();
        self.queue_updates(now);
        self.settle();
    }

    /// Ends the tunnel: END leaves with the next message, ahead of everything else, and nothing after it. The first code counts.
    pub fn close(&mut self, code: ResetCode) {
        self.closing.ours.get_or_insert(code);
    }

    /// Whether [`Mux::close`] has been called and its END has left.
    #[must_use]
    pub fn is_end_of_tunnel_sent(&self) -> bool {
        self.closing.is_sent
    }

    /// The list as the peer knows our limits already: those to come are told when the attachment has taken over. Says whether all of it had room.
    fn put_list(&self, out: &mut BytesMut, end: usize) -> bool {
        let first = [
            self.beginning(),
            TunnelFrame::TunnelWindow {
                limit: self.window.limit(),
            },
        ];
        let streams = self.listed_streams();
        let windows = streams.iter().filter_map(|&id| {
            let receive = &self.streams.get(&id)?.receive;
            Some(TunnelFrame::Window {
                stream: id,
                received: receive.acknowledgement(),
                limit: receive.limit(),
            })
        });
        for frame in first
            .into_iter()
            .chain(windows)
            .chain([TunnelFrame::Resumed])
        {
            if !has_room(out, end) {
                return false;
            }
            put(out, end, &frame);
        }
        true
    }

    fn beginning(&self) -> TunnelFrame {
        TunnelFrame::Resume {
            seen: self.next_peer,
            opened: self.next_announced,
        }
    }

    /// The streams that a list names, in order: those that the peer has opened or may have seen.
    fn listed_streams(&self) -> VecDeque<StreamId> {
        let known = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.opening.is_announced());
        let mut ids: Vec<StreamId> = known.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids.into()
    }

    /// Our list, or as much of it as the message takes. Says whether it is out.
    pub(super) fn transmit_list(&mut self, now: Instant, out: &mut BytesMut, end: usize) -> bool {
        if matches!(self.resumption.ours, OurList::Due)
            && has_room(out, end.saturating_sub(FRAME_MAX))
        {
            put(out, end, &self.beginning());
            put(
                out,
                end,
                &TunnelFrame::TunnelWindow {
                    limit: self.window.advance_limit(now),
                },
            );
            self.resumption.ours = OurList::Sending(self.listed_streams());
        }
        while let OurList::Sending(streams) = &mut self.resumption.ours {
            if !has_room(out, end) {
                return false;
            }
            match streams.pop_front() {
                Some(id) => self.tell(id, out, end),
                None => {
                    put(out, end, &TunnelFrame::Resumed);
                    self.resumption.ours = OurList::None;
                }
            }
        }
        !self.resumption.is_list_due()
    }

    /// END, if it has not left; nothing else follows.
    pub(super) fn transmit_close(&mut self, out: &mut BytesMut) {
        if let Some(code) = self.closing.due() {
            TunnelFrame::End { code }.encode(out);
            self.closing.is_sent = true;
        }
    }

    pub(super) fn handle_resume(&mut self, seen: u64, opened: u64) -> Result<(), MuxError> {
        if !self.is_local(StreamId(seen)) || self.is_local(StreamId(opened)) {
            return Err(MuxError::Protocol(
                "RESUME with the numbers of the wrong side",
            ));
        }
        if seen > self.next_announced {
            return Err(MuxError::Protocol(
                "RESUME that has seen what was never opened",
            ));
        }
        self.resumption.read(Scope { seen, opened })
    }

    /// WINDOW inside the list.
    pub(super) fn handle_listed(
        &mut self,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<(), MuxError> {
        let TheirList::Reading(Scope { opened, .. }) = self.resumption.theirs else {
            return Ok(());
        };
        if !self.is_local(id) && (self.next_peer..opened).contains(&id.0) {
            // Its OPEN was lost, and is sent again.
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.listed = self.resumption.begun_ever;
        }
        self.handle_window(id, received, limit)
    }

    /// The list is complete: what it does not name is judged, and after the first one of an attachment the flow goes on.
    pub(super) fn handle_resumed(&mut self) -> Result<(), MuxError> {
        let TheirList::Reading(scope) =
            std::mem::replace(&mut self.resumption.theirs, TheirList::Whole)
        else {
            return Err(MuxError::Protocol("RESUMED without RESUME"));
        };
        for id in self.sorted_streams() {
            self.judge(id, scope)?;
        }
        if std::mem::take(&mut self.resumption.held) {
            self.go_on(scope);
        }
        self.settle();
        Ok(())
    }

    /// What it means for a stream that the list does not name it.
    fn judge(&mut self, id: StreamId, scope: Scope) -> Result<(), MuxError> {
        let is_local = self.is_local(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.listed == self.resumption.begun_ever || !stream.opening.is_announced() {
            return Ok(());
        }
        if id.0 >= if is_local { scope.seen } else { scope.opened } {
            // A first list may be older than what has shown since that the peer knows the stream; no other can.
            let is_known = is_local && stream.opening.is_known();
            return if is_known && self.resumption.begun == LISTS_MAX {
                Err(MuxError::Protocol(
                    "RESUME that has not seen what was acknowledged",
                ))
            } else {
                Ok(())
            };
        }
        let ended = stream.receive.end().is_some();
        if !(ended && self.load.track(&mut stream.send, SendHalf::gone)) {
            return Err(MuxError::Protocol(
                "a stream that is forgotten before its end",
            ));
        }
        self.wake(id);
        self.forget_if_over(id);
        Ok(())
    }

    /// Everything that may be lost is to be sent again, in the order of the streams' numbers.
    fn go_on(&mut self, scope: Scope) {
        self.parked.clear();
        self.opens.clear();
        self.ends.clear();
        for id in self.sorted_streams() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.opening.resume(id.0 < scope.seen);
            self.load.track(&mut stream.send, SendHalf::rewind);
            if stream.opening.due().is_some() {
                self.opens.push_back(id);
            } else {
                self.is_to_send(id);
            }
        }
        self.events.push_back(Event::Resumed {
            streams: self.streams.len(),
            again_bytes: self.load.again,
        });
    }

    /// Queues the updates anew: a list may have left some of them behind.
    fn queue_updates(&mut self, now: Instant) {
        self.updates.clear();
        for id in self.sorted_streams() {
            match self
                .streams
                .get(&id)
                .map_or(Update::None, |stream| stream.update)
            {
                Update::Due => self.updates.due.push_back(id),
                Update::Pending => self.updates.defer(id),
                Update::None => {}
            }
        }
        if !self.updates.pending.is_empty() {
            self.updates.expire_soon(now);
        }
    }

    /// All streams, in the order of their numbers: that of the map is another in each run.
    fn sorted_streams(&self) -> Vec<StreamId> {
        let mut ids: Vec<StreamId> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

impl Resumption {
    /// Whether frames may come that came already.
    pub fn has_happened(&self) -> bool {
        self.has_happened
    }

    /// Whether OPEN, DATA, FIN and RESET may be sent.
    pub fn flows(&self) -> bool {
        !self.held
    }

    /// Whether our list, or the rest of it, is to be sent before anything else.
    pub fn is_list_due(&self) -> bool {
        !matches!(self.ours, OurList::None)
    }

    /// Whether the peer's list is on its way.
    #[cfg(test)]
    pub fn reads_list(&self) -> bool {
        matches!(self.theirs, TheirList::Reading(_))
    }

    /// The attachment that works has carried something: what the candidates say of it may be out of date.
    pub fn something_moved(&mut self) {
        self.candidates.fresh = false;
    }

    fn take_over(&mut self) {
        self.ours = if self.candidates.one_takes_over() {
            OurList::None
        } else {
            OurList::Due
        };
        self.theirs = TheirList::Expected;
        self.begun = 0;
        self.held = true;
        self.has_happened = true;
    }

    /// Whether the frame is in state, as far as the peer's list goes; says whether it is in the midst of the list.
    pub fn admit(&mut self, frame: &TunnelFrame) -> Result<bool, MuxError> {
        use TunnelFrame::{End, Ping, Resume, Resumed, TunnelWindow, Window};
        match (&self.theirs, frame) {
            (
                TheirList::Reading(_),
                Resume { .. } | Resumed | Window { .. } | TunnelWindow { .. } | End { .. },
            ) => Ok(true),
            (TheirList::Expected | TheirList::Whole, Resume { .. })
            | (TheirList::Expected, End { .. }) => Ok(false),
            // The tunnel may move to another attachment, which begins with PING, while the list is still on its way.
            (TheirList::Reading(_) | TheirList::Whole, Ping { .. }) => Ok(false),
            (TheirList::Expected | TheirList::Reading(_), _) => Err(MuxError::Protocol(
                "a frame before the list of what was received is complete",
            )),
            (TheirList::No, Resume { .. }) => {
                Err(MuxError::Protocol("RESUME in the midst of an attachment"))
            }
            (TheirList::No | TheirList::Whole, _) => {
                self.theirs = TheirList::No;
                Ok(false)
            }
        }
    }

    fn read(&mut self, scope: Scope) -> Result<(), MuxError> {
        if self.begun >= LISTS_MAX {
            return Err(MuxError::Protocol("RESUME too often"));
        }
        self.begun = self.begun.saturating_add(1);
        self.begun_ever = self.begun_ever.saturating_add(1);
        self.theirs = TheirList::Reading(scope);
        Ok(())
    }
}

impl Candidates {
    fn add(&mut self, whole: bool) {
        self.fresh = whole && (self.fresh || self.written == 0);
        self.written = self.written.saturating_add(1);
    }

    /// Says whether the list that went ahead was whole and is still true. That of another candidate stays behind, and may be the next.
    fn one_takes_over(&mut self) -> bool {
        let fresh = self.fresh && self.written > 0;
        self.written = self.written.saturating_sub(1);
        fresh
    }
}

impl Closing {
    /// The code of an END that is to leave.
    pub fn due(&self) -> Option<ResetCode> {
        self.ours.filter(|_| !self.is_sent)
    }

    /// Whether nothing but END is to be sent.
    pub fn is_over(&self) -> bool {
        self.ours.is_some() || self.ended_by_peer
    }

    /// Whether the peer has sent END.
    pub fn is_ended_by_peer(&self) -> bool {
        self.ended_by_peer
    }

    /// The peer has sent END.
    pub fn ended_by_peer(&mut self) {
        self.ended_by_peer = true;
    }
}
