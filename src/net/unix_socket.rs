//! A listening unix socket whose file has the intended mode and owner from the start.
//!
//! `bind` creates a socket with the mode that the umask leaves, so another user could connect before
//! the mode is changed. The socket is therefore created in a new folder with mode 0700, and gets its
//! path when its mode and owner are set.
//!
//! Several processes may start with the same path at the same time. One of them gets it: a hard link
//! replaces no file, and the socket of a process that has ended is removed by its identity only.

use std::{
    fmt, fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{self, SocketAddr},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use super::unix_owner::FileOwner;

/// The mode and the owner of a socket file, which decide who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permission bits.
    pub mode: u32,
    /// The owner. Changing it usually needs a privilege.
    pub owner: FileOwner,
}

impl SocketAccess {
    /// Only the user of this process and root may connect.
    pub const PRIVATE: Self = SocketAccess {
        mode: 0o600,
        owner: FileOwner {
            user: None,
            group: None,
        },
    };
}

/// A listening unix socket. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    // Dropped first. While the listener lives, no other process takes the path or gets a file with
    // the same identity, so the end removes no file of a successor.
    file: Option<SocketFile>,
    listener: UnixListener,
    address: SocketAddr,
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
    /// Listens at a path or at an abstract name. `access` applies to a path: any process may
    /// connect to an abstract name. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When another process listens there, another file is in the way, or the system refuses.
    pub fn bind(address: &SocketAddr, access: SocketAccess) -> io::Result<Self> {
        if let Some(path) = address.as_pathname() {
            return UnixSocket::bind_path(path, address, access);
        }
        let listener = net::UnixListener::bind_addr(address)?;
        listener.set_nonblocking(true)?;
        Ok(UnixSocket {
            file: None,
            listener: UnixListener::from_std(listener)?,
            address: address.clone(),
        })
    }

    fn bind_path(path: &Path, address: &SocketAddr, access: SocketAccess) -> io::Result<Self> {
        let ended = check_unused(path)?;
        let folder = PrivateFolder::beside(path)?;
        let listener = folder.listen()?;
        let prepared = folder.socket();
        access.apply(&prepared)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let identity = identity(&prepared)?;
        if let Some(ended) = ended {
            folder.remove_ended(path, ended)?;
        }
        publish(&prepared, path)?;
        let path = path.to_owned();
        Ok(UnixSocket {
            file: Some(SocketFile { path, identity }),
            listener,
            address: address.clone(),
        })
    }

    /// Accepts a connection.
    ///
    /// # Errors
    /// The error of the system.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        Ok(stream)
    }

    /// Returns the path of the socket's file; `None` for an abstract name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

impl fmt::Display for UnixSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&describe(&self.address))
    }
}

/// Returns an address as the configuration writes it: `unix:/PATH`, or `unix:@NAME` for an abstract
/// name.
#[must_use]
pub fn describe(address: &SocketAddr) -> String {
    if let Some(path) = address.as_pathname() {
        return format!("unix:{}", path.display());
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        if let Some(name) = address.as_abstract_name() {
            return format!("unix:@{}", String::from_utf8_lossy(name));
        }
    }
    "unix:".to_owned()
}

impl SocketAccess {
    /// Sets the mode and the owner of a socket file.
    fn apply(self, path: &Path) -> io::Result<()> {
        let FileOwner { user, group } = self.owner;
        if user.is_some() || group.is_some() {
            chown(path, user, group).map_err(|error| {
                io::Error::other(format!(
                    "cannot set `socket_owner`: {error} (run rePort as root, or choose a group of \
                     its user)"
                ))
            })?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = identity(&self.path).is_ok_and(|found| found == self.identity);
        if is_own && let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "cannot remove the socket file");
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

    /// Listens at the socket in this folder.
    fn listen(&self) -> io::Result<net::UnixListener> {
        let path = self.socket();
        // The path of this folder is longer than that of the socket, whose length the system
        // limits. On Linux an open folder has a short name too.
        #[cfg(target_os = "linux")]
        if SocketAddr::from_pathname(&path).is_err() {
            use std::os::fd::AsRawFd as _;
            let folder = fs::File::open(&self.0)?;
            return net::UnixListener::bind(format!("/proc/self/fd/{}/s", folder.as_raw_fd()));
        }
        net::UnixListener::bind(path)
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
        Ok(()) => Err(in_use()),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(Some((found.dev(), found.ino()))),
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::WouldBlock => Err(in_use()),
            io::ErrorKind::PermissionDenied => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "the socket of another user is there",
            )),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> io::Result<UnixSocket> {
        let address = SocketAddr::from_pathname(path).expect("a short path");
        UnixSocket::bind(&address, SocketAccess::PRIVATE)
    }

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
        let path = folder.path().join("a.sock");
        let socket = bind(&path).expect("free");
        let metadata = fs::symlink_metadata(&path).expect("it exists");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(names_in(folder.path()), ["a.sock"]);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(socket);
        assert!(names_in(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_replaced_and_a_living_one_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        // The listener ends and leaves its file, as a killed process does.
        drop(net::UnixListener::bind(&path).expect("free"));
        assert!(path.exists());
        let living = bind(&path).expect("the old socket is replaced");
        let error = bind(&path).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(names_in(folder.path()), ["a.sock"]);
        drop(living);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn of_two_processes_that_start_at_the_same_time_one_gets_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        for is_ended_socket_there in [false, true] {
            if is_ended_socket_there {
                drop(net::UnixListener::bind(&path).expect("free"));
            }
            // Both have checked the path before either gets it.
            let ended = check_unused(&path).expect("unused");
            assert_eq!(ended.is_some(), is_ended_socket_there);
            let first = bind(&path).expect("unused");
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
        let error = bind(&path).expect_err("in the way");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("there"), "content");
    }

    #[tokio::test]
    async fn the_end_leaves_the_socket_of_a_successor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let old = bind(&path).expect("free");
        fs::remove_file(&path).expect("removed");
        let new = bind(&path).expect("free again");
        drop(old);
        assert!(path.exists(), "the successor still listens");
        drop(new);
    }

    #[tokio::test]
    async fn the_mode_and_the_owner_are_set_before_the_path_exists() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let own = fs::metadata(folder.path()).expect("a folder");
        let access = SocketAccess {
            mode: 0o666,
            owner: FileOwner {
                user: Some(own.uid()),
                group: Some(own.gid()),
            },
        };
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        let socket = UnixSocket::bind(&address, access).expect("free");
        let metadata = fs::symlink_metadata(&path).expect("it exists");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
        assert_eq!((metadata.uid(), metadata.gid()), (own.uid(), own.gid()));
        assert_eq!(socket.to_string(), format!("unix:{}", path.display()));
    }

    #[tokio::test]
    async fn an_owner_that_may_not_be_set_leaves_no_file() {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let access = SocketAccess {
            owner: FileOwner {
                user: Some(0),
                group: None,
            },
            ..SocketAccess::PRIVATE
        };
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        let error = UnixSocket::bind(&address, access).expect_err("not allowed");
        assert!(error.to_string().contains("`socket_owner`"), "{error}");
        assert!(names_in(folder.path()).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_path_of_the_greatest_length_is_possible() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "x".repeat(107 - folder.path().as_os_str().len() - 3);
        let parent = folder.path().join(name);
        fs::create_dir(&parent).expect("created");
        let path = parent.join("s");
        assert_eq!(path.as_os_str().len(), 107);
        let socket = bind(&path).expect("free");
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert_eq!(names_in(&parent), ["s"]);
        drop(socket);
        assert!(names_in(&parent).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_abstract_name_belongs_to_one_listener() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("report-test-{:016x}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixSocket::bind(&address, SocketAccess::PRIVATE).expect("free");
        assert_eq!(socket.to_string(), format!("unix:@{name}"));
        let error = UnixSocket::bind(&address, SocketAccess::PRIVATE).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let connecting = UnixStream::connect(format!("\0{name}"));
        let (connected, accepted) = tokio::join!(connecting, socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        drop(socket);
        UnixSocket::bind(&address, SocketAccess::PRIVATE).expect("free again");
    }
}
