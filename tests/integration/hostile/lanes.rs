//! Clients that hold a port key and abuse the lanes of their tunnel.

use std::mem;

use bytes::Bytes;
use report_proto::{
    crypto::{PortKeys, TunnelSecret},
    frame::{Code, Frame, Notice},
};
use serde_json::json;

use super::{Bystander, KIB, LOG_LIMIT, MIB, tunnel};
use crate::support::{
    attack::{HostileLink, RawTunnel, ResourceMonitor, tunnel_frames},
    tunnel::Tunnel,
};

/// An attacker's tunnel with two lanes, on the channels 1 and 2 of its link.
struct TwoLanes {
    keys: PortKeys,
    link: HostileLink,
    first: RawTunnel,
    second: RawTunnel,
}

impl TwoLanes {
    fn start(tunnel: &Tunnel) -> TwoLanes {
        let keys = PortKeys::derive(&tunnel.probe().key);
        let mut link = HostileLink::connect(tunnel.testbed.master_address());
        let mut first = RawTunnel::attach(&mut link, 1, &keys);
        first.wait_processed(&mut link);
        let mut second = first.join(&mut link, 2, &keys, 1);
        // The first message on the new channel makes it a lane.
        let message = second.sealed(&tunnel_frames::ping(1));
        link.send([message]);
        TwoLanes {
            keys,
            link,
            first,
            second,
        }
    }

    /// Adds a lane. Returns it.
    fn join(&mut self, channel: u32, attempt: u64) -> RawTunnel {
        let mut lane = self
            .first
            .join(&mut self.link, channel, &self.keys, attempt);
        let message = lane.sealed(&tunnel_frames::ping(1));
        self.link.send([message]);
        lane
    }

    /// The last ATTACH again, on another channel.
    fn replayed(&self, channel: u32) -> Frame {
        let Some(Frame::Attach {
            header, message, ..
        }) = self.link.last_attach.clone()
        else {
            panic!("a lane was attached");
        };
        Frame::Attach {
            channel,
            header,
            message,
        }
    }

    /// Sends a message on the first lane, and waits until the server has processed it.
    fn send_first(&mut self, message: &[u8]) {
        let message = self.first.sealed(message);
        self.link.send([message]);
        self.wait_processed();
    }

    fn send_second(&mut self, message: &[u8]) {
        let message = self.second.sealed(message);
        self.link.send([message]);
    }

    /// Waits until the server has processed everything that was sent on the first lane.
    fn wait_processed(&mut self) {
        let lanes = &mut [&mut self.first, &mut self.second];
        RawTunnel::wait_processed_on(&mut self.link, lanes);
    }

    /// The same, if the tunnel has these lanes too.
    fn wait_processed_beside(&mut self, others: &mut [RawTunnel]) {
        let mut lanes = vec![&mut self.first, &mut self.second];
        lanes.extend(others);
        RawTunnel::wait_processed_on(&mut self.link, &mut lanes);
    }

    #[track_caller]
    fn close_code(&mut self, channel: u32) -> Code {
        self.link.wait_until("the channel is closed", |link| {
            link.closed.get(&channel).copied()
        })
    }
}

#[test]
fn empty_messages_on_a_second_lane_end_the_tunnel() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    let monitor = ResourceMonitor::start(&tunnel.server);
    let messages: Vec<Frame> = (0..10_000).map(|_| attack.second.sealed(b"")).collect();
    attack.link.send(messages);
    assert_eq!(attack.close_code(2), Code::Protocol);
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.server);
    assert!(
        cost.memory < 8 * MIB && cost.files < 100 && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
}

#[test]
fn pieces_behind_gaps_of_two_lanes_are_bounded() {
    const STREAMS: u64 = 64;
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    let opens: Vec<Vec<u8>> = (0..STREAMS)
        .map(|stream| tunnel_frames::open(2 * stream, b""))
        .collect();
    attack.send_first(&opens.concat());
    let monitor = ResourceMonitor::start(&tunnel.server);
    // Every second byte of the first 16 KiB of each stream, so that no gap ever closes.
    let pieces = (0..16 * KIB / 2).flat_map(|piece| {
        (0..STREAMS).map(move |stream| tunnel_frames::data(2 * stream, 2 * piece + 1, b"x"))
    });
    let mut frames = pieces.collect::<Vec<_>>().into_iter();
    while attack.link.wait_until_sendable(2) {
        let batch: Vec<Vec<u8>> = frames.by_ref().take(1000).collect();
        assert!(!batch.is_empty(), "the server sets no bound");
        attack.send_second(&batch.concat());
    }
    assert_eq!(
        attack.link.closed.get(&2),
        Some(&Code::Protocol),
        "{:?}",
        attack.link.closed
    );
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.server);
    assert!(
        cost.memory < 16 * MIB && cost.files < 200 && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
}

#[test]
fn lanes_may_repeat_bytes_of_each_other_but_not_contradict_them() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    attack.send_first(&tunnel_frames::open(0, b""));
    // Behind a gap, so that the server holds the bytes and can compare others with them.
    attack.send_first(&tunnel_frames::data(0, 100, b"abcdefgh"));
    attack.send_second(&tunnel_frames::data(0, 102, b"cdefghij"));
    attack.wait_processed();
    assert!(attack.link.closed.is_empty(), "{:?}", attack.link.closed);
    attack.send_second(&tunnel_frames::data(0, 104, b"XXXX"));
    assert_eq!(attack.close_code(2), Code::Protocol);
    bystander.assert_served(&tunnel);
}

#[test]
fn a_lane_with_a_wrong_secret_is_refused_and_changes_nothing() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    let wrong = TunnelSecret::from_bytes([7; 32]);
    let secret = mem::replace(&mut attack.first.secret, wrong);
    let _thief = attack.join(3, 2);
    assert_eq!(attack.close_code(3), Code::Seal);
    attack.wait_processed();
    assert_eq!(attack.link.closed.len(), 1, "{:?}", attack.link.closed);
    // The number of the attempt is still free, too.
    attack.first.secret = secret;
    let _owner = attack.join(4, 2);
    attack.wait_processed();
    assert_eq!(attack.link.closed.len(), 1, "{:?}", attack.link.closed);
    bystander.assert_served(&tunnel);
}

#[test]
fn a_replayed_lane_is_refused_during_its_life_and_after_it() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    attack.wait_processed();
    let [during, after] = [3, 4].map(|channel| attack.replayed(channel));
    attack.link.send([during]);
    assert_eq!(attack.close_code(3), Code::Superseded);
    attack.wait_processed();
    assert_eq!(attack.link.closed.len(), 1, "{:?}", attack.link.closed);
    let notice = Notice::new(Code::Cancelled, "");
    attack.link.send([Frame::Close { channel: 2, notice }]);
    attack.wait_processed();
    attack.link.send([after]);
    assert_eq!(attack.close_code(4), Code::Superseded);
    attack.wait_processed();
    bystander.assert_served(&tunnel);
}

#[test]
fn a_replay_beside_an_unproven_lane_does_not_end_that_lane() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    attack.wait_processed();
    let mut lane = attack.first.join(&mut attack.link, 3, &attack.keys, 2);
    // The attempt has not taken over yet, so the server answers the replay.
    let replayed = attack.replayed(4);
    attack.link.send([replayed]);
    attack.link.wait_until("the replay is answered", |link| {
        link.has_data(4).then_some(())
    });
    let message = lane.sealed(&tunnel_frames::ping(1));
    attack.link.send([message]);
    attack.wait_processed();
    attack.link.send([Frame::Data {
        channel: 4,
        payload: Bytes::from_static(&[7; 64]),
    }]);
    assert_eq!(attack.close_code(4), Code::Seal);
    attack.wait_processed();
    assert_eq!(attack.link.closed.len(), 1, "{:?}", attack.link.closed);
    bystander.assert_served(&tunnel);
    let log = tunnel.server.log();
    assert!(!log.contains("tunnel lost one of its links"), "{log}");
}

#[test]
fn attempts_to_attach_very_many_lanes_are_refused() {
    const LANES: u64 = 17;
    const ATTEMPTS: u64 = 10_000;
    /// The attempts that wait for an answer at the same time.
    const BATCH: usize = 100;
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let mut attack = TwoLanes::start(&tunnel);
    let channel = |attempt: u64| 1 + attempt as u32;
    let mut lanes: Vec<RawTunnel> = (2..LANES)
        .map(|attempt| attack.join(channel(attempt), attempt))
        .collect();
    attack.wait_processed_beside(&mut lanes);
    let monitor = ResourceMonitor::start(&tunnel.server);
    let attempts: Vec<u64> = (LANES..LANES + ATTEMPTS).collect();
    for batch in attempts.chunks(BATCH) {
        for &attempt in batch {
            let (link, keys) = (&mut attack.link, &attack.keys);
            attack
                .first
                .request_lane(link, channel(attempt), keys, attempt);
        }
        attack.link.wait_until("the attempts are refused", |link| {
            let is_closed = |attempt: &u64| link.closed.contains_key(&channel(*attempt));
            batch.iter().all(is_closed).then_some(())
        });
    }
    let codes: Vec<&Code> = attack.link.closed.values().collect();
    assert_eq!(codes.len() as u64, ATTEMPTS);
    assert!(codes.iter().all(|code| **code == Code::Refused));
    attack.wait_processed_beside(&mut lanes);
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.server);
    assert!(
        cost.memory < 8 * MIB && cost.files < 100 && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
}
