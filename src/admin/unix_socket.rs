//! A unix socket that only its owner can use.
//!
//! `bind` creates a socket with the mode that the umask leaves, so another user could connect before
//! the mode is changed. The socket is therefore created in a new folder with mode 0700, and gets its
//! path when its mode is 0600.
//!
//! Several processes may start with the same path at the same time. One of them gets it: a hard link
//! replaces no file, and the socket of a process that has ended is removed by its identity only.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use crate::net::passed_sockets;

/// A listening unix socket. Dropping it removes its file.
#[derive(Debug)]
pub(super) struct UnixSocket {
    // Dropped first. While the listener lives, no other process takes the path or gets a file with
    // the same identity, so the end removes no file of a successor.
    file: SocketFile,
    listener: UnixListener,
}

/// The device and the number of a file.
type FileIdentity = (u64, u64);

/// The file of a socket. Dropping it removes the file, unless another process has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

/// A folder that only the owner can use, which exists while the socket is prepared.
struct PrivateFolder(PathBuf);

impl UnixSocket {
    /// Listens at `path`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another process listens there, another file is in the way, or the system refuses.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let ended = check_unused(path)?;
        let folder = PrivateFolder::beside(path)?;
        let prepared = folder.socket();
        let listener = net::UnixListener::bind(&prepared)?;
        fs::set_permissions(&prepared, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let identity = identity(&prepared)?;
        if let Some(ended) = ended {
            folder.remove_ended(path, ended)?;
        }
        publish(&prepared, path)?;
        let path = path.to_owned();
        Ok(UnixSocket {
            file: SocketFile { path, identity },
            listener,
        })
    }

    /// Returns the path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Accepts a connection.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        Ok(stream)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = identity(&self.path).is_ok_and(|found| found == self.identity);
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

impl PrivateFolder {
    /// Creates the folder in that of `path`.
    fn beside(path: &Path) -> io::Result<Self> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = parent.join(format!(".report-{:08x}", fastrand::u32(..)));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(PrivateFolder(folder))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }

    /// Removes the socket of a process that has ended. It is moved here first, because a process
    /// that starts at the same time may have replaced it since the check.
    fn remove_ended(&self, path: &Path, ended: FileIdentity) -> io::Result<()> {
        let moved = self.0.join("old");
        match fs::rename(path, &moved) {
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            outcome => outcome?,
        }
        if identity(&moved)? == ended {
            return fs::remove_file(&moved);
        }
        fs::rename(&moved, path)?;
        Err(in_use())
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

/// Gives the prepared socket its path, which no file has.
fn publish(prepared: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(prepared, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(in_use()),
        // A file system without hard links.
        Err(_) => fs::rename(prepared, path),
        Ok(()) => Ok(()),
    }
}

fn in_use() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")
}

/// Returns the identity of a file.
fn identity(path: &Path) -> io::Result<FileIdentity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Checks that `path` does not exist, or is the socket of a process that has ended. Returns the
/// identity of that socket.
fn check_unused(path: &Path) -> io::Result<Option<FileIdentity>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path exists and is not a socket",
        ));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener with a full backlog must not block this process.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        // A restarted process takes over from the one that has started it.
        Ok(()) if passed_sockets::is_successor() => Ok(Some((found.dev(), found.ino()))),
        Ok(()) => Err(in_use()),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(Some((found.dev(), found.ino()))),
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::WouldBlock => Err(in_use()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_socket_is_private_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let socket = UnixSocket::bind(&path).expect("free");
        let metadata = fs::symlink_metadata(&path).expect("it exists");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(names_in(folder.path()), ["admin.sock"]);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(socket);
        assert!(names_in(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_replaced_and_a_living_one_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        // The listener ends and leaves its file, as a killed process does.
        drop(net::UnixListener::bind(&path).expect("free"));
        assert!(path.exists());
        let living = UnixSocket::bind(&path).expect("the old socket is replaced");
        let error = UnixSocket::bind(&path).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(names_in(folder.path()), ["admin.sock"]);
        drop(living);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn of_two_processes_that_start_at_the_same_time_one_gets_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        for is_ended_socket_there in [false, true] {
            if is_ended_socket_there {
                drop(net::UnixListener::bind(&path).expect("free"));
            }
            // Both have checked the path before either gets it.
            let ended = check_unused(&path).expect("unused");
            assert_eq!(ended.is_some(), is_ended_socket_there);
            let first = UnixSocket::bind(&path).expect("unused");
            let second = PrivateFolder::beside(&path).expect("created");
            let prepared = net::UnixListener::bind(second.socket()).expect("free");
            let refused = match ended {
                Some(ended) => second.remove_ended(&path, ended),
                None => publish(&second.socket(), &path),
            };
            let error = refused.expect_err("the first one listens there");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            drop((second, prepared));
            let (connected, accepted) = tokio::join!(UnixStream::connect(&path), first.accept());
            assert!(connected.is_ok() && accepted.is_ok());
            drop(first);
            assert!(names_in(folder.path()).is_empty());
        }
    }

    #[tokio::test]
    async fn another_file_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "content").expect("written");
        let error = UnixSocket::bind(&path).expect_err("in the way");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("there"), "content");
    }

    #[tokio::test]
    async fn the_end_leaves_the_socket_of_a_successor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let old = UnixSocket::bind(&path).expect("free");
        fs::remove_file(&path).expect("removed");
        let new = UnixSocket::bind(&path).expect("free again");
        drop(old);
        assert!(path.exists(), "the successor still listens");
        drop(new);
    }
}
