//! Tests of a splice's two directions, each driven separately.

use tokio::net::TcpListener;

use super::*;
use crate::tunnel::tests::TunnelTestbed;

#[tokio::test]
async fn a_splice_that_never_blocks_yields() {
    let mut budget = YieldBudget::default();
    for _ in 0..3 {
        budget
            .charge(YIELD_INTERVAL - 1)
            .now_or_never()
            .expect("does not yield yet");
        assert!(budget.charge(1).now_or_never().is_none());
    }
}

/// A peer sends chunks of 4 MiB in all that are small on the wire, for a service that does not
/// read.
#[tokio::test]
async fn a_batch_for_a_stalled_reader_holds_at_most_one_chunk() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(report_proto::crypto::EncryptMethod::Plain, method)
            .await;
        let stream = client.open(Bytes::new());
        let mut compressor = Compressor::new(method, stream.pool());
        let mut sent = 0;
        // Large chunks, followed by small ones.
        for length in [MAX_CHUNK; 64].into_iter().chain([100; 64]) {
            let wire = compressed(&mut compressor, &vec![0; length]);
            sent += wire.len();
            stream.write(wire).expect("the first window takes it");
        }
        assert!(sent < 256 * 1024, "{method}: {sent}");
        let (accepted, _) = server.accept().await.expect("a stream");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (service, connected) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let ends = SpliceEnds::new(Arc::new(service.unwrap()), Bytes::new(), accepted, method);
        let _connected = connected.unwrap();
        let mut decompressor = Decompressor::new(method, ends.stream.pool());
        let (mut pushed, mut raw, mut batches) = (0, 0, 0);
        while raw < 64 * (MAX_CHUNK + 100) {
            let Some(piece) = ends.piece().await.unwrap() else {
                break;
            };
            pushed += piece.len();
            decompressor.push(piece);
            loop {
                let batch = ends.gather(&mut decompressor, &mut pushed).unwrap();
                let held: usize = batch.raw.iter().map(Bytes::len).sum();
                assert!(held <= MAX_CHUNK, "{method}: {held}");
                (raw, batches) = (raw + held, batches + 1);
                if batch.is_drained {
                    break;
                }
            }
        }
        assert!(
            batches < 64 + 16,
            "{method}: small chunks share a batch: {batches}"
        );
        drop((ends, stream));
        bed.end().await;
    }
}

#[tokio::test]
async fn a_reader_reports_a_reset_whose_error_a_write_has_taken() {
    let bed = TunnelTestbed::new();
    let (client, _server) = bed
        .tunnels(
            report_proto::crypto::EncryptMethod::Plain,
            CompressMethod::Null,
        )
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (application, accepted) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let ends = SpliceEnds::new(
        Arc::new(accepted.unwrap().0),
        Bytes::new(),
        client.open(Bytes::new()),
        CompressMethod::Null,
    );
    let application = application.unwrap();
    reset_on_close(&application);
    drop(application);
    // As a failed write would: the kernel reports a reset once.
    ends.socket_error().await;
    let sent = ends.send().await;
    assert!(
        matches!(sent.result, Err(SpliceError::Socket(_))),
        "{:?}",
        sent.result
    );
    drop(ends);
    bed.end().await;
}
