//! The order of sending, lane by lane, without a socket.

use std::{
    collections::BTreeMap,
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

const BULK: usize = 64 * 1024;

/// A lane that sends what it was given and notes what it hears.
#[derive(Default)]
struct Scripted {
    queue: Mutex<VecDeque<Bytes>>,
    heard: Mutex<Vec<String>>,
    /// Runs inside `transmit`.
    meanwhile: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Scripted {
    fn sending(messages: impl IntoIterator<Item = usize>) -> Arc<Self> {
        let queue = messages
            .into_iter()
            .map(|length| Bytes::from(vec![1; length]))
            .collect();
        Arc::new(Scripted {
            queue: Mutex::new(queue),
            ..Scripted::default()
        })
    }

    fn push(&self, length: usize) {
        self.queue.lock().unwrap().push_back(vec![1; length].into());
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl Lane for Scripted {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        self.heard.lock().unwrap().push(format!("{payload:?}"));
        Ok(())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        if let Some(meanwhile) = &*self.meanwhile.lock().unwrap() {
            meanwhile();
        }
        let mut queue = self.queue.lock().unwrap();
        match queue.pop_front() {
            None => Transmit::Nothing,
            Some(message) => {
                let payload = Body::Shared(message);
                if queue.is_empty() {
                    Transmit::Last(payload)
                } else {
                    Transmit::More(payload)
                }
            }
        }
    }

    fn paused(&self, paused: bool) {
        self.heard.lock().unwrap().push(format!("paused {paused}"));
    }

    fn closed(&self, notice: Notice) {
        self.heard.lock().unwrap().push(format!("closed {notice}"));
    }
}

fn open(outbox: &Outbox, channel: u32, lane: &Arc<Scripted>) {
    outbox.open(channel, lane.clone()).unwrap();
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

/// The channel and length of the next `count` messages.
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
fn control_frames_go_before_data_in_their_own_order() {
    let outbox = Outbox::new();
    open(&outbox, 1, &Scripted::sending([10, 10]));
    assert!(matches!(next(&outbox), Some(Frame::Data { .. })));
    outbox.control(&Frame::Pause(7));
    outbox.control(&Frame::Resume(7));
    assert_eq!(next(&outbox), Some(Frame::Pause(7)));
    assert_eq!(next(&outbox), Some(Frame::Resume(7)));
    assert!(matches!(next(&outbox), Some(Frame::Data { .. })));
    assert_eq!(next(&outbox), None);
}

#[test]
fn lanes_share_by_bytes_whatever_the_size_of_their_messages() {
    let outbox = Outbox::new();
    open(&outbox, 1, &Scripted::sending([BULK; 500]));
    open(&outbox, 2, &Scripted::sending([1000; 50_000]));
    open(&outbox, 3, &Scripted::sending([MAX_DATA; 500]));
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
fn a_lane_that_had_nothing_goes_ahead_of_those_that_always_have_something() {
    let outbox = Outbox::new();
    for channel in 1..=50 {
        open(&outbox, channel, &Scripted::sending([BULK; 100]));
    }
    sent(&outbox, 75);
    open(&outbox, 99, &Scripted::sending([200]));
    assert_eq!(sent(&outbox, 1), [(99, 200)]);
}

#[test]
fn a_lane_that_is_marked_again_and_again_does_not_starve_the_others() {
    let outbox = Outbox::new();
    let eager = Scripted::sending([]);
    outbox.open(1, eager.clone()).unwrap();
    open(&outbox, 2, &Scripted::sending([BULK; 100]));
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
fn a_lane_is_asked_only_after_it_was_marked_ready() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10]);
    outbox.open(1, lane.clone()).unwrap();
    assert_eq!(next(&outbox), None);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 2), [(1, 10)]);
    lane.push(20);
    assert_eq!(next(&outbox), None);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 2), [(1, 20)]);
}

#[test]
fn being_marked_during_transmit_is_not_forgotten() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10]);
    open(&outbox, 1, &lane);
    let (inside, weak): (_, Weak<Scripted>) = (outbox.clone(), Arc::downgrade(&lane));
    let once = AtomicBool::new(true);
    *lane.meanwhile.lock().unwrap() = Some(Box::new(move || {
        if once.swap(false, Ordering::Relaxed) {
            inside.ready(1);
            assert!(weak.upgrade().is_some());
        }
    }));
    // `Last` is what the lane says of the first; the mark came in between.
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    lane.push(30);
    assert_eq!(sent(&outbox, 1), [(1, 30)]);
}

#[test]
fn a_lane_may_use_its_outbox_from_inside() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10, 10]);
    open(&outbox, 1, &lane);
    let inside = outbox.clone();
    *lane.meanwhile.lock().unwrap() = Some(Box::new(move || {
        inside.ready(1);
        inside.control(&Frame::Pause(1));
        assert!(inside.lane(1).is_some());
        inside.close(1, &gone());
    }));
    // What it appended before it closed itself is still sent, ahead of the CLOSE.
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
    assert!(lane.heard().is_empty() && outbox.is_empty());
}

#[test]
fn a_paused_lane_is_passed_over_until_it_is_resumed() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10, 11, 12]);
    open(&outbox, 1, &lane);
    open(&outbox, 2, &Scripted::sending([20]));
    assert_eq!(sent(&outbox, 1), [(1, 10)]);
    outbox.paused_by_peer(1, true);
    outbox.paused_by_peer(1, true);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 5), [(2, 20)]);
    outbox.paused_by_peer(1, false);
    assert_eq!(sent(&outbox, 5), [(1, 11), (1, 12)]);
    assert_eq!(lane.heard(), ["paused true", "paused false"]);
}

#[test]
fn a_lane_marked_while_paused_is_asked_after_the_resume() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([]);
    open(&outbox, 1, &lane);
    assert_eq!(next(&outbox), None);
    outbox.paused_by_peer(1, true);
    lane.push(5);
    outbox.ready(1);
    assert_eq!(next(&outbox), None);
    outbox.paused_by_peer(1, false);
    assert_eq!(sent(&outbox, 5), [(1, 5)]);
}

#[test]
fn close_overtakes_what_the_lane_had_and_says_nothing_to_it() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10, 11]);
    open(&outbox, 1, &lane);
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
    assert!(lane.heard().is_empty());
    assert_eq!(Arc::strong_count(&lane), 1, "the lane is let go");
}

#[test]
fn close_after_drain_follows_the_last_data() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10, BULK, BULK, 13]);
    open(&outbox, 1, &lane);
    outbox.close_after_drain(1, &gone());
    assert!(outbox.receiver(1).is_none(), "it receives nothing any more");
    assert_eq!(sent(&outbox, 4), [(1, 10), (1, BULK), (1, BULK), (1, 13)]);
    assert_eq!(
        next(&outbox),
        Some(Frame::Close {
            channel: 1,
            notice: gone()
        })
    );
    assert_eq!(next(&outbox), None);
    assert!(lane.heard().is_empty() && outbox.is_empty());
}

#[test]
fn close_after_drain_waits_for_a_resume() {
    let outbox = Outbox::new();
    open(&outbox, 1, &Scripted::sending([10]));
    outbox.paused_by_peer(1, true);
    outbox.close_after_drain(1, &gone());
    assert_eq!(next(&outbox), None);
    outbox.paused_by_peer(1, false);
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
fn close_after_drain_of_an_idle_lane_closes_at_once() {
    let outbox = Outbox::new();
    outbox.open(1, Scripted::sending([])).unwrap();
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
fn a_close_from_the_peer_is_heard_once() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([10]);
    open(&outbox, 1, &lane);
    outbox.closed_by_peer(1, gone());
    outbox.closed_by_peer(1, gone());
    outbox.finish(&gone());
    assert_eq!(lane.heard(), ["closed peer_lost"]);
    assert_eq!(next(&outbox), None);
}

#[test]
fn a_number_in_use_cannot_be_opened_again() {
    let outbox = Outbox::new();
    outbox.open(1, Scripted::sending([])).unwrap();
    assert_eq!(
        outbox.open(1, Scripted::sending([])),
        Err(OpenError::InUse(1))
    );
    assert_eq!(outbox.len(), 1);
}

#[test]
fn at_the_end_each_lane_hears_of_it_once_and_nothing_opens_any_more() {
    let outbox = Outbox::new();
    let (lane, draining) = (Scripted::sending([]), Scripted::sending([10]));
    outbox.open(1, lane.clone()).unwrap();
    open(&outbox, 2, &draining);
    outbox.close_after_drain(2, &gone());
    outbox.finish(&gone());
    outbox.finish(&gone());
    assert_eq!(lane.heard(), ["closed peer_lost"]);
    assert!(
        draining.heard().is_empty(),
        "this side had closed it already"
    );
    assert_eq!(outbox.open(3, lane), Err(OpenError::Ended(gone())));
    outbox.control(&Frame::Pause(1));
    assert_eq!(next(&outbox), None);
}

#[test]
fn too_many_control_frames_for_a_peer_that_does_not_read_end_the_link() {
    let outbox = Outbox::new();
    let waker = Waker::noop();
    for channel in 0..10_000 {
        outbox.control(&Frame::Pause(channel));
    }
    assert_eq!(outbox.attend(waker), None);
    for channel in 0..10_000 {
        outbox.control(&Frame::Pause(channel));
    }
    assert_eq!(
        outbox.attend(waker).map(|notice| notice.code),
        Some(Code::Limit)
    );
}

#[test]
fn all_of_many_channels_can_be_closed_at_once() {
    let outbox = Outbox::new();
    for channel in 0..20_000 {
        outbox.open(channel, Scripted::sending([])).unwrap();
    }
    for channel in 0..20_000 {
        outbox.close(
            channel,
            &Notice::new(
                Code::PeerLost,
                "the link at the other side of the channel ended",
            ),
        );
    }
    assert_eq!(outbox.attend(Waker::noop()), None);
}

#[test]
fn the_first_who_asks_for_the_end_is_heard() {
    let outbox = Outbox::new();
    outbox.end(Notice::new(Code::Superseded, ""));
    outbox.end(Notice::new(Code::Shutdown, ""));
    assert_eq!(
        outbox.attend(Waker::noop()).map(|notice| notice.code),
        Some(Code::Superseded)
    );
}

#[test]
fn a_payload_that_the_peer_would_not_take_closes_the_channel_alone() {
    let outbox = Outbox::new();
    let lane = Scripted::sending([MAX_DATA + 1]);
    open(&outbox, 1, &lane);
    open(&outbox, 2, &Scripted::sending([20]));
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
    assert_eq!(lane.heard().len(), 1);
}

#[derive(Default)]
struct Account(std::sync::atomic::AtomicUsize);

impl Ledger for Account {
    fn charge(&self, bytes: usize) {
        self.0
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.0
            .fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Account {
    fn charged(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn only_the_last_of_the_pings_that_wait_is_answered() {
    let outbox = Outbox::new();
    outbox.pong(1);
    outbox.control(&Frame::Pause(7));
    for token in 2..100_000 {
        outbox.pong(token);
    }
    assert_eq!(next(&outbox), Some(Frame::Pong(99_999)));
    assert_eq!(next(&outbox), Some(Frame::Pause(7)));
    assert_eq!(next(&outbox), None);
    assert_eq!(outbox.control_waiting_bytes(), 0);
}

#[test]
fn waiting_control_frames_are_charged_until_they_leave_or_the_outbox_is_gone() {
    let account = Arc::new(Account::default());
    let outbox = Outbox::charged_to(account.clone());
    (0..100).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    assert_eq!(account.charged(), 100 * (5 + CONTROL_OVERHEAD));
    next(&outbox);
    assert_eq!(account.charged(), 99 * (5 + CONTROL_OVERHEAD));
    drop(outbox);
    assert_eq!(account.charged(), 0);
}

#[test]
fn only_answers_clog_an_outbox() {
    let outbox = Outbox::new();
    (0..1_000).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    assert!(!outbox.is_clogged(), "others caused them");
    outbox.set_answering(true);
    (0..1_000).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    outbox.set_answering(false);
    assert!(outbox.is_clogged());
    while next(&outbox).is_some() {}
    assert!(!outbox.is_clogged());
}
