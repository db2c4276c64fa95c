//! Records a dial: a span for each step, with its duration and the facts observed in it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};
use rustls::{CipherSuite, ProtocolVersion, pki_types::CertificateDer};
use tokio::time::Instant;

use crate::net::{
    dial::{DialEvent, DialPeer, DialStep, DialTrace},
    middlebox::{identifying_headers, middlebox},
    proxy::AuthScheme,
    tls::CertificateInfo,
};

/// The duration and the observations of one step of a dial.
#[derive(Debug, Clone)]
pub(super) struct DialSpan {
    /// The peer of the step.
    pub peer: DialPeer,
    /// The step.
    pub step: DialStep,
    /// The time that the dial spent in the step.
    pub took: Duration,
    /// The authentication scheme that was sent to the proxy last.
    pub scheme: Option<AuthScheme>,
    /// The TLS session, even if the certificate was rejected.
    pub session: Option<TlsSession>,
    /// The response to the upgrade request.
    pub response: Option<ResponseInfo>,
}

/// A TLS session, as far as the handshake went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsSession {
    /// The TLS version and the cipher, if negotiated.
    pub negotiated: Option<(String, String)>,
    /// The peer's certificate chain, its own certificate first. Empty if it could not be read.
    pub chain: Vec<CertificateInfo>,
}

impl TlsSession {
    fn read(
        negotiated: Option<(ProtocolVersion, CipherSuite)>,
        chain: &[CertificateDer<'_>],
    ) -> Self {
        let version = |version| match version {
            ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
            ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
            other => format!("{other:?}"),
        };
        TlsSession {
            negotiated: negotiated.map(|(negotiated, cipher)| {
                let cipher = cipher.as_str().unwrap_or("unknown");
                (version(negotiated), cipher.to_owned())
            }),
            chain: chain
                .iter()
                .filter_map(|certificate| CertificateInfo::read(certificate))
                .collect(),
        }
    }
}

/// Diagnostic fields of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResponseInfo {
    /// The headers that identify the sender.
    pub identifying_headers: Vec<(&'static str, String)>,
    /// The product that answered, if known.
    pub middlebox: Option<&'static str>,
    /// The sender's time.
    pub date: Option<SystemTime>,
}

impl ResponseInfo {
    fn read(headers: &HeaderMap) -> Self {
        let date = headers
            .get(header::DATE)
            .and_then(|date| date.to_str().ok()?.parse::<httpdate::HttpDate>().ok());
        ResponseInfo {
            identifying_headers: identifying_headers(headers),
            middlebox: middlebox(headers, &[]),
            date: date.map(SystemTime::from),
        }
    }
}

/// Records one dial.
#[derive(Debug, Default)]
pub(super) struct DialRecorder {
    state: Mutex<RecorderState>,
}

#[derive(Debug, Default)]
struct RecorderState {
    /// The current step, without its duration, and its start.
    current: Option<(DialSpan, Instant)>,
    spans: Vec<DialSpan>,
}

impl RecorderState {
    fn end_span(&mut self) {
        if let Some((span, started)) = self.current.take() {
            let took = started.elapsed();
            self.spans.push(DialSpan { took, ..span });
        }
    }

    fn begin(&mut self, peer: DialPeer, step: DialStep) {
        let is_same = |(span, _): &(DialSpan, Instant)| (span.peer, span.step) == (peer, step);
        if self.current.as_ref().is_some_and(is_same) {
            return;
        }
        self.end_span();
        let span = DialSpan {
            peer,
            step,
            took: Duration::ZERO,
            scheme: None,
            session: None,
            response: None,
        };
        self.current = Some((span, Instant::now()));
    }
}

impl DialRecorder {
    fn state(&self) -> MutexGuard<'_, RecorderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the current span and returns all spans, in order.
    pub(super) fn finish(self) -> Vec<DialSpan> {
        let mut state = self.state();
        state.end_span();
        std::mem::take(&mut state.spans)
    }
}

impl DialTrace for DialRecorder {
    fn record(&self, event: DialEvent<'_>) {
        let mut state = self.state();
        if let DialEvent::Step(peer, step) = event {
            return state.begin(peer, step);
        }
        let Some((span, _)) = &mut state.current else {
            return;
        };
        match event {
            DialEvent::ProxyAnswer { scheme, .. } => span.scheme = scheme.or(span.scheme),
            DialEvent::TlsHandshake { negotiated, chain } => {
                span.session = Some(TlsSession::read(negotiated, chain));
            }
            DialEvent::HttpAnswer { headers, .. } => {
                span.response = Some(ResponseInfo::read(headers));
            }
            // The probe reports names and connections.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn spans_end_with_the_next_step_and_keep_their_observations() {
        let recorder = DialRecorder::default();
        let answer = |status, scheme| recorder.record(DialEvent::ProxyAnswer { status, scheme });
        recorder.record(DialEvent::Step(DialPeer::Proxy, DialStep::Tcp));
        tokio::time::advance(Duration::from_secs(1)).await;
        recorder.record(DialEvent::Step(DialPeer::Proxy, DialStep::Proxy));
        answer(
            StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Some(AuthScheme::Ntlm),
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        // The same step again, as after a new connection that reports no step.
        recorder.record(DialEvent::Step(DialPeer::Proxy, DialStep::Proxy));
        answer(StatusCode::OK, None);
        recorder.record(DialEvent::Step(DialPeer::Master, DialStep::Http));
        let mut headers = HeaderMap::new();
        headers.insert(header::SERVER, "nginx".parse().unwrap());
        recorder.record(DialEvent::HttpAnswer {
            status: StatusCode::SWITCHING_PROTOCOLS,
            headers: &headers,
        });
        let spans = recorder.finish();
        let seen: Vec<_> = spans
            .iter()
            .map(|span| (span.step, span.took.as_secs(), span.scheme))
            .collect();
        assert_eq!(
            seen,
            [
                (DialStep::Tcp, 1, None),
                (DialStep::Proxy, 2, Some(AuthScheme::Ntlm)),
                (DialStep::Http, 0, None),
            ]
        );
        let response = spans.last().and_then(|span| span.response.clone());
        assert_eq!(response.and_then(|found| found.middlebox), Some("nginx"));
    }
}
