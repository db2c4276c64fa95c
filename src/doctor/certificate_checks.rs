//! The check of a master's certificate files on its own machine.

use std::path::Path;

use tokio::time::Instant;

use super::{DoctorReport, DoctorStep, verdicts};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::tls::{CertificateInfo, ReloadingCertificate, format_utc, now},
};

/// Checks the files of the certificate: whether they match, the order of the chain, and the
/// validity period.
pub(super) fn run(chain: &Path, key: &Path, report: &mut DoctorReport<'_>) {
    let started = Instant::now();
    let subject = chain.display().to_string();
    let loaded = match ReloadingCertificate::load(chain, key) {
        Ok(loaded) => loaded.current(),
        Err(error) => {
            let diagnosis = error.diagnosis("set the PEM files of the chain and its key in `tls`");
            return report.record(DoctorStep::failed(
                "certificate",
                subject,
                started.elapsed(),
                diagnosis,
            ));
        }
    };
    let chain: Vec<CertificateInfo> = loaded
        .cert
        .iter()
        .filter_map(|shown| CertificateInfo::read(shown))
        .collect();
    let took = started.elapsed();
    let Some(leaf) = chain.first() else {
        let diagnosis = Diagnosis::new(
            DiagnosisCode::TlsFileUnusable,
            "the certificate cannot be read",
            "",
            "create a new one",
        );
        return report.record(DoctorStep::failed("certificate", subject, took, diagnosis));
    };
    report.record(
        match (
            validity_problem(leaf),
            chain_gap(&chain),
            verdicts::certificate(&chain),
        ) {
            (Some(found), _, _) => DoctorStep::failed("certificate", subject, took, found),
            (None, Some(found), _) | (None, None, Some(found)) => {
                DoctorStep::warning("certificate", subject, took, found)
            }
            (None, None, None) => {
                DoctorStep::ok("certificate", subject, took, describe_certificate(leaf))
            }
        },
    );
}

fn validity_problem(leaf: &CertificateInfo) -> Option<Diagnosis> {
    let clock = format!("this machine's time is {}", format_utc(now()));
    if leaf.not_after < now() {
        let evidence = format!(
            "the certificate expired on {}; {clock}",
            format_utc(leaf.not_after)
        );
        return Some(Diagnosis::new(
            DiagnosisCode::TlsExpired,
            evidence,
            "",
            "renew it: the master loads a new file without a restart",
        ));
    }
    (leaf.not_before > now()).then(|| {
        let evidence = format!(
            "the certificate is not valid before {}; {clock}",
            format_utc(leaf.not_before)
        );
        Diagnosis::new(
            DiagnosisCode::TlsNotYetValid,
            evidence,
            "this machine's clock is slow",
            "set this machine's clock",
        )
    })
}

/// Returns what is wrong with the order of the chain.
fn chain_gap(chain: &[CertificateInfo]) -> Option<Diagnosis> {
    let broken = chain.windows(2).find_map(|pair| match pair {
        [below, above] if below.issuer != above.subject => Some((below, above)),
        _ => None,
    });
    let remedy = "write the master's certificate first, then the one that signed it, and so on";
    broken.map(|(below, above)| {
        let evidence = format!(
            "\"{}\" is signed by \"{}\", but \"{}\" comes next",
            below.subject, below.issuer, above.subject
        );
        Diagnosis::new(
            DiagnosisCode::TlsChainBroken,
            evidence,
            "the certificates are in the wrong order, or one is missing",
            remedy,
        )
    })
}

/// Describes a certificate in one line.
pub(super) fn describe_certificate(leaf: &CertificateInfo) -> String {
    format!(
        "certificate of \"{}\" for {}, signed by \"{}\", until {} ({} days), SHA-256 {}",
        leaf.subject,
        leaf.display_names(),
        leaf.issuer,
        format_utc(leaf.not_after),
        leaf.days_left(),
        leaf.fingerprint()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(subject: &str, issuer: &str) -> CertificateInfo {
        CertificateInfo {
            subject: subject.to_owned(),
            issuer: issuer.to_owned(),
            names: vec!["localhost".to_owned()],
            not_before: 0,
            not_after: i64::MAX,
            sha256: [0; 32],
            is_self_signed: subject == issuer,
        }
    }

    #[test]
    fn chain_gap_names_the_broken_link() {
        let chain = [
            certificate("leaf", "between"),
            certificate("between", "root"),
            certificate("root", "root"),
        ];
        assert_eq!(chain_gap(&chain), None);
        let reason =
            chain_gap(&[certificate("leaf", "between"), certificate("root", "root")]).unwrap();
        assert!(
            reason
                .evidence
                .contains("\"leaf\" is signed by \"between\", but \"root\""),
            "{reason}"
        );
    }

    #[test]
    fn expired_certificates_are_reported_with_the_local_time() {
        assert_eq!(validity_problem(&certificate("leaf", "root")), None);
        let old = validity_problem(&CertificateInfo {
            not_after: 1_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(
            old.evidence.contains("2001-09-09") && old.evidence.contains("this machine's time is"),
            "{old}"
        );
        let early = validity_problem(&CertificateInfo {
            not_before: 4_000_000_000,
            ..certificate("leaf", "root")
        })
        .unwrap();
        assert!(early.remedy.contains("clock"), "{early}");
    }
}
