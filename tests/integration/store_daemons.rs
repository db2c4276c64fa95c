//! The database servers that other tests use: they answer queries, and keep their data over a
//! restart.

use std::{net::SocketAddr, process::Command};

use crate::support::{
    mariadb::Mariadb,
    ports,
    postgres::{self, Postgres},
    programs,
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

#[track_caller]
fn assert_stopped(address: SocketAddr) {
    assert!(
        !ports::has_listener_at(address),
        "nothing listens at {address}"
    );
}

#[test]
fn mariadb_answers_and_keeps_its_data_over_a_restart() {
    let (folder, address) = (folder(), ports::free());
    let mut database = Mariadb::start(folder.path(), address);
    assert_eq!(database.query("select 6 * 7").succeeded().text(), "42\n");
    let url = database.create_database("kept");
    assert_eq!(
        url,
        format!("mysql://report:of-a-test@{address}/report_kept")
    );
    database
        .query("create table report_kept.numbers (number bigint) engine=InnoDB")
        .succeeded();
    database
        .query("insert into report_kept.numbers values (40), (2)")
        .succeeded();
    assert_ne!(database.query("select nonsense").code, Some(0));
    assert_ne!(
        database.query("create database other").code,
        Some(0),
        "the user is not the administrator"
    );

    database.stop();
    assert_stopped(address);
    assert_ne!(database.query("select 1").code, Some(0));
    database.start_again();
    let sum = database.query("select sum(number) from report_kept.numbers");
    assert_eq!(sum.succeeded().text(), "42\n");
    drop(database);
    assert_stopped(address);
}

#[test]
fn postgres_answers_and_keeps_its_data_over_a_restart() {
    let (folder, address) = (folder(), ports::free());
    let mut database = Postgres::start(folder.path(), address);
    let url = database.create_database("kept");
    let psql = |sql: &str| {
        let mut psql: Command = programs::command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args([&*url, "--command", sql]);
        programs::run(&mut psql)
    };
    psql("create table numbers (number bigint)").succeeded();
    psql("insert into numbers values (40), (2)").succeeded();
    assert_ne!(
        postgres::psql(address, "select * from numbers").code,
        Some(0),
        "each database has its own tables"
    );

    database.stop();
    assert_stopped(address);
    assert_ne!(psql("select 1").code, Some(0));
    database.start_again();
    let sum = psql("select sum(number) from numbers");
    assert_eq!(sum.succeeded().text(), "42\n");
    drop(database);
    assert_stopped(address);
}
