//! Tests of a server whose master's name has several addresses.

use std::net::Ipv4Addr;

use super::*;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// Longer than the time between two looks at the name.
const LOOK: Duration = Duration::from_secs(61);

impl Fixture {
    /// Starts a role with at most one link to a master, whose name has these addresses.
    fn of_name(role: Role, addresses: &[IpAddr], down: &[IpAddr]) -> Self {
        Fixture::start(1, |uplink| {
            uplink.role = role;
            let mut name = uplink.dialers[0].state.name.lock().unwrap();
            name.addresses = addresses.to_vec();
            name.down = down.to_vec();
        })
    }

    fn change_name(&self, change: impl FnOnce(&mut MasterName)) {
        change(&mut self.masters[0].connector.name.lock().unwrap());
    }

    /// Returns the addresses of the links so far.
    fn dialled(&self) -> Vec<IpAddr> {
        let name = self.masters[0].connector.name.lock().unwrap();
        name.dialled.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn server_keeps_two_links_to_different_addresses() {
    let mut fixture = Fixture::of_name(Role::Server, &[A, B], &[]);
    let first = fixture.accept().await;
    let mut second = fixture.accept().await;
    let slots = [&first, &second].map(|link| link.claims.slot.number());
    assert_eq!((slots, fixture.dialled()), ([0, 1], vec![A, B]));
    assert_eq!(fixture.links.wanted(), 2);
    fixture.masters[0].expect_no_link_for(2 * LOOK).await;
    drop(first);
    let again = fixture.accept().await;
    assert_eq!(again.claims.slot, Slot::FIRST);
    assert_eq!(fixture.dialled(), [A, B, A]);
    second.expect_alive().await;
}

#[tokio::test(start_paused = true)]
async fn second_link_retires_when_the_name_leads_to_one_master() {
    let mut fixture = Fixture::of_name(Role::Server, &[A, B], &[]);
    let _first = fixture.accept().await;
    let mut second = fixture.accept().await;
    fixture.change_name(|name| name.addresses = vec![A]);
    let changed = Instant::now();
    second.expect_closed().await;
    assert!(changed.elapsed() <= LOOK + RETIREMENT);
    fixture.masters[0].expect_no_link_for(2 * LOOK).await;
}

#[tokio::test(start_paused = true)]
async fn link_returns_to_a_master_that_was_down() {
    let mut fixture = Fixture::of_name(Role::Server, &[A, B], &[A]);
    let _first = fixture.accept().await;
    let _second = fixture.accept().await;
    assert_eq!(fixture.dialled(), [B, B]);
    fixture.masters[0].expect_no_link_for(2 * LOOK).await;
    fixture.change_name(|name| name.down.clear());
    let moved = tokio::time::timeout(LOOK, fixture.accept()).await.unwrap();
    assert_eq!((moved.claims.slot, moved.claims.moves), (Slot::FIRST, true));
    assert_eq!(fixture.dialled(), [B, B, A]);
    fixture.masters[0].expect_no_link_for(2 * LOOK).await;
}

#[tokio::test(start_paused = true)]
async fn client_and_a_server_with_one_address_keep_one_link() {
    for (role, addresses) in [
        (Role::Client, &[A, B][..]),
        (Role::Server, &[A]),
        (Role::Server, &[]),
    ] {
        let mut fixture = Fixture::of_name(role, addresses, &[]);
        let _first = fixture.accept().await;
        fixture.masters[0].expect_no_link_for(2 * LOOK).await;
        assert_eq!(fixture.links.wanted(), 1, "{role:?} {addresses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_follow_the_links_that_the_traffic_needs() {
    let mut fixture = Fixture::with_links(1, 4, Vec::new(), |uplink| {
        uplink.role = Role::Server;
        let mut name = uplink.dialers[0].state.name.lock().unwrap();
        name.addresses = vec![A, B];
    });
    let reported = |fixture: &Fixture| fixture.lanes.lock().unwrap().clone();
    let _two = [fixture.accept().await, fixture.accept().await];
    fixture.masters[0].expect_no_link_for(SECOND).await;
    assert!(
        reported(&fixture).is_empty(),
        "the second link is at another master"
    );
    fixture.links.set_wanted(3);
    let _third = fixture.accept().await;
    fixture.masters[0].expect_no_link_for(SECOND).await;
    assert_eq!(reported(&fixture).last(), Some(&3));
    fixture.links.set_wanted(1);
    fixture.masters[0].expect_no_link_for(SECOND).await;
    assert_eq!(reported(&fixture).last(), Some(&1));
}
