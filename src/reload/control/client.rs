//! The side of a command: sends it to the running role.

use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    address::{possible_folders, socket_name},
    wire::{ANSWER_MAX, ControlCommand, ControlRequest, encode},
};
use crate::reload::ReloadReport;

/// How long a role may take. A restarted master waits for half a minute, and a reload for name
/// lookups.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A command does not reach the role, or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration file cannot be found.
    #[error("{path}: {source} (name the file of the running role with --config)", path = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// No process listens.
    #[error(
        "no running role with the configuration {path} was found (start it, name the file with which \
         it was started, or run this command as its user or as root)",
        path = .0.display()
    )]
    NotRunning(PathBuf),
    /// The process has ended, or sends no answer.
    #[error("the role does not answer: {0} (its log gives the reason)")]
    NoAnswer(#[from] io::Error),
}

/// Sends a command to the role that runs with this configuration file. Blocks until it is executed.
///
/// # Errors
/// When no role is found, or it does not answer.
pub fn send(file: &Path, command: ControlCommand) -> Result<ReloadReport, ControlError> {
    send_with(file, command, &|name| std::env::var_os(name))
}

pub(super) fn send_with(
    file: &Path,
    command: ControlCommand,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ReloadReport, ControlError> {
    let name = socket_name(file).map_err(|source| ControlError::File {
        file: file.to_owned(),
        source,
    })?;
    let folders = possible_folders(variable);
    let mut sockets = folders
        .iter()
        .filter_map(|folder| UnixStream::connect(folder.join(&name)).ok());
    match sockets.next() {
        Some(socket) => Ok(exchange(socket, command)?),
        None => Err(ControlError::NotRunning(file.to_owned())),
    }
}

fn exchange(mut socket: UnixStream, command: ControlCommand) -> io::Result<ReloadReport> {
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.write_all(&encode(&ControlRequest { command })?)?;
    let mut line = String::new();
    BufReader::new(socket.take(ANSWER_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}
