//! The databases of the suite.

use std::net::SocketAddr;

use crate::support::{mariadb::Mariadb, ports, postgres::Postgres};

/// A place for databases, with its server if it has one.
#[derive(Debug)]
pub(super) struct Backend {
    kind: Kind,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
enum Kind {
    Sqlite,
    Postgres(Postgres, SocketAddr),
    Mariadb(Mariadb, SocketAddr),
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

impl Backend {
    /// A folder for files of SQLite.
    pub(super) fn sqlite() -> Backend {
        Backend {
            kind: Kind::Sqlite,
            folder: folder(),
        }
    }

    /// A running PostgreSQL.
    pub(super) fn postgres() -> Backend {
        let (folder, address) = (folder(), ports::free());
        let kind = Kind::Postgres(Postgres::start(folder.path(), address), address);
        Backend { kind, folder }
    }

    /// A running MariaDB.
    pub(super) fn mariadb() -> Backend {
        let (folder, address) = (folder(), ports::free());
        let kind = Kind::Mariadb(Mariadb::start(folder.path(), address), address);
        Backend { kind, folder }
    }

    /// Creates an empty database with this name. Returns its URL.
    pub(super) fn database(&self, name: &str) -> String {
        match &self.kind {
            Kind::Sqlite => {
                let file = self.folder.path().join(name).with_extension("db");
                format!("sqlite:{}", file.display())
            }
            Kind::Postgres(server, _) => server.create_database(name),
            Kind::Mariadb(server, _) => server.create_database(name),
        }
    }

    /// The address of the server.
    pub(super) fn address(&self) -> SocketAddr {
        match &self.kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::Postgres(_, address) | Kind::Mariadb(_, address) => *address,
        }
    }

    /// Stops the server.
    pub(super) fn stop(&mut self) {
        match &mut self.kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::Postgres(server, _) => server.stop(),
            Kind::Mariadb(server, _) => server.stop(),
        }
    }

    /// Starts the server again with the same data.
    pub(super) fn start_again(&mut self) {
        match &mut self.kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::Postgres(server, _) => server.start_again(),
            Kind::Mariadb(server, _) => server.start_again(),
        }
    }
}
