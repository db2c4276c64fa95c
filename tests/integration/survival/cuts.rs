//! Links that are cut repeatedly while streams of every kind run: bulk, idle, stalled, half-closed,
//! many.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::Duration,
};

use serde_json::json;

use super::lab::{Lab, METHODS, load_profile};
use crate::support::{
    bytes,
    content::Content,
    fault_injector::FaultInjector,
    proxy::Cut,
    services::{self, Ending, Service},
    tunnel::Methods,
    wait,
};

/// Runs eight streams while both links are cut alternately, by a reset and by an end of file
/// alternately.
fn survives_cuts(methods: Methods) {
    let lab = Lab::new();
    lab.limit();
    let seed = fastrand::u64(..);
    println!("the seed of the cuts: {seed}");
    let before = lab.paths().map(|path| path.connections());
    let load = lab.start_load(methods);
    let injector = FaultInjector::cutting(&lab.paths(), load_profile().period, seed);
    while !load.is_done() {
        wait::pause(Duration::from_millis(10));
    }
    let cuts = injector.cuts();
    drop(injector);
    load.finish(&format!("{methods}, {cuts} cuts by the seed {seed}"));
    assert!(
        cuts >= load_profile().min_disturbances,
        "{cuts} cuts are too few for this test"
    );
    for (path, before) in lab.paths().iter().zip(before) {
        let again = path.connections() - before;
        assert!(
            again as u64 >= load_profile().min_disturbances / 2,
            "{again} new links of a path: the cuts did not hit the transfer"
        );
    }
}

#[test]
fn eight_streams_survive_cuts_of_both_links_uncompressed() {
    survives_cuts(METHODS[0]);
}

#[test]
fn eight_streams_survive_cuts_of_both_links_with_s2() {
    survives_cuts(METHODS[1]);
}

#[test]
fn eight_streams_survive_cuts_of_both_links_with_zstd() {
    survives_cuts(METHODS[2]);
}

/// Cuts one path after the other, first by a reset, then by an end of file.
fn cut_all_paths(lab: &Lab, mut between: impl FnMut(usize)) {
    let ways = [Cut::Reset, Cut::EndOfFile].map(|cut| lab.paths().map(|path| (cut, path)));
    for (number, (cut, path)) in ways.into_iter().flatten().enumerate() {
        path.cut(cut);
        between(number);
    }
}

#[test]
fn hundreds_of_idle_streams_survive_cuts() {
    let lab = Lab::new();
    let streams: Vec<_> = (0..300).map(|_| services::connect(lab.echo())).collect();
    let ping_all = |round: usize| {
        for (number, stream) in streams.iter().enumerate() {
            let message = format!("round {round}, stream {number}");
            services::ping(stream, message.as_bytes())
                .unwrap_or_else(|error| panic!("{message}: {error}"));
        }
    };
    ping_all(100);
    cut_all_paths(&lab, ping_all);
    assert_eq!(lab.echo.endings(), [], "the service saw no end");
}

#[test]
fn a_stream_stalled_across_cuts_is_complete_and_blocks_no_other_stream() {
    // More than the windows of the stream and all buffers on the path hold.
    let content = Content {
        seed: fastrand::u64(..),
        length: 48 << 20,
    };
    let source = source_of(content);
    let lab = Lab::with_service(source.address(), json!({}));
    let mut stalled = services::connect(lab.tunnel.local("service"));
    let mut block = vec![0; 64 << 10];
    stalled.read_exact(&mut block).unwrap();
    let beside = services::connect(lab.echo());
    cut_all_paths(&lab, |number| {
        services::ping(&beside, format!("after cut {number}").as_bytes()).unwrap()
    });
    let mut offset = 0;
    while offset < content.length {
        assert_eq!(
            content.first_difference(offset, &block),
            None,
            "from byte {offset}"
        );
        offset += block.len() as u64;
        if offset < content.length {
            stalled
                .read_exact(&mut block)
                .unwrap_or_else(|error| panic!("at byte {offset}: {error}"));
        }
    }
    assert_eq!(
        services::read_to_ending(&stalled),
        (Vec::new(), Ending::Clean)
    );
    drop(stalled);
    assert_eq!(source.wait_for_endings(1), [Ending::Clean]);
}

/// Sends the content and an end of file, then waits for the peer's end of file.
fn source_of(content: Content) -> Service {
    Service::start(move |mut stream| {
        let (mut block, mut offset) = (vec![0; 64 << 10], 0);
        while offset < content.length {
            let piece = content.fill(offset, &mut block);
            if let Err(error) = stream.write_all(piece) {
                return error.into();
            }
            offset += piece.len() as u64;
        }
        if let Err(error) = stream.shutdown(Shutdown::Write) {
            return error.into();
        }
        services::read_to_ending(stream).1
    })
}

#[test]
fn a_half_close_survives_cuts_in_both_directions() {
    let digest = services::digest_after_end();
    let lab = Lab::with_service(digest.address(), json!({}));
    let content = bytes::mixed(1, 3 << 20);
    for path in lab.paths() {
        for cut in [Cut::Reset, Cut::EndOfFile] {
            let mut stream = services::connect(lab.tunnel.local("service"));
            let (first, last) = content.split_at(content.len() / 2);
            stream.write_all(first).unwrap();
            path.cut(cut);
            stream.write_all(last).unwrap();
            // The cut discards the end of file together with the last bytes.
            stream.shutdown(Shutdown::Write).unwrap();
            path.cut(cut);
            let (answer, ending) = services::read_to_ending(&stream);
            let expected = format!("{} {}", content.len(), bytes::sha256(&content));
            assert_eq!(
                (String::from_utf8_lossy(&answer).as_ref(), ending),
                (expected.as_str(), Ending::Clean),
                "{cut:?}"
            );
        }
    }
    assert_eq!(digest.wait_for_endings(4), [Ending::Clean; 4]);
}

#[test]
fn many_short_connections_during_cuts_are_all_served() {
    let digest = services::digest_after_end();
    let lab = Lab::with_service(digest.address(), json!({}));
    let injector = FaultInjector::cutting(&lab.paths(), Duration::from_millis(150), 1);
    let mut served = 0;
    while injector.cuts() < 12 {
        let mut stream = services::connect(lab.tunnel.local("service"));
        let content = bytes::mixed(served, 20_000);
        stream
            .write_all(&content)
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .unwrap();
        let (answer, ending) = services::read_to_ending(&stream);
        let expected = format!("{} {}", content.len(), bytes::sha256(&content));
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(
            (answer.as_ref(), ending),
            (expected.as_str(), Ending::Clean),
            "connection {served}"
        );
        served += 1;
    }
    println!("{served} connections");
}
