//! Socket options of the local connections of a tunnel: to the application at a client, to the
//! service at a server.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::net::local_stream::LocalStream;

/// A vanished peer is detected after the idle time and four probes, which are at most this far
/// apart.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Bytes that the kernel buffers for a local connection beyond the peer's receive window.
///
/// Buffered data counts as read. With megabytes of it a stalled reader would look fast for too
/// long, and a thousand such readers would exhaust the kernel's memory for TCP.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MAX: u32 = 16 * 1024;

/// Sets the options of a local connection. `keepalive` is the idle time before the first probe;
/// `None` disables probes. Options that the system rejects keep their defaults, because no option
/// is worth a connection. A unix socket needs none: it has no delay and no probes, and its buffer
/// is small.
pub(super) fn prepare(socket: &LocalStream, keepalive: Option<Duration>) {
    let Some(socket) = socket.tcp() else {
        return;
    };
    // With Nagle's algorithm small answers would wait for the acknowledgement of the previous ones.
    let _ = socket.set_nodelay(true);
    let socket = SockRef::from(socket);
    if let Some(idle) = keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(probe_interval(idle))
            .with_retries(KEEPALIVE_PROBES);
        let _ = socket.set_tcp_keepalive(&keepalive);
    }
    // No TCP_USER_TIMEOUT: Linux also counts it from the first probe of a closed window, even if
    // the peer answers. It would end the connection of a live application that has stopped reading.
    // The splice checks for a vanished peer while data waits. Urgent data is part of the stream:
    // without this option its last byte would be lost (telnet's Synch, FTP's ABOR).
    let _ = socket.set_out_of_band_inline(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
}

/// Returns the interval between probes after that idle time.
pub(super) fn probe_interval(idle: Duration) -> Duration {
    (idle / 4).clamp(Duration::from_secs(1), KEEPALIVE_INTERVAL)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::{io::AsyncReadExt, net::TcpStream};

    use super::*;

    #[tokio::test]
    async fn prepare_sets_the_options_and_keeps_urgent_data() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("its address"))
            .expect("a connection");
        let (accepted, _) = listener.accept().expect("the connection");
        accepted.set_nonblocking(true).expect("set");
        let mut local: LocalStream = TcpStream::from_std(accepted).expect("a socket").into();
        let socket = local.tcp().expect("a TCP connection");
        prepare(&local, None);
        assert!(socket.nodelay().expect("read"));
        assert!(!SockRef::from(socket).keepalive().expect("read"), "off");
        for (idle, interval) in [(1, 1), (10, 2), (60, 15), (9 * 3600, 15)] {
            prepare(&local, Some(Duration::from_secs(idle)));
            let socket = SockRef::from(socket);
            assert!(socket.keepalive().expect("read"));
            assert_eq!(
                socket.tcp_keepalive_time().expect("read"),
                Duration::from_secs(idle)
            );
            assert_eq!(
                socket.tcp_keepalive_interval().expect("read"),
                Duration::from_secs(interval)
            );
        }
        peer.write_all(b"a").expect("sent");
        SockRef::from(&peer).send_out_of_band(b"!").expect("sent");
        peer.write_all(b"b").expect("sent");
        drop(peer);
        let mut all = Vec::new();
        local.read_to_end(&mut all).await.expect("everything");
        assert_eq!(all, b"a!b");
    }
}
