//! A Kerberos realm: an MIT KDC on loopback, which is not in DNS, and the keys of one service.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PASSWORD, USER, squid::HOME, write};
use crate::support::{
    daemon::Daemon,
    ports,
    programs::{self, ProgramOutput},
};

/// The realm.
pub(crate) const REALM: &str = "REPORT.TEST";

/// The service whose tickets a proxy at `localhost` accepts.
const SERVICE: &str = "HTTP/localhost";

/// A realm and its running KDC.
#[derive(Debug)]
pub(crate) struct Realm {
    home: PathBuf,
    address: SocketAddr,
    pub kdc: Daemon,
}

impl Realm {
    /// Creates the realm with [`USER`] and the keys of a proxy at `localhost`, and starts its KDC.
    pub(crate) fn start(folder: &Path) -> Realm {
        let home = folder.join("kerberos");
        fs::create_dir_all(&home).expect("a folder for the realm");
        let address = ports::free();
        write(&home.join("krb5.conf"), &client_configuration(address));
        write(&home.join("kdc.conf"), &kdc_configuration(&home, address));
        let mut create = Command::new("kdb5_util");
        create
            .args([
                "create",
                "-s",
                "-r",
                REALM,
                "-P",
                "the master key of the test",
            ])
            .envs(environment(&home));
        programs::run(&mut create).succeeded();
        let kdc = run(folder, &home, address);
        let realm = Realm { home, address, kdc };
        realm.add_user(USER, PASSWORD);
        realm.administer(&format!("addprinc -randkey {SERVICE}"));
        realm.administer(&format!(
            "ktadd -k {} {SERVICE}",
            realm.home.join("http.keytab").display()
        ));
        realm
    }

    /// Adds a user who must prove knowledge of the password before the KDC issues a ticket, as in
    /// Active Directory.
    pub(crate) fn add_user(&self, name: &str, password: &str) {
        self.administer(&format!("addprinc +requires_preauth -pw {password} {name}"));
    }

    /// Runs one command of `kadmin.local`.
    pub(crate) fn administer(&self, command: &str) -> ProgramOutput {
        let mut kadmin = Command::new("kadmin.local");
        programs::run(
            kadmin
                .args(["-r", REALM, "-q", command])
                .envs(environment(&self.home)),
        )
        .succeeded()
    }

    /// The address of the KDC, for TCP and UDP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment in which a program finds the realm: `KRB5_CONFIG`.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        environment(&self.home)
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec()
    }

    /// squid's lines for Negotiate. They need the file `http.keytab` in squid's folder.
    pub(crate) fn negotiate() -> [String; 2] {
        [
            format!(
                "auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k {HOME}/http.keytab -s {SERVICE}@{REALM}"
            ),
            "auth_param negotiate children 4 startup=1 idle=1".to_owned(),
        ]
    }

    /// The keys of the proxy.
    pub(crate) fn keytab(&self) -> Vec<u8> {
        fs::read(self.home.join("http.keytab")).expect("the keys of the proxy")
    }
}

fn environment(home: &Path) -> [(&'static str, String); 2] {
    let file = |name: &str| home.join(name).display().to_string();
    [
        ("KRB5_CONFIG", file("krb5.conf")),
        ("KRB5_KDC_PROFILE", file("kdc.conf")),
    ]
}

fn run(folder: &Path, home: &Path, address: SocketAddr) -> Daemon {
    let mut kdc = Command::new("krb5kdc");
    let mut kdc = Daemon::start(
        "kdc",
        folder,
        kdc.args(["-n", "-r", REALM, "-P"])
            .arg(home.join("pid"))
            .envs(environment(home)),
    );
    kdc.wait_ready(|| ports::has_listener_at(address));
    kdc
}

fn client_configuration(kdc: SocketAddr) -> String {
    format!(
        "[libdefaults]\n    default_realm = {REALM}\n    dns_lookup_kdc = false\n    dns_lookup_realm = false\n    rdns = false\n    \
         dns_canonicalize_hostname = false\n[realms]\n    {REALM} = {{\n        kdc = {kdc}\n    }}\n[domain_realm]\n    \
         localhost = {REALM}\n[logging]\n    kdc = STDERR\n"
    )
}

fn kdc_configuration(home: &Path, address: SocketAddr) -> String {
    let home = home.display();
    format!(
        "[kdcdefaults]\n    kdc_listen = {address}\n    kdc_tcp_listen = {address}\n[realms]\n    {REALM} = {{\n        \
         database_name = {home}/principal\n        key_stash_file = {home}/stash\n        acl_file = {home}/acl\n    }}\n"
    )
}
