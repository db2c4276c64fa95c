//! Connects to a service at a unix socket.

use std::{
    io,
    os::unix::{fs::FileTypeExt as _, net::SocketAddr},
    time::Duration,
};

use tokio::{net::UnixStream, time::timeout};

use super::{
    connect_error::{ConnectError, SocketFault},
    file_limit::{self, OutOfFiles},
    local_stream::LocalStream,
    unix_socket::describe,
};

/// First and longest pause before another attempt at a socket whose backlog is full. The kernel
/// does not report when it has room.
const RETRY_FIRST: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(100);

/// Connects to a service within `limit`. Leaves the descriptors that are reserved for links.
///
/// # Errors
/// If the socket does not accept the connection.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect_unix(
    address: &SocketAddr,
    limit: Duration,
) -> Result<LocalStream, ConnectError> {
    file_limit::check_available().map_err(ConnectError::OutOfFiles)?;
    let connected = timeout(limit, connect_with_room(address)).await;
    match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => {
            let stream = LocalStream::Unix(stream);
            file_limit::record_stream(&stream);
            Ok(stream)
        }
        Err(error) => match OutOfFiles::of(&error) {
            Some(out) => Err(ConnectError::OutOfFiles(out)),
            None => Err(ConnectError::Socket {
                socket: describe(address),
                fault: fault(address, error).await,
            }),
        },
    }
}

/// Connects, and waits while the backlog of the socket is full.
async fn connect_with_room(address: &SocketAddr) -> io::Result<UnixStream> {
    let address = address.clone().into();
    let mut pause = RETRY_FIRST;
    loop {
        match UnixStream::connect_addr(&address).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected,
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(RETRY_MAX);
    }
}

/// Finds out why a socket does not accept a connection. The kernel also reports "refused" for a
/// file that is not a socket.
async fn fault(address: &SocketAddr, error: io::Error) -> SocketFault {
    if error.kind() == io::ErrorKind::ConnectionRefused
        && let Some(path) = address.as_pathname()
        && let Ok(found) = tokio::fs::metadata(path).await
        && !found.file_type().is_socket()
    {
        return SocketFault::NotASocket;
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::net::UnixListener;

    use super::*;
    use crate::diagnosis::DiagnosisCode;

    const LONG: Duration = Duration::from_secs(60);

    fn address(path: &Path) -> SocketAddr {
        SocketAddr::from_pathname(path).expect("a short path")
    }

    #[tokio::test]
    async fn a_listening_socket_is_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).expect("free");
        assert!(connect_unix(&address(&path), LONG).await.is_ok());
    }

    async fn assert_refused(path: &Path, reason: &str, code: DiagnosisCode) {
        let error = connect_unix(&address(path), LONG)
            .await
            .expect_err("no service");
        let text = format!("no connection to unix:{} ({reason})", path.display());
        assert_eq!((error.to_string(), error.code()), (text, code));
    }

    #[tokio::test]
    async fn an_error_names_the_socket_and_the_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        assert_refused(
            &path,
            "there is no such file",
            DiagnosisCode::ServiceRefused,
        )
        .await;
        drop(UnixListener::bind(&path).expect("free"));
        assert_refused(&path, "refused", DiagnosisCode::ServiceRefused).await;
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "content").expect("written");
        assert_refused(
            &path,
            "it is not a socket",
            DiagnosisCode::ServiceUnreachable,
        )
        .await;
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_backlog_delays_the_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let name = SockAddr::unix(&path).expect("a short path");
        listener.bind(&name).expect("free");
        listener.listen(0).expect("listens");
        let mut queued = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            queued.push(stream);
        }
        let error = connect_unix(&address(&path), Duration::from_millis(50))
            .await
            .expect_err("the backlog is full");
        assert_eq!(error.code(), DiagnosisCode::ServiceTimeout, "{error}");
        let socket = address(&path);
        let mut waiting = std::pin::pin!(connect_unix(&socket, LONG));
        tokio::select! {
            biased;
            connected = &mut waiting => panic!("the backlog is full: {connected:?}"),
            () = tokio::task::yield_now() => {}
        }
        let _accepted = listener.accept().expect("a queued connection");
        assert!(waiting.await.is_ok());
    }
}
