//! Why a proxy opened no tunnel.

use std::{borrow::Cow, io, time::Duration};

use http::StatusCode;

use super::{
    authentication_error::{AuthenticationError, CHECK_PROXY},
    socks_error::SocksError,
};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::upgrade::{MAX_FIELDS, MAX_HEAD},
};

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.diagnosis())]
pub enum ProxyError {
    /// Authentication failed.
    Authentication(#[from] AuthenticationError),
    /// The response has a status other than 200.
    Refused {
        /// The requested destination.
        target: String,
        /// The status of the response.
        status: StatusCode,
        /// The target of a redirection.
        location: Option<String>,
        /// The first line of text in the body.
        body: String,
        /// How long the proxy asks to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// The port does not speak HTTP.
    NotHttp(NotHttpCause),
    /// The head of the response exceeds the limits.
    LargeHead,
    /// The proxy closed the connection without a response: with an end of file or, if it left data
    /// unread, with a reset.
    Closed,
    /// The SOCKS handshake failed.
    Socks(SocksError),
    /// The connection failed.
    Io(io::Error),
}

/// Why a response is not that of an HTTP proxy.
#[derive(Debug, thiserror::Error)]
pub enum NotHttpCause {
    /// The proxy requests authentication without end.
    #[error("it requests authentication again and again")]
    EndlessAuthentication,
    /// The destination cannot appear in a request.
    #[error("{0} is not a valid destination")]
    Destination(String),
    /// The proxy itself sent data through the tunnel.
    #[error("it sent {0:?} after its response")]
    ExtraData(String),
    /// The HTTP library cannot parse the response.
    #[error("{0}")]
    Http(hyper::Error),
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => ProxyError::Closed,
            _ => ProxyError::Io(error),
        }
    }
}

impl ProxyError {
    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            ProxyError::Authentication(error) => error.diagnosis(),
            ProxyError::Refused {
                target,
                status,
                location,
                body,
                retry_after,
            } => {
                let (code, remedy) = refusal_remedy(*status, location.as_deref(), *retry_after);
                let mut evidence = format!("it refused a tunnel to {target}: HTTP status {status}");
                if !body.is_empty() {
                    evidence.push_str(&format!(", body {body:?}"));
                }
                if let Some(wait) = retry_after {
                    evidence.push_str(&format!(", Retry-After {} s", wait.as_secs()));
                }
                Diagnosis::new(code, evidence, "", remedy)
            }
            ProxyError::NotHttp(cause) => Diagnosis::new(
                DiagnosisCode::ProxyProtocolMismatch,
                format!("the port does not speak HTTP ({cause})"),
                "",
                "check the scheme, host and port in `proxy`",
            ),
            ProxyError::LargeHead => Diagnosis::new(
                DiagnosisCode::ProxyHeadTooLarge,
                format!(
                    "its response head is longer than {} KiB or has more than {MAX_FIELDS} fields",
                    MAX_HEAD / 1024
                ),
                "",
                "let the proxy send fewer, and check the host and port in `proxy`",
            ),
            ProxyError::Closed => Diagnosis::new(
                DiagnosisCode::ProxyClosed,
                "it closed the connection without an answer",
                "",
                "check the scheme in `proxy`, and that the proxy accepts this machine",
            ),
            ProxyError::Socks(error) => error.diagnosis(),
            ProxyError::Io(error) => Diagnosis::new(
                DiagnosisCode::ProxyFailed,
                format!("the connection failed: {error}"),
                "",
                CHECK_PROXY,
            ),
        }
    }
}

fn refusal_remedy(
    status: StatusCode,
    location: Option<&str>,
    retry_after: Option<Duration>,
) -> (DiagnosisCode, Cow<'static, str>) {
    let (code, remedy) = match (status.as_u16(), location) {
        (300..=399, Some(location)) => {
            let remedy = format!(
                "it redirects to {location:?}, probably a login page: open it in a browser"
            );
            return (DiagnosisCode::ProxyRedirected, remedy.into());
        }
        (403, _) => (
            DiagnosisCode::ProxyForbidden,
            "its rules do not allow that: many proxies allow only port 443",
        ),
        // A proxy that cannot reach the master does not know when it will.
        (503, _) if retry_after.is_some() => (
            DiagnosisCode::ProxyRateLimited,
            "it has no room for another connection now: wait",
        ),
        // Squid answers 500 if it cannot resolve the name.
        (500 | 502..=504, _) => (
            DiagnosisCode::ProxyCannotReachMaster,
            "it cannot reach the master: check `master`, and the rules and the resolver of the proxy",
        ),
        (400 | 404 | 405 | 501, _) => (
            DiagnosisCode::ProxyWithoutTunnels,
            "it may be a web server instead of a proxy, or a proxy without CONNECT: check `proxy`",
        ),
        (429, _) => (
            DiagnosisCode::ProxyRateLimited,
            "it limits the request rate: wait",
        ),
        _ => (DiagnosisCode::ProxyRefused, "ask its operator"),
    };
    (code, remedy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_code_and_a_remedy() {
        let login = Some("http://login/");
        for (status, location, retry_after, code) in [
            (302, login, None, DiagnosisCode::ProxyRedirected),
            (302, None, None, DiagnosisCode::ProxyRefused),
            (403, None, None, DiagnosisCode::ProxyForbidden),
            (405, None, None, DiagnosisCode::ProxyWithoutTunnels),
            (429, None, None, DiagnosisCode::ProxyRateLimited),
            (503, None, None, DiagnosisCode::ProxyCannotReachMaster),
            (503, None, Some(9), DiagnosisCode::ProxyRateLimited),
            (418, None, None, DiagnosisCode::ProxyRefused),
        ] {
            let error = ProxyError::Refused {
                target: "a:1".to_owned(),
                status: StatusCode::from_u16(status).unwrap(),
                location: location.map(str::to_owned),
                body: "no".to_owned(),
                retry_after: retry_after.map(Duration::from_secs),
            };
            let diagnosis = error.diagnosis();
            assert_eq!(diagnosis.code, code, "{error}");
            assert!(!diagnosis.remedy.is_empty(), "{error}");
            let wait = retry_after.map_or("", |_| ", Retry-After 9 s");
            assert!(
                error.to_string().starts_with(&format!(
                    "it refused a tunnel to a:1: HTTP status {}, body \"no\"{wait}; ",
                    StatusCode::from_u16(status).unwrap()
                )),
                "{error}"
            );
        }
    }

    #[test]
    fn closed_connection_is_recognised_by_the_kind_of_its_error() {
        for kind in [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
        ] {
            let code = ProxyError::from(io::Error::from(kind)).diagnosis().code;
            assert_eq!(code, DiagnosisCode::ProxyClosed);
        }
        let other = ProxyError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(other.diagnosis().code, DiagnosisCode::ProxyFailed);
    }
}
