//! Paths that are slow but alive. The roles must not give them up.

use std::time::Duration;

use super::{
    lab::{Lab, METHODS},
    stream_load::Load,
};
use crate::support::{proxy::Path, services, wait};

/// Longer than every timeout after which a role takes an unanswering path for dead.
const OBSERVED_TIME: Duration = Duration::from_secs(13);

/// Bytes per second of a slow path in each direction.
const SLOW: u32 = 64 << 10;

/// Runs a bulk transfer in both directions over slow paths, then to its end over fast ones. It must
/// use one link only and be complete.
fn keeps_its_link(slow: Path) {
    let lab = Lab::new();
    lab.set_paths(slow);
    let load = Load::start(lab.tunnel.local(METHODS[0]), 1 << 20);
    wait::until_true("the transfer runs", || load.moved() > 0);
    let links = || lab.paths().map(|path| path.connections());
    let (before, forwarded) = (links(), lab.client_path.forwarded());
    wait::throughout("the links stay up", OBSERVED_TIME, || {
        links() == before && !load.is_broken()
    });
    // Upwards, because the requests for the downloads wait behind the uploads.
    let moved = lab.client_path.forwarded()[0] - forwarded[0];
    println!("{moved} bytes in {OBSERVED_TIME:?}");
    assert!(moved > 1000, "{moved} bytes: too few bytes for a live path");
    lab.set_paths(Path::default());
    load.finish("a slow path");
    assert_eq!(links(), before, "no link was given up");
    services::ping(&services::connect(lab.echo()), b"there").unwrap();
}

#[test]
fn a_bulk_transfer_over_a_path_of_64_kilobytes_per_second_keeps_its_link() {
    keeps_its_link(Path {
        delay: Duration::from_millis(50),
        ..Path::limited(SLOW)
    });
}

#[test]
fn a_bulk_transfer_over_a_path_that_forwards_byte_by_byte_keeps_its_link() {
    keeps_its_link(Path {
        dribble: Some(Duration::from_millis(1)),
        ..Path::default()
    });
}
