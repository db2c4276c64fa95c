//! Where the control socket of a configuration is: in the folder of the service manager or of the
//! user's session, under a name that the path of the configuration determines.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};

/// The folder that systemd creates for the shipped unit. Its variable is set for the role only, not
/// for the commands of the operator.
const SERVICE_FOLDER: &str = "/run/report";

/// The number of bytes of the hash in the name of a socket.
const NAME_BYTES: usize = 8;

/// Returns the name of the socket of a configuration file.
///
/// # Errors
/// When the file does not exist.
pub(super) fn socket_name(file: &Path) -> io::Result<String> {
    let path = file.canonicalize()?;
    let hash = digest(&SHA256, path.as_os_str().as_bytes());
    let hash = hash.as_ref().iter().take(NAME_BYTES);
    let name: String = hash.map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("control-{name}"))
}

/// Returns the folder of the control socket of this process, and creates it if necessary.
/// `variable` looks up environment variables.
///
/// # Errors
/// When the folder cannot be created, or another user could replace the socket in it.
pub(super) fn own_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> io::Result<PathBuf> {
    if let Some(folder) = runtime_directory(variable) {
        return Ok(folder);
    }
    let folder = session_folder(variable).unwrap_or_else(temporary_folder);
    let created = fs::DirBuilder::new().mode(0o700).create(&folder);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check_private(&folder)?;
    Ok(folder)
}

/// Returns the folders in which the socket of a running role may be.
pub(super) fn possible_folders(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let private = session_folder(variable)
        .into_iter()
        .chain([temporary_folder()])
        .filter(|folder| check_private(folder).is_ok());
    let mut folders: Vec<PathBuf> = runtime_directory(variable).into_iter().collect();
    folders.extend(private);
    folders.push(PathBuf::from(SERVICE_FOLDER));
    folders
}

/// Returns the folder that the service manager has created. It may name several.
fn runtime_directory(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folders = variable("RUNTIME_DIRECTORY")?;
    let first = folders.as_bytes().split(|byte| *byte == b':').next()?;
    let first = PathBuf::from(std::ffi::OsStr::from_bytes(first));
    first.is_absolute().then_some(first)
}

fn session_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    folder.is_absolute().then(|| folder.join("report"))
}

fn temporary_folder() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/report-{user}"))
}

/// Checks that only the user of this process can change the folder.
fn check_private(folder: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let user = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a private folder of this user (remove it, or set RUNTIME_DIRECTORY)",
            folder.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_has_one_name_by_any_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        assert!(socket_name(&file).is_err());
        fs::write(&file, "").expect("written");
        fs::write(folder.path().join("other.json"), "").expect("written");
        std::os::unix::fs::symlink(&file, folder.path().join("link.json")).expect("linked");
        let name = |name: &str| socket_name(&folder.path().join(name)).expect("it exists");
        assert_eq!(name("config.json"), name("link.json"));
        assert_eq!(name("config.json"), name("./config.json"));
        assert_ne!(name("config.json"), name("other.json"));
        assert_eq!(name("config.json").len(), "control-".len() + 2 * NAME_BYTES);
    }

    #[test]
    fn the_folder_of_the_service_manager_comes_first() {
        let variable = |name: &str| match name {
            "RUNTIME_DIRECTORY" => Some("/run/one:/run/two".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/0".into()),
            _ => None,
        };
        let folder = own_folder(&variable).expect("a folder");
        assert_eq!(folder, Path::new("/run/one"));
        let folders = possible_folders(&variable);
        assert_eq!(folders.first(), Some(&folder));
        assert!(folders.contains(&PathBuf::from(SERVICE_FOLDER)));
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let session = tempfile::tempdir().expect("a folder");
        let path = session.path().as_os_str().to_owned();
        let variable = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| path.clone());
        let folder = own_folder(&variable).expect("created");
        assert_eq!(folder, session.path().join("report"));
        assert!(possible_folders(&variable).contains(&folder));
        own_folder(&variable).expect("there already");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).expect("changed");
        let error = own_folder(&variable).expect_err("open to others");
        assert!(error.to_string().contains("private folder"), "{error}");
        assert!(!possible_folders(&variable).contains(&folder));
        fs::remove_dir(&folder).expect("removed");
        std::os::unix::fs::symlink(session.path(), &folder).expect("linked");
        assert!(own_folder(&variable).is_err());
    }
}
