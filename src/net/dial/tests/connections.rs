//! Names, and connections over TCP.

use super::{
    proxies::{authenticating_proxy, dialer_through},
    *,
};

#[tokio::test]
async fn dial_resolves_a_name() {
    let master = TestListener::master().await;
    exchange_messages(&dialer(&master.url("ws", "localhost"), parameters())).await;
}

#[tokio::test]
async fn refused_connection_names_the_address() {
    // The socket is bound so that no other test listens there, but it does not listen itself.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let gone = bound.local_addr().unwrap();
    let error = failure(&dialer(&format!("ws://{gone}/"), parameters())).await;
    assert!(
        matches!(&error, DialError::Connect { attempts, .. } if attempts.len() == 1),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("{gone} (refused)")),
        "{error}"
    );
}

#[tokio::test]
async fn race_tries_the_next_address() {
    let master = TestListener::master().await;
    let dead = TestListener::master().await.address;
    let stream = master
        .dialer()
        .connector
        .race(
            DialPeer::Master,
            vec![dead, master.address],
            &DialProgress::new(&()),
        )
        .await
        .unwrap();
    assert_eq!(stream.peer_addr().unwrap(), master.address);
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn dial_reports_the_congestion_control_in_use() {
    let master = TestListener::master().await;
    for setting in ["auto", "system", "reno"] {
        let parameters = DialParameters {
            proxy: ProxyChoice::Direct,
            congestion_control: setting.parse().unwrap(),
            ..parameters()
        };
        let dialer = dialer(&master.url("ws", "127.0.0.1"), parameters);
        let socket = dialer.dial().await.unwrap();
        let control = dialer.congestion_control();
        assert_eq!(socket.congestion_control(), control.expected(true));
        if setting == "reno" && control.problem().is_none() {
            let in_use = socket.congestion_control().algorithm();
            assert_eq!(in_use.map(|name| name.to_string()).as_deref(), Some("reno"));
        }
    }
}

#[tokio::test]
async fn missing_bind_address_names_its_field() {
    let master = TestListener::master().await;
    // 192.0.2.1 is reserved for documentation (RFC 5737).
    for bind in [
        Bind::Address([192, 0, 2, 1].into()),
        Bind::Interface("nosuch0".to_owned()),
    ] {
        let parameters = DialParameters {
            proxy: ProxyChoice::Direct,
            bind: Some(bind),
            ..parameters()
        };
        let dialer = dialer(&master.url("ws", "127.0.0.1"), parameters);
        let message = failure(&dialer).await.to_string();
        assert!(
            message.contains("no such address or interface")
                && message.ends_with("correct `bind_address`"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn unresolvable_name_is_reported() {
    let error = failure(&dialer("ws://no-such-host.invalid/", parameters())).await;
    assert!(
        matches!(&error, DialError::Name { host, .. } if host == "no-such-host.invalid"),
        "{error}"
    );
}

#[tokio::test]
async fn socket_names_its_tcp_connection_to_the_first_hop() {
    let authority = Authority::new();
    let plain = TestListener::master().await;
    let secure = TestListener::secure(authority.sign("127.0.0.1", |_| ())).await;
    let proxy = TestListener::with(authenticating_proxy).await;
    for (dialer, first_hop) in [
        (plain.dialer(), plain.address),
        (secure.tls_dialer("127.0.0.1", &authority), secure.address),
        (dialer_through(&proxy, "http", "ann:sesame@"), proxy.address),
    ] {
        let mut socket = dialer.dial().await.unwrap();
        socket.receive().await.unwrap();
        let connection = socket.connection().unwrap();
        assert_eq!(connection.peer, first_hop);
        assert!(connection.local.ip().is_loopback() && connection.local.port() > 0);
        #[cfg(target_os = "linux")]
        {
            use crate::net::tcp_stats::TcpStatsReader;
            let stats = TcpStatsReader::open().unwrap().read(&connection);
            assert!(stats.is_some_and(|stats| stats.received_bytes > 100));
        }
    }
}
