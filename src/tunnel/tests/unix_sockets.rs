//! Tests of splices between unix sockets.

use tokio::net::UnixStream;

use super::*;

/// Longer than any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Returns the unix sockets of an application and a service that are joined through a stream.
async fn spliced_pairs(
    bed: &TunnelTestbed,
    tunnels: &(Tunnel, Tunnel),
) -> (UnixStream, UnixStream) {
    let (application, client) = UnixStream::pair().unwrap();
    let (server, service) = UnixStream::pair().unwrap();
    let compress = tunnels.0.port().compress;
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks.spawn(splice(client, opened, compress));
    bed.tasks.spawn(splice(server, accepted, compress));
    (application, service)
}

async fn plain_tunnels(bed: &TunnelTestbed) -> (Tunnel, Tunnel) {
    bed.tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_carry_all_bytes_and_both_half_closes() {
    for compress in CompressMethod::ALL {
        let bed = TunnelTestbed::new();
        let tunnels = bed.tunnels(EncryptMethod::Aes128Gcm, compress).await;
        for application_ends_first in [true, false] {
            let (application, service) = spliced_pairs(&bed, &tunnels).await;
            let (mut first, mut second) = if application_ends_first {
                (application, service)
            } else {
                (service, application)
            };
            let sent = text(3_000_000);
            let copy = sent.clone();
            bed.tasks.spawn(async move {
                let mut received = Vec::new();
                second.read_to_end(&mut received).await.unwrap();
                assert!(received == copy, "{} bytes", received.len());
                second.write_all(&received).await.unwrap();
            });
            first.write_all(&sent).await.unwrap();
            first.shutdown().await.unwrap();
            let mut answer = Vec::new();
            first.read_to_end(&mut answer).await.unwrap();
            assert!(answer == sent, "{compress}: {} bytes", answer.len());
        }
        drop(tunnels);
        bed.end().await;
    }
}

#[tokio::test]
async fn a_unix_socket_and_a_tcp_connection_are_joined() {
    let bed = TunnelTestbed::new();
    let tunnels = plain_tunnels(&bed).await;
    let (mut application, client) = UnixStream::pair().unwrap();
    let (server, mut service) = sockets().await;
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    let opened = bed
        .tasks
        .spawn(splice(client, opened, CompressMethod::Null));
    bed.tasks
        .spawn(splice(server, accepted, CompressMethod::Null));
    application.write_all(b"ping").await.unwrap();
    service.read_exact(&mut [0; 4]).await.unwrap();
    service.write_all(b"pong").await.unwrap();
    service.shutdown().await.unwrap();
    let mut answer = Vec::new();
    application.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"pong");
    drop(application);
    assert_eq!(service.read(&mut [0]).await.unwrap(), 0);
    let spliced = opened.await.unwrap();
    assert!(spliced.error.is_none(), "{spliced:?}");
    assert_eq!((spliced.sent_bytes, spliced.received_bytes), (4, 4));
    bed.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_unix_service_that_closes_with_unread_data_resets_the_stream() {
    let bed = TunnelTestbed::new();
    let tunnels = plain_tunnels(&bed).await;
    let (mut application, client) = sockets().await;
    let (server, service) = UnixStream::pair().unwrap();
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks
        .spawn(splice(client, opened, CompressMethod::Null));
    bed.tasks
        .spawn(splice(server, accepted, CompressMethod::Null));
    application.write_all(b"a request").await.unwrap();
    service.readable().await.unwrap();
    drop(service);
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, application.read(&mut byte));
    let error = read.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    bed.end().await;
}

#[tokio::test]
async fn a_reset_of_the_peer_ends_a_unix_socket_in_both_directions() {
    let bed = TunnelTestbed::new();
    let tunnels = plain_tunnels(&bed).await;
    let (mut application, client) = UnixStream::pair().unwrap();
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks
        .spawn(splice(client, opened, CompressMethod::Null));
    application.write_all(b"a request").await.unwrap();
    assert_eq!(accepted.read().await.unwrap().unwrap(), "a request");
    accepted.reset(ResetCode::Refused);
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, application.read(&mut byte));
    // There is no reset without unread data.
    assert_eq!(read.await.unwrap().unwrap(), 0);
    let error = application.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    bed.end().await;
}

/// Sends bytes together with a file descriptor, which ends a read of the kernel behind them.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn send_with_descriptor(socket: &UnixStream, content: &[u8]) {
    use std::os::fd::AsRawFd as _;
    // A `cmsghdr` with the level SOL_SOCKET, the type SCM_RIGHTS and one descriptor.
    let mut control = Vec::new();
    control.extend_from_slice(&20_u64.to_ne_bytes());
    control.extend_from_slice(&1_i32.to_ne_bytes());
    control.extend_from_slice(&1_i32.to_ne_bytes());
    control.extend_from_slice(&socket.as_raw_fd().to_ne_bytes());
    control.extend_from_slice(&[0; 4]);
    let buffers = [io::IoSlice::new(content)];
    let message = socket2::MsgHdr::new()
        .with_buffers(&buffers)
        .with_control(&control);
    let sent = socket2::SockRef::from(socket).sendmsg(&message, 0);
    assert_eq!(sent.unwrap(), content.len());
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[tokio::test]
async fn data_behind_a_file_descriptor_does_not_wait() {
    let bed = TunnelTestbed::new();
    let tunnels = plain_tunnels(&bed).await;
    let (mut application, client) = UnixStream::pair().unwrap();
    // Both are available before the first read.
    send_with_descriptor(&application, b"with a descriptor, ");
    application.write_all(b"and without").await.unwrap();
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks
        .spawn(splice(client, opened, CompressMethod::Null));
    let mut received = BytesMut::new();
    let all = async {
        while received.len() < 30 {
            received.extend_from_slice(&accepted.read().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
    assert_eq!(received, "with a descriptor, and without");
    drop(accepted);
    bed.end().await;
}
