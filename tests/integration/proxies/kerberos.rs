//! Negotiate with Kerberos, against MIT's KDC and squid's own helper.

use serde_json::json;

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    proxies::{
        PASSWORD, PASSWORD_IN_URL, USER,
        kerberos::{REALM, Realm},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Testbed},
};

/// A testbed whose roles know the realm, the realm, and a squid that accepts its tickets and further
/// schemes.
fn realm(front: Front, setup: Setup) -> (Testbed, Realm, Squid) {
    let mut testbed = Testbed::new(front);
    let realm = Realm::start(testbed.folder());
    testbed.environment = realm.environment();
    let setup = Setup {
        environment: realm.environment(),
        ..setup
    };
    let setup = setup
        .file("http.keytab", realm.keytab())
        .authentication(Realm::negotiate());
    let squid = Squid::start(testbed.folder(), setup);
    (testbed, realm, squid)
}

/// Asserts that squid authenticated both roles as this principal.
#[track_caller]
fn assert_authenticated(proxied: ProxiedTunnel, mut squid: Squid) {
    drop(proxied);
    squid.stop();
    let log = squid.access_log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!(" 200 {USER}@{REALM} Negotiate")))
        .collect();
    println!("{}", lines.join("\n"));
    assert!(lines.len() >= 2, "one tunnel for each role:\n{log}");
    assert!(
        !log.contains("Basic") && !log.contains("Digest"),
        "no weaker scheme is used:\n{log}"
    );
}

#[test]
fn a_kerberos_ticket_authenticates_both_links() {
    let (testbed, realm, squid) = realm(Front::Tls, Setup::default().basic().digest());
    let url = squid.url_for(&format!("{USER}%40{REALM}"), PASSWORD_IN_URL);
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": url, "log_level": "info"}));
    proxied.assert_transfer("squid, Negotiate with Kerberos, wss");
    println!(
        "{}",
        realm.kdc.wait_for_line(&[
            "TGS_REQ",
            "ISSUE",
            &format!("{USER}@{REALM} for HTTP/localhost@{REALM}")
        ])
    );
    assert_authenticated(proxied, squid);
}

#[test]
fn a_user_of_a_realm_can_be_written_in_windows_form() {
    let (testbed, _realm, mut squid) = realm(Front::Direct, Setup::default());
    let url = squid.url_for(&format!("{REALM}%5C{USER}"), PASSWORD_IN_URL);
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": url, "log_level": "info"}));
    proxied.assert_survives_restarts("squid with Kerberos killed and started twice", || {
        squid.kill_and_start()
    });
    assert_authenticated(proxied, squid);
}

#[test]
fn a_kdc_answers_over_udp() {
    let (mut testbed, realm, squid) = realm(Front::Direct, Setup::default());
    testbed.environment.push((
        "SSPI_KDC_URL".to_owned(),
        format!("udp://{}", realm.address()),
    ));
    let url = squid.url_for(&format!("{REALM}%5C{USER}"), PASSWORD_IN_URL);
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": url, "log_level": "info"}));
    assert_authenticated(proxied, squid);
}

#[test]
fn kdc_failures_are_logged_with_a_remedy_and_not_blamed_on_the_proxy() {
    let (testbed, mut realm, squid) = realm(Front::Direct, Setup::default());
    realm.administer(&format!(
        "addprinc -requires_preauth -pw {PASSWORD} careless"
    ));
    let client = |user: &str, password: &str| json!({"proxy": squid.url_for(&format!("{user}%40{REALM}"), password)});
    let proxy = format!(
        "proxy http://localhost:{}: it requires authentication, and",
        squid.address().port()
    );
    let of = |user: &str| format!("\"{user}@{REALM}\" cannot authenticate by Negotiate:");
    let wrong = [
        "pre-authentication information was invalid",
        "check the user and the password in `proxy`",
    ];
    assert_refused(
        &testbed,
        client(USER, "wrong"),
        &[&[proxy.as_str(), &of(USER)], &wrong[..]].concat(),
    );
    let careless = ["let the realm require pre-authentication of this user"];
    assert_refused(
        &testbed,
        client("careless", PASSWORD_IN_URL),
        &[&[proxy.as_str(), &of("careless")], &careless[..]].concat(),
    );
    // Without a ticket Negotiate carries NTLM, which this proxy does not accept.
    let unknown = [
        "it refuses \"nobody@REPORT.TEST\" (tried Negotiate)",
        "Negotiate carried NTLM",
        "client not found",
    ];
    assert_refused(&testbed, client("nobody", PASSWORD_IN_URL), &unknown);
    realm.kdc.stop();
    let gone = [
        "Negotiate carried NTLM because Kerberos failed here: no answer from the KDC",
        "KRB5_CONFIG",
    ];
    assert_refused(&testbed, client(USER, PASSWORD_IN_URL), &gone);
}

#[test]
fn a_weaker_scheme_is_used_when_the_kdc_is_down() {
    let (testbed, mut realm, mut squid) = realm(Front::Direct, Setup::default().digest());
    realm.kdc.stop();
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": squid.url(), "log_level": "info"}));
    drop(proxied);
    squid.stop();
    let log = squid.access_log();
    assert!(
        log.lines()
            .filter(|line| line.contains(&format!(" 200 {USER} Digest")))
            .count()
            == 2,
        "{log}"
    );
}
