//! Tests of both ends over a link in memory: a measurement completes, and the responder keeps its
//! limits.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{responder::BENCH_STREAMS_MAX, *};
use crate::tunnel::{
    ResetCode, Tunnel, TunnelStream,
    raw::{RawReceiver, RawSender},
    tests::TunnelTestbed,
};
use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

/// Serves the benchmark streams of a tunnel like a server until the tunnel ends.
async fn serve(server: Tunnel, method: CompressMethod) {
    let peer = std::sync::Arc::new(BenchResponder::new(method));
    let mut streams = JoinSet::new();
    while let Some((stream, details)) = server.accept().await {
        let request = BenchRequest::read(&details)
            .unwrap()
            .expect("a benchmark stream");
        let peer = std::sync::Arc::clone(&peer);
        streams.spawn(async move { peer.serve(&stream, request).await });
    }
    streams.shutdown().await;
}

async fn bed(method: CompressMethod) -> (TunnelTestbed, Tunnel, JoinSet<()>) {
    let bed = TunnelTestbed::new();
    let (client, server) = bed.tunnels(EncryptMethod::Plain, method).await;
    let mut served = JoinSet::new();
    served.spawn(serve(server, method));
    (bed, client, served)
}

/// Waits for the reset code that the peer sends.
async fn reset(stream: &TunnelStream) -> Option<ResetCode> {
    stream.failed().await.reset_code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_completes_with_every_compression_and_payload() {
    for (method, data) in [
        (CompressMethod::Null, PayloadKind::Random),
        (CompressMethod::S2, PayloadKind::Text),
        (CompressMethod::Zstd, PayloadKind::Text),
    ] {
        let (bed, client, mut served) = bed(method).await;
        let plan = BenchPlan {
            time: Duration::from_millis(20),
            connections: 3,
            data,
        };
        let (mut measured, mut phases) = (BenchResults::default(), Vec::new());
        plan.run(&client, &mut measured, |progress| {
            phases.push(progress.number)
        })
        .await
        .unwrap();
        assert_eq!(phases, (1..=9).collect::<Vec<_>>());
        let json = serde_json::to_string(&measured).unwrap();
        assert!(!json.contains("null"), "{json}");
        assert!(
            measured
                .throughput
                .down_parallel
                .is_some_and(|down| down.bytes > 0 && down.connections == 3)
        );
        assert!(
            measured
                .round_trip
                .beside_up
                .is_some_and(|trips| trips.samples > 0 && trips.p50_us <= trips.p99_us)
        );
        assert!(
            measured
                .new_connections
                .at_once
                .is_some_and(|new| new.connections >= CONCURRENT_CONNECTIONS)
        );
        bed.end().await;
        served.join_next().await;
    }
}

#[tokio::test]
async fn a_sink_reports_its_total_and_a_source_sends_the_requested_bytes() {
    let method = CompressMethod::Zstd;
    let (bed, client, _served) = bed(method).await;
    let sink = client.open(BenchRequest::Sink.details());
    RawSender::new(&sink, method)
        .send_all(Bytes::from(vec![7; 100_000]))
        .await
        .unwrap();
    sink.finish();
    let (mut receiver, mut reports) = (RawReceiver::new(&sink, method), Vec::new());
    while let Some(raw) = receiver.receive().await.unwrap() {
        reports.extend_from_slice(&raw);
    }
    assert_eq!(reports.last_chunk(), Some(&100_000_u64.to_be_bytes()));

    let source = client.open(
        BenchRequest::Source {
            data: PayloadKind::Random,
            duration_ms: 60_000,
            bytes: 1_234_567,
        }
        .details(),
    );
    source.finish();
    let (mut receiver, mut received) = (RawReceiver::new(&source, method), 0);
    while let Some(raw) = receiver.receive().await.unwrap() {
        received += raw.len();
    }
    assert_eq!(received, 1_234_567);
    bed.end().await;
}

#[tokio::test]
async fn a_tunnel_limits_its_benchmark_streams_and_frees_slots() {
    let (bed, client, _served) = bed(CompressMethod::Null).await;
    let mut streams: Vec<TunnelStream> = (0..BENCH_STREAMS_MAX)
        .map(|_| client.open(BenchRequest::Echo.details()))
        .collect();
    let refused = client.open(BenchRequest::Sink.details());
    assert_eq!(reset(&refused).await, Some(ResetCode::Limit));
    drop(streams.pop());
    loop {
        let another = client.open(BenchRequest::Echo.details());
        let sent = RawSender::new(&another, CompressMethod::Null)
            .send_all(Bytes::from_static(b"?"))
            .await;
        if sent.is_ok()
            && RawReceiver::new(&another, CompressMethod::Null)
                .receive()
                .await
                .is_ok()
        {
            break;
        }
    }
    bed.end().await;
}

#[tokio::test(start_paused = true)]
async fn benchmark_streams_time_out() {
    let (bed, client, _served) = bed(CompressMethod::Null).await;
    let unread_echo = client.open(BenchRequest::Echo.details());
    let unread_source = client.open(
        BenchRequest::Source {
            data: PayloadKind::Random,
            duration_ms: u64::MAX,
            bytes: u64::MAX,
        }
        .details(),
    );
    // The test never reads this stream, so its window stays full.
    assert_eq!(reset(&unread_echo).await, Some(ResetCode::Timeout));
    assert_eq!(reset(&unread_source).await, Some(ResetCode::Timeout));
    bed.end().await;
}
