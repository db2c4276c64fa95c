//! The addresses of the hosts in `listen_at`.

use std::{io, net::SocketAddr};

use crate::{
    config::HostPort,
    diagnosis::{Diagnosis, DiagnosisCode},
};

/// The host of a listen address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.evidence(), ListenHostError::REMEDY)]
pub struct ListenHostError {
    address: String,
    /// The resolver's error, or `None` if the name has no address.
    source: Option<io::Error>,
}

impl ListenHostError {
    const REMEDY: &str = "write an IP address of this machine";

    fn evidence(&self) -> String {
        let problem = match self.source {
            Some(_) => "does not resolve",
            None => "has no address",
        };
        format!("`listen_at`: the host of \"{}\" {problem}", self.address)
    }

    /// Returns the evidence and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let reason = self
            .source
            .as_ref()
            .map_or_else(String::new, |error| format!(" ({error})"));
        Diagnosis::new(
            DiagnosisCode::ListenNameFailed,
            self.evidence() + &reason,
            "",
            ListenHostError::REMEDY,
        )
    }
}

/// Resolves the host of a listen address.
///
/// # Errors
/// When the host has no address.
pub async fn resolve_listen_host(address: &HostPort) -> Result<Vec<SocketAddr>, ListenHostError> {
    let failed = |source| ListenHostError {
        address: address.to_string(),
        source,
    };
    let addresses: Vec<_> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| failed(Some(error)))?
        .collect();
    if addresses.is_empty() {
        return Err(failed(None));
    }
    Ok(addresses)
}
