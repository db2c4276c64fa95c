//! Programs that people leave open: a shell, a database session within a transaction, a shell at which nobody types.

use std::time::Duration;

use serde_json::json;

use super::lab::Lab;
use crate::support::{
    nginx::Tuning,
    ports,
    postgres::{self, Postgres},
    proxy::Cut,
    sshd::Sshd,
    tunnel::{Front, Methods, Port, Scene},
    wait,
};

const CUTS: usize = 10;

/// Cuts with the number's side and in the number's way.
fn cut(lab: &Lab, number: usize) {
    lab.paths()[number % 2].cut([Cut::Reset, Cut::EndOfFile][number / 2 % 2]);
}

#[test]
fn a_shell_survives_cuts_between_and_within_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(folder.path(), ports::free());
    let lab = Lab::with_service(sshd.address(), json!({}));
    let mut shell = sshd.shell(lab.tunnel.local("service"));
    shell.expect("count=0; echo ready", "ready");
    for number in 0..CUTS {
        shell.say("count=$((count + 1)); echo \"command $count\"");
        cut(&lab, number);
        assert_eq!(shell.hear(), format!("command {}", number + 1));
        shell.expect("echo \"$count so far\"", &format!("{} so far", number + 1));
        // Answers while it is cut, with more than one message.
        shell.say("seq 1 2000");
        cut(&lab, number + 1);
        for line in 1..=2000 {
            assert_eq!(shell.hear(), line.to_string(), "after cut {number}");
        }
    }
    shell.say("exit 7");
    assert_eq!(shell.finish(), (Some(7), Vec::new()));
}

#[test]
fn an_open_transaction_survives_cuts_and_is_committed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let database = Postgres::start(folder.path(), ports::free());
    postgres::psql(database.address(), "create table kept (number int)").succeeded();
    let lab = Lab::with_service(database.address(), json!({}));
    let mut session = postgres::session(lab.tunnel.local("service"));
    session.say("begin;");
    for number in 0..CUTS {
        session.expect(
            &format!("insert into kept values ({number}) returning number;"),
            &number.to_string(),
        );
        session.say(&format!(
            "insert into kept values ({number} + 100) returning number;"
        ));
        cut(&lab, number);
        assert_eq!(session.hear(), (number + 100).to_string());
    }
    assert_eq!(
        postgres::psql(database.address(), "select count(*) from kept")
            .succeeded()
            .text(),
        "0\n",
        "not yet"
    );
    session.say("commit;");
    session.expect("select count(*), sum(number) from kept;", "20|1090");
    assert_eq!(session.finish(), (Some(0), Vec::new()));
    assert_eq!(
        postgres::psql(database.address(), "select count(*) from kept")
            .succeeded()
            .text(),
        "20\n"
    );
}

/// A shell behind an nginx that gives up what is silent for a while, at which nobody types for longer.
fn idle_shell(silence: &'static str, heartbeat: Option<&str>, idle: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(folder.path(), ports::free());
    let instead = vec![
        ("proxy_read_timeout 1h;", silence),
        ("proxy_send_timeout 1h;", ""),
    ];
    let scene = Scene::tuned(
        Front::NginxPlain,
        &Tuning {
            instead,
            ..Tuning::default()
        },
    );
    let port = vec![Port::new("service", sshd.address(), Methods::USUAL)];
    let fields = heartbeat.map_or(
        json!({}),
        |heartbeat| json!({"heartbeat": heartbeat, "master_role": {"heartbeat": heartbeat}}),
    );
    let lab = Lab::on(scene, port, fields);
    let mut shell = sshd.shell(lab.tunnel.local("service"));
    shell.expect("where=here; echo ready", "ready");
    let links = || lab.paths().map(|path| path.connections());
    let before = links();
    wait::throughout("the links stay", idle, || links() == before);
    shell.expect("echo still $where", "still here");
    shell.say("exit 0");
    assert_eq!(shell.finish(), (Some(0), Vec::new()));
}

#[test]
fn a_shell_at_rest_outlives_the_patience_of_a_proxy() {
    idle_shell(
        "proxy_read_timeout 3s; proxy_send_timeout 3s;",
        Some("1s"),
        Duration::from_secs(8),
    );
}

#[test]
#[ignore = "takes five minutes"]
fn a_shell_at_rest_for_five_minutes_outlives_nginx_as_it_is_without_configuration() {
    // Without the directives nginx gives up after 60 s.
    idle_shell("", None, Duration::from_secs(300));
}
