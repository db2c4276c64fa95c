//! Paths that are slow, not dead: nobody gives them up.

use std::time::Duration;

use super::{
    lab::{Lab, METHODS},
    load::Load,
};
use crate::support::{proxy::Path, services, wait};

/// Longer than anything that takes a path for dead because it answers nothing.
const WATCHED: Duration = Duration::from_secs(13);

/// Bytes that a slow path carries each second, each way.
const SLOW: u32 = 64 << 10;

/// A bulk transfer both ways over slow paths, then over fast ones to its end: by one link, and whole.
fn keeps_its_link(slow: Path) {
    let lab = Lab::new();
    lab.set_paths(slow);
    let load = Load::start(lab.tunnel.local(METHODS[0]), 1 << 20);
    wait::until_true("the transfer runs", || load.moved() > 0);
    let links = || lab.paths().map(|path| path.connections());
    let (before, forwarded) = (links(), lab.client_path.forwarded());
    wait::throughout("the links stay", WATCHED, || {
        links() == before && !load.is_broken()
    });
    // Upwards: what is to come down was asked for behind what goes up.
    let moved = lab.client_path.forwarded()[0] - forwarded[0];
    println!("{moved} bytes in {WATCHED:?}");
    assert!(moved > 1000, "{moved} bytes: something moved all the time");
    lab.set_paths(Path::default());
    load.finish("a slow path");
    assert_eq!(links(), before, "nobody has given the link up");
    services::ping(&services::connect(lab.echo()), b"there").unwrap();
}

#[test]
fn a_bulk_transfer_over_a_path_of_64_kilobytes_a_second_keeps_its_link() {
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
