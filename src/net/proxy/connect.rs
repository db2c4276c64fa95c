//! HTTP CONNECT (RFC 9110, 9.3.6), repeated while the proxy requires further authentication, on one
//! connection if the proxy keeps it open.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    upgrade,
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::{
    AuthScheme, NotHttpCause, ProxyError, address::ProxyAddress, authentication::Authentication,
};
use crate::net::{
    evidence::first_line,
    upgrade::{MAX_FIELDS, MAX_HEAD, retry_after::retry_after},
    websocket::ByteStream,
};

/// The maximum number of bytes read from the body of a refusal.
const MAX_BODY: usize = 64 * 1024;

/// The maximum number of requests: four schemes, two of which take three rounds, and a stale nonce.
const MAX_REQUESTS: usize = 12;

/// A connection to a proxy.
type BoxedStream = Box<dyn ByteStream>;

/// Opens connections to a proxy.
pub trait ProxyConnector: Sync {
    /// The error of a connection attempt.
    type Error: From<ProxyError>;

    /// Opens a new connection.
    fn connect(&self) -> impl Future<Output = Result<BoxedStream, Self::Error>> + Send;

    /// Observes the answer to a request, and the scheme of the credentials in that request.
    fn on_answer(&self, status: StatusCode, scheme: Option<AuthScheme>);
}

/// An HTTP connection to a proxy.
struct ProxyConnection {
    requests: SendRequest<Empty<Bytes>>,
    /// Drives the connection; aborted when this is dropped.
    task: JoinSet<()>,
}

/// Requests a tunnel to `target` (`host:port`) and returns it. `connector` opens the connections to
/// the proxy.
///
/// # Errors
/// Why the proxy opens no tunnel, or the error of `connector`.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn connect<C: ProxyConnector>(
    connector: &C,
    proxy: &ProxyAddress,
    target: &str,
) -> Result<BoxedStream, C::Error> {
    let mut authentication = Authentication::new(proxy.user.as_ref(), &proxy.host, target);
    let mut reusable: Option<ProxyConnection> = None;
    let mut credentials: Option<HeaderValue> = None;
    for _ in 0..MAX_REQUESTS {
        let mut connection = match reusable.take() {
            Some(connection) => connection,
            None => {
                authentication.check_reconnect().map_err(ProxyError::from)?;
                ProxyConnection::handshake(connector.connect().await?).await?
            }
        };
        let scheme = credentials.as_ref().and(authentication.last_scheme());
        let answer = connection.send_connect(target, credentials.take()).await?;
        connector.on_answer(answer.status(), scheme);
        match answer.status() {
            status if status.is_success() => return Ok(connection.into_tunnel(answer).await?),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let (head, body) = answer.into_parts();
                credentials = Some(
                    authentication
                        .answer(&head.headers)
                        .await
                        .map_err(ProxyError::from)?,
                );
                reusable = if authentication.needs_new_connection() {
                    None
                } else {
                    connection.drain_for_reuse(body).await
                };
            }
            // tinyproxy answers 401 to a wrong password.
            StatusCode::UNAUTHORIZED if scheme.is_some() => {
                return Err(ProxyError::from(authentication.final_error()).into());
            }
            _ => return Err(refused(target, answer).await.into()),
        }
    }
    Err(ProxyError::NotHttp(NotHttpCause::EndlessAuthentication).into())
}

impl ProxyConnection {
    async fn handshake(stream: BoxedStream) -> Result<Self, ProxyError> {
        // Some proxies do not recognise lower-case header names.
        let mut builder = http1::Builder::new();
        builder
            .title_case_headers(true)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD);
        let builder = builder.handshake(TokioIo::new(stream)).await;
        let (requests, connection) = builder.map_err(from_hyper_error)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // The request reports the same error.
            let _ = connection.with_upgrades().await;
        });
        Ok(ProxyConnection { requests, task })
    }

    async fn send_connect(
        &mut self,
        target: &str,
        credentials: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let uri: Uri = target
            .parse()
            .map_err(|_| ProxyError::NotHttp(NotHttpCause::Destination(target.to_owned())))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        let host = HeaderValue::from_str(target)
            .map_err(|_| ProxyError::NotHttp(NotHttpCause::Destination(target.to_owned())))?;
        request.headers_mut().insert(header::HOST, host);
        // Without this header, old proxies close the connection after each response.
        request
            .headers_mut()
            .insert("proxy-connection", HeaderValue::from_static("keep-alive"));
        if let Some(credentials) = credentials {
            request
                .headers_mut()
                .insert(header::PROXY_AUTHORIZATION, credentials);
        }
        self.requests
            .send_request(request)
            .await
            .map_err(from_hyper_error)
    }

    /// Reads the rest of the response's body and returns the connection, if the proxy keeps it
    /// open.
    async fn drain_for_reuse(mut self, mut body: Incoming) -> Option<Self> {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.ok()?.into_data().map_or(0, |data| data.len());
            if read > MAX_BODY {
                return None;
            }
        }
        self.requests.ready().await.ok()?;
        Some(self)
    }

    async fn into_tunnel(self, answer: Response<Incoming>) -> Result<BoxedStream, ProxyError> {
        let upgraded = upgrade::on(answer).await.map_err(from_hyper_error)?;
        drop((self.requests, self.task));
        match upgraded.downcast::<TokioIo<BoxedStream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            // A master never sends first, so these bytes come from the proxy.
            Ok(parts) => Err(ProxyError::NotHttp(NotHttpCause::ExtraData(first_line(
                &parts.read_buf,
            )))),
            Err(_) => Err(ProxyError::Closed),
        }
    }
}

async fn refused(target: &str, answer: Response<Incoming>) -> ProxyError {
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if text.len() > MAX_BODY || !first_line(&text).is_empty() {
            break;
        }
    }
    let location = head
        .headers
        .get(header::LOCATION)
        .map(|value| first_line(value.as_bytes()));
    ProxyError::Refused {
        target: target.to_owned(),
        status: head.status,
        location,
        body: first_line(&text),
        retry_after: retry_after(head.status, &head.headers, SystemTime::now()),
    }
}

fn from_hyper_error(error: hyper::Error) -> ProxyError {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return ProxyError::Closed;
    }
    if error.is_parse_too_large() {
        return ProxyError::LargeHead;
    }
    if error.is_parse() {
        return ProxyError::NotHttp(NotHttpCause::Http(error));
    }
    let source = std::error::Error::source(&error);
    match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(error) => std::io::Error::new(error.kind(), error.to_string()).into(),
        None => ProxyError::NotHttp(NotHttpCause::Http(error)),
    }
}
