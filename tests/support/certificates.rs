//! Certificates for loopback, signed by a test authority.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::programs;

/// Names and addresses for which a leaf is valid.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// An authority and the location of its files.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate chain and its key.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Leaf {
    /// The SHA-256 of the certificate as openssl prints it, with colons.
    pub(crate) fn fingerprint(&self) -> String {
        let mut openssl = programs::command("openssl");
        openssl
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&self.cert);
        let text = programs::run(&mut openssl).succeeded().text();
        let (_, fingerprint) = text.trim().split_once('=').expect("a fingerprint");
        fingerprint.to_owned()
    }
}

impl Authority {
    /// A new authority with its certificate at [`Authority::path`].
    pub(crate) fn new(folder: &Path) -> Authority {
        Authority::named(folder, "rePort test authority")
    }

    /// The same with another name.
    pub(crate) fn named(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters without names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a self-signed certificate");
        let authority = Authority {
            folder: folder.to_owned(),
            issuer,
        };
        fs::write(authority.path(), authority.issuer.pem())
            .expect("the authority's file is written");
        authority
    }

    /// The certificate file of the authority, for `tls.ca`.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// Writes a certificate for loopback to `NAME.pem` and `NAME.key`, over existing files.
    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        self.leaf_with(name, |_| ())
    }

    /// The same with changed parameters.
    pub(crate) fn leaf_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(NAMES.map(str::to_owned)).expect("parameters for loopback");
        change(&mut params);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a signed certificate");
        write(&self.folder, name, &certificate.pem(), &key)
    }
}

/// A self-signed certificate for loopback.
pub(crate) fn self_signed(folder: &Path, name: &str) -> Leaf {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(NAMES.map(str::to_owned)).expect("parameters for loopback");
    write(
        folder,
        name,
        &params
            .self_signed(&key)
            .expect("a self-signed certificate")
            .pem(),
        &key,
    )
}

fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Leaf {
    let leaf = Leaf {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    fs::write(&leaf.cert, certificate).expect("the certificate is written");
    fs::write(&leaf.key, key.serialize_pem()).expect("the key is written");
    leaf
}
