//! The options of a TCP connection that carries a link.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// After this long without traffic the kernel asks whether the peer is there: only of use where nothing above does, before a link is up.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sent bytes that nobody acknowledges for this long end the connection: as long as a link waits for its peer (PROTOCOL 12, `LINK_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// Unsent bytes that the kernel takes before it says that the socket is full: the order of sending is decided above it, as late as can be.
const NOT_SENT_LOWAT: u32 = 128 * 1024;

/// Sets the options that a link needs on `stream`: no delay of small messages, a dead peer is noticed, a short queue in the kernel.
///
/// # Errors
/// When the kernel refuses to send small messages at once; the other options are best effort, since not every platform has them.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(NOT_SENT_LOWAT);
    }
    Ok(())
}
