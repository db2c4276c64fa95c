//! The files of a folder, and none outside of it: links (symbolic ones, junctions) that lead out of it are as if they were not there. Knows paths and
//! files; nothing of requests.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File};

/// What a backend's operations give.
type Operation<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub fn new(folder: &Path) -> Self {
        Folder(folder.to_owned())
    }
}

impl Backend for Folder {
    type File = Opened;
    type Metadata = fs::Metadata;
    type OpenFuture = Operation<'static, Opened>;
    type MetadataFuture = Operation<'static, fs::Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let Folder(folder) = self.clone();
        aside(move || open(&folder, &path).map(|file| Opened(tokio::fs::File::from_std(file))))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let Folder(folder) = self.clone();
        aside(move || fs::symlink_metadata(Inside::resolve(&folder, &path)?.path()))
    }
}

/// Runs what may wait for a disk where that holds nobody up.
fn aside<T: Send + 'static>(
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Operation<'static, T> {
    Box::pin(async {
        tokio::task::spawn_blocking(operation)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    })
}

/// A file or folder that lies in a folder.
#[derive(Debug, PartialEq, Eq)]
struct Inside {
    /// The folder, without links.
    folder: PathBuf,
    /// The way from there, without links.
    way: PathBuf,
}

impl Inside {
    /// Follows all links.
    fn resolve(folder: &Path, path: &Path) -> io::Result<Self> {
        let (folder, path) = (fs::canonicalize(folder)?, fs::canonicalize(path)?);
        match path.strip_prefix(&folder) {
            Ok(way) => Ok(Inside {
                way: way.to_owned(),
                folder,
            }),
            Err(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.way)
    }
}

/// Opens a file for reading. A link that somebody puts in the way meanwhile is not followed.
fn open(folder: &Path, path: &Path) -> io::Result<fs::File> {
    let inside = Inside::resolve(folder, path)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(opened) = beneath(&inside) {
        return opened;
    }
    open_checked(folder, path, &inside)
}

/// The same with one call, for which the system looks at each part of the way; nothing where it has no such call.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn beneath(inside: &Inside) -> Option<io::Result<fs::File>> {
    use rustix::{
        fs::{Mode, OFlags, ResolveFlags},
        io::Errno,
    };

    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let way = if inside.way.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &inside.way
    };
    let opened = rustix::fs::open(&inside.folder, flags | OFlags::DIRECTORY, Mode::empty())
        .and_then(|folder| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            // What is no file, a pipe say, is not waited for.
            rustix::fs::openat2(
                folder,
                way,
                flags | OFlags::NONBLOCK,
                Mode::empty(),
                resolve,
            )
        });
    match opened {
        Ok(file) => Some(Ok(file.into())),
        // Too old, or kept from it by a filter of system calls.
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(Errno::LOOP | Errno::XDEV | Errno::AGAIN) => Some(Err(io::ErrorKind::NotFound.into())),
        Err(error) => Some(Err(error.into())),
    }
}

/// The same where the system cannot look: before and afterwards it must be the same place.
fn open_checked(folder: &Path, path: &Path, inside: &Inside) -> io::Result<fs::File> {
    let file = fs::File::open(inside.path())?;
    if Inside::resolve(folder, path)? == *inside {
        Ok(file)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// An open file.
pub(super) struct Opened(tokio::fs::File);

impl File for Opened {
    type Metadata = fs::Metadata;
    type MetadataFuture<'a> = Operation<'a, fs::Metadata>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(self.0.metadata())
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncSeek for Opened {
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

    /// A folder with links of all kinds, in a folder that is outside of it.
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
    fn links_that_stay_in_the_folder_are_followed_and_others_are_not() {
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
                let checked = Inside::resolve(&folder, &whole)
                    .and_then(|inside| open_checked(&folder, &whole, &inside));
                assert_eq!(
                    read(checked).as_deref(),
                    text,
                    "{path}, without the system's help"
                );
                let known = Inside::resolve(&folder, &whole)
                    .and_then(|inside| fs::symlink_metadata(inside.path()));
                assert_eq!(known.is_ok(), text.is_some(), "{path}");
            }
        }
    }

    #[test]
    fn a_link_that_is_put_in_the_way_meanwhile_is_not_followed() {
        let outside = outside();
        let folder = outside.path().join("www");
        for (path, target) in [("sub/a", "../../secret"), ("sub", "../elsewhere")] {
            let whole = folder.join("sub/a");
            let inside = Inside::resolve(&folder, &whole).expect("a file");
            fs::rename(folder.join(path), folder.join("away")).expect("renamed");
            symlink(target, folder.join(path)).expect("a link");
            #[cfg(any(target_os = "linux", target_os = "android"))]
            if let Some(opened) = beneath(&inside) {
                assert_eq!(read(opened), None, "{path}");
            }
            assert_eq!(
                read(open_checked(&folder, &whole, &inside)),
                None,
                "{path}, without the system's help"
            );
            fs::remove_file(folder.join(path)).expect("removed");
            fs::rename(folder.join("away"), folder.join(path)).expect("renamed");
        }
    }
}
