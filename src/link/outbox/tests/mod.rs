//! Tests of the scheduler and the queue of control frames, without a socket.

mod control;
mod held;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;

use super::{state::CONTROL_OVERHEAD, *};
use crate::{link::channel::Transmit, net::websocket::MessageBody};
use report_proto::frame::{Code, MAX_DATA};

const BULK: usize = 64 * 1024;

/// A channel end that sends queued payloads and records its calls.
#[derive(Default)]
struct ScriptedEnd {
    queue: Mutex<VecDeque<Bytes>>,
    events: Mutex<Vec<String>>,
    /// Called inside `transmit`.
    during_transmit: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl ScriptedEnd {
    fn sending(messages: impl IntoIterator<Item = usize>) -> Arc<Self> {
        let queue = messages
            .into_iter()
            .map(|length| Bytes::from(vec![1; length]))
            .collect();
        Arc::new(ScriptedEnd {
            queue: Mutex::new(queue),
            ..ScriptedEnd::default()
        })
    }

    fn push(&self, length: usize) {
        self.queue.lock().unwrap().push_back(vec![1; length].into());
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

impl ChannelEnd for ScriptedEnd {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        self.events.lock().unwrap().push(format!("{payload:?}"));
        Ok(())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        if let Some(during_transmit) = &*self.during_transmit.lock().unwrap() {
            during_transmit();
        }
        let mut queue = self.queue.lock().unwrap();
        match queue.pop_front() {
            None => Transmit::Nothing,
            Some(message) => {
                let payload = MessageBody::Shared(message);
                if queue.is_empty() {
                    Transmit::Last(payload)
                } else {
                    Transmit::More(payload)
                }
            }
        }
    }

    fn paused(&self, paused: bool) {
        self.events.lock().unwrap().push(format!("paused {paused}"));
    }

    fn closed(&self, notice: Notice) {
        self.events.lock().unwrap().push(format!("closed {notice}"));
    }
}

fn open(outbox: &Outbox, channel: u32, channel_end: &Arc<ScriptedEnd>) {
    outbox.open(channel, channel_end.clone()).unwrap();
    outbox.ready(channel);
}

fn next(outbox: &Outbox) -> Option<Frame> {
    outbox
        .next(&mut BytesMut::new())
        .map(|outgoing| match outgoing {
            Outgoing::Control(message) => Frame::decode(message).unwrap(),
            Outgoing::Data(channel, payload) => Frame::Data {
                channel,
                payload: payload.freeze(),
            },
        })
}

/// Returns the channel and length of the next `count` messages.
fn sent(outbox: &Outbox, count: usize) -> Vec<(u32, usize)> {
    let data = |frame| match frame {
        Frame::Data { channel, payload } => (channel, payload.len()),
        other => panic!("{} where DATA was expected", other.name()),
    };
    (0..count).map_while(|_| next(outbox)).map(data).collect()
}

fn bytes_by_channel(sent: &[(u32, usize)]) -> BTreeMap<u32, usize> {
    let mut bytes = BTreeMap::new();
    for (channel, length) in sent {
        *bytes.entry(*channel).or_default() += length;
    }
    bytes
}

fn gone() -> Notice {
    Notice::new(Code::PeerLost, "")
}

#[test]
fn a_handle_acts_on_its_channel_and_names_its_link() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10]);
    outbox.open(1, channel_end.clone()).unwrap();
    outbox.open(2, ScriptedEnd::sending([])).unwrap();
    let (one, two) = (outbox.handle(1), outbox.handle(2));
    assert!(one.link() == outbox.id() && two.link() == outbox.id());
    assert_ne!(one.link(), Outbox::new().id(), "another link");
    one.ready();
    two.close(&gone());
    one.close_after_drain(&gone());
    assert!(matches!(
        next(&outbox),
        Some(Frame::Close { channel: 2, .. })
    ));
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    assert!(matches!(
        next(&outbox),
        Some(Frame::Close { channel: 1, .. })
    ));
    // Nothing is left to close.
    one.close(&gone());
    assert!(outbox.is_empty() && next(&outbox).is_none());
}

#[test]
fn channel_ends_get_equal_bytes_for_any_message_size() {
    let outbox = Outbox::new();
    open(&outbox, 1, &ScriptedEnd::sending([BULK; 500]));
    open(&outbox, 2, &ScriptedEnd::sending([1000; 50_000]));
    open(&outbox, 3, &ScriptedEnd::sending([MAX_DATA; 500]));
    let mut bytes = BTreeMap::new();
    while bytes.values().sum::<usize>() < 20 << 20 {
        bytes = bytes_by_channel(&[sent(&outbox, 1), bytes.into_iter().collect()].concat());
    }
    let (least, most) = (bytes.values().min().unwrap(), bytes.values().max().unwrap());
    assert!(
        bytes.len() == 3 && most - least <= 2 * MAX_DATA,
        "{bytes:?}"
    );
}

#[test]
fn new_channel_end_precedes_busy_ones() {
    let outbox = Outbox::new();
    for channel in 1..=50 {
        open(&outbox, channel, &ScriptedEnd::sending([BULK; 100]));
    }
    sent(&outbox, 75);
    open(&outbox, 99, &ScriptedEnd::sending([200]));
    assert_eq!(sent(&outbox, 1), [(99, 200)]);
}

#[test]
fn channel_end_that_is_marked_repeatedly_does_not_starve_others() {
    let outbox = Outbox::new();
    let eager = ScriptedEnd::sending([]);
    outbox.open(1, eager.clone()).unwrap();
    open(&outbox, 2, &ScriptedEnd::sending([BULK; 100]));
    let mut all = Vec::new();
    for _ in 0..100 {
        eager.push(BULK);
        outbox.ready(1);
        all.extend(sent(&outbox, 1));
    }
    let bytes = bytes_by_channel(&all);
    assert!(bytes[&2] >= 40 * BULK, "{bytes:?}");
}

#[test]
fn channel_end_transmits_only_after_ready_mark() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10]);
    outbox.open(1, channel_end.clone()).unwrap();
    assert_eq!(next(&outbox), None);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 2), [(1, 10)]);
    channel_end.push(20);
    assert_eq!(next(&outbox), None);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 2), [(1, 20)]);
}

#[test]
fn ready_mark_during_transmit_is_not_lost() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10]);
    open(&outbox, 1, &channel_end);
    let (inside, weak): (_, Weak<ScriptedEnd>) = (outbox.clone(), Arc::downgrade(&channel_end));
    let first_call = AtomicBool::new(true);
    *channel_end.during_transmit.lock().unwrap() = Some(Box::new(move || {
        if first_call.swap(false, Ordering::Relaxed) {
            inside.ready(1);
            assert!(weak.upgrade().is_some());
        }
    }));
    // The channel end returns `Last` for the first payload, but it was marked ready during the
    // call.
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    channel_end.push(30);
    assert_eq!(sent(&outbox, 1), [(1, 30)]);
}

#[test]
fn channel_end_can_call_outbox_during_transmit() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10, 10]);
    open(&outbox, 1, &channel_end);
    let inside = outbox.clone();
    *channel_end.during_transmit.lock().unwrap() = Some(Box::new(move || {
        inside.ready(1);
        inside.control(&Frame::Pause(1));
        assert!(inside.channel_end(1).is_some());
        inside.close(1, &gone());
    }));
    // The payload of the call in which the channel end closes its channel is still sent, ahead of
    // CLOSE.
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    assert_eq!(next(&outbox), Some(Frame::Pause(1)));
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
    assert_eq!(next(&outbox), None);
    assert!(channel_end.events().is_empty() && outbox.is_empty());
}

#[test]
fn paused_lane_is_skipped_until_resumed() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10, 11, 12]);
    open(&outbox, 1, &channel_end);
    open(&outbox, 2, &ScriptedEnd::sending([20]));
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    outbox.on_peer_pause(1, true);
    outbox.on_peer_pause(1, true);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 5), [(2, 20)]);
    outbox.on_peer_pause(1, false);
    assert_eq!(sent(&outbox, 5), [(1, 11), (1, 12)]);
    assert_eq!(channel_end.events(), ["paused true", "paused false"]);
}

#[test]
fn channel_end_marked_while_paused_transmits_after_resume() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([]);
    open(&outbox, 1, &channel_end);
    assert_eq!(next(&outbox), None);
    outbox.on_peer_pause(1, true);
    channel_end.push(5);
    outbox.ready(1);
    assert_eq!(next(&outbox), None);
    outbox.on_peer_pause(1, false);
    assert_eq!(sent(&outbox, 5), [(1, 5)]);
}

#[test]
fn close_discards_unsent_data_without_callback() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10, 11]);
    open(&outbox, 1, &channel_end);
    outbox.close(1, &gone());
    outbox.close(1, &gone());
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
    assert_eq!(next(&outbox), None);
    assert!(channel_end.events().is_empty());
    assert_eq!(
        Arc::strong_count(&channel_end),
        1,
        "the channel end is dropped"
    );
}

#[test]
fn close_after_drain_follows_last_data() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10, BULK, BULK, 13]);
    open(&outbox, 1, &channel_end);
    outbox.close_after_drain(1, &gone());
    assert!(
        outbox.receiving_end(1).is_none(),
        "a draining channel end receives nothing"
    );
    assert_eq!(sent(&outbox, 4), [(1, 10), (1, BULK), (1, BULK), (1, 13)]);
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
    assert_eq!(next(&outbox), None);
    assert!(channel_end.events().is_empty() && outbox.is_empty());
}

#[test]
fn close_after_drain_waits_for_resume() {
    let outbox = Outbox::new();
    open(&outbox, 1, &ScriptedEnd::sending([10]));
    outbox.on_peer_pause(1, true);
    outbox.close_after_drain(1, &gone());
    assert_eq!(next(&outbox), None);
    outbox.on_peer_pause(1, false);
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
}

#[test]
fn close_after_drain_closes_idle_lane_immediately() {
    let outbox = Outbox::new();
    outbox.open(1, ScriptedEnd::sending([])).unwrap();
    outbox.close_after_drain(1, &gone());
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
    assert!(outbox.is_empty());
}

#[test]
fn close_from_peer_calls_lane_once() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([10]);
    open(&outbox, 1, &channel_end);
    outbox.on_peer_close(1, gone());
    outbox.on_peer_close(1, gone());
    outbox.finish(&gone());
    assert_eq!(channel_end.events(), ["closed peer_lost"]);
    assert_eq!(next(&outbox), None);
}

#[test]
fn channel_in_use_cannot_be_opened() {
    let outbox = Outbox::new();
    outbox.open(1, ScriptedEnd::sending([])).unwrap();
    assert_eq!(
        outbox.open(1, ScriptedEnd::sending([])),
        Err(OpenError::InUse(1))
    );
    assert_eq!(outbox.len(), 1);
}

#[test]
fn finish_closes_each_lane_once_and_prevents_open() {
    let outbox = Outbox::new();
    let (channel_end, draining) = (ScriptedEnd::sending([]), ScriptedEnd::sending([10]));
    outbox.open(1, channel_end.clone()).unwrap();
    open(&outbox, 2, &draining);
    outbox.close_after_drain(2, &gone());
    outbox.finish(&gone());
    outbox.finish(&gone());
    assert_eq!(channel_end.events(), ["closed peer_lost"]);
    assert!(
        draining.events().is_empty(),
        "this side had already closed it"
    );
    assert_eq!(outbox.open(3, channel_end), Err(OpenError::Ended(gone())));
    outbox.control(&Frame::Pause(1));
    assert_eq!(next(&outbox), None);
}

#[test]
fn oversized_payload_closes_channel_alone() {
    let outbox = Outbox::new();
    let channel_end = ScriptedEnd::sending([MAX_DATA + 1]);
    open(&outbox, 1, &channel_end);
    open(&outbox, 2, &ScriptedEnd::sending([20]));
    assert!(matches!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: Notice {
                code: Code::Limit,
                ..
            }
        })
    ));
    assert_eq!(sent(&outbox, 1), [(2, 20)]);
    assert_eq!(channel_end.events().len(), 1);
}

#[test]
fn wait_ends_when_the_link_has_moved_enough() {
    use futures_util::FutureExt;

    let outbox = Outbox::new();
    outbox.count_moved(1000);
    let mut wait = std::pin::pin!(outbox.wait_until_moved(100));
    assert_eq!(wait.as_mut().now_or_never(), None);
    outbox.count_moved(99);
    assert_eq!(wait.as_mut().now_or_never(), None);
    outbox.count_moved(1);
    assert_eq!(wait.as_mut().now_or_never(), Some(()));
}
