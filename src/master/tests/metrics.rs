//! Tests of the readiness and the metrics of the master.

use super::*;
use crate::{master::metrics::MasterObserver, metrics::Exposition};

impl RunningMaster {
    /// Returns the value of a series of the master's metrics, if it has this series.
    fn metric(&self, series: &str) -> Option<u64> {
        let observer = MasterObserver(Arc::clone(&self.shared));
        let text = Exposition::new(Arc::new(observer))
            .text()
            .expect("it can be encoded");
        let values = text.lines().filter_map(|line| line.rsplit_once(' '));
        let mut values = values.filter(|(name, _)| *name == series);
        values
            .next()
            .map(|(_, value)| value.parse().expect("a number"))
    }
}

#[tokio::test]
async fn links_and_their_bytes_are_counted_also_after_their_end() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    client.data(1, &[7; 1_000]).await;
    server.expect_data(1, &[7; 1_000]).await;
    let answer = b"answer".len() as u64;
    let bytes = |peer: &str, direction: &str| {
        let labels = format!("{{peer=\"{peer}\",direction=\"{direction}\"}}");
        master.metric(&format!("report_link_bytes_total{labels}"))
    };
    let all = || {
        [
            ("client", "received"),
            ("client", "sent"),
            ("server", "received"),
            ("server", "sent"),
        ]
        .map(|(peer, direction)| bytes(peer, direction))
    };
    let expected = [1_000, answer, answer, 1_000].map(Some);
    assert_eq!(all(), expected);
    assert_eq!(master.metric("report_links{peer=\"client\"}"), Some(1));
    assert_eq!(master.metric("report_channels{peer=\"server\"}"), Some(1));
    assert_eq!(master.metric("report_registered_ports"), Some(1));
    drop((client, server));
    until("both links have ended", || {
        master.shared.router.registry().links() == 0
    })
    .await;
    assert_eq!(all(), expected, "the sums of ended links remain");
    assert_eq!(master.metric("report_links{peer=\"client\"}"), Some(0));
    for peer in ["client", "server"] {
        let established = format!("report_established_links_total{{peer=\"{peer}\"}}");
        assert_eq!(master.metric(&established), Some(1));
    }
}

#[tokio::test]
async fn links_without_welcome_are_not_counted_as_established() {
    let master = start();
    let router = &master.shared.router;
    let link = enter_link(router, 100, Role::Client);
    let counted = || {
        ["report_links", "report_established_links_total"]
            .map(|name| master.metric(&format!("{name}{{peer=\"client\"}}")))
    };
    assert_eq!(counted(), [Some(0), Some(0)]);
    router.ended_links.add(Role::Client, &link);
    assert_eq!(counted(), [Some(0), Some(0)], "nor at its end");
    link.mark_established();
    assert_eq!(counted(), [Some(1), Some(1)]);
}

#[tokio::test]
async fn refusals_are_counted_by_their_reason() {
    let master = start_with(|parameters| parameters.limits.channels_per_link = 1);
    let refusals = |stage: &str, reason: &str| {
        let labels = format!("{{stage=\"{stage}\",reason=\"{reason}\"}}");
        master.metric(&format!("report_refusals_total{labels}"))
    };
    assert_eq!(refusals("link", "unauthorized"), None);
    let wrong = LinkKey::derive(Some("another")).into();
    let refused = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
    assert!(refused.is_err());
    assert_eq!(refusals("link", "unauthorized"), Some(1));
    let (mut client, _server) = connected_pair(&master).await;
    client.attach(2, PORT).await;
    client.expect_close(2, Code::Limit).await;
    assert_eq!(refusals("attach", "channel_limit"), Some(1));
}

#[tokio::test]
async fn a_draining_master_is_not_ready() {
    let mut master = start();
    let observer = MasterObserver(Arc::clone(&master.shared));
    assert!(observer.missing().is_empty());
    master.cancel.cancel();
    with_timeout(master.task.join_next()).await;
    assert_eq!(observer.missing(), ["the master is draining"]);
}
