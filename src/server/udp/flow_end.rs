//! Why a flow ended at the server: the code that the client receives, and the log.

use std::{io, net::SocketAddr};

use tracing::{debug, error, info, warn};

use crate::{
    diagnosis::DiagnosisCode,
    net::{connect::ConnectError, file_limit::OutOfFiles, resolve::NameError, udp::DatagramFault},
    server::{
        destination::{DestinationError, DestinationFault},
        port::Service,
        service::ServiceContext,
    },
    tunnel::{DatagramFlowError, ResetCode},
};

/// Why a flow ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FlowEnd {
    /// The client ended it, or the tunnel has ended.
    #[error(transparent)]
    Tunnel(#[from] DatagramFlowError),
    /// It carried no datagram for too long.
    #[error("it was idle")]
    Idle,
    /// The server stops.
    #[error("the server is shutting down")]
    Shutdown,
    /// No address of the service can be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The application named a destination that cannot be used.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The service refuses datagrams.
    #[error("{address}: {error}")]
    Service {
        /// The address of the service.
        address: SocketAddr,
        /// The error of the socket.
        error: io::Error,
    },
}

impl FlowEnd {
    /// Returns the code for the client.
    pub(super) fn wire_code(&self) -> ResetCode {
        match self {
            FlowEnd::Tunnel(_) | FlowEnd::Idle => ResetCode::Cancelled,
            FlowEnd::Shutdown => ResetCode::Shutdown,
            FlowEnd::Destination(error) => error.wire_code(),
            FlowEnd::Connect(ConnectError::Name {
                source: NameError::TimedOut,
                ..
            }) => ResetCode::Timeout,
            FlowEnd::Connect(_) => ResetCode::Unreachable,
            FlowEnd::Service { error, .. } => match DatagramFault::of(error) {
                DatagramFault::Refused => ResetCode::Refused,
                _ => ResetCode::Unreachable,
            },
        }
    }

    /// Returns the code of a failure.
    fn code(&self) -> Option<DiagnosisCode> {
        match self {
            FlowEnd::Tunnel(_) | FlowEnd::Idle | FlowEnd::Shutdown => None,
            FlowEnd::Connect(error) => Some(error.code()),
            FlowEnd::Destination(error) => Some(error.code()),
            FlowEnd::Service { error, .. } => Some(match DatagramFault::of(error) {
                DatagramFault::Refused => DiagnosisCode::ServiceRefused,
                _ => DiagnosisCode::ServiceUnreachable,
            }),
        }
    }

    fn out_of_files(&self) -> Option<OutOfFiles> {
        match self {
            FlowEnd::Connect(ConnectError::OutOfFiles(out))
            | FlowEnd::Destination(DestinationError {
                fault: DestinationFault::Connect(ConnectError::OutOfFiles(out)),
                ..
            }) => Some(*out),
            _ => None,
        }
    }

    /// Logs and counts the end. Failures are throttled: each datagram may open a flow.
    pub(super) fn report(&self, context: &ServiceContext) {
        let Some(code) = self.code() else {
            return debug!(reason = %self, "flow ended");
        };
        context.count_refusal(code.name());
        if let Some(out) = self.out_of_files() {
            return context.descriptor_log.log(|times| {
                error!(
                    times,
                    code = %DiagnosisCode::OutOfFiles,
                    "cannot open a socket to local services: {out}; {}",
                    out.remedy()
                );
            });
        }
        if let FlowEnd::Destination(error) = self {
            return context.flow_failures.log(|times| match error.fault {
                DestinationFault::Denied(_) => warn!(times, "destination refused: {error}"),
                DestinationFault::Connect(_) => {
                    info!(times, %code, "cannot reach the destination: {error}");
                }
            });
        }
        let service = match &context.port.service {
            Service::Targets(targets) => targets.to_string(),
            Service::Destinations(_) => "a named destination".to_owned(),
        };
        context.flow_failures.log(|times| {
            warn!(times, local_address = %service, %code, "the service takes no datagrams: {self}");
        });
    }
}
