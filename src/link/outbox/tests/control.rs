//! Tests of the queue of control frames: its order, its limits and its charges.

use std::task::Waker;

use super::*;
use report_proto::frame::Code;

#[test]
fn control_frames_precede_data_and_keep_order() {
    let outbox = Outbox::new();
    open(&outbox, 1, &ScriptedEnd::sending([10, 10]));
    assert!(matches!(next(&outbox), Some(Frame::Data { .. })));
    outbox.control(&Frame::Pause(7));
    outbox.control(&Frame::Resume(7));
    assert_eq!(next(&outbox), Some(Frame::Pause(7)));
    assert_eq!(next(&outbox), Some(Frame::Resume(7)));
    assert!(matches!(next(&outbox), Some(Frame::Data { .. })));
    assert_eq!(next(&outbox), None);
}

#[test]
fn too_many_queued_control_frames_end_link() {
    let outbox = Outbox::new();
    let waker = Waker::noop();
    for channel in 0..10_000 {
        outbox.control(&Frame::Pause(channel));
    }
    assert_eq!(outbox.register_task(waker), None);
    for channel in 0..10_000 {
        outbox.control(&Frame::Pause(channel));
    }
    assert_eq!(
        outbox.register_task(waker).map(|notice| notice.code),
        Some(Code::Limit)
    );
}

#[test]
fn many_channels_can_be_closed_at_once() {
    let outbox = Outbox::new();
    for channel in 0..20_000 {
        outbox.open(channel, ScriptedEnd::sending([])).unwrap();
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
    assert_eq!(outbox.register_task(Waker::noop()), None);
}

#[test]
fn first_end_request_counts() {
    let outbox = Outbox::new();
    outbox.end(Notice::new(Code::Superseded, ""));
    outbox.end(Notice::new(Code::Shutdown, ""));
    assert_eq!(
        outbox
            .register_task(Waker::noop())
            .map(|notice| notice.code),
        Some(Code::Superseded)
    );
}

#[derive(Default)]
struct TestAccount(std::sync::atomic::AtomicUsize);

impl MemoryAccount for TestAccount {
    fn charge(&self, bytes: usize) {
        self.0
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    fn refund(&self, bytes: usize) {
        self.0
            .fetch_sub(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

impl TestAccount {
    fn charged(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn only_latest_queued_ping_is_answered() {
    let outbox = Outbox::new();
    outbox.pong(1);
    outbox.control(&Frame::Pause(7));
    for token in 2..100_000 {
        outbox.pong(token);
    }
    assert_eq!(next(&outbox), Some(Frame::Pong(99_999)));
    assert_eq!(next(&outbox), Some(Frame::Pause(7)));
    assert_eq!(next(&outbox), None);
    assert_eq!(outbox.queued_control_bytes(), 0);
}

#[test]
fn queued_control_frames_are_charged_until_sent_or_dropped() {
    let account = Arc::new(TestAccount::default());
    let outbox = Outbox::with_account(account.clone());
    (0..100).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    assert_eq!(account.charged(), 100 * (5 + CONTROL_OVERHEAD));
    next(&outbox);
    assert_eq!(account.charged(), 99 * (5 + CONTROL_OVERHEAD));
    drop(outbox);
    assert_eq!(account.charged(), 0);
}

#[test]
fn only_answers_count_as_backlog() {
    let outbox = Outbox::new();
    (0..1_000).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    assert!(
        !outbox.has_answer_backlog(),
        "other peers caused these frames"
    );
    outbox.set_answering(true);
    (0..1_000).for_each(|channel| outbox.control(&Frame::Pause(channel)));
    outbox.set_answering(false);
    assert!(outbox.has_answer_backlog());
    while next(&outbox).is_some() {}
    assert!(!outbox.has_answer_backlog());
}
