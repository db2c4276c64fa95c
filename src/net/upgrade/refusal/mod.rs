//! An HTTP response in place of the WebSocket: its sender, the likely cause and the remedy.

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header};
use url::{ParseError, Url};

use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        evidence::first_line,
        middlebox::{identifying_headers, middlebox},
        upgrade::retry_after::retry_after,
    },
};

/// An HTTP response with a status other than 101.
#[derive(Debug)]
pub struct UpgradeRefusal {
    /// The status.
    pub status: StatusCode,
    /// The headers that identify the sender.
    pub identifying_headers: Vec<(&'static str, String)>,
    /// The product that answered, if known.
    pub middlebox: Option<&'static str>,
    /// The target of a redirection.
    pub location: Option<String>,
    /// How long the sender asks to wait, if the status is 429 or 503.
    pub retry_after: Option<Duration>,
    /// The first line of text in the body.
    pub body: String,
    /// Whether the body is an HTML page.
    pub is_page: bool,
    /// Whether nginx forwarded the response from another server.
    is_forwarded_by_nginx: bool,
    /// Whether the body names HTTPS, as web servers answer to HTTP on a port for TLS.
    names_https: bool,
    /// The host in the request.
    requested_host: String,
}

impl UpgradeRefusal {
    /// Reads a response and the beginning of its body. `requested_host` is the host of the request,
    /// with or without a port.
    pub(super) fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        requested_host: &str,
    ) -> Self {
        let text = |name: header::HeaderName| {
            headers
                .get(name)
                .map(|value| first_line(value.as_bytes()))
                .filter(|text| !text.is_empty())
        };
        let kind = text(header::CONTENT_TYPE)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let beginning = String::from_utf8_lossy(body)
            .trim_start()
            .to_ascii_lowercase();
        let middlebox = middlebox(headers, body);
        let body = first_line(body);
        UpgradeRefusal {
            status,
            identifying_headers: identifying_headers(headers),
            middlebox,
            location: text(header::LOCATION),
            retry_after: retry_after(status, headers, SystemTime::now()),
            names_https: body.to_ascii_lowercase().contains("https"),
            body,
            is_page: kind.contains("html")
                || beginning.starts_with("<!doctype html")
                || beginning.starts_with("<html"),
            // nginx's own error pages end with its name.
            is_forwarded_by_nginx: middlebox == Some("nginx")
                && !beginning.is_empty()
                && !beginning.contains("nginx"),
            requested_host: requested_host.to_owned(),
        }
    }

    /// Returns the code of the refusal.
    pub(super) fn code(&self) -> DiagnosisCode {
        match self.status.as_u16() {
            300..=399 if self.is_redirected_elsewhere() => DiagnosisCode::HttpLoginPage,
            300..=399 if self.location.is_some() => DiagnosisCode::HttpRedirected,
            400 | 497 if self.names_https => DiagnosisCode::HttpExpectsTls,
            400 | 426 => DiagnosisCode::HttpUpgradeNotForwarded,
            401 => DiagnosisCode::HttpAuthenticationRequired,
            403 => DiagnosisCode::HttpForbidden,
            404 if self.is_forwarded_by_nginx => DiagnosisCode::HttpUpgradeNotForwarded,
            404 | 410 => DiagnosisCode::HttpNotFound,
            405 | 501 => DiagnosisCode::HttpMethodNotAllowed,
            407 => DiagnosisCode::HttpProxyAuthenticationRequired,
            413 | 414 | 431 => DiagnosisCode::HttpRequestTooLarge,
            429 => DiagnosisCode::HttpRateLimited,
            503 if self.retry_after.is_some() => DiagnosisCode::HttpOverloaded,
            502..=504 | 520..=524 | 530 => DiagnosisCode::HttpMasterUnreachable,
            500..=599 => DiagnosisCode::HttpGatewayError,
            200..=299 if self.is_page => DiagnosisCode::HttpPage,
            _ => DiagnosisCode::HttpNoWebSocket,
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    pub(super) fn diagnosis(&self) -> Diagnosis {
        let code = self.code();
        Diagnosis::new(
            code,
            self.evidence_text(),
            self.cause(code),
            self.remedy(code),
        )
    }

    fn evidence_text(&self) -> String {
        let mut text = format!("no WebSocket: HTTP status {}", self.status);
        if !self.identifying_headers.is_empty() {
            let identifying_headers: Vec<String> = self
                .identifying_headers
                .iter()
                .map(|(name, value)| format!("{name} {value:?}"))
                .collect();
            text.push_str(&format!(" ({})", identifying_headers.join(", ")));
        }
        if let Some(wait) = self.retry_after {
            text.push_str(&format!(", Retry-After {} s", wait.as_secs()));
        }
        if !self.body.is_empty() {
            text.push_str(&format!(", body {:?}", self.body));
        }
        text
    }

    fn sender_name(&self) -> &'static str {
        self.middlebox.unwrap_or("a proxy or firewall")
    }

    fn cause(&self, code: DiagnosisCode) -> String {
        let sender = self.sender_name();
        let location = self.location.as_deref().unwrap_or_default();
        match code {
            DiagnosisCode::HttpLoginPage => format!(
                "it redirects to {location:?}: a login page of this network, or a filter, answers instead of the master"
            ),
            DiagnosisCode::HttpRedirected => format!("it redirects to {location:?}"),
            DiagnosisCode::HttpExpectsTls => "the port expects TLS".to_owned(),
            DiagnosisCode::HttpUpgradeNotForwarded if self.status == StatusCode::NOT_FOUND => {
                "nginx forwarded the request, and the server behind it has no such WebSocket: nginx does not forward Upgrade, or the path is not the master's".to_owned()
            }
            DiagnosisCode::HttpUpgradeNotForwarded => {
                format!("{sender} in front of the master may not forward Upgrade and Connection")
            }
            DiagnosisCode::HttpAuthenticationRequired => {
                format!("{sender} in front of the master requires authentication")
            }
            DiagnosisCode::HttpForbidden => format!(
                "{sender} refuses the request: a rule against WebSockets, against this address, or against programs other than browsers"
            ),
            DiagnosisCode::HttpNotFound => "the master may be at another path or port, this may be another web server, or a proxy that does not forward Upgrade".to_owned(),
            DiagnosisCode::HttpMethodNotAllowed => format!(
                "{sender} does not allow this method or Upgrade there: it filters WebSockets, or the path belongs to another program"
            ),
            DiagnosisCode::HttpProxyAuthenticationRequired => {
                format!("{sender} on the path requires authentication")
            }
            DiagnosisCode::HttpRequestTooLarge if self.has_many_headers() => "the request's header is too long, or has too many fields, for the master or a gateway in front of it".to_owned(),
            DiagnosisCode::HttpRequestTooLarge => format!("the request is too large for {sender}"),
            DiagnosisCode::HttpRateLimited => format!("{sender} limits the request rate"),
            DiagnosisCode::HttpOverloaded => {
                "the master, or a gateway in front of it, has no room now".to_owned()
            }
            DiagnosisCode::HttpMasterUnreachable => format!(
                "a proxy answers{}, but the master behind it does not",
                self.middlebox_suffix()
            ),
            DiagnosisCode::HttpGatewayError => {
                format!("{sender} in front of the master has an internal error")
            }
            DiagnosisCode::HttpPage => "an HTML page was sent instead of the master's response: by a login of this network, a filter or another web server; or a proxy dropped Upgrade".to_owned(),
            _ => "the master may be at another path or port, or this is another web server, or a proxy that dropped Upgrade".to_owned(),
        }
    }

    fn remedy(&self, code: DiagnosisCode) -> Cow<'static, str> {
        Cow::Borrowed(match code {
            DiagnosisCode::HttpLoginPage | DiagnosisCode::HttpRedirected => {
                return self.redirection_remedy(code).into();
            }
            DiagnosisCode::HttpExpectsTls => "write wss:// in `master`",
            DiagnosisCode::HttpUpgradeNotForwarded if self.status == StatusCode::NOT_FOUND => {
                Self::FORWARD_HINT_WITH_PATH
            }
            DiagnosisCode::HttpUpgradeNotForwarded => Self::FORWARD_HINT,
            DiagnosisCode::HttpAuthenticationRequired => {
                "write an `Authorization` in `headers` or `headers_file`"
            }
            DiagnosisCode::HttpForbidden => {
                "allow it there, or try another `user_agent`, `headers`, another port or another network"
            }
            DiagnosisCode::HttpNotFound => {
                "check `master`: its path must be the `path` of the master"
            }
            DiagnosisCode::HttpMethodNotAllowed => {
                "check the path in `master`, or allow WebSockets there"
            }
            DiagnosisCode::HttpProxyAuthenticationRequired => {
                "write it in `proxy`, as http://USER:PASSWORD@HOST:PORT"
            }
            DiagnosisCode::HttpRequestTooLarge if self.has_many_headers() => {
                "write fewer `headers`, and let proxies in front of the master add fewer"
            }
            DiagnosisCode::HttpRequestTooLarge => {
                "write fewer `headers`, or a shorter path in `master`"
            }
            DiagnosisCode::HttpRateLimited => {
                "wait, or raise the limit there for the master's path"
            }
            DiagnosisCode::HttpOverloaded => {
                "wait, raise `limits.links` or `limits.links_per_address` at the master, or add another master"
            }
            DiagnosisCode::HttpMasterUnreachable => {
                "check that the master is running, and its address in the proxy's configuration"
            }
            DiagnosisCode::HttpGatewayError => "check its log",
            DiagnosisCode::HttpPage => {
                "open the address in a browser; check the path in `master`, and that the proxy in front forwards Upgrade and Connection"
            }
            _ => "check `master`, and that a proxy in front of it forwards Upgrade and Connection",
        })
    }

    /// The configuration for nginx, and for proxies that are configured like it.
    const FORWARD_HINT: &'static str = "let it forward them (nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                                   proxy_set_header Connection \"upgrade\"`), or enable WebSockets there";

    const FORWARD_HINT_WITH_PATH: &'static str = "in nginx, write `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\"` \
         for this path; then check the path in `master`";

    fn middlebox_suffix(&self) -> String {
        self.middlebox
            .map_or_else(String::new, |name| format!(" ({name})"))
    }

    fn has_many_headers(&self) -> bool {
        self.status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    }

    fn is_redirected_elsewhere(&self) -> bool {
        let requested = host_without_port(&self.requested_host);
        match self.location.as_deref().map(Url::parse) {
            Some(Ok(url)) => url
                .host_str()
                .is_some_and(|host| !host.eq_ignore_ascii_case(requested)),
            None | Some(Err(ParseError::RelativeUrlWithoutBase)) => false,
            Some(Err(_)) => true,
        }
    }

    fn redirection_remedy(&self, code: DiagnosisCode) -> String {
        let location = self.location.as_deref().unwrap_or_default();
        let suggestion = location.replacen("http", "ws", 1);
        if code == DiagnosisCode::HttpLoginPage {
            return format!(
                "open it in a browser and log in; if that is the master itself, write {suggestion:?} in `master`"
            );
        }
        let suggestion = if location.starts_with('/') {
            format!("the path {location:?}")
        } else {
            format!("{suggestion:?}")
        };
        format!("if that is the master, write {suggestion} in `master`")
    }
}

fn host_without_port(authority: &str) -> &str {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}
