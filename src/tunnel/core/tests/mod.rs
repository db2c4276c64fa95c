//! Tests of the transitions of one tunnel, without a link and in given time.

mod lanes;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{
    link::{ChannelHandle, LinkId, Outbox},
    suspend::Moment,
};
use report_proto::{
    frame::{Code, Notice},
    mux::{self, Mux, Parameters, PeerGrant, ResetCode, TunnelSide, WindowSize},
};

/// Bytes of credit for each stream and for the tunnel.
const WINDOW: u64 = 64 * 1024;

/// A channel that records the calls to its handle.
struct TestChannel {
    link: LinkId,
    ready: AtomicUsize,
    closes: Mutex<Vec<Code>>,
}

impl TestChannel {
    fn new() -> Arc<Self> {
        Arc::new(TestChannel {
            link: Outbox::new().id(),
            ready: AtomicUsize::new(0),
            closes: Mutex::default(),
        })
    }

    fn closes(&self) -> Vec<Code> {
        self.closes.lock().unwrap().clone()
    }
}

impl ChannelHandle for TestChannel {
    fn link(&self) -> LinkId {
        self.link
    }

    fn ready(&self) {
        self.ready.fetch_add(1, Relaxed);
    }

    fn close(&self, notice: &Notice) {
        self.closes.lock().unwrap().push(notice.code);
    }

    fn close_after_drain(&self, notice: &Notice) {
        self.close(notice);
    }
}

/// Counts wake-ups.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// One end of a tunnel.
struct End {
    core: TunnelCore,
    events: Vec<TunnelEvent>,
    statuses: Vec<TunnelStatus>,
    /// How often the client was woken because further lanes can join.
    lanes_accepted: usize,
    is_finished: bool,
}

impl End {
    fn new(side: TunnelSide, now: Moment) -> Self {
        let window = WindowSize {
            initial: WINDOW,
            max: WINDOW,
        };
        let parameters = Parameters {
            stream_window: window,
            tunnel_window: window,
            streams_max: 8,
            flows_max: 8,
            max_delay: Duration::from_millis(200),
        };
        let grant = PeerGrant {
            stream_window: WINDOW,
            tunnel_window: WINDOW,
        };
        let mux = Mux::new(side, parameters, grant, now.awake);
        End {
            core: TunnelCore::new(side, Duration::from_secs(60), mux, now),
            events: Vec::new(),
            statuses: Vec::new(),
            lanes_accepted: 0,
            is_finished: false,
        }
    }

    /// Runs the effects as the tunnel does. Returns the wakers that were woken.
    fn settle(&mut self) -> usize {
        self.core.request_transmit();
        let effects = self.core.poll_effects();
        self.events.extend(effects.events);
        self.statuses.extend(effects.status);
        self.lanes_accepted += usize::from(effects.accepts_lanes);
        self.is_finished |= effects.is_finished;
        for channel in effects.ready {
            channel.ready();
        }
        for (channel, notice) in effects.closes {
            channel.close_after_drain(&notice);
        }
        let woken = effects.wakers.len();
        effects.wakers.into_iter().for_each(Waker::wake);
        woken
    }

    fn take_over(&mut self, now: Moment, attempt: u64, kind: TakeoverKind) -> Arc<TestChannel> {
        let channel = TestChannel::new();
        let handle: Channel = channel.clone();
        self.core
            .take_over(now, attempt, handle, kind)
            .expect("the attempt takes over");
        self.settle();
        channel
    }

    /// Returns the messages that the link would send now on the channel of `attempt`.
    fn messages(&mut self, now: Moment, attempt: u64) -> VecDeque<Bytes> {
        let mut messages = VecDeque::new();
        loop {
            let mut out = BytesMut::new();
            let result = self.core.transmit(now.awake, attempt, &mut out);
            if result != TransmitResult::Nothing {
                messages.push_back(out.freeze());
            }
            self.settle();
            if result != TransmitResult::More {
                return messages;
            }
        }
    }

    fn receive(&mut self, now: Moment, attempt: u64, messages: VecDeque<Bytes>) {
        for message in messages {
            self.core.receive(now, attempt, message).unwrap();
        }
    }
}

/// Two ends of an attached tunnel, and their first channels: the client, then the server.
fn attached(now: Moment) -> (End, End, [Arc<TestChannel>; 2]) {
    let mut client = End::new(TunnelSide::Client, now);
    let mut server = End::new(TunnelSide::Server, now);
    let channels = [&mut client, &mut server]
        .map(|end| end.take_over(now, FIRST_ATTEMPT, TakeoverKind::Resume));
    (client, server, channels)
}

/// Exchanges messages on `attempt` until neither end has one.
fn exchange(now: Moment, client: &mut End, server: &mut End, attempt: u64) {
    loop {
        let (sent, answered) = (client.messages(now, attempt), server.messages(now, attempt));
        if sent.is_empty() && answered.is_empty() {
            return;
        }
        server.receive(now, attempt, sent);
        client.receive(now, attempt, answered);
        client.settle();
        server.settle();
    }
}

/// Returns the message of each end, while its attachment is a candidate: the client's first.
fn first_messages(
    now: Moment,
    client: &mut End,
    server: &mut End,
    attempt: u64,
    kind: TakeoverKind,
) -> [VecDeque<Bytes>; 2] {
    [client, server].map(|end| {
        let mut first = BytesMut::new();
        end.core
            .write_first_message(now.awake, attempt, kind, &mut first);
        VecDeque::from([first.freeze()])
    })
}

/// Resumes a tunnel on a new pair of channels.
fn resume(now: Moment, client: &mut End, server: &mut End) {
    let attempt = client.core.next_attempt();
    let [from_client, from_server] =
        first_messages(now, client, server, attempt, TakeoverKind::Resume);
    for (end, received) in [(&mut *server, from_client), (&mut *client, from_server)] {
        end.take_over(now, attempt, TakeoverKind::Resume);
        end.receive(now, attempt, received);
        end.settle();
    }
    exchange(now, client, server, attempt);
}

fn later(start: Moment, time: Duration) -> Moment {
    Moment {
        awake: start.awake + time,
        ..start
    }
}

#[test]
fn an_unproven_tunnel_expires() {
    let start = Moment::now();
    let mut end = End::new(TunnelSide::Server, start);
    assert_eq!(
        end.core.rearm(),
        Some(start.awake + CANDIDATE_TIMEOUT),
        "the driver waits for the first attachment"
    );
    end.core.handle_timeout(later(start, CANDIDATE_TIMEOUT));
    end.settle();
    assert_eq!(end.events, [TunnelEvent::Expired]);
    assert!(end.is_finished && end.core.end_notice().is_some());
}

#[test]
fn an_opened_stream_wakes_the_acceptor_and_data_its_reader() {
    let now = Moment::now();
    let (mut client, mut server, channels) = attached(now);
    let counter = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&counter));
    assert!(server.core.poll_accept(&waker).is_pending());
    let stream = client.core.mux.open(Bytes::from_static(b"details"));
    client.settle();
    assert_eq!(channels[0].ready.load(Relaxed), 1, "not marked twice");
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert_eq!(counter.0.load(Relaxed), 1);
    let Poll::Ready(Some((accepted, details))) = server.core.poll_accept(&waker) else {
        panic!("an opened stream")
    };
    assert_eq!((accepted, &details[..]), (stream, &b"details"[..]));
    assert_eq!(server.core.mux.read(accepted), Ok(mux::StreamRead::Wait));
    server.core.waiting.of(accepted).reader = Some(waker);
    client
        .core
        .mux
        .write(stream, Bytes::from_static(b"data"))
        .unwrap();
    client.settle();
    assert_eq!(channels[0].ready.load(Relaxed), 2, "the channel was idle");
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert_eq!(counter.0.load(Relaxed), 2);
}

#[test]
fn a_lost_tunnel_resumes_and_reports_how_long_it_waited() {
    let start = Moment::now();
    let (mut client, mut server, _) = attached(start);
    let stream = client.core.mux.open(Bytes::new());
    exchange(start, &mut client, &mut server, FIRST_ATTEMPT);
    let data = Bytes::from_static(b"lost");
    client.core.mux.write(stream, data).unwrap();
    drop(client.messages(start, FIRST_ATTEMPT));
    let cut = later(start, Duration::from_secs(2));
    for end in [&mut client, &mut server] {
        end.core
            .attachment_lost(cut, FIRST_ATTEMPT, Notice::new(Code::PeerLost, "cut"));
        end.settle();
        assert!(end.core.is_detached());
    }
    let lost = TunnelEvent::Lost {
        carried: Duration::from_secs(2),
        streams: 1,
        why: Notice::new(Code::PeerLost, "cut"),
    };
    assert_eq!(client.events, [lost]);
    let resumed = later(cut, Duration::from_secs(3));
    resume(resumed, &mut client, &mut server);
    assert_eq!(
        client.events.last(),
        Some(&TunnelEvent::Resumed {
            waited: Duration::from_secs(3),
            streams: 1,
            resent_bytes: 4
        })
    );
    assert_eq!(
        server.core.mux.read(stream),
        Ok(mux::StreamRead::Data(Bytes::from_static(b"lost")))
    );
    assert!(
        matches!(
            client.statuses[..],
            [
                TunnelStatus::Attached,
                TunnelStatus::Lost { .. },
                TunnelStatus::Attached
            ]
        ),
        "{:?}",
        client.statuses
    );
}

#[test]
fn only_a_newer_attempt_is_admitted() {
    let (_, mut server, _) = attached(Moment::now());
    server.take_over(Moment::now(), 4, TakeoverKind::Resume);
    for replayed in [FIRST_ATTEMPT, 3, 4] {
        assert_eq!(
            server.core.admit(replayed, false),
            Err(AdmitError::Superseded)
        );
    }
    assert_eq!(server.core.admit(5, false), Ok(TakeoverKind::Resume));
    server
        .core
        .attachment_lost(Moment::now(), 4, Notice::new(Code::PeerLost, ""));
    assert_eq!(
        server.core.admit(5, true),
        Ok(TakeoverKind::Resume),
        "there is nothing to join"
    );
}

#[test]
fn end_is_sent_before_the_tunnel_is_finished_and_wakes_every_task() {
    let now = Moment::now();
    let (mut client, mut server, channels) = attached(now);
    let counter = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&counter));
    let stream = client.core.mux.open(Bytes::new());
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert!(client.core.poll_accept(&waker).is_pending());
    client.core.waiting.of(stream).writer = Some(waker.clone());
    client.core.waiting.of(stream).watcher = Some(waker);
    let notice = Notice::new(Code::Shutdown, "the reason");
    client.core.end(ResetCode::Shutdown, notice.clone());
    assert_eq!(client.settle(), 3);
    assert_eq!(counter.0.load(Relaxed), 3);
    assert!(!client.is_finished, "END is not sent yet");
    assert_eq!(channels[0].closes(), [Code::Shutdown]);
    exchange(now, &mut client, &mut server, FIRST_ATTEMPT);
    assert!(client.is_finished && server.is_finished);
    assert_eq!(client.core.end_notice(), Some(&notice), "the first reason");
    assert_eq!(
        server.core.end_notice().map(|notice| notice.code),
        Some(Code::Shutdown)
    );
    assert_eq!(channels[1].closes(), [Code::Cancelled]);
    let handle: Channel = TestChannel::new();
    assert!(
        client
            .core
            .take_over(now, 9, handle, TakeoverKind::Resume)
            .is_err(),
        "an ended tunnel is not resumed"
    );
}

#[test]
fn a_violation_of_the_protocol_ends_the_tunnel() {
    let now = Moment::now();
    for message in [&b""[..], &[0xff]] {
        let (_, mut server, _) = attached(now);
        server
            .core
            .receive(now, FIRST_ATTEMPT, Bytes::from_static(message))
            .unwrap();
        assert_eq!(
            server.core.end_notice().map(|notice| notice.code),
            Some(Code::Protocol),
            "{message:?}"
        );
    }
}

#[test]
fn an_early_deadline_wakes_the_driver_once() {
    let start = Moment::now();
    let (_, mut server, _) = attached(start);
    server.core.rearm();
    server
        .core
        .attachment_lost(start, FIRST_ATTEMPT, Notice::new(Code::PeerLost, ""));
    assert!(server.core.poll_effects().deadline_moved);
    assert!(!server.core.poll_effects().deadline_moved);
}
