//! Splices whose two ends are seen apart.

use tokio::net::TcpListener;

use super::*;
use crate::tunnel::tests::Bed;

#[tokio::test]
async fn who_writes_without_a_pause_lets_others_run() {
    let mut turn = Turn::default();
    for _ in 0..3 {
        turn.took(TURN - 1).now_or_never().expect("goes on");
        assert!(turn.took(1).now_or_never().is_none());
    }
}

/// A peer sends 4 MiB in what is little on the wire, for a service that does not read.
#[tokio::test]
async fn what_a_reader_that_stalls_makes_a_splice_hold_is_one_chunk() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let bed = Bed::new();
        let (visitor, agent) = bed
            .tunnels(crate::crypto::EncryptMethod::Plain, method)
            .await;
        let stream = visitor.open(Bytes::new());
        let mut compressor = Compressor::new(method, stream.pool());
        let mut sent = 0;
        // Large bodies, and small ones behind them.
        for length in [MAX_CHUNK; 64].into_iter().chain([100; 64]) {
            let wire = compressed(&mut compressor, &vec![0; length]);
            sent += wire.len();
            stream.write(wire).expect("the first window takes it");
        }
        assert!(sent < 256 * 1024, "{method}: {sent}");
        let (accepted, _) = agent.accept().await.expect("a stream");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (service, connected) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let ends = Ends::new(Arc::new(service.unwrap()), Bytes::new(), accepted, method);
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
                if batch.is_all {
                    break;
                }
            }
        }
        assert!(
            batches < 64 + 16,
            "{method}: small ones go together: {batches}"
        );
        drop((ends, stream));
        bed.end().await;
    }
}

#[tokio::test]
async fn a_reset_that_a_write_noticed_first_is_no_end_of_file_to_the_reader() {
    let bed = Bed::new();
    let (visitor, _agent) = bed
        .tunnels(crate::crypto::EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (application, accepted) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let ends = Ends::new(
        Arc::new(accepted.unwrap().0),
        Bytes::new(),
        visitor.open(Bytes::new()),
        CompressMethod::Null,
    );
    let application = application.unwrap();
    reset_on_close(&application);
    drop(application);
    // As a write would: the system tells of a reset once.
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
