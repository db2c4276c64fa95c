//! Real programs through the tunnel, with every pair of methods and behind every front.

use std::{fs, net::SocketAddr};

use tempfile::TempDir;

use crate::support::{
    bytes,
    daemon::Daemon,
    nginx, ports,
    postgres::{self, Postgres},
    programs, scale,
    sshd::Sshd,
    tunnel::{Front, Methods, Port, Tunnel},
};

/// A web site with one large and one small file.
struct Web {
    address: SocketAddr,
    digest: String,
    _nginx: Daemon,
    _folder: TempDir,
}

impl Web {
    fn start() -> Web {
        let folder = tempfile::tempdir().unwrap();
        let content = bytes::mixed(1, scale().file_bytes);
        fs::write(folder.path().join("large"), &content).unwrap();
        fs::write(folder.path().join("small"), bytes::mixed(2, 20_000)).unwrap();
        let address = ports::free();
        let nginx = nginx::file_server(folder.path(), address, folder.path());
        Web {
            address,
            digest: bytes::sha256(&content),
            _nginx: nginx,
            _folder: folder,
        }
    }

    #[track_caller]
    fn check_fetch(&self, through: SocketAddr, name: &str) {
        assert_eq!(
            bytes::sha256(&programs::curl(through, "/large")),
            self.digest,
            "{name}"
        );
    }

    #[track_caller]
    fn check_burst(&self, through: SocketAddr, name: &str) {
        let burst = programs::wrk(through, "/small", scale().burst_seconds);
        assert!(
            burst.requests > 64 && burst.errors.is_empty(),
            "{name}: {burst:?}"
        );
    }
}

/// An account that is reachable by ssh.
struct Shell {
    sshd: Sshd,
    folder: TempDir,
}

impl Shell {
    fn start() -> Shell {
        let folder = tempfile::tempdir().unwrap();
        Shell {
            sshd: Sshd::start(folder.path(), ports::free()),
            folder,
        }
    }

    #[track_caller]
    fn check(&self, through: SocketAddr, name: &str) {
        let session = self.sshd.ssh(
            through,
            "echo to standard output; echo to standard error >&2; exit 7",
        );
        assert_eq!(
            (session.code, session.text().as_str()),
            (Some(7), "to standard output\n"),
            "{name}: {}",
            session.errors
        );
        let [local, there, back] =
            ["local", "there", "back"].map(|file| self.folder.path().join(file));
        let content = bytes::mixed(3, scale().file_bytes / 4);
        fs::write(&local, &content).unwrap();
        self.sshd.copy_to(through, &local, &there).succeeded();
        assert_eq!(
            bytes::sha256(&fs::read(&there).unwrap()),
            bytes::sha256(&content),
            "{name}: to the service"
        );
        self.sshd.copy_from(through, &there, &back).succeeded();
        assert_eq!(
            bytes::sha256(&fs::read(&back).unwrap()),
            bytes::sha256(&content),
            "{name}: from the service"
        );
    }
}

/// A query whose rows PostgreSQL generates itself.
fn rows() -> String {
    format!(
        "copy (select number, md5(number::text) from generate_series(1, {}) number) to stdout",
        scale().rows
    )
}

#[track_caller]
fn check_database(database: &Postgres, through: SocketAddr, name: &str) {
    assert_eq!(
        postgres::psql(through, "select 6 * 7").succeeded().text(),
        "42\n",
        "{name}"
    );
    let expected = postgres::psql(database.address(), &rows()).succeeded().out;
    let fetched = postgres::psql(through, &rows()).succeeded().out;
    assert_eq!(
        bytes::sha256(&fetched),
        bytes::sha256(&expected),
        "{name}: COPY TO"
    );
    postgres::psql(
        through,
        "drop table if exists copied; create table copied (number int, text text)",
    )
    .succeeded();
    postgres::psql_with(through, "copy copied from stdin", &fetched).succeeded();
    let count = format!(
        "select count(*), count(*) filter (where text = md5(number::text)) from copied where number <= {}",
        scale().rows
    );
    assert_eq!(
        postgres::psql(through, &count).succeeded().text(),
        format!("{0}|{0}\n", scale().rows),
        "{name}: COPY FROM"
    );
}

#[test]
fn curl_fetches_a_complete_file_with_every_pair_of_methods() {
    let web = Web::start();
    let tunnel = Tunnel::start(Front::Direct, Port::for_each(&Methods::all(), web.address));
    for methods in Methods::all() {
        web.check_fetch(tunnel.local(methods), &methods.to_string());
    }
}

#[test]
fn ssh_and_scp_work_with_every_pair_of_methods() {
    let shell = Shell::start();
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), shell.sshd.address()),
    );
    for methods in Methods::all() {
        shell.check(tunnel.local(methods), &methods.to_string());
    }
}

#[test]
fn psql_queries_and_copies_with_every_pair_of_methods() {
    let folder = tempfile::tempdir().unwrap();
    let database = Postgres::start(folder.path(), ports::free());
    let tunnel = Tunnel::start(
        Front::Direct,
        Port::for_each(&Methods::all(), database.address()),
    );
    for methods in Methods::all() {
        check_database(&database, tunnel.local(methods), &methods.to_string());
    }
}

#[test]
fn wrk_sees_no_error_with_every_pair_of_methods() {
    let web = Web::start();
    let tunnel = Tunnel::start(Front::Direct, Port::for_each(&Methods::all(), web.address));
    for methods in Methods::all() {
        web.check_burst(tunnel.local(methods), &methods.to_string());
    }
}

#[test]
fn every_program_works_with_tls_at_the_master() {
    check_all_programs(Front::Tls);
}

#[test]
fn every_program_works_behind_plain_nginx() {
    check_all_programs(Front::NginxPlain);
}

#[test]
fn every_program_works_behind_nginx_with_tls() {
    check_all_programs(Front::NginxTls);
}

fn check_all_programs(front: Front) {
    let (web, shell, folder) = (Web::start(), Shell::start(), tempfile::tempdir().unwrap());
    let database = Postgres::start(folder.path(), ports::free());
    let mut all = Vec::new();
    for methods in Methods::TWO {
        all.push(Port::new(format!("web {methods}"), web.address, methods));
        all.push(Port::new(
            format!("shell {methods}"),
            shell.sshd.address(),
            methods,
        ));
        all.push(Port::new(
            format!("database {methods}"),
            database.address(),
            methods,
        ));
    }
    let tunnel = Tunnel::start(front, all);
    for methods in Methods::TWO {
        let name = format!("{front:?} {methods}");
        web.check_fetch(tunnel.local(format!("web {methods}")), &name);
        shell.check(tunnel.local(format!("shell {methods}")), &name);
        check_database(
            &database,
            tunnel.local(format!("database {methods}")),
            &name,
        );
        web.check_burst(tunnel.local(format!("web {methods}")), &name);
    }
}
