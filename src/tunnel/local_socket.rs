//! Options of the connections at both ends of a tunnel: to the application at a client, to the service at a server.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A peer that has vanished is noticed after this long without a word, and four probes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Bytes that the system takes for a local connection beyond what its peer has room for. What it takes counts as read: with megabytes of it, a reader
/// that stalls would look like a fast one for too long, and a thousand of them would use the system's memory for TCP up.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MAX: u32 = 16 * 1024;

/// Sets the options of a local connection. None is worth its end: what the system refuses is left as it is.
pub fn prepare(socket: &TcpStream) {
    // Without it small answers wait for the acknowledgement of the ones before.
    let _ = socket.set_nodelay(true);
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let _ = socket.set_tcp_keepalive(&keepalive);
    // Urgent data is part of the stream: otherwise its last byte would be lost (telnet's Synch, FTP's ABOR).
    let _ = socket.set_out_of_band_inline(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn a_local_connection_has_its_options_and_keeps_urgent_data() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("the connection");
        accepted.set_nonblocking(true).expect("set");
        let socket = TcpStream::from_std(accepted).expect("a socket");
        prepare(&socket);
        assert!(socket.nodelay().expect("read"));
        assert!(SockRef::from(&socket).keepalive().expect("read"));
        peer.write_all(b"a").expect("sent");
        SockRef::from(&peer).send_out_of_band(b"!").expect("sent");
        peer.write_all(b"b").expect("sent");
        drop(peer);
        let mut socket = socket.into_std().expect("a socket");
        socket.set_nonblocking(false).expect("set");
        let mut all = Vec::new();
        socket.read_to_end(&mut all).expect("everything");
        assert_eq!(all, b"a!b");
    }
}
