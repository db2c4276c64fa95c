//! Negotiate with Kerberos, against MIT's KDC and squid's own helper.

use serde_json::json;

use super::bed::{Bed, refused};
use crate::support::{
    proxies::{
        PASSWORD, PASSWORD_IN_URL, USER,
        kerberos::{REALM, Realm},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Scene},
};

/// A scene whose roles know the realm, the realm, and a squid that takes its tickets, with further schemes.
fn realm(front: Front, setup: Setup) -> (Scene, Realm, Squid) {
    let mut scene = Scene::new(front);
    let realm = Realm::start(scene.folder());
    scene.environment = realm.environment();
    let setup = Setup {
        environment: realm.environment(),
        ..setup
    };
    let setup = setup
        .file("http.keytab", realm.keytab())
        .authentication(Realm::negotiate());
    let squid = Squid::start(scene.folder(), setup);
    (scene, realm, squid)
}

/// That squid let both roles in as this principal.
#[track_caller]
fn let_in(bed: Bed, mut squid: Squid) {
    drop(bed);
    squid.stop();
    let log = squid.access_log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!(" 200 {USER}@{REALM} Negotiate")))
        .collect();
    println!("{}", lines.join("\n"));
    assert!(lines.len() >= 2, "one tunnel of each role:\n{log}");
    assert!(
        !log.contains("Basic") && !log.contains("Digest"),
        "it is told by nothing weaker:\n{log}"
    );
}

#[test]
fn a_ticket_of_a_realm_opens_the_way_for_both_links() {
    let (scene, realm, squid) = realm(Front::Tls, Setup::default().basic().digest());
    let url = squid.url_for(&format!("{USER}%40{REALM}"), PASSWORD_IN_URL);
    let bed = Bed::new(scene, json!({"proxy": url, "log_level": "info"}));
    bed.carries("squid, Negotiate with Kerberos, wss");
    println!(
        "{}",
        realm.kdc.wait_for_line(&[
            "TGS_REQ",
            "ISSUE",
            &format!("{USER}@{REALM} for HTTP/localhost@{REALM}")
        ])
    );
    let_in(bed, squid);
}

#[test]
fn a_user_of_a_realm_may_be_written_as_windows_writes_it() {
    let (scene, _realm, mut squid) = realm(Front::Direct, Setup::default());
    let url = squid.url_for(&format!("{REALM}%5C{USER}"), PASSWORD_IN_URL);
    let bed = Bed::new(scene, json!({"proxy": url, "log_level": "info"}));
    bed.survives_restarts("squid with Kerberos killed and started twice", || {
        squid.kill_and_start()
    });
    let_in(bed, squid);
}

#[test]
fn a_kdc_that_is_asked_over_udp_answers() {
    let (mut scene, realm, squid) = realm(Front::Direct, Setup::default());
    scene.environment.push((
        "SSPI_KDC_URL".to_owned(),
        format!("udp://{}", realm.address()),
    ));
    let url = squid.url_for(&format!("{REALM}%5C{USER}"), PASSWORD_IN_URL);
    let bed = Bed::new(scene, json!({"proxy": url, "log_level": "info"}));
    let_in(bed, squid);
}

#[test]
fn what_fails_at_the_kdc_is_said_with_the_remedy_and_not_laid_at_the_proxys_door() {
    let (scene, mut realm, squid) = realm(Front::Direct, Setup::default());
    realm.administer(&format!(
        "addprinc -requires_preauth -pw {PASSWORD} careless"
    ));
    let client = |user: &str, password: &str| json!({"proxy": squid.url_for(&format!("{user}%40{REALM}"), password)});
    let proxy = format!(
        "proxy http://localhost:{}: it wants to know who asks, and",
        squid.address().port()
    );
    let of = |user: &str| format!("\"{user}@{REALM}\" cannot be told from here by Negotiate:");
    let wrong = [
        "pre-authentication information was invalid",
        "check the user and the password in `proxy`",
    ];
    refused(
        &scene,
        client(USER, "wrong"),
        &[&[proxy.as_str(), &of(USER)], &wrong[..]].concat(),
    );
    let careless = ["let the realm require pre-authentication of this user"];
    refused(
        &scene,
        client("careless", PASSWORD_IN_URL),
        &[&[proxy.as_str(), &of("careless")], &careless[..]].concat(),
    );
    // Without a ticket Negotiate carries NTLM, which this proxy does not take.
    let unknown = [
        "it refuses \"nobody@REPORT.TEST\" (tried Negotiate)",
        "Negotiate carried NTLM",
        "client not found",
    ];
    refused(&scene, client("nobody", PASSWORD_IN_URL), &unknown);
    realm.kdc.stop();
    let gone = [
        "Negotiate carried NTLM, for Kerberos failed here: no answer from the KDC",
        "KRB5_CONFIG",
    ];
    refused(&scene, client(USER, PASSWORD_IN_URL), &gone);
}

#[test]
fn a_proxy_that_also_takes_a_password_is_told_it_when_the_kdc_is_away() {
    let (scene, mut realm, mut squid) = realm(Front::Direct, Setup::default().digest());
    realm.kdc.stop();
    let bed = Bed::new(scene, json!({"proxy": squid.url(), "log_level": "info"}));
    drop(bed);
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
