//! The progress of a dial: the layer that a timed-out attempt waited for and, on request, a span
//! for each layer.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::error::DialPeer;
use crate::{
    net::{tls::CertificateInfo, upgrade::ResponseInfo},
    tcp_table::TcpConnection,
};

/// A layer of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStep {
    /// Name resolution.
    Name,
    /// The TCP connection.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The request to a proxy.
    Proxy,
    /// The HTTP upgrade.
    Http,
}

impl fmt::Display for DialStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DialStep::Name => "name",
            DialStep::Tcp => "TCP",
            DialStep::Tls => "TLS",
            DialStep::Proxy => "proxy",
            DialStep::Http => "HTTP",
        })
    }
}

/// The time and the observations of a dial in one layer.
#[derive(Debug, Clone)]
pub struct DialSpan {
    /// The peer of the layer.
    pub peer: DialPeer,
    /// The layer.
    pub layer: DialStep,
    /// The time that the dial spent in the layer.
    pub took: Duration,
    /// The observations made in the layer.
    pub observations: Vec<Observation>,
}

/// A fact that a dial observes in a layer. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The HTTP authentication scheme that was sent to the proxy.
    AuthScheme(String),
    /// The TLS session, even if the certificate was rejected.
    Tls(TlsSession),
    /// The response to the upgrade request.
    Response(ResponseInfo),
}

/// A TLS session, as far as the handshake went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSession {
    /// The TLS version and the cipher, if negotiated.
    pub negotiated: Option<(String, String)>,
    /// The peer's certificate chain, its own certificate first. Empty if it could not be read.
    pub chain: Vec<CertificateInfo>,
}

/// Records the progress of one dial. The dial writes it; the timeout handler and the doctor read
/// it.
#[derive(Debug)]
pub(super) struct DialTrace {
    is_recording: bool,
    state: Mutex<TraceState>,
}

#[derive(Debug, Default)]
struct TraceState {
    current: Option<(DialPeer, DialStep, Instant)>,
    observations: Vec<Observation>,
    spans: Vec<DialSpan>,
    connection: Option<TcpConnection>,
}

impl TraceState {
    fn end_span(&mut self) {
        if let Some((peer, layer, started)) = self.current.take() {
            let observations = std::mem::take(&mut self.observations);
            self.spans.push(DialSpan {
                peer,
                layer,
                took: started.elapsed(),
                observations,
            });
        }
    }
}

impl DialTrace {
    /// Creates an empty trace. Observations are kept only if `is_recording` is set.
    pub(super) fn new(is_recording: bool) -> Self {
        DialTrace {
            is_recording,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, TraceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a layer, and ends the span of the previous one.
    pub(super) fn set(&self, peer: DialPeer, layer: DialStep) {
        let mut state = self.state();
        if !state
            .current
            .is_some_and(|(current_peer, current_layer, _)| {
                (current_peer, current_layer) == (peer, layer)
            })
        {
            state.end_span();
            state.current = Some((peer, layer, Instant::now()));
        }
    }

    pub(super) fn get(&self) -> (DialPeer, DialStep) {
        self.state()
            .current
            .map_or((DialPeer::Master, DialStep::Name), |(peer, layer, _)| {
                (peer, layer)
            })
    }

    /// Records the TCP connection.
    pub(super) fn connected(&self, connection: Option<TcpConnection>) {
        self.state().connection = connection;
    }

    /// Returns the last TCP connection.
    pub(super) fn connection(&self) -> Option<TcpConnection> {
        self.state().connection
    }

    /// Adds an observation to the current layer.
    pub(super) fn observe(&self, observation: impl FnOnce() -> Observation) {
        if self.is_recording {
            let observation = observation();
            self.state().observations.push(observation);
        }
    }

    pub(super) fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Ends the current span and returns all spans, in order.
    pub(super) fn finish(&self) -> Vec<DialSpan> {
        let mut state = self.state();
        state.end_span();
        std::mem::take(&mut state.spans)
    }
}
