//! A port that is retired: it keeps its tunnels, and requests no others.

use super::*;

#[test]
fn a_retired_port_keeps_its_tunnel_while_it_has_streams() {
    let (mut port, current) = Port::attached();
    let attached = TunnelPhase::Attached {
        link: Some(link(1)),
    };
    port.changed(current, view(attached));
    assert_eq!(
        port.on(PortEvent::Retired),
        [PortAction::SetReady(None)],
        "no new streams"
    );
    assert_eq!(port.wait(20 * SECOND), []);
    // It moves to the next link like others.
    let moved = port.on(PortEvent::LinkBegins(link(2)));
    assert!(
        moved.iter().any(|action| matches!(
            action,
            PortAction::Attach {
                purpose: AttachPurpose::Resume { .. },
                ..
            }
        )),
        "{moved:?}"
    );
    assert!(!port.machine.has_retired());
    let mut unused = view(attached);
    unused.has_streams = false;
    port.changed(current, unused);
    let ended = port.wait(20 * SECOND);
    assert!(
        ended.contains(&PortAction::EndTunnel {
            tunnel: current.id,
            reason: EndTunnelReason::Unused
        }),
        "{ended:?}"
    );
    let mut over = unused;
    over.phase = TunnelPhase::Ended;
    let last = port.changed(current, over);
    assert_eq!(
        last,
        [PortAction::Forget { tunnel: current.id }],
        "no new tunnel"
    );
}

#[test]
fn a_retired_port_withdraws_its_request() {
    let mut port = Port::new();
    let requested = port.link(1);
    let request = request_of(&requested);
    assert_eq!(
        port.on(PortEvent::Retired),
        [PortAction::CancelAttach { request }]
    );
    let late = port.done(request, new(tunnel(1, 1), 1));
    assert!(
        late.contains(&PortAction::EndTunnel {
            tunnel: tunnel(1, 1).id,
            reason: EndTunnelReason::Redundant
        }),
        "{late:?}"
    );
    assert!(port.machine.has_retired());
    assert_eq!(port.link(2), []);
    assert_eq!(port.wait(60 * SECOND), []);
}
