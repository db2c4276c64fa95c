//! From the address of a master to a WebSocket, layer by layer: name, TCP, proxy, TLS, upgrade. Each failure says which layer, what was seen, and
//! what can be done.
//!
//! ```text
//!  name ─► TCP ─────────────────────────────────────────────► TLS ─► upgrade ─► WebSocket
//!  name ─► TCP ─► [TLS] ─► CONNECT or SOCKS5 at the proxy ─────▲
//! ```

mod error;
mod first_bytes;
mod overheard;
mod reach;
mod request;
mod stage;
mod survey;
mod tls_problem;

use std::{
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use http::HeaderMap;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::{
    error::{DialError, Peer},
    reach::Bind,
    request::{HeaderError, RequestParameters, header_of},
    stage::{Layer, Passage, Sight, TlsSession},
    survey::{ChosenProxy, Survey},
    tls_problem::TlsProblem,
};
use self::{
    first_bytes::Remembering,
    overheard::{Overheard, Scheme},
    reach::Reach,
    stage::Stage,
    tls_problem::tls_problem,
};
use super::{
    address::with_port,
    connect::STAGGER,
    proxy::{self, Connects, ProxyError, ProxyKind, Target},
    read_ahead::ReadAhead,
    tls::{self, Certificate, TlsError},
    upgrade::{self, UpgradeError},
    websocket::{ByteStream, End, MessageSocket},
};
pub use super::{
    address::{AddressError, MasterAddress},
    proxy::{ProxyAddress, ProxyAddressError},
    tls::TlsParameters,
};

/// Which proxy a dial goes through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// The one that the environment names at that time, if any.
    #[default]
    Environment,
    /// None.
    Direct,
    /// This one.
    Fixed(Box<ProxyAddress>),
}

/// How a master is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialParameters {
    /// Through which proxy.
    pub proxy: ProxyChoice,
    /// A host and a port to connect to in place of the address's own.
    pub connect_to: Option<(String, u16)>,
    /// From where.
    pub bind: Option<Bind>,
    /// How the master's certificate is judged.
    pub tls: TlsParameters,
    /// What the request says.
    pub request: RequestParameters,
    /// For everything, from the name to the WebSocket.
    pub deadline: Duration,
    /// After this long without an answer the next address of the name is tried beside it (RFC 8305).
    pub stagger: Duration,
}

impl Default for DialParameters {
    /// The system's authorities, the environment's proxy, 15 s in all, 250 ms between addresses.
    fn default() -> Self {
        DialParameters {
            proxy: ProxyChoice::default(),
            connect_to: None,
            bind: None,
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
    reach: Reach,
    /// For a `wss://` address.
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    /// For an `https://` proxy, from its first dial on.
    proxy_tls: OnceLock<Arc<ClientConfig>>,
}

impl Dialer {
    /// A dialer for `address`. For `wss://` the authorities are read here, which may take some milliseconds.
    ///
    /// # Errors
    /// When there are no authorities to trust, or no certificate to show, for `wss://`.
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
        let reach = Reach {
            stagger,
            deadline,
            bind: parameters.bind.clone(),
            is_narrow: Arc::default(),
        };
        Ok(Dialer {
            address,
            parameters,
            reach,
            tls,
            proxy_tls: OnceLock::new(),
        })
    }

    /// Where it dials.
    #[must_use]
    pub fn address(&self) -> &MasterAddress {
        &self.address
    }

    /// The path loses large packets: connections from now on send and ask for small segments.
    pub fn use_small_segments(&self) {
        self.reach.is_narrow.store(true, Ordering::Relaxed);
    }

    /// Connects: resolves the name afresh, tries its addresses, asks the proxy if there is one, and upgrades to a WebSocket.
    ///
    /// # Errors
    /// Which layer failed, and on what evidence.
    ///
    /// # Cancel safety
    /// Dropping the future drops what was connected so far.
    pub async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.dial_at(&Stage::new(false)).await
    }

    /// The same, and what was passed on the way, up to the end or the failure.
    ///
    /// # Cancel safety
    /// Dropping the future drops what was connected so far.
    pub async fn dial_watched(&self) -> (Result<MessageSocket, DialError>, Vec<Passage>) {
        let stage = Stage::new(true);
        let dialled = self.dial_at(&stage).await;
        (dialled, stage.finish())
    }

    async fn dial_at(&self, stage: &Stage) -> Result<MessageSocket, DialError> {
        let proxy = self.chosen_proxy()?.map(|chosen| chosen.address);
        let deadline = Instant::now() + self.parameters.deadline;
        timeout_at(deadline, self.walk(proxy.as_ref(), stage))
            .await
            .unwrap_or_else(|_| {
                let (peer, layer) = stage.get();
                let at_proxy = proxy.as_ref().filter(|_| peer == Peer::Proxy);
                let whom = at_proxy.map_or_else(|| self.address.to_string(), ToString::to_string);
                Err(DialError::Deadline {
                    layer,
                    peer,
                    whom,
                    after: self.parameters.deadline,
                })
            })
    }

    /// Where the connection is to lead.
    fn goal(&self) -> (&str, u16) {
        match &self.parameters.connect_to {
            Some((host, port)) => (host, *port),
            None => (self.address.host(), self.address.port()),
        }
    }

    async fn walk(
        &self,
        proxy: Option<&ProxyAddress>,
        stage: &Stage,
    ) -> Result<MessageSocket, DialError> {
        let headers = self.parameters.request.all_headers().await?;
        let (host, port) = self.goal();
        match proxy {
            None => {
                self.secure(
                    self.reach.connect(Peer::Master, host, port, stage).await?,
                    headers,
                    stage,
                )
                .await
            }
            Some(proxy) => {
                self.secure(self.through(proxy, stage).await?, headers, stage)
                    .await
            }
        }
    }

    /// What leads to the master through the proxy.
    async fn through(
        &self,
        proxy: &ProxyAddress,
        stage: &Stage,
    ) -> Result<Box<dyn ByteStream>, DialError> {
        let (host, port) = self.goal();
        let of_proxy = |source| DialError::Proxy {
            proxy: Box::new(proxy.clone()),
            source,
        };
        let target = match proxy.kind {
            ProxyKind::Http | ProxyKind::Https => {
                let target = with_port(host, port);
                let to_proxy = ToProxy {
                    dialer: self,
                    proxy,
                    stage,
                    scheme: Scheme::default(),
                };
                let way = proxy::connect(&to_proxy, proxy, &target).await;
                if let Some(scheme) = to_proxy
                    .scheme
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
                {
                    stage.note(|| Sight::Scheme(scheme));
                }
                return way.map_err(|failure| match failure {
                    Failure::Before(error) => error,
                    Failure::At(source) => of_proxy(source),
                });
            }
            ProxyKind::Socks5h => Target::Name(host, port),
            ProxyKind::Socks5 => {
                let addresses = self.reach.resolve(Peer::Master, host, port, stage).await?;
                let first = addresses.into_iter().next();
                Target::Address(first.ok_or_else(|| of_proxy(ProxyError::Closed))?)
            }
        };
        let stream = self
            .reach
            .connect(Peer::Proxy, &proxy.host, proxy.port, stage)
            .await?;
        stage.set(Peer::Proxy, Layer::Proxy);
        proxy::through_socks(stream, proxy.user.as_ref(), target)
            .await
            .map_err(of_proxy)
    }

    async fn to_http_proxy(
        &self,
        proxy: &ProxyAddress,
        stage: &Stage,
    ) -> Result<Box<dyn ByteStream>, DialError> {
        let stream = self
            .reach
            .connect(Peer::Proxy, &proxy.host, proxy.port, stage)
            .await?;
        if proxy.kind == ProxyKind::Http {
            stage.set(Peer::Proxy, Layer::Proxy);
            return Ok(Box::new(stream));
        }
        let stream = handshake(
            self.proxy_tls()?,
            server_name(&proxy.host)?,
            stream,
            Peer::Proxy,
            stage,
        )
        .await?;
        stage.set(Peer::Proxy, Layer::Proxy);
        Ok(Box::new(stream))
    }

    /// For proxies that speak TLS, which may only be known when one is dialled: its authorities are read once.
    fn proxy_tls(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.proxy_tls.get() {
            return Ok(config.clone());
        }
        let config = tls::client_config(&self.parameters.tls.for_proxy())?;
        Ok(self.proxy_tls.get_or_init(|| config).clone())
    }

    async fn secure(
        &self,
        stream: impl ByteStream,
        headers: HeaderMap,
        stage: &Stage,
    ) -> Result<MessageSocket, DialError> {
        let Some((name, config)) = &self.tls else {
            return self.upgrade(stream, headers, stage).await;
        };
        let stream = handshake(config.clone(), name.clone(), stream, Peer::Master, stage).await?;
        self.upgrade(stream, headers, stage).await
    }

    async fn upgrade(
        &self,
        mut stream: impl ByteStream,
        headers: HeaderMap,
        stage: &Stage,
    ) -> Result<MessageSocket, DialError> {
        stage.set(Peer::Master, Layer::Http);
        let host = self
            .parameters
            .request
            .host
            .clone()
            .unwrap_or_else(|| self.address.authority());
        let tell = |answered| stage.note(|| Sight::Answered(answered));
        match upgrade::upgrade(&mut stream, self.address.path(), &host, &headers, tell).await {
            Ok(read) => Ok(MessageSocket::new(stream, read, End::Dialled).over(stage.connection())),
            // With TLS 1.3 a peer that wants another certificate of us says so only now.
            Err(UpgradeError::Io(error)) if is_of_tls(&error) => {
                let host = self.tls.as_ref().map_or_else(
                    || self.address.host().to_owned(),
                    |(name, _)| name.to_str().into_owned(),
                );
                Err(DialError::Tls {
                    peer: Peer::Master,
                    host,
                    problem: tls_problem(&error, &[], None),
                })
            }
            Err(source) => Err(DialError::Upgrade {
                address: Box::new(self.address.clone()),
                source,
            }),
        }
    }
}

fn is_of_tls(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// TLS over a stream.
async fn handshake<S: ByteStream>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
    peer: Peer,
    stage: &Stage,
) -> Result<TlsStream<ReadAhead<Remembering<S>>>, DialError> {
    stage.set(peer, Layer::Tls);
    let host = name.to_str().into_owned();
    let (stream, first) = Remembering::new(stream);
    let (outcome, shown) =
        tls::witnessed(TlsConnector::from(config).connect(name, ReadAhead::new(stream))).await;
    let agreed = outcome.as_ref().ok().map(|stream| stream.get_ref().1);
    stage.note(|| Sight::Tls(session(agreed, &shown)));
    outcome.map_err(|error| DialError::Tls {
        peer,
        host,
        problem: tls_problem(&error, &shown, Some(&first)),
    })
}

fn session(agreed: Option<&ClientConnection>, shown: &[CertificateDer<'_>]) -> TlsSession {
    let known = agreed
        .and_then(|agreed| agreed.peer_certificates())
        .unwrap_or(shown);
    let version = |version| match version {
        ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
        other => format!("{other:?}"),
    };
    let agreed = agreed.and_then(|agreed| {
        let cipher = agreed.negotiated_cipher_suite()?.suite();
        Some((
            version(agreed.protocol_version()?),
            cipher.as_str().unwrap_or("unknown").to_owned(),
        ))
    });
    TlsSession {
        agreed,
        chain: known
            .iter()
            .filter_map(|shown| Certificate::read(shown))
            .collect(),
    }
}

/// Makes connections to the proxy.
struct ToProxy<'a> {
    dialer: &'a Dialer,
    proxy: &'a ProxyAddress,
    stage: &'a Stage,
    /// How the proxy was told who asks; known when that is watched.
    scheme: Scheme,
}

impl Connects for ToProxy<'_> {
    type Error = Failure;

    async fn connect(&self) -> Result<Box<dyn ByteStream>, Failure> {
        let stream = self
            .dialer
            .to_http_proxy(self.proxy, self.stage)
            .await
            .map_err(Failure::Before)?;
        if self.stage.is_watched() {
            Ok(Box::new(Overheard::new(stream, &self.scheme)))
        } else {
            Ok(stream)
        }
    }
}

/// What goes wrong on the way to a proxy, and at it.
enum Failure {
    Before(DialError),
    At(ProxyError),
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Failure::At(error)
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

#[cfg(test)]
mod tests;
