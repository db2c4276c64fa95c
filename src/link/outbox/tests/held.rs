//! Tests of channels that a rate limit holds back.

use super::*;

/// A channel end that sends one payload of one byte for each permit, and is held without one.
#[derive(Default)]
struct LimitedEnd {
    waiting: AtomicUsize,
    permits: AtomicUsize,
    calls: AtomicUsize,
    /// Called when the end is about to return `Held`.
    while_held: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl LimitedEnd {
    fn with(waiting: usize) -> Arc<Self> {
        Arc::new(LimitedEnd {
            waiting: AtomicUsize::new(waiting),
            ..LimitedEnd::default()
        })
    }

    fn permit(&self, permits: usize) {
        self.permits.fetch_add(permits, Ordering::Relaxed);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl ChannelEnd for LimitedEnd {
    fn receive(&self, _payload: BytesMut) -> Result<(), Notice> {
        Ok(())
    }

    fn transmit(&self, _memory: &mut BytesMut) -> Transmit {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting == 0 {
            return Transmit::Nothing;
        }
        let permits = self.permits.load(Ordering::Relaxed);
        if permits == 0 {
            let while_held = self.while_held.lock().unwrap().take();
            if let Some(while_held) = while_held {
                while_held();
            }
            return Transmit::Held;
        }
        self.permits.store(permits - 1, Ordering::Relaxed);
        self.waiting.store(waiting - 1, Ordering::Relaxed);
        let payload = MessageBody::Shared(Bytes::from_static(b"1"));
        if waiting == 1 {
            Transmit::Last(payload)
        } else {
            Transmit::More(payload)
        }
    }

    fn closed(&self, _notice: Notice) {}
}

fn open_limited(outbox: &Outbox, channel: u32, channel_end: &Arc<LimitedEnd>) {
    outbox.open(channel, channel_end.clone()).unwrap();
    outbox.ready(channel);
}

fn close_frame(channel: u32) -> Option<Frame> {
    Some(Frame::Close {
        channel,
        notice: gone(),
    })
}

#[test]
fn held_channel_is_asked_again_only_when_it_is_ready() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(2);
    open_limited(&outbox, 1, &limited);
    for _ in 0..3 {
        assert_eq!(next(&outbox), None);
    }
    assert_eq!(limited.calls(), 1);
    limited.permit(2);
    assert_eq!(next(&outbox), None, "not marked yet");
    outbox.ready(1);
    assert_eq!(sent(&outbox, 3), [(1, 1), (1, 1)]);
}

#[test]
fn other_channels_continue_beside_a_held_one() {
    let outbox = Outbox::new();
    open_limited(&outbox, 1, &LimitedEnd::with(1));
    open(&outbox, 2, &ScriptedEnd::sending([BULK, BULK, 7]));
    assert_eq!(sent(&outbox, 4), [(2, BULK), (2, BULK), (2, 7)]);
}

#[test]
fn close_after_drain_does_not_overtake_held_data() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(3);
    open_limited(&outbox, 1, &limited);
    limited.permit(1);
    assert_eq!(sent(&outbox, 2), [(1, 1)]);
    outbox.close_after_drain(1, &gone());
    assert_eq!(next(&outbox), None, "two payloads are held");
    limited.permit(1);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 1), [(1, 1)]);
    assert_eq!(next(&outbox), None, "one is held");
    assert!(!outbox.is_empty());
    limited.permit(1);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 1), [(1, 1)]);
    assert_eq!(next(&outbox), close_frame(1));
    assert!(outbox.is_empty());
}

#[test]
fn channel_that_is_held_while_it_drains_is_not_closed() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(1);
    open_limited(&outbox, 1, &limited);
    outbox.close_after_drain(1, &gone());
    assert_eq!(next(&outbox), None);
    assert_eq!(limited.calls(), 1);
    limited.permit(1);
    outbox.ready(1);
    assert_eq!(sent(&outbox, 1), [(1, 1)]);
    assert_eq!(next(&outbox), close_frame(1));
}

#[test]
fn release_during_transmit_is_not_lost() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(1);
    let (inside, weak) = (outbox.clone(), Arc::downgrade(&limited));
    *limited.while_held.lock().unwrap() = Some(Box::new(move || {
        weak.upgrade().unwrap().permit(1);
        inside.ready(1);
        inside.close_after_drain(1, &gone());
    }));
    open_limited(&outbox, 1, &limited);
    assert_eq!(sent(&outbox, 1), [(1, 1)]);
    assert_eq!(next(&outbox), close_frame(1));
}

#[test]
fn paused_channel_that_is_released_sends_after_resume() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(1);
    open_limited(&outbox, 1, &limited);
    assert_eq!(next(&outbox), None);
    outbox.on_peer_pause(1, true);
    limited.permit(1);
    outbox.ready(1);
    outbox.close_after_drain(1, &gone());
    assert_eq!(next(&outbox), None);
    outbox.on_peer_pause(1, false);
    assert_eq!(sent(&outbox, 1), [(1, 1)]);
    assert_eq!(next(&outbox), close_frame(1));
}

#[test]
fn end_that_has_nothing_left_after_a_hold_is_closed() {
    let outbox = Outbox::new();
    let limited = LimitedEnd::with(1);
    open_limited(&outbox, 1, &limited);
    assert_eq!(next(&outbox), None);
    outbox.close_after_drain(1, &gone());
    limited.waiting.store(0, Ordering::Relaxed);
    outbox.ready(1);
    assert_eq!(next(&outbox), close_frame(1));
}
