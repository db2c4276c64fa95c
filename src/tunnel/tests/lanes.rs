//! The number of lanes: a server asks for them, and a client opens and leaves them.

use super::*;

/// Waits for a condition that a change of the status makes true.
async fn until(tunnel: &Tunnel, condition: impl Fn(&Tunnel) -> bool) {
    let mut status = tunnel.status();
    let waiting = async {
        while !condition(tunnel) {
            status.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("in time");
}

#[tokio::test]
async fn server_asks_for_lanes_and_client_leaves_the_surplus() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    assert_eq!((client.requested_lanes(), client.lanes()), (1, 1));
    server.request_lanes(3);
    until(&client, |client| client.requested_lanes() == 3).await;
    for channel in [2, 3] {
        let (result, _) = bed
            .reattach(&bed.link_pair, channel, &client, Vec::new())
            .await;
        assert!(matches!(result, Ok(attach::AttachOutcome::Resumed)));
    }
    assert_eq!(client.lanes(), 3);
    client.leave_surplus(2);
    assert_eq!((client.lanes(), client.is_moving()), (2, true));
    client.leave_surplus(0);
    assert_eq!(client.lanes(), 1, "one lane of a link remains");
    until(&client, |client| !client.is_moving()).await;
    assert!(client.is_attached() && server.is_attached());
    assert_eq!(server.lanes(), 1);
    bed.end().await;
}

#[tokio::test]
async fn server_closes_lanes_that_share_a_link_while_others_are_up() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    until(&client, Tunnel::accepts_lanes).await;
    for channel in [2, 3] {
        bed.reattach(&bed.link_pair, channel, &client, Vec::new())
            .await
            .0
            .expect("joined");
    }
    eventually(|| server.lanes() == 3).await;
    server.spread_lanes(1);
    assert_eq!(server.lanes(), 3, "the only link");
    server.spread_lanes(2);
    assert_eq!(server.lanes(), 2, "room for one on the other link");
    eventually(|| client.lanes() == 2).await;
    server.spread_lanes(8);
    assert_eq!(server.lanes(), 1, "the oldest remains");
    eventually(|| client.lanes() == 1).await;
    assert!(client.is_attached() && server.is_attached());
    bed.end().await;
}

#[tokio::test]
async fn lanes_join_after_a_cut_of_all_lanes_without_another_resumption() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    until(&client, Tunnel::accepts_lanes).await;
    bed.link_pair.cut.cancel();
    for end in [&client, &server] {
        until(end, |end| !end.is_attached()).await;
    }
    assert!(!client.accepts_lanes());
    let link_pair = bed.new_link_pair();
    let (result, _) = bed.reattach(&link_pair, 1, &client, Vec::new()).await;
    assert!(matches!(result, Ok(attach::AttachOutcome::Resumed)));
    until(&client, Tunnel::accepts_lanes).await;
    for channel in 2..=4 {
        let (result, _) = bed.reattach(&link_pair, channel, &client, Vec::new()).await;
        assert!(matches!(result, Ok(attach::AttachOutcome::Resumed)));
    }
    assert_eq!(client.lanes(), 4);
    let counters = &client.port().process_shared.counters;
    assert_eq!(counters.resumed.get(), 2, "once at each end");
    bed.end().await;
}
