//! NTLM, against squid and Samba: what a domain's controller would say is said by `winbindd` of one machine.

use serde_json::json;

use super::bed::{Bed, refused};
use crate::support::{
    proxies::{
        PASSWORD_IN_URL,
        samba::{ACCOUNT, DOMAIN, Samba},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Scene},
};

fn domain(front: Front, setup: Setup) -> (Scene, Samba, Squid) {
    let scene = Scene::new(front);
    let samba = Samba::start(scene.folder());
    let setup = Setup {
        within: samba.within(),
        ..setup
    }
    .authentication(samba.ntlm());
    let squid = Squid::start(scene.folder(), setup);
    (scene, samba, squid)
}

#[test]
fn an_account_of_a_domain_opens_the_way_for_both_links() {
    let (scene, samba, mut squid) = domain(Front::Tls, Setup::default().basic().digest());
    let url = squid.url_for(&format!("{DOMAIN}%5C{ACCOUNT}"), PASSWORD_IN_URL);
    let bed = Bed::new(scene, json!({"proxy": url, "log_level": "info"}));
    bed.carries("squid, NTLM, wss");
    bed.survives_restarts("squid with NTLM killed and started twice", || {
        squid.kill_and_start()
    });
    println!(
        "{}",
        samba.winbindd.wait_for_line(&[
            "Auth:",
            &format!("[{DOMAIN}]\\[{ACCOUNT}]"),
            "NTLMv2",
            "NT_STATUS_OK"
        ])
    );
    drop(bed);
    squid.stop();
    let log = squid.access_log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" 200 ") && line.contains(" NTLM"))
        .collect();
    println!("{}", lines.join("\n"));
    assert!(
        lines.len() >= 2 && lines.iter().all(|line| line.contains(ACCOUNT)),
        "one tunnel of each role:\n{log}"
    );
    assert!(
        !log.contains("Basic") && !log.contains("Digest"),
        "it is told by nothing weaker:\n{log}"
    );
}

#[test]
fn a_wrong_password_of_a_domain_is_refused_by_the_proxy() {
    let (scene, samba, squid) = domain(Front::Direct, Setup::default());
    let url = squid.url_for(&format!("{DOMAIN}%5C{ACCOUNT}"), "wrong");
    refused(
        &scene,
        json!({"proxy": url}),
        &[
            "it refuses",
            "(tried NTLM)",
            "check the user and the password in `proxy`",
        ],
    );
    println!(
        "{}",
        samba
            .winbindd
            .wait_for_line(&["Auth:", ACCOUNT, "NTLMv2", "NT_STATUS_WRONG_PASSWORD"])
    );
}
