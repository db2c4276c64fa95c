//! Tests of the admission of connections and links.

use super::*;

fn admission(links: usize, links_per_address: usize) -> Arc<Admission> {
    let limits = MasterLimits {
        links,
        links_per_address,
        ..MasterLimits::default()
    };
    Admission::new(&limits, Arc::default())
}

/// Returns how many evictions were counted at a stage.
fn counted(admission: &Admission, stage: &'static str) -> u64 {
    let counts = admission.places().refusals.all();
    counts.get(&(stage, EVICTED)).copied().unwrap_or(0)
}

fn address(number: u8) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, 0, number]))
}

fn admit(admission: &Arc<Admission>, number: u8) -> ConnectionPermit {
    admission.admit(address(number)).expect("a place")
}

fn become_link(permit: &ConnectionPermit, role: Role) -> (LinkPlace, Arc<Outbox>) {
    let outbox = Outbox::new();
    (permit.become_link(role, &outbox).expect("a place"), outbox)
}

fn evicted(permits: &[ConnectionPermit]) -> usize {
    permits
        .iter()
        .filter(|permit| permit.evicted.is_cancelled())
        .count()
}

#[test]
fn silent_connections_take_a_quarter_and_are_evicted_for_others() {
    let admission = admission(64, 64);
    let flood: Vec<_> = (0..200).map(|_| admit(&admission, 1)).collect();
    assert_eq!(evicted(&flood), 200 - 16);
    let other = admit(&admission, 2);
    for _ in 0..1_000 {
        drop(admit(&admission, 1));
    }
    assert!(
        !other.evicted.is_cancelled(),
        "the victim belongs to the heaviest party"
    );
    // One victim for the other party, and one for the thousand that came and went.
    assert_eq!(evicted(&flood), 200 - 14);
    assert_eq!(counted(&admission, "connection"), 200 - 14);
}

#[test]
fn connection_from_a_flooded_address_usually_survives() {
    let admission = admission(4_096, 4_096);
    let mut flood: Vec<_> = (0..2_000).map(|_| admit(&admission, 1)).collect();
    let server = admit(&admission, 1);
    flood.extend((0..100).map(|_| admit(&admission, 1)));
    // A random one of 1,024 is evicted a hundred times, so nine of ten servers survive.
    if !server.evicted.is_cancelled() {
        assert!(server.become_link(Role::Server, &Outbox::new()).is_ok());
    }
    let left = admission.places().negotiating.total();
    assert!((1_023..=1_024).contains(&left), "{left}");
}

#[test]
fn clients_without_a_tunnel_yield_to_servers_and_other_addresses() {
    let admission = admission(64, 64);
    let permits: Vec<_> = (0..40).map(|_| admitted_client(&admission, 1)).collect();
    let server = admit(&admission, 1);
    become_link(&server, Role::Server);
    let (_other, _, outbox) = admitted_client(&admission, 2);
    let evicted = permits
        .iter()
        .filter(|(.., outbox)| is_evicted(outbox))
        .count();
    assert_eq!((evicted, is_evicted(&outbox)), (1, false));
    assert_eq!(
        (
            counted(&admission, "link"),
            counted(&admission, "connection")
        ),
        (1, 0)
    );
}

fn admitted_client(
    admission: &Arc<Admission>,
    number: u8,
) -> (ConnectionPermit, LinkPlace, Arc<Outbox>) {
    let permit = admit(admission, number);
    let (place, outbox) = become_link(&permit, Role::Client);
    (permit, place, outbox)
}

fn is_evicted(outbox: &Outbox) -> bool {
    outbox.is_end_requested()
}

#[test]
fn link_with_a_tunnel_is_never_evicted() {
    let admission = admission(64, 64);
    let attached: Vec<_> = (0..40).map(|_| admitted_client(&admission, 1)).collect();
    attached
        .iter()
        .for_each(|(_, place, _)| place.mark_attached());
    let late = admit(&admission, 2);
    assert_eq!(
        late.become_link(Role::Client, &Outbox::new()).err(),
        Some(AdmissionError::Clients(40))
    );
    assert!(late.become_link(Role::Server, &Outbox::new()).is_ok());
    assert!(attached.iter().all(|(.., outbox)| !is_evicted(outbox)));
}

#[test]
fn dropped_permit_frees_its_slot() {
    let admission = admission(3, 1);
    let greedy = admit(&admission, 1);
    let (place, _) = become_link(&greedy, Role::Client);
    place.mark_attached();
    assert_eq!(
        admission.admit(address(1)).err(),
        Some(AdmissionError::Address(1))
    );
    let other = admit(&admission, 2);
    drop((greedy, other));
    let places = admission.places();
    assert_eq!(
        (places.occupied.len(), places.parties.len(), places.attached),
        (0, 0, 0)
    );
    assert_eq!(
        (places.negotiating.total(), places.unattached.total()),
        (0, 0)
    );
}

#[test]
fn proxied_connection_counts_for_its_visitor_once_known() {
    let admission = admission(16, 1);
    let visitor = IpAddr::from([192, 0, 2, 7]);
    let mut first = admission.admit(None).expect("room for one");
    first.assign(visitor).expect("its first");
    let (place, _) = become_link(&first, Role::Client);
    place.mark_attached();
    let mut second = admit(&admission, 1);
    assert_eq!(second.assign(visitor), Err(AdmissionError::Address(1)));
    assert_eq!(
        admission.places().parties.get(&IpAddr::from([10, 0, 0, 1])),
        Some(&1),
        "still counted as before"
    );
    drop(first);
    second.assign(visitor).expect("room again");
    second.assign(visitor).expect("counted once");
    drop(second);
    assert!(admission.places().parties.is_empty());
}

#[test]
fn changed_limits_keep_connections_and_apply_to_the_next_ones() {
    let admission = admission(64, 2);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let permit = admit(&admission, 1);
            let link = become_link(&permit, Role::Server);
            (permit, link)
        })
        .collect();
    let limits = |links_per_address| MasterLimits {
        links: 64,
        links_per_address,
        ..MasterLimits::default()
    };
    let refused = |most| {
        let error = admission.admit(address(1)).expect_err("no place");
        assert_eq!(error, AdmissionError::Address(most));
    };
    refused(2);
    admission.set_limits(&limits(1));
    refused(1);
    assert!(
        held.iter()
            .all(|(permit, _)| !permit.evicted.is_cancelled())
    );
    admission.set_limits(&limits(3));
    drop(admit(&admission, 1));
}
