//! The number of lanes that the server asks for (PROTOCOL 10.6.1). The client decides about it, and
//! opens the lanes. The largest request number is the latest request: frames of several lanes arrive
//! in any order.

use super::{Mux, MuxError, MuxEvent, TunnelFrame, TunnelSide};

/// The requests of both ends.
#[derive(Debug, Default)]
pub(super) struct LaneRequest {
    /// The latest request of this end: its number, from 1 on, and the lanes.
    own: Option<(u64, u64)>,
    /// Whether it is to be sent, for the first time or after a loss.
    is_due: bool,
    /// The latest request of the peer. Number 0 stands for none.
    by_peer: (u64, u64),
}

impl LaneRequest {
    /// Sets the wanted number. Nothing is sent until it differs from one.
    fn set(&mut self, lanes: u64) {
        let (number, wanted) = self.own.unwrap_or((0, 1));
        if lanes != wanted {
            self.own = Some((number.saturating_add(1), lanes));
            self.is_due = true;
        }
    }

    /// Returns whether a request is to be sent.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Returns the request to send now.
    pub(super) fn take_due(&mut self) -> Option<TunnelFrame> {
        let is_due = std::mem::take(&mut self.is_due);
        let (number, lanes) = self.own.filter(|_| is_due)?;
        Some(TunnelFrame::Lanes { number, lanes })
    }

    /// Sends the latest request again: a lane ended, which may have carried it.
    pub(super) fn send_again(&mut self) {
        self.is_due = self.own.is_some();
    }

    /// Records a request of the peer. Returns whether it is newer than those before.
    fn on_request(&mut self, number: u64, lanes: u64) -> bool {
        let is_newer = number > self.by_peer.0;
        if is_newer {
            self.by_peer = (number, lanes);
        }
        is_newer
    }
}

impl Mux {
    /// Asks the client for this number of lanes. The server calls it, and only if the client knows
    /// LANES. A tunnel begins with one lane, for which nothing is sent.
    pub fn request_lanes(&mut self, lanes: u64) {
        self.lane_request.set(lanes.max(1));
    }

    /// Returns how many lanes the server asks for, at least one. The caller bounds it.
    #[must_use]
    pub fn requested_lanes(&self) -> u64 {
        self.lane_request.by_peer.1.max(1)
    }

    pub(super) fn handle_lanes(&mut self, number: u64, lanes: u64) -> Result<(), MuxError> {
        if self.side == TunnelSide::Server {
            return Err(MuxError::Protocol("LANES from a client"));
        }
        // One event suffices for all requests of a message.
        let is_newer = self.lane_request.on_request(number, lanes);
        if is_newer && self.events.back() != Some(&MuxEvent::LanesRequested) {
            self.events.push_back(MuxEvent::LanesRequested);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::mux::{LaneId, Parameters, PeerGrant, WindowSize};

    const WINDOW: WindowSize = WindowSize {
        initial: 65_536,
        max: 65_536,
    };

    fn mux(side: TunnelSide, now: Instant) -> Mux {
        let parameters = Parameters {
            stream_window: WINDOW,
            tunnel_window: WINDOW,
            streams_max: 8,
            flows_max: 0,
            max_delay: Duration::from_millis(200),
        };
        let grant = PeerGrant {
            stream_window: WINDOW.initial,
            tunnel_window: WINDOW.initial,
        };
        Mux::new(side, parameters, grant, now)
    }

    /// Returns the messages that the mux sends now on a lane.
    fn messages(mux: &mut Mux, now: Instant, lane: LaneId) -> Vec<Bytes> {
        std::iter::from_fn(|| {
            let mut out = BytesMut::new();
            mux.poll_transmit(now, lane, &mut out, 65_536)
                .then(|| out.freeze())
        })
        .collect()
    }

    fn events(mux: &mut Mux) -> Vec<MuxEvent> {
        std::iter::from_fn(|| mux.poll_event()).collect()
    }

    #[test]
    fn the_client_learns_the_latest_number() {
        let now = Instant::now();
        let (mut server, mut client) = (mux(TunnelSide::Server, now), mux(TunnelSide::Client, now));
        server.request_lanes(1);
        assert!(!server.has_transmit(LaneId::FIRST), "one is the default");
        server.request_lanes(4);
        assert!(server.has_transmit(LaneId::FIRST));
        let first = messages(&mut server, now, LaneId::FIRST);
        server.request_lanes(4);
        assert!(!server.has_transmit(LaneId::FIRST), "the same again");
        server.request_lanes(2);
        let second = messages(&mut server, now, LaneId::FIRST);
        // The messages of two lanes may arrive in any order.
        for message in second.into_iter().chain(first) {
            client.handle_message(now, LaneId::FIRST, message).unwrap();
            assert_eq!(client.requested_lanes(), 2);
        }
        assert_eq!(events(&mut client), [MuxEvent::LanesRequested]);
    }

    #[test]
    fn a_request_is_sent_again_after_the_loss_of_a_lane() {
        let now = Instant::now();
        let (mut server, mut client) = (mux(TunnelSide::Server, now), mux(TunnelSide::Client, now));
        let second = LaneId(1);
        server.add_lane(now, second);
        client.add_lane(now, second);
        server.request_lanes(8);
        assert!(!messages(&mut server, now, LaneId::FIRST).is_empty());
        server.lose_lane(now, LaneId::FIRST);
        for message in messages(&mut server, now, second) {
            client.handle_message(now, second, message).unwrap();
        }
        assert_eq!(client.requested_lanes(), 8);
        server.resume(now, LaneId(2));
        assert!(server.lane_request.is_due(), "after a resumption too");
    }

    #[test]
    fn a_client_must_not_ask_for_lanes() {
        let now = Instant::now();
        let (mut server, mut client) = (mux(TunnelSide::Server, now), mux(TunnelSide::Client, now));
        client.request_lanes(4);
        let message = messages(&mut client, now, LaneId::FIRST).remove(0);
        assert!(server.handle_message(now, LaneId::FIRST, message).is_err());
    }
}
