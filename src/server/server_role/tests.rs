//! Tests of the server on one of its links.

use super::*;
use crate::{
    config::Target,
    link::{KeepAliveTiming, Link},
    supervisor::MoveRequests,
    tunnel::tests::plain_port,
};
use report_proto::frame::{AttachHeader, Ports};

/// Returns a role with one port, and its key id.
fn role(drain: &Drain) -> (ServerRole, Id) {
    let port = plain_port();
    let id = port.keys.id;
    let offered = ServerPort {
        port,
        service: "localhost:1".parse::<Target>().unwrap().into(),
        proxy_protocol: false,
    };
    let role = ServerRole::new(
        Id([7; 16]),
        PortMap::from([(id, Arc::new(offered))]),
        ServerSettings {
            connect_timeout: Duration::from_secs(1),
            bench: true,
        },
        QuotaLimits::default(),
        drain,
    );
    (role, id)
}

fn link() -> RoleLink {
    RoleLink {
        outbox: Outbox::new(),
        slot: Slot::FIRST,
        is_additional: false,
        move_requests: MoveRequests::default(),
    }
}

/// Returns the first frame of a link that retires for this reason. A CLOSE follows the frames
/// of the role.
async fn first_frame_of_retiring(cause: RetirementCause) -> Frame {
    let drain = Drain::default();
    let (role, _) = role(&drain);
    let link = link();
    let (_, mut session) = role.begin(&link);
    role.retiring(&link, cause);
    link.outbox
        .control(&close(1, &Notice::new(Code::Cancelled, "")));
    let (socket, mut master) = crate::net::memory::pair();
    let running = Link::new(socket, link.outbox, KeepAliveTiming::default());
    let first = async {
        let message = master.receive().await.unwrap().unwrap();
        Frame::decode(message.freeze()).unwrap()
    };
    tokio::select! {
        frame = first => frame,
        _ = running.run(&mut session, std::future::pending()) => panic!("the link ended"),
    }
}

#[tokio::test]
async fn a_link_without_a_successor_withdraws_the_ports_before_it_retires() {
    let (_, id) = role(&Drain::default());
    assert_eq!(
        first_frame_of_retiring(RetirementCause::Surplus).await,
        Frame::Unregister(Ports { ports: vec![id] })
    );
    assert!(matches!(
        first_frame_of_retiring(RetirementCause::Replaced).await,
        Frame::Close { channel: 1, .. }
    ));
}

#[tokio::test]
async fn a_reused_channel_number_is_a_protocol_error_and_leaves_no_tunnel() {
    let drain = Drain::default();
    let request = attach::request(&plain_port(), &Outbox::new(), 1, &drain.tasks).unwrap();
    let (role, id) = role(&drain);
    let link = link();
    let outbox = Arc::clone(&link.outbox);
    let (_, mut session) = role.begin(&link);
    let attach = || Frame::Attach {
        channel: 3,
        header: AttachHeader {
            port: id,
            instance: None,
            avoid: Vec::new(),
        },
        message: request.message.clone(),
    };
    assert_eq!(session.on_frame(attach()), Ok(()));
    assert_eq!(
        session.on_frame(attach()).map_err(|notice| notice.code),
        Err(Code::Protocol)
    );
    outbox.close(3, &Notice::new(Code::Shutdown, ""));
    drain.tasks.close();
    tokio::time::timeout(Duration::from_secs(10), drain.tasks.wait())
        .await
        .unwrap();
}

/// Returns a port with another key.
fn other_port() -> (Id, Arc<ServerPort>) {
    let keys = report_proto::crypto::PortKeys::derive("another key");
    let id = keys.id;
    let offered = ServerPort {
        port: crate::tunnel::PortParameters {
            keys,
            ..plain_port()
        },
        service: "localhost:2".parse::<Target>().unwrap().into(),
        proxy_protocol: false,
    };
    (id, Arc::new(offered))
}

#[tokio::test]
async fn a_change_registers_and_withdraws_ports_on_the_links_in_use() {
    let drain = Drain::default();
    let (role, id) = role(&drain);
    let (link, retiring) = (link(), link());
    let (_, mut session) = role.begin(&link);
    let (_, _session) = role.begin(&retiring);
    role.retiring(&retiring, RetirementCause::Replaced);
    let (other, port) = other_port();
    let settings = ServerSettings {
        connect_timeout: Duration::from_secs(2),
        bench: false,
    };
    let ports = PortMap::from([(other, port)]);
    let removed = role.change(ports, settings, QuotaLimits::default());
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].port.keys.id, id);
    assert_eq!(role.begin(&self::link()).0.len(), 1, "for later links too");
    let (socket, mut master) = crate::net::memory::pair();
    let running = Link::new(socket, link.outbox, KeepAliveTiming::default());
    let frames = async {
        let mut frames = Vec::new();
        for _ in 0..2 {
            let message = master.receive().await.unwrap().unwrap();
            frames.push(Frame::decode(message.freeze()).unwrap());
        }
        frames
    };
    let frames = tokio::select! {
        frames = frames => frames,
        _ = running.run(&mut session, std::future::pending()) => panic!("the link ended"),
    };
    let ports = |id| Ports { ports: vec![id] };
    assert_eq!(
        frames,
        [Frame::Register(ports(other)), Frame::Unregister(ports(id))]
    );
    drain.stop.cancel();
}
