//! Keeps the links of a server apart. If the name of its master leads to several masters, clients may
//! be linked to any of them. The server then keeps at least two links, to different masters: the
//! loss of one master does not make its services unreachable.
//!
//! A name leads to several masters if it has several addresses of one family. Two addresses of
//! different families may belong to one host.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::{
    link_set::LinkCount,
    membership::Connections,
    uplink::{Connector, MoveRequests},
};

/// The number of links of a server whose name leads to several masters.
pub(super) const SPREAD_LINKS: usize = 2;

/// The time between two looks at a name that leads to several masters, or is unknown. It bounds the
/// time for which both links of a server stay at one master after the other one has returned.
const SPREAD_INTERVAL: Duration = Duration::from_secs(60);

/// The time between two looks at a name that leads to one master. Names change rarely.
const NAME_INTERVAL: Duration = Duration::from_secs(600);

/// Watches the name of a server's master until it is dropped. Sets how many links the server keeps at
/// least, and moves one of them if all are at one of several masters.
pub(super) async fn keep_apart(
    connector: &impl Connector,
    connections: &Connections,
    count: &LinkCount,
    moves: &MoveRequests,
) {
    loop {
        let addresses = connector.addresses().await;
        // A failed look-up says nothing about the masters.
        if !addresses.is_empty() {
            count.set_floor(links_for(&addresses));
        }
        if let Some(vacant) = vacant(&addresses, &connections.addresses())
            && connector.accepts_at(vacant).await
        {
            debug!(%vacant, "all links are at one of several masters: moving one");
            moves.request_new_link();
        }
        let is_single = !addresses.is_empty() && links_for(&addresses) == 1;
        sleep(if is_single {
            NAME_INTERVAL
        } else {
            SPREAD_INTERVAL
        })
        .await;
    }
}

/// Returns how many links a server keeps at least, if the name of its master has these addresses.
fn links_for(addresses: &[IpAddr]) -> usize {
    let distinct: BTreeSet<&IpAddr> = addresses.iter().collect();
    let of_one_family = distinct.iter().filter(|address| address.is_ipv6()).count();
    let of_the_other = distinct.len() - of_one_family;
    if of_one_family.max(of_the_other) > 1 {
        SPREAD_LINKS
    } else {
        1
    }
}

/// Returns an address without a link, if all of several links use another one of its family.
fn vacant(addresses: &[IpAddr], used: &[IpAddr]) -> Option<IpAddr> {
    let (first, others) = used.split_first()?;
    let is_crowded = !others.is_empty() && others.iter().all(|other| other == first);
    let is_vacant =
        |address: &&IpAddr| is_crowded && *address != first && address.is_ipv6() == first.is_ipv6();
    addresses.iter().find(is_vacant).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";
    const A6: &str = "2001:db8::1";
    const B6: &str = "2001:db8::2";

    #[test]
    fn several_addresses_of_one_family_need_two_links() {
        for several in [&[A, B][..], &[A, A6, B6], &[B, A6, A], &[A, B, A6, B6]] {
            assert_eq!(links_for(&ips(several)), 2, "{several:?}");
        }
        for one in [&[][..], &[A], &[A6], &[A, A6], &[A, A], &[A, A6, A, A6]] {
            assert_eq!(links_for(&ips(one)), 1, "{one:?}");
        }
    }

    #[test]
    fn a_link_moves_if_all_are_at_one_of_several_addresses() {
        let found = |addresses: &[&str], used: &[&str]| {
            vacant(&ips(addresses), &ips(used)).map(|ip| ip.to_string())
        };
        assert_eq!(found(&[A, B], &[A, A]), Some(B.to_owned()));
        assert_eq!(found(&[B, A6, A], &[A, A]), Some(B.to_owned()));
        assert_eq!(found(&[A, B], &[A]), None, "the other one is on its way");
        assert_eq!(found(&[A, B], &[A, B]), None);
        assert_eq!(found(&[A, B], &[B, A, B]), None);
        assert_eq!(found(&[A, A6], &[A, A]), None, "maybe the same host");
        assert_eq!(found(&[], &[A, A]), None);
    }
}
