//! NTLM, against squid and Samba. `winbindd` of one machine takes the role of a domain controller.

use serde_json::json;

use super::proxied_tunnel::{ProxiedTunnel, assert_refused};
use crate::support::{
    proxies::{
        PASSWORD_IN_URL,
        samba::{ACCOUNT, DOMAIN, Samba},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Testbed},
};

fn domain(front: Front, setup: Setup) -> (Testbed, Samba, Squid) {
    let testbed = Testbed::new(front);
    let samba = Samba::start(testbed.folder());
    let setup = Setup {
        within: samba.within(),
        ..setup
    }
    .authentication(samba.ntlm());
    let squid = Squid::start(testbed.folder(), setup);
    (testbed, samba, squid)
}

#[test]
fn a_domain_account_authenticates_both_links() {
    let (testbed, samba, mut squid) = domain(Front::Tls, Setup::default().basic().digest());
    let url = squid.url_for(&format!("{DOMAIN}%5C{ACCOUNT}"), PASSWORD_IN_URL);
    let proxied = ProxiedTunnel::new(testbed, json!({"proxy": url, "log_level": "info"}));
    proxied.assert_transfer("squid, NTLM, wss");
    proxied.assert_survives_restarts("squid with NTLM killed and started twice", || {
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
    drop(proxied);
    squid.stop();
    let log = squid.access_log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" 200 ") && line.contains(" NTLM"))
        .collect();
    println!("{}", lines.join("\n"));
    assert!(
        lines.len() >= 2 && lines.iter().all(|line| line.contains(ACCOUNT)),
        "one tunnel for each role:\n{log}"
    );
    assert!(
        !log.contains("Basic") && !log.contains("Digest"),
        "no weaker scheme is used:\n{log}"
    );
}

#[test]
fn a_wrong_password_of_a_domain_is_refused_by_the_proxy() {
    let (testbed, samba, squid) = domain(Front::Direct, Setup::default());
    let url = squid.url_for(&format!("{DOMAIN}%5C{ACCOUNT}"), "wrong");
    assert_refused(
        &testbed,
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
