//! A database that is away for a while.

use std::net::TcpStream;

use serde_json::json;

use super::Operator;
use crate::{
    admin,
    support::{
        ports,
        postgres::Postgres,
        services,
        tunnel::{Front, Methods, Port, Testbed},
        wait,
    },
};
use report_proto::frame::Role;

#[test]
fn an_absent_database_disturbs_no_tunnel_and_is_reported() {
    let testbed = Testbed::new(Front::Direct);
    let mut database = Postgres::start(testbed.folder(), ports::free());
    let url = database.create_database("keys");
    let operator = Operator::open(&url);
    let account = operator.account("friend");
    let credential = operator.credential(&account, Role::Server);
    let echo = services::echo();
    let port = Port::new("service", echo.address(), Methods::DEFAULT);
    let unknown = Port::new("unknown", echo.address(), Methods::DEFAULT);
    let key = operator.key(&port, &account);
    let admin_address = ports::free();
    let master = testbed.master(json!({
        "store": url, "admission": "known", "admin": {"listen_at": admin_address.to_string()},
    }));
    let get = |path: &str| {
        let stream = TcpStream::connect(admin_address).expect("the admin address");
        admin::get(stream, path)
    };
    let served = [port.clone(), unknown.clone()];
    let server = testbed.server("server", &served, credential.fields());
    let ports = std::slice::from_ref(&port);
    let _client = testbed.client("client", ports, json!({}));
    wait::until_true("the service answers", || services::echoes(port.local));
    server.wait_for_line(&["refuses to register", "the master does not know the key"]);
    assert_eq!(get("/readyz").1, r#"{"missing":[],"ready":true}"#);
    assert!(get("/metrics").1.contains("\nreport_store_up 1\n"));

    let stream = services::connect(port.local);
    database.stop();
    wait::until_true("the master says that the database is away", || {
        services::ping(&stream, b"undisturbed").expect("it answers");
        let (status, body) = get("/readyz");
        assert_eq!(status, 200, "{body}");
        body.contains("\"degraded\"") && body.contains("\"since\":\"2")
    });
    assert!(get("/metrics").1.contains("\nreport_store_up 0\n"));
    // What is known continues: new connections, new tunnels and new links.
    assert!(services::echoes(port.local));
    let mut second = Port::new("service", echo.address(), Methods::DEFAULT);
    second.key = port.key.clone();
    let _second_client = testbed.client("second", std::slice::from_ref(&second), json!({}));
    wait::until_true("a new client is served", || services::echoes(second.local));
    let mut restarted = server;
    restarted.stop();
    let restarted = testbed.server("server-again", &served, credential.fields());
    restarted.wait_for_line(&["refuses to register", "the master does not know the key"]);
    wait::until_true("the restarted server is reached", || {
        services::echoes(port.local)
    });

    let stream = services::connect(port.local);
    services::ping(&stream, b"before").expect("it answers");
    database.start_again();
    wait::until_true("the database is no longer missed", || {
        services::ping(&stream, b"undisturbed").expect("it answers");
        !get("/readyz").1.contains("degraded")
    });
    assert!(get("/metrics").1.contains("\nreport_store_up 1\n"));
    operator.set_key(&key, |key| key.enabled = false);
    master.wait_for_line(&["registration denied", "key_disabled"]);
}
