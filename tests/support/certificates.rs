//! Certificates for loopback, signed by an authority of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Names and addresses that a leaf is good for.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// An authority and where its files are.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Where a certificate chain and its key are.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, its certificate at [`Authority::path`].
    pub fn new(folder: &Path) -> Authority {
        Authority::named(folder, "rePort test authority")
    }

    /// The same under a name of its own.
    pub fn named(folder: &Path, name: &str) -> Authority {
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

    /// The file to trust.
    pub fn path(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// A certificate for loopback in `NAME.pem` and `NAME.key`; written over what is there.
    pub fn leaf(&self, name: &str) -> Leaf {
        self.leaf_with(name, |_| ())
    }

    /// The same, changed.
    pub fn leaf_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
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

/// A certificate for loopback that nobody signed but itself.
pub fn self_signed(folder: &Path, name: &str) -> Leaf {
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
