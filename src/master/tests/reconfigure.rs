//! Tests of a master whose configuration changes while links are up.

use std::net::{Ipv4Addr, TcpListener as BlockingListener};

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::*;
use crate::config::{self, RoleConfig};

/// Returns the configuration of the tests with other fields.
fn config(fields: Value) -> MasterConfig {
    let mut file = json!({
        "mode": "master",
        "listen_at": "127.0.0.1:0",
        "master_key": MASTER_KEY,
        "trusted_proxies": [],
    });
    for (name, value) in fields.as_object().expect("an object") {
        file[name.as_str()] = value.clone();
    }
    let path = std::path::Path::new("/nonexistent/master.json");
    let loaded = config::parse(&file.to_string(), path, &|_| None).expect("a valid configuration");
    match loaded.config.role {
        RoleConfig::Master(master) => master,
        other => panic!("a {} was read", other.name()),
    }
}

/// Waits until the task of the master listens.
async fn running(master: &RunningMaster) {
    while master.shared.listeners.sockets().is_empty() {
        tokio::task::yield_now().await;
    }
}

async fn reconfigure(
    master: &RunningMaster,
    old: Value,
    new: Value,
) -> Result<Vec<String>, MasterError> {
    running(master).await;
    MasterHandle::new(&master.shared)
        .reconfigure(&config(old), &config(new))
        .await
}

/// Returns the head of the answer to an upgrade at `path`.
async fn answer_at(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream
        .write_all(request(path).as_bytes())
        .await
        .expect("sent");
    head(&mut stream).await.0
}

/// Returns an address of this host that is free now.
fn free_address() -> SocketAddr {
    let listener = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

fn listening(master: &RunningMaster) -> Vec<SocketAddr> {
    let sockets = master.shared.listeners.sockets();
    let addresses = sockets.iter().map(|socket| socket.local_addr());
    addresses.map(|address| address.expect("bound")).collect()
}

#[tokio::test]
async fn changed_path_applies_to_new_connections_and_keeps_links() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let applied = reconfigure(&master, json!({}), json!({"path": "/moved"})).await;
    assert_eq!(applied.expect("applied"), Vec::<String>::new());
    client.data(1, b"continues").await;
    server.expect_data(1, b"continues").await;
    let (moved, former) = (
        answer_at(master.address, "/moved").await,
        answer_at(master.address, "/").await,
    );
    assert!(moved.starts_with("HTTP/1.1 101 "), "{moved}");
    assert!(former.starts_with("HTTP/1.1 404 "), "{former}");
}

#[tokio::test]
async fn many_changes_during_a_transfer_lose_no_message() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let paths = [json!({"path": "/a"}), json!({"path": "/b"})];
    for number in 0..200_u32 {
        let [old, new] = if number.is_multiple_of(2) {
            [paths[0].clone(), paths[1].clone()]
        } else {
            [paths[1].clone(), paths[0].clone()]
        };
        client.data(1, &number.to_be_bytes()).await;
        reconfigure(&master, old, new).await.expect("applied");
        server.expect_data(1, &number.to_be_bytes()).await;
    }
}

#[tokio::test]
async fn changed_address_opens_a_listener_and_closes_the_former_one() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let address = free_address();
    let new = json!({"listen_at": address.to_string()});
    reconfigure(&master, json!({}), new).await.expect("applied");
    assert_eq!(listening(&master), [address]);
    assert!(
        TcpStream::connect(master.address).await.is_err(),
        "the former listener is closed"
    );
    let answer = answer_at(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client.data(1, b"continues").await;
    server.expect_data(1, b"continues").await;
}

#[tokio::test]
async fn connections_in_the_backlog_of_a_former_listener_are_served() {
    let master = start();
    let answer = answer_at(master.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    // The master runs on this thread, so it has not accepted them.
    let connect = |_| std::net::TcpStream::connect(master.address).expect("in the backlog");
    let waiting: Vec<_> = (0..20).map(connect).collect();
    let new = json!({"listen_at": free_address().to_string()});
    reconfigure(&master, json!({}), new).await.expect("applied");
    for stream in waiting {
        stream.set_nonblocking(true).expect("set");
        let mut stream = TcpStream::from_std(stream).expect("registered");
        stream
            .write_all(request("/").as_bytes())
            .await
            .expect("sent");
        let (answer, _) = with_timeout(head(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
}

#[tokio::test]
async fn listener_of_an_address_that_stays_is_not_touched() {
    let (first, second) = (free_address(), free_address());
    let master = start_with(|parameters| parameters.listen_at = vec![first]);
    running(&master).await;
    let before = master.shared.listeners.sockets();
    let old = json!({"listen_at": first.to_string()});
    let new = json!({"listen_at": [second.to_string(), first.to_string()]});
    reconfigure(&master, old, new).await.expect("applied");
    let after = master.shared.listeners.sockets();
    assert_eq!(after.len(), 2);
    assert!(after.iter().any(|socket| Arc::ptr_eq(socket, &before[0])));
}

#[tokio::test]
async fn wildcard_replaces_an_address_with_the_same_port_and_back() {
    let address = free_address();
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let master = start_with(|parameters| parameters.listen_at = vec![address]);
    let [narrow, wide] =
        [address, wildcard].map(|address| json!({"listen_at": address.to_string()}));
    for (old, new, expected) in [
        (narrow.clone(), wide.clone(), wildcard),
        (wide, narrow, address),
    ] {
        reconfigure(&master, old, new).await.expect("applied");
        assert_eq!(listening(&master), [expected]);
        let answer = answer_at(address, "/").await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
}

#[tokio::test]
async fn occupied_address_keeps_the_former_configuration() {
    let occupied = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let taken = occupied.local_addr().expect("bound");
    let master = start();
    let free = free_address();
    let new = json!({"listen_at": [free.to_string(), taken.to_string()], "path": "/moved"});
    let error = reconfigure(&master, json!({}), new)
        .await
        .expect_err("it is taken");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert_eq!(listening(&master), [master.address]);
    let answer = answer_at(master.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

/// Other systems give a wildcard beside the address of another process.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn occupied_wildcard_opens_the_former_listener_again() {
    let address = free_address();
    let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
    let _occupied = BlockingListener::bind(other).expect("another address of loopback");
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let master = start_with(|parameters| parameters.listen_at = vec![address]);
    let [old, new] = [address, wildcard].map(|address| json!({"listen_at": address.to_string()}));
    let error = reconfigure(&master, old, new)
        .await
        .expect_err("another process listens at the port");
    assert!(error.to_string().contains(&wildcard.to_string()), "{error}");
    assert_eq!(listening(&master), [address]);
    let answer = answer_at(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn unusable_certificate_keeps_the_former_configuration() {
    let master = start();
    let new = json!({"tls": {"cert": "no.pem", "key": "no.key"}, "path": "/moved"});
    let error = reconfigure(&master, json!({}), new)
        .await
        .expect_err("no certificate");
    assert!(matches!(error, MasterError::Tls(_)), "{error}");
    let answer = answer_at(master.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn lower_limit_keeps_links_and_refuses_new_ones() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let new = json!({"limits": {"links_per_address": 2}});
    reconfigure(&master, json!({}), new.clone())
        .await
        .expect("applied");
    client.data(1, b"continues").await;
    server.expect_data(1, b"continues").await;
    let answer = answer_at(master.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    reconfigure(&master, new, json!({})).await.expect("applied");
    let answer = answer_at(master.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn changed_key_applies_to_servers_that_come() {
    const NEW_KEY: &str = "another master key of the tests";
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let new = json!({"master_key": NEW_KEY});
    reconfigure(&master, json!({}), new).await.expect("applied");
    client.data(1, b"continues").await;
    server.expect_data(1, b"continues").await;
    let refused = master.join(Role::Server, 3, 1, &[]).await;
    assert!(refused.is_err(), "the former key is refused");
    let key = LinkSecret::MasterKey(LinkKey::derive(Some(NEW_KEY)));
    let joined = master.join_with_key(&key, Role::Server, 4, 1, &[]).await;
    assert!(joined.is_ok(), "the new key is admitted");
}

#[cfg(feature = "store")]
#[tokio::test]
async fn another_database_needs_a_restart() {
    let master = start();
    let new = json!({"store": "sqlite:other.db"});
    let fields = reconfigure(&master, json!({}), new).await.expect("applied");
    assert_eq!(fields.len(), 1);
    assert!(fields[0].starts_with("`store`: "), "{fields:?}");
}

#[tokio::test]
async fn draining_master_starts_no_other_process() {
    let mut master = start();
    let handle = MasterHandle::new(&master.shared);
    master.cancel.cancel();
    while master.task.join_next().await.is_some() {}
    let refused = handle.restart(&crate::systemd::Notifier::new()).await;
    assert!(matches!(
        refused,
        Err(crate::successor::RestartError::Draining)
    ));
}

#[tokio::test]
async fn change_waits_until_the_start_of_another_process_has_ended() {
    let master = start();
    running(&master).await;
    let starting = master.shared.changes.try_acquire().expect("no change yet");
    let mut change = Box::pin(reconfigure(&master, json!({}), json!({"path": "/moved"})));
    assert!(change.as_mut().now_or_never().is_none(), "it waits");
    drop(starting);
    with_timeout(change).await.expect("applied");
    let answer = answer_at(master.address, "/moved").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn draining_master_applies_no_change() {
    let mut master = start();
    master.cancel.cancel();
    while master.task.join_next().await.is_some() {}
    let (old, new) = (config(json!({})), config(json!({"path": "/moved"})));
    let handle = MasterHandle::new(&master.shared);
    let refused = handle.reconfigure(&old, &new).await;
    assert!(matches!(refused, Err(MasterError::Draining)));
}
