//! An `https://` proxy: its certificate, and the master's inside of it.

use serde_json::json;

use super::bed::{Bed, refused};
use crate::support::{
    certificates::Authority,
    proxies::squid::{Setup, Squid},
    tunnel::{Front, Scene},
};

#[test]
fn tls_with_the_master_runs_inside_tls_with_the_proxy() {
    let scene = Scene::new(Front::Tls);
    let leaf = scene.authority().leaf("squid");
    let mut squid = Squid::start(scene.folder(), Setup::default().basic().digest().tls(&leaf));
    let bed = Bed::new(scene, json!({"proxy": squid.url(), "log_level": "info"}));
    bed.carries("squid behind TLS, Digest, wss");
    bed.survives_restarts("squid behind TLS killed and started twice", || {
        squid.kill_and_start()
    });
}

#[test]
fn a_proxy_whose_authority_is_not_known_is_not_told_who_asks() {
    let scene = Scene::new(Front::Tls);
    let others = tempfile::tempdir().unwrap();
    let leaf = Authority::new(others.path()).leaf("squid");
    let mut squid = Squid::start(scene.folder(), Setup::default().basic().tls(&leaf));
    let words = [
        "proxy's TLS with `localhost`",
        "signed by an authority that is not trusted here",
        "`tls.ca`",
    ];
    refused(&scene, json!({"proxy": squid.url()}), &words);
    squid.stop();
    assert!(
        !squid.access_log().contains("CONNECT"),
        "{}",
        squid.access_log()
    );
}

#[test]
fn a_proxy_that_speaks_no_tls_is_told_from_one_that_does() {
    let scene = Scene::new(Front::Direct);
    let squid = Squid::start(scene.folder(), Setup::default().basic());
    let url = squid.url().replace("http://", "https://");
    refused(
        &scene,
        json!({"proxy": url}),
        &[
            "proxy's TLS with `localhost`",
            "does not speak TLS",
            "write http:// in `proxy`",
        ],
    );
}
