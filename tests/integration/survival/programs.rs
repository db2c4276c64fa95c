//! Programs that stay open for long: a shell, a database session within a transaction, an idle
//! shell.

use std::time::Duration;

use serde_json::json;

use super::lab::Lab;
use crate::support::{
    nginx::Tuning,
    ports,
    postgres::{self, Postgres},
    proxy::Cut,
    sshd::Sshd,
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

const CUTS: usize = 10;

/// Cuts one link. The number selects the side and the kind of cut.
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
        shell.send_line("count=$((count + 1)); echo \"command $count\"");
        cut(&lab, number);
        assert_eq!(shell.read_line(), format!("command {}", number + 1));
        shell.expect("echo \"$count so far\"", &format!("{} so far", number + 1));
        // The answer spans several messages and is cut while it is in flight.
        shell.send_line("seq 1 2000");
        cut(&lab, number + 1);
        for line in 1..=2000 {
            assert_eq!(shell.read_line(), line.to_string(), "after cut {number}");
        }
    }
    shell.send_line("exit 7");
    assert_eq!(shell.finish(), (Some(7), Vec::new()));
}

#[test]
fn an_open_transaction_survives_cuts_and_is_committed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let database = Postgres::start(folder.path(), ports::free());
    postgres::psql(database.address(), "create table kept (number int)").succeeded();
    let lab = Lab::with_service(database.address(), json!({}));
    let mut session = postgres::session(lab.tunnel.local("service"));
    session.send_line("begin;");
    for number in 0..CUTS {
        session.expect(
            &format!("insert into kept values ({number}) returning number;"),
            &number.to_string(),
        );
        session.send_line(&format!(
            "insert into kept values ({number} + 100) returning number;"
        ));
        cut(&lab, number);
        assert_eq!(session.read_line(), (number + 100).to_string());
    }
    assert_eq!(
        postgres::psql(database.address(), "select count(*) from kept")
            .succeeded()
            .text(),
        "0\n",
        "not committed yet"
    );
    session.send_line("commit;");
    session.expect("select count(*), sum(number) from kept;", "20|1090");
    assert_eq!(session.finish(), (Some(0), Vec::new()));
    assert_eq!(
        postgres::psql(database.address(), "select count(*) from kept")
            .succeeded()
            .text(),
        "20\n"
    );
}

/// Runs a shell behind an nginx with an idle timeout. The shell is idle for longer than that.
fn check_idle_shell(silence: &'static str, heartbeat: Option<&str>, idle: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(folder.path(), ports::free());
    let replacements = vec![
        ("proxy_read_timeout 1h;", silence),
        ("proxy_send_timeout 1h;", ""),
    ];
    let testbed = Testbed::tuned(
        Front::NginxPlain,
        &Tuning {
            replacements,
            ..Tuning::default()
        },
    );
    let port = vec![Port::new("service", sshd.address(), Methods::DEFAULT)];
    let fields = heartbeat.map_or(
        json!({}),
        |heartbeat| json!({"heartbeat": heartbeat, "master_role": {"heartbeat": heartbeat}}),
    );
    let lab = Lab::on(testbed, port, fields);
    let mut shell = sshd.shell(lab.tunnel.local("service"));
    shell.expect("where=here; echo ready", "ready");
    let links = || lab.paths().map(|path| path.connections());
    let before = links();
    wait::throughout("the links stay up", idle, || links() == before);
    shell.expect("echo still $where", "still here");
    shell.send_line("exit 0");
    assert_eq!(shell.finish(), (Some(0), Vec::new()));
}

#[test]
fn an_idle_shell_survives_the_idle_timeout_of_a_proxy() {
    check_idle_shell(
        "proxy_read_timeout 3s; proxy_send_timeout 3s;",
        Some("1s"),
        Duration::from_secs(8),
    );
}

#[test]
#[ignore = "takes five minutes"]
fn a_shell_idle_for_five_minutes_survives_the_default_timeouts_of_nginx() {
    // Without the directives nginx times out after 60 s.
    check_idle_shell("", None, Duration::from_secs(300));
}
