//! Both ends of a measure over a link in memory: that it comes to its end, and what bounds the server's.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{peer::PLACES, *};
use crate::{
    compress::CompressMethod,
    crypto::EncryptMethod,
    tunnel::{
        ResetCode, Tunnel, TunnelStream,
        raw::{RawReceiver, RawSender},
        tests::Bed,
    },
};

/// Serves the measuring streams of a tunnel as a server does, until the tunnel is over.
async fn serve(agent: Tunnel, method: CompressMethod) {
    let peer = std::sync::Arc::new(Peer::new(method));
    let mut streams = JoinSet::new();
    while let Some((stream, details)) = agent.accept().await {
        let request = Request::read(&details)
            .unwrap()
            .expect("a measuring stream");
        let peer = std::sync::Arc::clone(&peer);
        streams.spawn(async move { peer.serve(&stream, request).await });
    }
    streams.shutdown().await;
}

async fn bed(method: CompressMethod) -> (Bed, Tunnel, JoinSet<()>) {
    let bed = Bed::new();
    let (visitor, agent) = bed.tunnels(EncryptMethod::Plain, method).await;
    let mut served = JoinSet::new();
    served.spawn(serve(agent, method));
    (bed, visitor, served)
}

/// Waits for the code that the peer resets the stream with.
async fn reset(stream: &TunnelStream) -> Option<ResetCode> {
    stream.failed().await.reset_code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_measures_everything_with_every_compression_and_content() {
    for (method, data) in [
        (CompressMethod::Null, Data::Random),
        (CompressMethod::S2, Data::Text),
        (CompressMethod::Zstd, Data::Text),
    ] {
        let (bed, visitor, mut served) = bed(method).await;
        let plan = Plan {
            time: Duration::from_millis(20),
            connections: 3,
            data,
        };
        let (mut measured, mut told) = (Measured::default(), Vec::new());
        plan.run(&visitor, &mut measured, |progress| {
            told.push(progress.number)
        })
        .await
        .unwrap();
        assert_eq!(told, (1..=9).collect::<Vec<_>>());
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
                .is_some_and(|new| new.connections >= AT_ONCE)
        );
        bed.end().await;
        served.join_next().await;
    }
}

#[tokio::test]
async fn a_sink_says_how_much_it_took_and_a_source_gives_what_it_was_asked_for() {
    let method = CompressMethod::Zstd;
    let (bed, visitor, _served) = bed(method).await;
    let sink = visitor.open(Request::Sink.details());
    RawSender::new(&sink, method)
        .send_all(Bytes::from(vec![7; 100_000]))
        .await
        .unwrap();
    sink.finish();
    let (mut receiver, mut said) = (RawReceiver::new(&sink, method), Vec::new());
    while let Some(raw) = receiver.receive().await.unwrap() {
        said.extend_from_slice(&raw);
    }
    assert_eq!(said.last_chunk(), Some(&100_000_u64.to_be_bytes()));

    let source = visitor.open(
        Request::Source {
            data: Data::Random,
            duration_ms: 60_000,
            bytes: 1_234_567,
        }
        .details(),
    );
    source.finish();
    let (mut receiver, mut given) = (RawReceiver::new(&source, method), 0);
    while let Some(raw) = receiver.receive().await.unwrap() {
        given += raw.len();
    }
    assert_eq!(given, 1_234_567);
    bed.end().await;
}

#[tokio::test]
async fn a_tunnel_has_only_so_many_measuring_streams_and_a_place_is_free_again_when_one_ends() {
    let (bed, visitor, _served) = bed(CompressMethod::Null).await;
    let mut held: Vec<TunnelStream> = (0..PLACES)
        .map(|_| visitor.open(Request::Echo.details()))
        .collect();
    let refused = visitor.open(Request::Sink.details());
    assert_eq!(reset(&refused).await, Some(ResetCode::Limit));
    drop(held.pop());
    loop {
        let another = visitor.open(Request::Echo.details());
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
async fn no_measuring_stream_lives_for_ever() {
    let (bed, visitor, _served) = bed(CompressMethod::Null).await;
    let forgotten = visitor.open(Request::Echo.details());
    let endless = visitor.open(
        Request::Source {
            data: Data::Random,
            duration_ms: u64::MAX,
            bytes: u64::MAX,
        }
        .details(),
    );
    // Nobody reads it: its window is full for ever.
    assert_eq!(reset(&forgotten).await, Some(ResetCode::Timeout));
    assert_eq!(reset(&endless).await, Some(ResetCode::Timeout));
    bed.end().await;
}
