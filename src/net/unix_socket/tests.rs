//! Tests of the file of a unix socket: its mode and owner, its predecessors and its end.

use std::os::unix::fs::{PermissionsExt as _, symlink};

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

#[test]
fn the_mode_and_the_owner_are_not_set_outside_of_the_prepared_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "content").expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("set");
    let prepared = PrivateFolder::beside(&folder.path().join("a.sock")).expect("created");
    // Another user who may write the folder of the socket replaces the one inside.
    fs::rename(&prepared.path, folder.path().join("moved")).expect("renamed");
    fs::create_dir(&prepared.path).expect("created");
    symlink(&secret, prepared.socket()).expect("created");
    let access = SocketAccess {
        mode: 0o666,
        ..SocketAccess::PRIVATE
    };
    let error = access.apply(&prepared).expect_err("no socket");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let mode = fs::metadata(&secret).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_folder_that_others_can_use_is_not_private() {
    let folder = tempfile::tempdir().expect("a folder");
    let (own, shared, link) = (
        folder.path().join("own"),
        folder.path().join("shared"),
        folder.path().join("link"),
    );
    for (path, mode) in [(&own, 0o700), (&shared, 0o750)] {
        fs::create_dir(path).expect("created");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    symlink(&own, &link).expect("created");
    open_private(&own).expect("private");
    let error = open_private(&shared).expect_err("shared");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    open_private(&link).expect_err("a link");
}

#[cfg(target_os = "linux")]
#[test]
fn a_rename_replaces_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    for path in [&from, &to] {
        fs::write(path, path.display().to_string()).expect("written");
    }
    let error = rename_to_unused(&from, &to).expect_err("in the way");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let content = fs::read_to_string(&to).expect("there");
    assert_eq!(content, to.display().to_string());
    fs::remove_file(&to).expect("removed");
    rename_to_unused(&from, &to).expect("unused");
    assert_eq!(names_in(folder.path()), ["to"]);
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
