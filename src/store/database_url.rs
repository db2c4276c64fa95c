//! The `store` field of a master's configuration: which database, and where.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sqlx::{ConnectOptions as _, any::AnyConnectOptions};
use url::Url;

use super::{Dialect, StoreError};
use crate::text::without_password;

/// The characters of a path that would have a meaning in a URL.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// How to write the field.
const FORMS: &str = "write \"sqlite:FILE\", \"postgres://USER:PASSWORD@HOST/DATABASE\" or \
                     \"mysql://USER:PASSWORD@HOST/DATABASE\"";

/// The address of a database. Its text never contains the password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(Location);

#[derive(Clone, PartialEq, Eq)]
enum Location {
    /// A file of SQLite.
    File(PathBuf),
    /// A server of the other databases.
    Server { dialect: Dialect, url: Url },
}

/// A text that is not the address of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({remedy})")]
pub struct InvalidStoreUrl {
    /// The problem, with the value found and without its password.
    pub problem: String,
    /// The remedy.
    pub remedy: &'static str,
}

impl InvalidStoreUrl {
    fn new(found: &str, cause: impl fmt::Display, remedy: &'static str) -> Self {
        InvalidStoreUrl {
            problem: format!("is \"{}\": {cause}", without_secrets(found)),
            remedy,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let dialect = match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => return file(text).map(|path| StoreUrl(Location::File(path))),
            "postgres" | "postgresql" => Dialect::Postgres,
            "mysql" | "mariadb" => Dialect::Mysql,
            _ => {
                return Err(InvalidStoreUrl::new(
                    text,
                    "unknown kind of database",
                    FORMS,
                ));
            }
        };
        let url = server(text)?;
        Ok(StoreUrl(Location::Server { dialect, url }))
    }
}

/// Parses the text behind `sqlite:`.
fn file(text: &str) -> Result<PathBuf, InvalidStoreUrl> {
    let invalid = |cause, remedy| Err(InvalidStoreUrl::new(text, cause, remedy));
    let path = text.split_once(':').map_or("", |(_, path)| path);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.ends_with('/') {
        return invalid("the file is missing", "write \"sqlite:keys.db\"");
    }
    if path == ":memory:" {
        let cause = "a database in memory would be lost at each start";
        return invalid(cause, "write \"sqlite:keys.db\"");
    }
    if path.contains('?') || path.contains('\0') {
        return invalid("it is not a file name", "write \"sqlite:keys.db\"");
    }
    Ok(PathBuf::from(path))
}

/// Parses the URL of a server.
fn server(text: &str) -> Result<Url, InvalidStoreUrl> {
    let url = Url::parse(text).map_err(|error| InvalidStoreUrl::new(text, error, FORMS))?;
    let has = |names: &[&str]| {
        url.query_pairs()
            .any(|(name, value)| names.contains(&&*name) && !value.is_empty())
    };
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    if !has_host && !has(&["host", "hostaddr", "socket"]) {
        return Err(InvalidStoreUrl::new(text, "the host is missing", FORMS));
    }
    if url.path().trim_matches('/').is_empty() && !has(&["dbname"]) {
        return Err(InvalidStoreUrl::new(text, "the database is missing", FORMS));
    }
    Ok(url)
}

/// Returns the text without its password and without its options, which may contain another one.
fn without_secrets(text: &str) -> String {
    // The password comes first, as it may contain a question mark.
    let text = without_password(text);
    let options = text.split_once('?');
    options.map_or(&*text, |(address, _)| address).to_owned()
}

impl StoreUrl {
    /// Returns the address for a file that is relative to this folder. Others are unchanged.
    #[must_use]
    pub fn relative_to(self, folder: &Path) -> Self {
        match self.0 {
            Location::File(path) => StoreUrl(Location::File(folder.join(path))),
            server @ Location::Server { .. } => StoreUrl(server),
        }
    }

    /// Returns the dialect of the database.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.0 {
            Location::File(_) => Dialect::Sqlite,
            Location::Server { dialect, .. } => *dialect,
        }
    }

    /// Returns the file of SQLite if it does not exist. [`Store::open`](super::Store::open) would
    /// create it.
    #[must_use]
    pub fn absent_file(&self) -> Option<&Path> {
        match &self.0 {
            Location::File(path) if matches!(path.try_exists(), Ok(false)) => Some(path),
            Location::File(_) | Location::Server { .. } => None,
        }
    }

    /// Returns the URL of a server, with its password.
    pub(super) fn server(&self) -> Option<&Url> {
        match &self.0 {
            Location::File(_) => None,
            Location::Server { url, .. } => Some(url),
        }
    }

    /// Returns how to connect. Creates the file of SQLite, for its owner only.
    pub(super) fn connect_options(&self) -> Result<AnyConnectOptions, StoreError> {
        let unreachable = |cause: &dyn fmt::Display| StoreError::unreachable(self, cause);
        let url = match &self.0 {
            Location::File(path) => {
                let path = create_file(path).map_err(|error| unreachable(&error))?;
                let path = path
                    .to_str()
                    .ok_or_else(|| unreachable(&"its path is not UTF-8"))?;
                let path = utf8_percent_encode(path, IN_PATH);
                // A later connection must not replace a file that is away by an empty one.
                Url::parse(&format!("sqlite://{path}?mode=rw"))
                    .map_err(|error| unreachable(&error))?
            }
            Location::Server { url, .. } => url.clone(),
        };
        let options = AnyConnectOptions::from_url(&url).map_err(|error| unreachable(&error))?;
        Ok(options.disable_statement_logging())
    }
}

/// Creates the file if it is absent. SQLite gives its other files the same mode. Returns the
/// absolute path.
fn create_file(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path)?;
    Ok(path)
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Location::File(path) => write!(formatter, "sqlite:{}", path.display()),
            Location::Server { url, .. } => formatter.write_str(&without_secrets(url.as_str())),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreUrl, InvalidStoreUrl> {
        text.parse()
    }

    #[test]
    fn databases_of_all_kinds_parse() {
        for (text, dialect) in [
            ("sqlite:keys.db", Dialect::Sqlite),
            ("SQLite:keys.db", Dialect::Sqlite),
            ("postgres://user:secret@host:5433/keys", Dialect::Postgres),
            ("postgresql://user@[::1]/keys", Dialect::Postgres),
            ("postgres:///keys?host=/run/postgresql", Dialect::Postgres),
            ("postgres://host?dbname=keys", Dialect::Postgres),
            ("mysql://user:secret@host/keys", Dialect::Mysql),
            (
                "mariadb://user:secret@host/keys?ssl-mode=required",
                Dialect::Mysql,
            ),
        ] {
            let url = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.dialect(), dialect, "{text}");
        }
    }

    #[tokio::test]
    async fn later_connection_creates_no_file() {
        sqlx::any::install_default_drivers();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.db");
        let options = StoreUrl(Location::File(file.clone()))
            .connect_options()
            .unwrap();
        options.connect().await.unwrap();
        std::fs::remove_file(&file).unwrap();
        let error = StoreError::from(options.connect().await.unwrap_err());
        assert!(matches!(error, StoreError::Away(_)), "{error:?}");
        assert!(!file.exists());
    }

    #[test]
    fn files_are_relative_to_a_folder() {
        let folder = Path::new("/etc/report");
        for (text, file) in [
            ("sqlite:keys.db", "sqlite:/etc/report/keys.db"),
            ("sqlite://data/keys.db", "sqlite:/etc/report/data/keys.db"),
            ("sqlite:/var/lib/keys.db", "sqlite:/var/lib/keys.db"),
            ("sqlite:///var/lib/keys.db", "sqlite:/var/lib/keys.db"),
        ] {
            let url = parse(text).unwrap().relative_to(folder);
            assert_eq!(url.to_string(), file, "{text}");
        }
        let server = parse("mysql://host/keys").unwrap();
        assert_eq!(server.clone().relative_to(folder), server);
    }

    #[test]
    fn invalid_addresses_name_the_cause_and_the_remedy() {
        for (text, cause) in [
            ("", "unknown kind of database"),
            ("keys.db", "unknown kind of database"),
            ("redis://host/0", "unknown kind of database"),
            ("sqlite:", "the file is missing"),
            ("sqlite:///", "the file is missing"),
            ("sqlite:folder/", "the file is missing"),
            (
                "sqlite::memory:",
                "a database in memory would be lost at each start",
            ),
            ("sqlite:keys.db?mode=ro", "it is not a file name"),
            ("postgres://", "the host is missing"),
            ("postgres:keys", "the host is missing"),
            ("postgres://host", "the database is missing"),
            ("mysql://host/", "the database is missing"),
            ("mysql://host:port/keys", "invalid port number"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.problem.contains(cause), "{text}: {error}");
            assert!(error.to_string().contains("(write \"sqlite:"), "{error}");
        }
    }

    #[test]
    fn no_text_contains_a_password() {
        for text in [
            "postgres://user:secret@host/keys",
            "postgres://user:secret@host/keys?password=secret",
            "mysql://user:secret@host/keys?application_name=a@b",
            // Invalid ones are shown too.
            "mysql://user:secret@host",
            "mysql://user:secret?@host/keys",
            "redis://user:secret@host/0",
        ] {
            let shown = match parse(text) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("secret"), "{text}: {shown}");
            assert!(shown.contains("user:***@"), "{text}: {shown}");
        }
    }

    #[test]
    fn the_file_is_created_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse("sqlite:with % and #.db").unwrap();
        let url = url.relative_to(folder.path());
        let file = folder.path().join("with % and #.db");
        assert_eq!(url.absent_file(), Some(&*file));
        let options = url.connect_options().unwrap();
        assert_eq!(options.database_url.scheme(), "sqlite");
        assert_eq!(url.absent_file(), None);
        let metadata = std::fs::metadata(&file).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(metadata.len(), 0);
        // An existing file keeps its content.
        std::fs::write(&file, "content").unwrap();
        url.connect_options().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"content");
    }

    #[test]
    fn a_missing_folder_is_an_error_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse("sqlite:absent/keys.db").unwrap();
        let error = url.relative_to(folder.path()).connect_options();
        let error = error.expect_err("no folder").to_string();
        assert!(error.starts_with("store: cannot open sqlite:/"), "{error}");
        assert!(error.ends_with("the file and its folder)"), "{error}");
    }
}
