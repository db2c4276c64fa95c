//! A listening unix socket whose file has the intended mode and owner from the start.
//!
//! `bind` creates a socket with the mode that the umask leaves, so another user could connect before
//! the mode is changed. The socket is therefore created in a new folder with mode 0700, and gets its
//! path when its mode and owner are set. They are set inside the open folder: a user who may rename
//! files beside the path could otherwise lead a process of root to another file.
//!
//! Several processes may start with the same path at the same time. One of them gets it: a hard link
//! replaces no file, and the socket of a process that has ended is removed by its identity only.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
            net::{self, SocketAddr},
            process::parent_id,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, RawMode, Uid, chmodat, chownat, fstat},
    process::geteuid,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use super::{passed_sockets, unix_owner::FileOwner};

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
struct PrivateFolder {
    path: PathBuf,
    opened: OwnedFd,
}

/// The socket in a private folder.
const PREPARED: &str = "s";

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
        access.apply(&folder)?;
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
    /// Sets the mode and the owner of the socket in `folder`.
    fn apply(self, folder: &PrivateFolder) -> io::Result<()> {
        let mode = Mode::from_raw_mode(self.mode as RawMode);
        // First, because only the owner and root may set the mode.
        chmodat(&folder.opened, PREPARED, mode, AtFlags::empty())?;
        let FileOwner { user, group } = self.owner;
        if user.is_some() || group.is_some() {
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(&folder.opened, PREPARED, user, group, flags).map_err(|error| {
                io::Error::other(format!(
                    "cannot set `socket_owner`: {error} (run rePort as root, or choose a group of \
                     its user)"
                ))
            })?;
        }
        Ok(())
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
        let path = parent.join(format!(".report-{:08x}", fastrand::u32(..)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        match open_private(&path) {
            Ok(opened) => Ok(PrivateFolder { path, opened }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.path.join(PREPARED)
    }

    /// Listens at the socket in this folder.
    fn listen(&self) -> io::Result<net::UnixListener> {
        let path = self.socket();
        // The path of this folder is longer than that of the socket, whose length the system
        // limits. On Linux an open folder has a short name too.
        #[cfg(target_os = "linux")]
        if SocketAddr::from_pathname(&path).is_err() {
            use std::os::fd::AsRawFd as _;
            let folder = self.opened.as_raw_fd();
            return net::UnixListener::bind(format!("/proc/self/fd/{folder}/{PREPARED}"));
        }
        net::UnixListener::bind(path)
    }

    /// Removes the socket of a process that has ended. It is moved here first, because a process
    /// that starts at the same time may have replaced it since the check.
    fn remove_ended(&self, path: &Path, ended: FileIdentity) -> io::Result<()> {
        let moved = self.path.join("old");
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
        let _ = fs::remove_dir(&self.path);
    }
}

/// Opens a folder that only the user of this process can use.
///
/// # Errors
/// When it is another folder: another user has replaced it since its creation.
fn open_private(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty())?;
    let found = fstat(&opened)?;
    let others = Mode::RWXG | Mode::RWXO;
    if found.st_uid == geteuid().as_raw() && !Mode::from_raw_mode(found.st_mode).intersects(others)
    {
        return Ok(opened);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "another user has replaced the folder in which the socket is prepared",
    ))
}

/// Gives the prepared socket its path, which no file has.
fn publish(prepared: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(prepared, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(in_use()),
        // A file system without hard links.
        Err(_) => rename_to_unused(prepared, path),
        Ok(()) => Ok(()),
    }
}

/// Renames a file to a path that no file has.
fn rename_to_unused(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(in_use()),
            // The file system cannot do that either.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::rename(from, to)
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
    let identity = (found.dev(), found.ino());
    match socket.connect(&SockAddr::unix(path)?) {
        // A restarted process takes over from the one that has started it.
        Ok(()) => is_predecessor(socket)
            .then_some(Some(identity))
            .ok_or_else(in_use),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(Some(identity)),
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

/// Whether the process that has started this one, and waits for it, listens at the other end of a
/// connection.
fn is_predecessor(connected: Socket) -> bool {
    if !passed_sockets::is_successor() {
        return false;
    }
    let stream = net::UnixStream::from(OwnedFd::from(connected));
    let peer = UnixStream::from_std(stream).and_then(|stream| stream.peer_cred());
    // Some systems know only the user of the other end.
    peer.is_ok_and(|peer| {
        let process = peer.pid();
        process.is_none_or(|process| u32::try_from(process) == Ok(parent_id()))
    })
}
