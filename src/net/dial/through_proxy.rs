//! Opens a connection to the master through a proxy.

use std::sync::Arc;

use http::StatusCode;
use rustls::ClientConfig;

use super::{
    DialError, DialEvent, DialPeer, DialStep, Dialer, handshake, server_name, trace::DialProgress,
};
use crate::net::{
    authority::with_port,
    proxy::{self, AuthScheme, ProxyAddress, ProxyConnector, ProxyError, ProxyKind, ProxyTarget},
    tls::{self, TlsError},
    websocket::ByteStream,
};

impl Dialer {
    /// Opens a connection to the master through the proxy.
    pub(super) async fn connect_through_proxy(
        &self,
        proxy: &ProxyAddress,
        progress: &DialProgress<'_>,
    ) -> Result<Box<dyn ByteStream>, DialError> {
        let (host, port) = self.destination();
        let proxy_error = |source| DialError::Proxy {
            proxy: Box::new(proxy.clone()),
            source,
        };
        let target = match proxy.kind {
            ProxyKind::Http | ProxyKind::Https => {
                let target = with_port(host, port);
                let proxy_connector = HttpProxyConnector {
                    dialer: self,
                    proxy,
                    progress,
                };
                let stream = proxy::connect(&proxy_connector, proxy, &target).await;
                return stream.map_err(|failure| match failure {
                    ProxyDialError::Dial(error) => error,
                    ProxyDialError::Proxy(source) => proxy_error(source),
                });
            }
            ProxyKind::Socks5h => ProxyTarget::Name(host, port),
            ProxyKind::Socks5 => {
                let addresses = self
                    .connector
                    .resolve(DialPeer::Master, host, port, progress)
                    .await?;
                let first = addresses.into_iter().next();
                ProxyTarget::Address(first.ok_or_else(|| proxy_error(ProxyError::Closed))?)
            }
        };
        let stream = self
            .connector
            .connect(DialPeer::Proxy, &proxy.host, proxy.port, &[], progress)
            .await?;
        progress.begin(DialPeer::Proxy, DialStep::Proxy);
        proxy::through_socks(stream, proxy.user.as_ref(), target)
            .await
            .map_err(proxy_error)
    }

    async fn connect_to_http_proxy(
        &self,
        proxy: &ProxyAddress,
        progress: &DialProgress<'_>,
    ) -> Result<Box<dyn ByteStream>, DialError> {
        let stream = self
            .connector
            .connect(DialPeer::Proxy, &proxy.host, proxy.port, &[], progress)
            .await?;
        if proxy.kind == ProxyKind::Http {
            progress.begin(DialPeer::Proxy, DialStep::Proxy);
            return Ok(Box::new(stream));
        }
        let stream = handshake(
            self.proxy_tls()?,
            server_name(&proxy.host)?,
            stream,
            DialPeer::Proxy,
            progress,
        )
        .await?;
        progress.begin(DialPeer::Proxy, DialStep::Proxy);
        Ok(Box::new(stream))
    }

    /// Returns the TLS configuration for `https://` proxies. Its authorities are read once, at the
    /// first use: the environment may name the proxy only at dial time.
    fn proxy_tls(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.proxy_tls.get() {
            return Ok(config.clone());
        }
        let config = tls::client_config(&self.parameters.tls.for_proxy())?;
        Ok(self.proxy_tls.get_or_init(|| config).clone())
    }
}

/// Opens connections to an HTTP proxy.
struct HttpProxyConnector<'a> {
    dialer: &'a Dialer,
    proxy: &'a ProxyAddress,
    progress: &'a DialProgress<'a>,
}

impl ProxyConnector for HttpProxyConnector<'_> {
    type Error = ProxyDialError;

    async fn connect(&self) -> Result<Box<dyn ByteStream>, ProxyDialError> {
        self.dialer
            .connect_to_http_proxy(self.proxy, self.progress)
            .await
            .map_err(ProxyDialError::Dial)
    }

    fn on_answer(&self, status: StatusCode, scheme: Option<AuthScheme>) {
        self.progress
            .record(DialEvent::ProxyAnswer { status, scheme });
    }
}

/// An error before the proxy was reached, or of the proxy itself.
enum ProxyDialError {
    Dial(DialError),
    Proxy(ProxyError),
}

impl From<ProxyError> for ProxyDialError {
    fn from(error: ProxyError) -> Self {
        ProxyDialError::Proxy(error)
    }
}
