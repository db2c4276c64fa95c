//! Tests of a client without a link: how it holds connections, and how it ends.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{HostPort, LinkConfig},
    link::{
        KeepAliveTiming,
        authenticate::{self, LinkSecret},
    },
    net::{
        dial::{DialParameters, Dialer, MasterAddress},
        upgrade::{derive_accept_key, upgraded},
    },
    supervisor::{DialStrategy, MoveRequests, Uplink},
    tunnel::tests::plain_port,
};
use report_proto::{
    frame::{Role, Slot},
    id::Id,
};

/// Far longer than any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Returns a client of the master at `address`, and the name of its port. The name is shared with
/// everything that the client still owns.
async fn client(address: SocketAddr, hold_timeout: Duration) -> (Client, Arc<str>) {
    let mark: Arc<str> = "test".into();
    let port = PortParameters {
        mark: Arc::clone(&mark),
        ..plain_port()
    };
    let master: MasterAddress = format!("ws://{address}/").parse().unwrap();
    let config = ClientConfig::new(LinkConfig::new(master.clone()), Vec::new());
    let dialer = Dialer::new(master, DialParameters::default()).unwrap();
    let uplink = Uplink {
        dialers: vec![dialer],
        strategy: DialStrategy::Ordered,
        secret: LinkSecret::Anonymous,
        role: Role::Client,
        instance: Id([3; 16]),
        slot: Slot::FIRST,
        timing: KeepAliveTiming::default(),
        rotate_after: None,
        move_requests: MoveRequests::default(),
    };
    let ports = vec![ClientPort {
        port,
        local_address: HostPort {
            host: "127.0.0.1".to_owned(),
            port: 0,
        }
        .into(),
        socks_user: None,
    }];
    (
        Client::bind(ClientParameters {
            hold_timeout,
            ..ClientParameters::new(&config, uplink, ports)
        })
        .await
        .unwrap(),
        mark,
    )
}

/// Acts as a master that reads HELLO and then sends nothing. Returns after the first HELLO.
async fn silent_master(listener: &TcpListener) -> impl Sized {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    let key = request
        .lines()
        .find_map(|line| {
            line.to_lowercase()
                .starts_with("sec-websocket-key")
                .then(|| &line[19..])
        })
        .unwrap();
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut socket = upgraded(stream, Bytes::new());
    authenticate::hello(&mut socket, DEADLINE).await.unwrap();
    socket
}

async fn master() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_connection_without_a_server_is_reset_after_hold_timeout() {
    let (_listener, address) = master().await;
    let (client, _) = client(address, Duration::from_millis(50)).await;
    let local = client.local_addresses()[0];
    let cancel = CancellationToken::new();
    let client_result = async {
        let mut application = TcpStream::connect(local).await.unwrap();
        let error = application.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        cancel.cancel();
    };
    let both = async { tokio::join!(client.run(cancel.clone(), DEADLINE), client_result) };
    tokio::time::timeout(DEADLINE, both).await.unwrap();
}

#[tokio::test]
async fn cancelling_a_client_that_waits_for_a_silent_master_ends_it_at_once() {
    let (listener, address) = master().await;
    let (client, mark) = client(address, DEADLINE).await;
    let cancel = CancellationToken::new();
    let asked = async {
        let _socket = silent_master(&listener).await;
        cancel.cancel();
    };
    let both = async { tokio::join!(client.run(cancel.clone(), DEADLINE), asked) };
    tokio::time::timeout(DEADLINE / 4, both).await.unwrap();
    assert_eq!(
        Arc::strong_count(&mark),
        1,
        "the client released everything"
    );
}

#[tokio::test]
async fn dropping_a_client_releases_its_resources() {
    let (listener, address) = master().await;
    let (client, mark) = client(address, DEADLINE).await;
    let mut running = Box::pin(client.run(CancellationToken::new(), DEADLINE));
    let _socket = tokio::select! {
        () = &mut running => unreachable!("the client was not cancelled"),
        socket = silent_master(&listener) => socket,
    };
    drop(running);
    let ended = async {
        while Arc::strong_count(&mark) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .unwrap();
}

/// Returns a change to one port that listens at this address.
fn change_to(address: SocketAddr) -> ClientChange {
    let local_address = HostPort {
        host: address.ip().to_string(),
        port: address.port(),
    };
    ClientChange {
        ports: vec![ClientPort {
            port: plain_port(),
            local_address: local_address.into(),
            socks_user: None,
        }],
        hold_timeout: DEADLINE,
        link_set: None,
    }
}

#[tokio::test]
async fn a_change_moves_the_listener_unless_the_new_address_is_in_use() {
    let (_listener, address) = master().await;
    let (client, _) = client(address, DEADLINE).await;
    let (handle, local) = (client.handle(), client.local_addresses()[0]);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (in_use, new) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
    drop(free);
    let cancel = CancellationToken::new();
    let steps = async {
        let error = handle.apply(change_to(in_use)).await.unwrap_err();
        assert!(error.to_string().contains("cannot listen"), "{error}");
        let waiting = TcpStream::connect(local).await.expect("still there");
        handle.apply(change_to(new)).await.unwrap();
        TcpStream::connect(new).await.expect("moved");
        assert!(TcpStream::connect(local).await.is_err(), "closed");
        drop(waiting);
        cancel.cancel();
    };
    let both = async { tokio::join!(client.run(cancel.clone(), Duration::ZERO), steps) };
    tokio::time::timeout(DEADLINE, both).await.unwrap();
    let late = handle.apply(change_to(new)).await;
    assert!(matches!(late, Err(ChangeError::Draining)));
}
