//! Certificates that verify or not, and a port that does not speak TLS.

use rcgen::{BasicConstraints, CertificateParams, IsCa};

use super::*;

/// Dials a TLS master as localhost, trusting `ca`, and returns the TLS problem.
async fn tls_failure(certificate: Arc<ReloadingCertificate>, ca: &Authority) -> TlsProblem {
    let master = TestListener::secure(certificate).await;
    match failure(&master.tls_dialer("localhost", ca)).await {
        DialError::Tls { host, problem, .. } => {
            assert_eq!(host, "localhost");
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// Returns the TLS problem of a trusted certificate for localhost with the changes of `change`.
async fn problem_with(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> TlsProblem {
    tls_failure(authority.sign("localhost", change), authority).await
}

#[tokio::test]
async fn dial_reaches_tls_master_with_trusted_authority() {
    for host in ["localhost", "127.0.0.1"] {
        let authority = Authority::new();
        let master = TestListener::secure(authority.sign(host, |_| ())).await;
        exchange_messages(&master.tls_dialer(host, &authority)).await;
    }
}

#[tokio::test]
async fn certificate_problems_are_distinguished() {
    let authority = Authority::new();
    let good = authority.sign("localhost", |_| ());
    let unknown = tls_failure(good.clone(), &Authority::named("another authority")).await;
    assert!(
        matches!(&unknown, TlsProblem::UnknownIssuer(Some(_)))
            && unknown.to_string().contains("CN=an authority"),
        "{unknown}"
    );
    let namesake = tls_failure(good, &Authority::new()).await;
    assert!(
        matches!(namesake, TlsProblem::UnknownIssuer(Some(_))),
        "the authority was made anew under its name: {namesake}"
    );
    let problem = tls_failure(authority.sign("example.com", |_| ()), &authority).await;
    assert!(
        matches!(problem, TlsProblem::WrongName(Some(_)))
            && problem.to_string().contains("it is for \"example.com\""),
        "{problem}"
    );
    let problem = problem_with(&authority, |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1)
    })
    .await;
    let message = problem.to_string();
    assert!(
        matches!(problem, TlsProblem::Expired(Some(_)))
            && message.contains("valid until 2001-01-01"),
        "{message}"
    );
    assert!(message.contains("this machine's time is 2"), "{message}");
    let early = problem_with(&authority, |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1)
    });
    assert!(matches!(early.await, TlsProblem::NotYetValid(Some(_))));
    let own = problem_with(&authority, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
    });
    assert!(matches!(own.await, TlsProblem::Authority(Some(_))));
}

#[tokio::test]
async fn plain_http_is_distinguished_from_a_bad_certificate() {
    let authority = Authority::new();
    let server = TestListener::with(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        // Close only after the client has read the response: a reset would discard it.
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    match failure(&server.tls_dialer("localhost", &authority)).await {
        DialError::Tls {
            problem: TlsProblem::PlainHttp(received),
            ..
        } => assert_eq!(received, "HTTP/1.1 400 Bad Request"),
        other => panic!("{other:?}"),
    }
}
