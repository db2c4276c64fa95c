//! Tests of the executor with a real tunnel, over links in memory.

use std::time::Duration;

use super::*;
use crate::{
    supervisor::MoveRequests,
    tunnel::tests::{TunnelTestbed, plain_port},
};
use report_proto::{compress::CompressMethod, crypto::EncryptMethod};

/// The slot of the further link.
const SLOT: usize = 1;

/// Waits until further lanes of the tunnel can join.
async fn until_lanes_can_join(tunnel: &Tunnel) {
    let mut status = tunnel.status();
    let waiting = async {
        while !(tunnel.is_attached() && tunnel.accepts_lanes()) {
            status.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("in time");
}

fn begin(executor: &mut PortExecutor, outbox: &Arc<Outbox>, slot: usize) {
    executor.begin_link(&PortLink::new(outbox, slot, &MoveRequests::default()));
}

/// Returns the executor of a port whose tunnel is attached on this link of the first slot.
fn with_tunnel(tunnel: &Tunnel, first: &Arc<Outbox>) -> PortExecutor {
    let mut executor = PortExecutor::new(
        plain_port(),
        1,
        &TaskTracker::new(),
        Span::none(),
        watch::Sender::new(None),
        watch::Sender::new(None),
    );
    begin(&mut executor, first, 0);
    executor.link_up(first);
    let started = executor.take_started();
    let server_info = ServerInfo {
        age: Duration::ZERO,
        bench: None,
        addresses: false,
        seen: None,
    };
    let outcome = AttachOutcome::New(tunnel.clone(), server_info);
    executor.attach_done(started[0].request, Some(Ok(outcome)));
    executor
}

/// The links of the requests without an outcome.
fn requests(executor: &PortExecutor) -> Vec<LinkId> {
    let requests = executor.requests.values();
    requests.map(|request| request.link.id()).collect()
}

#[tokio::test]
async fn lanes_on_a_replaced_first_link_are_left_when_it_retires() {
    let bed = TunnelTestbed::new();
    let (tunnel, _server) = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    until_lanes_can_join(&tunnel).await;
    let (old, new) = (bed.client_link(), bed.join_client_lane(&tunnel).await);
    let mut executor = with_tunnel(&tunnel, &old);
    begin(&mut executor, &new, 0);
    executor.link_up(&new);
    assert!(tunnel.is_attached_through(old.id()));
    executor.link_retiring(&old);
    assert!(!tunnel.is_attached_through(old.id()));
    assert!(tunnel.is_attached_through(new.id()));
    bed.end().await;
}

#[tokio::test]
async fn link_that_is_being_established_does_not_replace_the_one_before_it() {
    let bed = TunnelTestbed::new();
    let (tunnel, _server) = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    until_lanes_can_join(&tunnel).await;
    let (old, new) = (bed.join_client_lane(&tunnel).await, Outbox::new());
    let mut executor = with_tunnel(&tunnel, &bed.client_link());
    let has_lane = |executor: &PortExecutor| executor.view(&tunnel).further_lanes.contains(SLOT);
    begin(&mut executor, &old, SLOT);
    executor.link_up(&old);
    assert!(has_lane(&executor));
    begin(&mut executor, &new, SLOT);
    executor.observe();
    assert!(has_lane(&executor), "the new link is not up yet");
    assert_eq!(requests(&executor), []);
    executor.link_up(&new);
    assert!(!has_lane(&executor));
    assert_eq!(requests(&executor), [new.id()], "the new link gets a lane");
    bed.end().await;
}
