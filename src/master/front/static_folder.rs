//! Serves the files of a folder, and none outside it. Symbolic links and junctions that lead out of
//! the folder count as missing. Knows paths and files, but nothing of requests.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File};

/// The result of a backend operation.
type Operation<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// The backend for one folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(folder: &Path) -> Self {
        Folder(folder.to_owned())
    }
}

impl Backend for Folder {
    type File = OpenedFile;
    type Metadata = fs::Metadata;
    type OpenFuture = Operation<'static, OpenedFile>;
    type MetadataFuture = Operation<'static, fs::Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let Folder(folder) = self.clone();
        run_blocking(move || {
            open(&folder, &path).map(|file| OpenedFile(tokio::fs::File::from_std(file)))
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let Folder(folder) = self.clone();
        run_blocking(move || fs::symlink_metadata(ResolvedPath::resolve(&folder, &path)?.path()))
    }
}

/// Runs a blocking file operation on tokio's blocking threads.
fn run_blocking<T: Send + 'static>(
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Operation<'static, T> {
    Box::pin(async {
        tokio::task::spawn_blocking(operation)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    })
}

/// A file or folder inside the served folder.
#[derive(Debug, PartialEq, Eq)]
struct ResolvedPath {
    /// The folder, with all links resolved.
    folder: PathBuf,
    /// The path relative to the folder, with all links resolved.
    relative: PathBuf,
}

impl ResolvedPath {
    /// Resolves all links.
    fn resolve(folder: &Path, path: &Path) -> io::Result<Self> {
        let (folder, path) = (fs::canonicalize(folder)?, fs::canonicalize(path)?);
        match path.strip_prefix(&folder) {
            Ok(relative) => Ok(ResolvedPath {
                relative: relative.to_owned(),
                folder,
            }),
            Err(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.relative)
    }
}

/// Opens a file for reading. Does not follow a link that is created in the meantime.
fn open(folder: &Path, path: &Path) -> io::Result<fs::File> {
    let resolved = ResolvedPath::resolve(folder, path)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(opened) = open_beneath(&resolved) {
        return opened;
    }
    open_checked(folder, path, &resolved)
}

/// Opens the file with one system call that verifies each part of the path. Returns `None` where
/// the system has no such call.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_beneath(resolved: &ResolvedPath) -> Option<io::Result<fs::File>> {
    use rustix::{
        fs::{Mode, OFlags, ResolveFlags},
        io::Errno,
    };

    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let relative = if resolved.relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &resolved.relative
    };
    let opened = rustix::fs::open(&resolved.folder, flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|folder| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            // NONBLOCK: opening a pipe must not wait for its writer.
            rustix::fs::openat2(
                folder,
                relative,
                flags | OFlags::NONBLOCK,
                Mode::empty(),
                resolve,
            )
        });
    match opened {
        Ok(file) => Some(Ok(file.into())),
        // The kernel is too old, or a seccomp filter blocks the call.
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(Errno::LOOP | Errno::XDEV | Errno::AGAIN) => Some(Err(io::ErrorKind::NotFound.into())),
        Err(error) => Some(Err(error.into())),
    }
}

/// Opens the file where the system cannot verify the path: resolves it again afterwards and
/// compares.
fn open_checked(folder: &Path, path: &Path, resolved: &ResolvedPath) -> io::Result<fs::File> {
    let file = fs::File::open(resolved.path())?;
    if ResolvedPath::resolve(folder, path)? == *resolved {
        Ok(file)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// An open file.
pub(super) struct OpenedFile(tokio::fs::File);

impl File for OpenedFile {
    type Metadata = fs::Metadata;
    type MetadataFuture<'a> = Operation<'a, fs::Metadata>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(self.0.metadata())
    }
}

impl AsyncRead for OpenedFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncSeek for OpenedFile {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.0).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.0).poll_complete(context)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{io::Read, os::unix::fs::symlink};

    use super::*;

    /// Creates a folder with links of all kinds, inside a folder that is outside of it.
    fn outside() -> tempfile::TempDir {
        let outside = tempfile::tempdir().expect("a folder");
        let at = |path: &str| outside.path().join(path);
        fs::create_dir_all(at("www/sub")).expect("folders");
        fs::create_dir_all(at("elsewhere")).expect("folders");
        for (file, text) in [
            ("www/index.html", "home"),
            ("www/sub/a", "a"),
            ("secret", "secret"),
            ("elsewhere/a", "secret"),
        ] {
            fs::write(at(file), text).expect("a file");
        }
        for (target, link) in [
            ("sub/a", "www/near"),
            ("../index.html", "www/sub/up"),
            ("near", "www/chain"),
            ("../secret", "www/secret"),
            ("../elsewhere", "www/elsewhere"),
            ("../www/sub/a", "www/out-and-in"),
            ("secret", "www/out-by-chain"),
        ] {
            symlink(target, at(link)).expect("a link");
        }
        symlink(at("www/sub"), at("www/absolute")).expect("a link");
        symlink(at("secret"), at("www/absolute-out")).expect("a link");
        symlink(at("www"), at("current")).expect("a link");
        outside
    }

    fn read(file: io::Result<fs::File>) -> Option<String> {
        let mut text = String::new();
        file.ok()?.read_to_string(&mut text).ok().map(|_| text)
    }

    #[test]
    fn symlinks_inside_the_folder_are_followed_and_others_are_not() {
        let outside = outside();
        for folder in ["www", "current"].map(|name| outside.path().join(name)) {
            for (path, text) in [
                ("index.html", Some("home")),
                ("near", Some("a")),
                ("sub/up", Some("home")),
                ("chain", Some("a")),
                ("absolute/a", Some("a")),
                ("out-and-in", Some("a")),
                ("secret", None),
                ("out-by-chain", None),
                ("absolute-out", None),
                ("elsewhere/a", None),
                ("../secret", None),
                ("none", None),
            ] {
                let whole = folder.join(path);
                assert_eq!(read(open(&folder, &whole)).as_deref(), text, "{path}");
                let checked = ResolvedPath::resolve(&folder, &whole)
                    .and_then(|resolved| open_checked(&folder, &whole, &resolved));
                assert_eq!(
                    read(checked).as_deref(),
                    text,
                    "{path}, without the system's help"
                );
                let known = ResolvedPath::resolve(&folder, &whole)
                    .and_then(|resolved| fs::symlink_metadata(resolved.path()));
                assert_eq!(known.is_ok(), text.is_some(), "{path}");
            }
        }
    }

    #[test]
    fn symlink_created_during_open_is_not_followed() {
        let outside = outside();
        let folder = outside.path().join("www");
        for (path, target) in [("sub/a", "../../secret"), ("sub", "../elsewhere")] {
            let whole = folder.join("sub/a");
            let resolved = ResolvedPath::resolve(&folder, &whole).expect("a file");
            fs::rename(folder.join(path), folder.join("away")).expect("renamed");
            symlink(target, folder.join(path)).expect("a link");
            #[cfg(any(target_os = "linux", target_os = "android"))]
            if let Some(opened) = open_beneath(&resolved) {
                assert_eq!(read(opened), None, "{path}");
            }
            assert_eq!(
                read(open_checked(&folder, &whole, &resolved)),
                None,
                "{path}, without the system's help"
            );
            fs::remove_file(folder.join(path)).expect("removed");
            fs::rename(folder.join("away"), folder.join(path)).expect("renamed");
        }
    }
}
