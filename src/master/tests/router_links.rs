//! Links in the registry of a router, without sockets.

use super::*;

/// Adds a link to the registry of a router. No task serves it.
pub(super) fn enter_link(router: &Router, number: u8, role: Role) -> Arc<LinkRef> {
    let identity = match role {
        Role::Server => Identity::MasterKey,
        Role::Client => Identity::Anonymous,
    };
    enter_link_of(router, number, role, identity)
}

/// The same with another identity.
pub(super) fn enter_link_of(
    router: &Router,
    number: u8,
    role: Role,
    identity: Identity,
) -> Arc<LinkRef> {
    let link = router.new_link(LinkPeer {
        number: number.into(),
        role,
        identity,
        instance: Id([number; 16]),
        slot: Slot::FIRST,
        visitor: IpAddr::from([10, 0, 0, 1]),
    });
    let new_link = AuthenticatedLink {
        link: link.number,
        party: link.party(),
        role,
        account: identity.account(),
        instance: Id([number; 16]),
        slot: Slot::FIRST,
        epoch: 1,
        moves: false,
        handle: Arc::clone(&link),
    };
    router.registry().add_link(new_link).expect("entered");
    link
}
