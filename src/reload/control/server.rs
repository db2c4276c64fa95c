//! The side of the role: accepts commands.

use std::{ffi::OsString, io, path::Path, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    address::{own_folder, socket_name},
    wire::{ControlCommand, ControlRequest, REQUEST_MAX, encode},
};
use crate::{
    net::unix_socket::{SocketAccess, UnixSocket},
    reload::{ReloadOutcome, ReloadReport},
};

/// The most connections at a time. Further ones wait in the backlog of the kernel.
const CONNECTIONS_MAX: usize = 8;

/// How long a peer may take to send its line, and to read the answer.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after the system refused another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The control socket cannot be created.
#[derive(Debug, thiserror::Error)]
#[error(
    "no control socket: {0} (`report reload` does not reach this process; SIGHUP reloads it too)"
)]
pub struct ControlSocketError(#[from] io::Error);

/// The control socket of a role. Dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket(UnixSocket);

impl ControlSocket {
    /// Listens at the socket of a configuration file. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the folder of the socket is unusable, or another process runs with the file.
    pub fn bind(file: &Path) -> Result<Self, ControlSocketError> {
        ControlSocket::bind_with(file, &|name| std::env::var_os(name))
    }

    pub(super) fn bind_with(
        file: &Path,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ControlSocketError> {
        let path = own_folder(variable)?.join(socket_name(file)?);
        let address = std::os::unix::net::SocketAddr::from_pathname(path)?;
        let socket = UnixSocket::bind(&address, SocketAccess::PRIVATE)?;
        debug!(%socket, "control socket");
        Ok(ControlSocket(socket))
    }

    /// Answers commands with `execute`. Never returns.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket and all connections. A command may have been executed.
    pub async fn serve(self, execute: impl AsyncFn(ControlCommand) -> ReloadReport) {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = connections.next() => {}
                accepted = self.0.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok(stream) => connections.push(answer(stream, &execute)),
                    Err(error) => {
                        debug!(%error, "control connection not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Serves one connection.
async fn answer(stream: UnixStream, execute: &impl AsyncFn(ControlCommand) -> ReloadReport) {
    let mut stream = BufReader::new(stream);
    let report = match timeout(PEER_TIMEOUT, read_request(&mut stream)).await {
        Ok(Ok(request)) => execute(request.command).await,
        Ok(Err(error)) => {
            debug!(%error, "invalid control request");
            ReloadReport {
                outcome: ReloadOutcome::Failed,
                text: format!("invalid request: {error}"),
            }
        }
        Err(_) => return debug!("control connection closed: no request in time"),
    };
    let answering = async {
        stream.write_all(&encode(&report)?).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(PEER_TIMEOUT, answering).await, Ok(Ok(()))) {
        debug!("the answer to a control request was not read");
    }
}

async fn read_request(stream: &mut BufReader<UnixStream>) -> io::Result<ControlRequest> {
    let mut line = Vec::new();
    stream
        .take(REQUEST_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    if line.last() != Some(&b'\n') {
        let problem = if line.len() as u64 == REQUEST_MAX {
            "the line is too long"
        } else {
            "the line is incomplete"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(serde_json::from_slice(&line)?)
}
