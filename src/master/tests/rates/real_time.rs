//! Measures the limits in real time. Links in memory reach rates that sockets do not.
//!
//! Run `cargo test --release --lib rates_in_real_time -- --ignored --nocapture`.

use super::*;

/// The time in which bursts pass.
const WARM_UP: Duration = Duration::from_secs(2);

/// The measured time.
const MEASURED: Duration = Duration::from_secs(10);

/// The most bytes that a sender sends before it looks for a PAUSE.
const MAX_BATCH: u64 = 512 * 1024;

/// A limit is only reached if the machine moves this many times as much without one.
const HEADROOM: f64 = 1.1;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time: see the head of this file"]
async fn rates_in_real_time() {
    let unlimited = measure(None, 60_000).await;
    println!("without a limit: {:.0} MB/s", unlimited / 1e6);
    let mut missed = Vec::new();
    for (label, rate, length) in [
        ("64 KiB/s", 64 << 10, 1_400),
        ("1 MiB/s", 1 << 20, 16_000),
        ("10 MiB/s", 10 << 20, 60_000),
        ("100 MB/s", 100_000_000, 60_000),
        ("1 GB/s", 1_000_000_000, 60_000),
    ] {
        let measured = measure(Some(rate), length).await;
        let limit = rate as f64;
        let percent = (measured / limit - 1.0) * 100.0;
        let line = format!("{label}: {:.3} MB/s, {percent:+.2} %", measured / 1e6);
        println!("{line}");
        if percent.abs() > 3.0 && unlimited >= limit * HEADROOM {
            missed.push(line);
        }
    }
    assert!(missed.is_empty(), "not within 3 %: {missed:?}");
}

/// Returns the bytes per second that arrive through a channel with this limit.
async fn measure(rate: Option<u64>, length: usize) -> f64 {
    let mut master = MemoryMaster::start();
    let (server, mut client) = master.pair().await;
    if let Some(rate) = rate {
        master.limit(PORT, rate);
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + MEASURED;
    let batch = rate.map_or(MAX_BATCH, |rate| (rate / 100).min(MAX_BATCH));
    let batch = usize::try_from(batch).expect("it fits") / length;
    master.tasks.spawn(flood(server, length, batch.max(1), end));
    arriving_rate(&mut client, begin, end).await
}

/// Sends messages of this length until the deadline, `batch` at a time, and obeys PAUSE.
async fn flood(mut peer: TestPeer, length: usize, batch: usize, deadline: Instant) {
    let payload = Bytes::from(vec![7_u8; length]);
    let message = Frame::Data {
        channel: 1,
        payload,
    }
    .to_message();
    while Instant::now() < deadline {
        for _ in 0..batch {
            let fed = with_timeout(peer.socket.feed(message.clone())).await;
            fed.expect("sent");
        }
        // The master sends a PAUSE before the PONG.
        peer.send(Frame::Ping(1)).await;
        let (mut paused, mut answered) = (false, false);
        while paused || !answered {
            match timeout_at(deadline, peer.next()).await {
                Ok(Frame::Pause(_)) => paused = true,
                Ok(Frame::Resume(_)) => paused = false,
                Ok(Frame::Pong(_)) => answered = true,
                Ok(other) => panic!("unexpected {other:?}"),
                Err(_) => return,
            }
        }
    }
}

/// Returns the rate between the first and the last DATA of a time.
async fn arriving_rate(peer: &mut TestPeer, begin: Instant, end: Instant) -> f64 {
    let (mut first, mut last, mut bytes) = (None, begin, 0);
    while Instant::now() < end {
        let Ok(frame) = timeout_at(end, peer.next()).await else {
            break;
        };
        let now = Instant::now();
        if let Frame::Data { payload, .. } = frame
            && now >= begin
        {
            if first.is_none() {
                first = Some(now);
            } else {
                bytes += payload.len();
                last = now;
            }
        }
    }
    let first = first.expect("DATA arrives");
    bytes as f64 / last.duration_since(first).as_secs_f64()
}
