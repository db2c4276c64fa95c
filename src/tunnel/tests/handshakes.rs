//! Tests of the handshake of an attachment: refusals, replays, and an attachment that is dropped.

use super::*;

#[tokio::test]
async fn a_method_mismatch_is_reported_at_both_ends() {
    let bed = TunnelTestbed::new();
    let client = port(EncryptMethod::Aes128Cfb, CompressMethod::Zstd);
    let server = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
    let (client_result, served) = bed.attach(&client, &server).await;
    assert!(served.is_none());
    let error = client_result.err().unwrap().to_string();
    assert_eq!(
        error,
        "`encrypt_method` is \"aes-128-cfb\" here and \"aes-128-gcm\" at the other end: make them equal"
    );
    bed.end().await;
}

/// Returns why the server refuses the client.
async fn refusal(client: &PortParameters, server: &PortParameters) -> String {
    let bed = TunnelTestbed::new();
    let (result, served) = bed.attach(client, server).await;
    assert!(served.is_none());
    bed.end().await;
    result.err().unwrap().to_string()
}

#[tokio::test]
async fn a_port_that_is_udp_at_one_end_and_tcp_at_the_other_is_refused() {
    let server = plain_port();
    let client = PortParameters {
        protocol: ServiceProtocol::Udp,
        ..server.clone()
    };
    assert_eq!(
        refusal(&client, &server).await,
        "`protocol` is \"udp\" here and \"tcp\" at the other end: make them equal"
    );
}

#[tokio::test]
async fn ranges_of_different_sizes_are_refused() {
    let server = PortParameters {
        range: 11,
        ..plain_port()
    };
    let client = PortParameters {
        range: 10,
        ..server.clone()
    };
    assert_eq!(
        refusal(&client, &server).await,
        "`local_address` has 10 port(s) here and 11 at the other end: use ranges of the same size"
    );
}

#[tokio::test]
async fn a_different_port_key_fails_the_handshake() {
    let bed = TunnelTestbed::new();
    let server = port(EncryptMethod::Plain, CompressMethod::Null);
    let client = PortParameters {
        keys: PortKeys::derive("a guess"),
        ..server.clone()
    };
    let (client_result, served) = bed.attach(&client, &server).await;
    assert!(served.is_none() && matches!(client_result, Err(AttachError::Handshake(_))));
    bed.end().await;
}

#[tokio::test]
async fn a_replayed_handshake_opens_no_stream() {
    let bed = TunnelTestbed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let request = attach::request(&port, &bed.link_pair.client, 5, &bed.tasks).unwrap();
    // The master or another attacker on the path replays the first message, and then the client's
    // sealed message, which opens a stream.
    let reply = attach::reply(
        &port,
        &accept_context(&bed.tasks, &|_| None),
        &request.message,
        &bed.link_pair.server,
        9,
    )
    .unwrap();
    let tunnel = reply.outcome.unwrap().unwrap();
    let mut replayed = vec![0x01, 0x00, 0x40, 0x40, 0x00];
    replayed.extend_from_slice(&[0; 16]);
    use crate::link::ChannelEnd;
    assert!(
        reply
            .attachment
            .receive(BytesMut::from(&replayed[..]))
            .is_err()
    );
    drop(reply.attachment);
    assert!(
        tunnel.accept().await.is_none(),
        "the tunnel ended and no stream was opened"
    );
    bed.end().await;
}

#[tokio::test]
async fn dropping_the_attachment_of_a_new_tunnel_ends_it() {
    let bed = TunnelTestbed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let request = attach::request(&port, &bed.link_pair.client, 5, &bed.tasks).unwrap();
    let reply = attach::reply(
        &port,
        &accept_context(&bed.tasks, &|_| None),
        &request.message,
        &bed.link_pair.server,
        9,
    )
    .unwrap();
    let tunnel = reply.outcome.unwrap().unwrap();
    drop(reply.attachment);
    tokio::time::timeout(Duration::from_secs(10), tunnel.closed())
        .await
        .unwrap();
    bed.end().await;
}
