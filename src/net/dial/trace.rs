//! The progress of a dial: events for an observer, and the step that a timed-out attempt waited for.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, StatusCode};
use rustls::{CipherSuite, ProtocolVersion, pki_types::CertificateDer};
use tokio::net::TcpStream;

use super::step::{DialPeer, DialStep};
use crate::{
    net::{congestion_control::CongestionControlInUse, proxy::AuthScheme},
    tcp_table::TcpConnection,
};

/// An event of a dial. Holds no secret.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum DialEvent<'e> {
    /// The dial begins a step, and ends the previous one.
    Step(DialPeer, DialStep),
    /// The name resolved to these addresses, in the order in which to try them.
    Resolved(&'e [SocketAddr]),
    /// A connection attempt begins. Several may run at the same time.
    Connecting(SocketAddr),
    /// A TCP connection was established.
    Connected(TcpConnection),
    /// An HTTP proxy answered a request.
    ProxyAnswer {
        /// The status of the response.
        status: StatusCode,
        /// The authentication scheme of the request.
        scheme: Option<AuthScheme>,
    },
    /// A TLS handshake ended, successfully or not.
    TlsHandshake {
        /// The version and the cipher suite, if negotiated.
        negotiated: Option<(ProtocolVersion, CipherSuite)>,
        /// The peer's certificate chain, its own certificate first. Empty if it sent none.
        chain: &'e [CertificateDer<'static>],
    },
    /// An HTTP server answered the upgrade request.
    HttpAnswer {
        /// The status of the response.
        status: StatusCode,
        /// The headers of the response.
        headers: &'e HeaderMap,
    },
}

/// Observes dials. Implementations take their own timestamps, and must not block.
pub trait DialTrace: Send + Sync {
    /// Receives an event.
    fn record(&self, event: DialEvent<'_>);
}

/// Observes nothing.
impl DialTrace for () {
    fn record(&self, _: DialEvent<'_>) {}
}

/// The progress of one dial. Passes each event to the observer.
pub(super) struct DialProgress<'t> {
    trace: &'t dyn DialTrace,
    state: Mutex<ProgressState>,
}

struct ProgressState {
    step: (DialPeer, DialStep),
    connection: Option<TcpConnection>,
    congestion_control: CongestionControlInUse,
}

impl<'t> DialProgress<'t> {
    pub(super) fn new(trace: &'t dyn DialTrace) -> Self {
        DialProgress {
            trace,
            state: Mutex::new(ProgressState {
                step: (DialPeer::Master, DialStep::Name),
                connection: None,
                congestion_control: CongestionControlInUse::default(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, ProgressState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a step.
    pub(super) fn begin(&self, peer: DialPeer, step: DialStep) {
        self.state().step = (peer, step);
        self.record(DialEvent::Step(peer, step));
    }

    /// Returns the current step.
    pub(super) fn step(&self) -> (DialPeer, DialStep) {
        self.state().step
    }

    /// Records the TCP connection and its congestion control.
    pub(super) fn connected(&self, stream: &TcpStream, congestion_control: CongestionControlInUse) {
        let connection = TcpConnection::of(stream);
        let mut state = self.state();
        state.connection = connection;
        state.congestion_control = congestion_control;
        drop(state);
        if let Some(connection) = connection {
            self.record(DialEvent::Connected(connection));
        }
    }

    /// Returns the last TCP connection.
    pub(super) fn connection(&self) -> Option<TcpConnection> {
        self.state().connection
    }

    /// Returns the congestion control of the last TCP connection.
    pub(super) fn congestion_control(&self) -> CongestionControlInUse {
        self.state().congestion_control
    }

    /// Passes an event to the observer.
    pub(super) fn record(&self, event: DialEvent<'_>) {
        self.trace.record(event);
    }
}
