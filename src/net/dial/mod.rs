//! Dials a master: from its address to a WebSocket, layer by layer (name, TCP, proxy, TLS,
//! upgrade). Each error names the layer, the evidence and the remedy.
//!
//! ```text
//!  name ─► TCP ─────────────────────────────────────────────► TLS ─► upgrade ─► WebSocket
//!  name ─► TCP ─► [TLS] ─► CONNECT or SOCKS5 at the proxy ─────▲
//! ```

mod address_spread;
mod error;
mod first_bytes;
mod proxy_choice;
mod request;
mod step;
mod tcp_connector;
mod through_proxy;
mod tls_failure;
mod tls_problem;
mod trace;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use http::HeaderMap;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::{
    error::DialError,
    proxy_choice::{ChosenProxy, ProxyChoice, ProxyOrigin},
    request::{HeaderError, HeadersFileProblem, RequestParameters, parse_header},
    step::{DialPeer, DialStep},
    tcp_connector::Bind,
    tls_problem::{ConnectionEnd, HandshakeFault, TlsProblem},
    trace::{DialEvent, DialTrace},
};
use self::{
    first_bytes::CapturingStream, tcp_connector::TcpConnector, tls_failure::tls_problem,
    trace::DialProgress,
};
pub use super::{
    address::{MasterAddress, MasterAddressError},
    proxy::{ProxyAddress, ProxyAddressError},
    tls::TlsParameters,
};
use super::{
    congestion_control::{CongestionControl, LinkCongestionControl},
    connect::{ConnectFault, STAGGER},
    read_ahead::ReadAhead,
    tls::{self, TlsError},
    upgrade::{self, UpgradeError},
    websocket::{ByteStream, MessageSocket, SocketEnd},
};

/// The parameters of a dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialParameters {
    /// The proxy to use.
    pub proxy: ProxyChoice,
    /// A host and port to connect to instead of those in the master's address.
    pub connect_to: Option<(String, u16)>,
    /// The local address or interface to dial from.
    pub bind: Option<Bind>,
    /// The congestion control of the TCP connection.
    pub congestion_control: CongestionControl,
    /// How to verify the master's certificate.
    pub tls: TlsParameters,
    /// The parameters of the HTTP request.
    pub request: RequestParameters,
    /// The deadline of the whole dial, from name resolution to WebSocket.
    pub deadline: Duration,
    /// The delay before the next address is tried in parallel (RFC 8305).
    pub stagger: Duration,
}

impl Default for DialParameters {
    /// Defaults: the system's authorities, the environment's proxy, a 15 s deadline, a 250 ms
    /// stagger, and `auto` congestion control.
    fn default() -> Self {
        DialParameters {
            proxy: ProxyChoice::default(),
            connect_to: None,
            bind: None,
            congestion_control: CongestionControl::default(),
            tls: TlsParameters::default(),
            request: RequestParameters::default(),
            deadline: Duration::from_secs(15),
            stagger: STAGGER,
        }
    }
}

/// Dials one master.
#[derive(Debug, Clone)]
pub struct Dialer {
    address: MasterAddress,
    parameters: DialParameters,
    connector: TcpConnector,
    /// Set for a `wss://` address.
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    /// Set at the first dial through an `https://` proxy.
    proxy_tls: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    /// Creates a dialer for `address`. For `wss://` this reads the certificate authorities, which
    /// may take some milliseconds.
    ///
    /// # Errors
    /// For `wss://`: if there are no trusted authorities, or the client certificate cannot be read.
    pub fn new(address: MasterAddress, parameters: DialParameters) -> Result<Self, TlsError> {
        let tls = if address.is_secure() {
            let name = parameters
                .tls
                .server_name
                .as_deref()
                .unwrap_or(address.host());
            Some((server_name(name)?, tls::client_config(&parameters.tls)?))
        } else {
            None
        };
        let DialParameters {
            stagger, deadline, ..
        } = parameters;
        let connector = TcpConnector {
            stagger,
            deadline,
            bind: parameters.bind.clone(),
            congestion_control: LinkCongestionControl::new(parameters.congestion_control),
            small_segments: Arc::default(),
        };
        Ok(Dialer {
            address,
            parameters,
            connector,
            tls,
            proxy_tls: OnceLock::new(),
        })
    }

    /// Returns the address that this dialer connects to.
    #[must_use]
    pub fn address(&self) -> &MasterAddress {
        &self.address
    }

    /// Returns the congestion control of the connections, and whether the system permits it.
    #[must_use]
    pub fn congestion_control(&self) -> &LinkCongestionControl {
        &self.connector.congestion_control
    }

    /// Limits the segment size of later connections, for a path that drops large packets.
    pub fn use_small_segments(&self) {
        self.connector.small_segments.store(true, Ordering::Relaxed);
    }

    /// Connects: resolves the name anew, races its addresses, goes through the proxy if there is
    /// one, and upgrades to a WebSocket.
    ///
    /// # Errors
    /// The layer that failed, with the evidence.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections made so far.
    pub async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.dial_traced(&()).await
    }

    /// Dials like [`Self::dial`], and passes each event to `trace`.
    ///
    /// # Errors
    /// As [`Self::dial`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections made so far.
    pub async fn dial_traced(&self, trace: &dyn DialTrace) -> Result<MessageSocket, DialError> {
        self.dial_avoiding(&[], trace).await
    }

    /// Dials, and prefers addresses of the master that are not in `used`.
    async fn dial_avoiding(
        &self,
        used: &[IpAddr],
        trace: &dyn DialTrace,
    ) -> Result<MessageSocket, DialError> {
        let progress = DialProgress::new(trace);
        let proxy = self.chosen_proxy()?.map(|chosen| chosen.address);
        let deadline = Instant::now() + self.parameters.deadline;
        let connecting = self.connect_layers(proxy.as_ref(), used, &progress);
        timeout_at(deadline, connecting).await.unwrap_or_else(|_| {
            let (peer, step) = progress.step();
            let at_proxy = proxy.as_ref().filter(|_| peer == DialPeer::Proxy);
            let peer_address =
                at_proxy.map_or_else(|| self.address.to_string(), ToString::to_string);
            Err(DialError::Deadline {
                step,
                peer,
                peer_address,
                after: self.parameters.deadline,
            })
        })
    }

    /// Resolves a host of this dial and returns its addresses, at least one, in the order in which to
    /// try them.
    ///
    /// # Errors
    /// If the host has no usable address, or the deadline of a dial passes.
    ///
    /// # Cancel safety
    /// Cancel safe. The look-up itself continues.
    pub async fn resolve(
        &self,
        peer: DialPeer,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let (progress, after) = (DialProgress::new(&()), self.parameters.deadline);
        let resolving = self.connector.resolve(peer, host, port, &progress);
        timeout_at(Instant::now() + after, resolving)
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Deadline {
                    step: DialStep::Name,
                    peer,
                    peer_address: host.to_owned(),
                    after,
                })
            })
    }

    /// Connects to one address like a dial, within the deadline of a dial.
    ///
    /// # Errors
    /// Why there is no connection.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, ConnectFault> {
        self.connector.connect_to(address).await
    }

    /// Returns a dialer for another path at the same host. `path` begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Dialer {
            address: self.address.at(path),
            ..self.clone()
        }
    }

    /// Returns the proxy that the next dial uses.
    ///
    /// # Errors
    /// If the environment names an unusable proxy.
    pub fn chosen_proxy(&self) -> Result<Option<ChosenProxy>, DialError> {
        let (host, port) = self.destination();
        let choice = &self.parameters.proxy;
        Ok(choice.choose(self.address.is_secure(), host, port)?)
    }

    /// Returns the first host of a dial: the proxy, or the master.
    #[must_use]
    pub fn first_hop<'h>(&'h self, proxy: Option<&'h ChosenProxy>) -> (DialPeer, &'h str, u16) {
        match proxy {
            Some(ChosenProxy { address, .. }) => (DialPeer::Proxy, &address.host, address.port),
            None => {
                let (host, port) = self.destination();
                (DialPeer::Master, host, port)
            }
        }
    }

    /// Returns the host and port to connect to.
    fn destination(&self) -> (&str, u16) {
        match &self.parameters.connect_to {
            Some((host, port)) => (host, *port),
            None => (self.address.host(), self.address.port()),
        }
    }

    async fn connect_layers(
        &self,
        proxy: Option<&ProxyAddress>,
        used: &[IpAddr],
        progress: &DialProgress<'_>,
    ) -> Result<MessageSocket, DialError> {
        let headers = self.parameters.request.all_headers().await?;
        let (host, port) = self.destination();
        match proxy {
            None => {
                self.establish_tls(
                    self.connector
                        .connect(DialPeer::Master, host, port, used, progress)
                        .await?,
                    headers,
                    progress,
                )
                .await
            }
            Some(proxy) => {
                self.establish_tls(
                    self.connect_through_proxy(proxy, progress).await?,
                    headers,
                    progress,
                )
                .await
            }
        }
    }

    async fn establish_tls(
        &self,
        stream: impl ByteStream,
        headers: HeaderMap,
        progress: &DialProgress<'_>,
    ) -> Result<MessageSocket, DialError> {
        let Some((name, config)) = &self.tls else {
            return self.upgrade(stream, headers, progress).await;
        };
        let stream = handshake(
            config.clone(),
            name.clone(),
            stream,
            DialPeer::Master,
            progress,
        )
        .await?;
        self.upgrade(stream, headers, progress).await
    }

    async fn upgrade(
        &self,
        mut stream: impl ByteStream,
        headers: HeaderMap,
        progress: &DialProgress<'_>,
    ) -> Result<MessageSocket, DialError> {
        progress.begin(DialPeer::Master, DialStep::Http);
        let host = self
            .parameters
            .request
            .host
            .clone()
            .unwrap_or_else(|| self.address.authority());
        let report = |status, headers: &HeaderMap| {
            progress.record(DialEvent::HttpAnswer { status, headers });
        };
        match upgrade::upgrade(&mut stream, self.address.path(), &host, &headers, report).await {
            Ok(read) => Ok(MessageSocket::new(stream, read, SocketEnd::Dialled)
                .with_connection(progress.connection())
                .with_congestion_control(progress.congestion_control())),
            // In TLS 1.3 the server rejects the client certificate after the handshake, so the
            // alert arrives here.
            Err(UpgradeError::Io(error)) if is_tls_error(&error) => {
                let host = self.tls.as_ref().map_or_else(
                    || self.address.host().to_owned(),
                    |(name, _)| name.to_str().into_owned(),
                );
                Err(DialError::Tls {
                    peer: DialPeer::Master,
                    host,
                    problem: tls_problem(error, &[], None),
                })
            }
            Err(source) => Err(DialError::Upgrade {
                address: Box::new(self.address.clone()),
                source,
            }),
        }
    }
}

fn is_tls_error(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Performs a TLS handshake over a stream.
async fn handshake<S: ByteStream>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
    peer: DialPeer,
    progress: &DialProgress<'_>,
) -> Result<TlsStream<ReadAhead<CapturingStream<S>>>, DialError> {
    progress.begin(peer, DialStep::Tls);
    let host = name.to_str().into_owned();
    let (stream, first) = CapturingStream::new(stream);
    let (outcome, chain) =
        tls::captured_chain(TlsConnector::from(config).connect(name, ReadAhead::new(stream))).await;
    let session = outcome.as_ref().ok().map(|stream| stream.get_ref().1);
    progress.record(DialEvent::TlsHandshake {
        negotiated: session.and_then(|session| {
            let cipher = session.negotiated_cipher_suite()?.suite();
            Some((session.protocol_version()?, cipher))
        }),
        // A resumed session has certificates that were not sent again.
        chain: session
            .and_then(|session| session.peer_certificates())
            .unwrap_or(&chain),
    });
    outcome.map_err(|error| DialError::Tls {
        peer,
        host,
        problem: tls_problem(error, &chain, Some(&first)),
    })
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

#[cfg(test)]
mod tests;
