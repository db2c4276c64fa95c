//! Usable and unusable certificates, and the replacement of a certificate while connections arrive.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

/// A folder with an authority, `ca.pem`, and the certificates that it signs.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Authority::named("an authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Writes `cert.pem` and `key.pem` for `host`, with the changes of `change`, and loads them.
    pub(crate) fn sign(
        &self,
        host: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ReloadingCertificate> {
        self.sign_files(host, change);
        ReloadingCertificate::load(&self.path("cert.pem"), &self.path("key.pem")).unwrap()
    }

    fn sign_files(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        self.write(
            "cert.pem",
            &params.signed_by(&key, &self.issuer).unwrap().pem(),
        );
        self.write("key.pem", &key.serialize_pem());
    }

    fn load(&self, chain: &str, key: &str) -> TlsError {
        ReloadingCertificate::load(&self.path(chain), &self.path(key))
            .expect_err("they cannot be used")
    }
}

#[tokio::test]
async fn client_with_trusted_authority_connects() {
    let authority = Authority::new();
    let acceptor = authority.sign("master.test", |_| ()).acceptor();
    let config = client_config(&TlsParameters::trusting(Some(authority.path("ca.pem")))).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = "master.test".try_into().unwrap();
    let (client, server) = tokio::join!(
        TlsConnector::from(config).connect(name, near),
        acceptor.accept(far)
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(ALPN));
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut received = [0; 5];
    server.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"hello");
}

#[test]
fn unusable_certificate_names_its_file() {
    let authority = Authority::new();
    authority.sign("master.test", |_| ());
    authority.write("empty.pem", "");
    authority.write("text.pem", "this is my certificate");
    authority.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    authority.write("other.pem", &KeyPair::generate().unwrap().serialize_pem());
    assert!(
        matches!(authority.load("nowhere.pem", "key.pem"), TlsError::Unreadable { path, .. } if path.ends_with("nowhere.pem"))
    );
    assert!(
        matches!(authority.load("cert.pem", "nowhere.pem"), TlsError::Unreadable { path, .. } if path.ends_with("nowhere.pem"))
    );
    for chain in ["empty.pem", "text.pem", "key.pem"] {
        assert!(
            matches!(authority.load(chain, "key.pem"), TlsError::NoCertificate { path } if path.ends_with(chain)),
            "{chain}"
        );
    }
    assert!(matches!(
        authority.load("broken.pem", "key.pem"),
        TlsError::NotPem { .. }
    ));
    assert!(matches!(
        authority.load("cert.pem", "cert.pem"),
        TlsError::NoKey { .. }
    ));
    let mismatch = authority.load("cert.pem", "other.pem");
    assert!(matches!(mismatch, TlsError::Mismatch { .. }), "{mismatch}");
    assert!(
        mismatch.to_string().contains("other.pem") && mismatch.to_string().contains("cert.pem")
    );
}

#[test]
fn empty_authorities_file_is_reported() {
    let authority = Authority::new();
    authority.write("empty.pem", "");
    assert!(matches!(
        client_config(&TlsParameters::trusting(Some(authority.path("empty.pem")))),
        Err(TlsError::NoCertificate { .. })
    ));
    assert!(matches!(
        client_config(&TlsParameters::trusting(Some(
            authority.path("nowhere.pem")
        ))),
        Err(TlsError::Unreadable { .. })
    ));
}

#[test]
fn refresh_loads_a_valid_certificate_and_ignores_a_broken_one() {
    let authority = Authority::new();
    let certificate = authority.sign("master.test", |_| ());
    let first = certificate.current();
    certificate.refresh();
    assert!(
        Arc::ptr_eq(&first, &certificate.current()),
        "nothing changed"
    );

    authority.write("cert.pem", "half a certifi");
    certificate.refresh();
    assert!(
        Arc::ptr_eq(&first, &certificate.current()),
        "a broken file changes nothing"
    );

    authority.sign_files("renewed.master.test", |_| ());
    certificate.refresh();
    let second = certificate.current();
    assert_ne!(
        first.end_entity_cert().unwrap(),
        second.end_entity_cert().unwrap()
    );

    fs::remove_file(authority.path("key.pem")).unwrap();
    certificate.refresh();
    assert!(
        Arc::ptr_eq(&second, &certificate.current()),
        "a missing file changes nothing"
    );
}

#[test]
fn files_are_checked_again_after_a_second() {
    let authority = Authority::new();
    let certificate = authority.sign("master.test", |_| ());
    let first = certificate.current();
    authority.sign_files("renewed.master.test", |_| ());
    assert!(
        Arc::ptr_eq(&first, &certificate.current()),
        "they were checked just now"
    );
    certificate.state.lock().unwrap().checked_at -= CHECK_INTERVAL;
    assert!(!Arc::ptr_eq(&first, &certificate.current()));
}

#[test]
fn pem_files_are_read_in_every_encoding() {
    let authority = Authority::new();
    authority.sign_files("host", |_| {});
    let names = ["cert.pem", "key.pem"]
        .map(|name| (name, fs::read_to_string(authority.path(name)).unwrap()));
    for encoding in 0..3 {
        for (name, text) in &names {
            let text = format!("{} \r\n\r\n", text.lines().collect::<Vec<_>>().join("\r\n"));
            fs::write(
                authority.path(name),
                &crate::text::tests::encodings(&text)[encoding],
            )
            .unwrap();
        }
        ReloadingCertificate::load(&authority.path("cert.pem"), &authority.path("key.pem"))
            .unwrap();
    }
}
