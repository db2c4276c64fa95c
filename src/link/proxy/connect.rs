//! HTTP CONNECT (RFC 9110, 9.3.6), asked again for as long as the proxy wants to know more of who asks, over one connection where it keeps that.

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

use super::{ProxyError, address::ProxyAddress, authentication::Authentication};
use crate::link::{
    upgrade::{MAX_FIELDS, MAX_HEAD, evidence},
    websocket::ByteStream,
};

/// How much of a refusal's body is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How often a proxy is asked at most: four schemes, of which two take three rounds, and a stale nonce.
const MAX_REQUESTS: usize = 12;

/// What of ours is connected to a proxy.
type Stream = Box<dyn ByteStream>;

/// Makes connections to the proxy.
pub trait Connects: Sync {
    /// Why there is none.
    type Error: From<ProxyError>;

    /// A new one.
    fn connect(&self) -> impl Future<Output = Result<Stream, Self::Error>> + Send;
}

/// A connection to the proxy.
struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    /// What moves its bytes; ends with it.
    task: JoinSet<()>,
}

/// Asks for a way to `target` (`host:port`) over connections that `to` makes, and gives what leads there.
///
/// # Errors
/// Why there is no way; or that of `to`.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub async fn connect<To: Connects>(
    to: &To,
    proxy: &ProxyAddress,
    target: &str,
) -> Result<Stream, To::Error> {
    let mut authentication = Authentication::new(proxy.user.as_ref(), &proxy.host, target);
    let mut kept: Option<Connection> = None;
    let mut said: Option<HeaderValue> = None;
    for _ in 0..MAX_REQUESTS {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                authentication.interrupted().map_err(ProxyError::from)?;
                Connection::over(to.connect().await?).await?
            }
        };
        let is_told = said.is_some();
        let answer = connection.ask(target, said.take()).await?;
        match answer.status() {
            status if status.is_success() => return Ok(connection.way(answer).await?),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let (head, body) = answer.into_parts();
                said = Some(
                    authentication
                        .answer(&head.headers)
                        .await
                        .map_err(ProxyError::from)?,
                );
                kept = if authentication.leaves_the_connection() {
                    None
                } else {
                    connection.go_on(body).await
                };
            }
            // So says tinyproxy of a wrong password.
            StatusCode::UNAUTHORIZED if is_told => {
                return Err(ProxyError::from(authentication.given_up()).into());
            }
            _ => return Err(refusal(target, answer).await.into()),
        }
    }
    Err(ProxyError::NotHttp("it asks who asks again and again".to_owned()).into())
}

impl Connection {
    async fn over(stream: Stream) -> Result<Self, ProxyError> {
        // Some proxies know no header whose name begins with a small letter.
        let mut builder = http1::Builder::new();
        builder
            .title_case_headers(true)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD);
        let builder = builder.handshake(TokioIo::new(stream)).await;
        let (requests, connection) = builder.map_err(|error| of_hyper(&error))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Its error is also that of the request.
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection { requests, task })
    }

    async fn ask(
        &mut self,
        target: &str,
        said: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let uri: Uri = target
            .parse()
            .map_err(|_| ProxyError::NotHttp(format!("{target} cannot be asked for")))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        let host = HeaderValue::from_str(target)
            .map_err(|_| ProxyError::NotHttp(format!("{target} cannot be asked for")))?;
        request.headers_mut().insert(header::HOST, host);
        // Of old proxies: without it they close after each answer.
        request
            .headers_mut()
            .insert("proxy-connection", HeaderValue::from_static("keep-alive"));
        if let Some(said) = said {
            request
                .headers_mut()
                .insert(header::PROXY_AUTHORIZATION, said);
        }
        self.requests
            .send_request(request)
            .await
            .map_err(|error| of_hyper(&error))
    }

    /// The connection, when the proxy keeps it after the answer whose body this is.
    async fn go_on(mut self, mut body: Incoming) -> Option<Self> {
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

    async fn way(self, answer: Response<Incoming>) -> Result<Stream, ProxyError> {
        let upgraded = upgrade::on(answer)
            .await
            .map_err(|error| of_hyper(&error))?;
        drop((self.requests, self.task));
        match upgraded.downcast::<TokioIo<Stream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            // Who is dialled never speaks first.
            Ok(parts) => Err(ProxyError::NotHttp(format!(
                "it says {:?} behind its answer",
                evidence(&parts.read_buf)
            ))),
            Err(_) => Err(ProxyError::Closed),
        }
    }
}

async fn refusal(target: &str, answer: Response<Incoming>) -> ProxyError {
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if text.len() > MAX_BODY || !evidence(&text).is_empty() {
            break;
        }
    }
    let location = head
        .headers
        .get(header::LOCATION)
        .map(|value| evidence(value.as_bytes()));
    ProxyError::Refused {
        target: target.to_owned(),
        status: head.status,
        location,
        body: evidence(&text),
    }
}

fn of_hyper(error: &hyper::Error) -> ProxyError {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return ProxyError::Closed;
    }
    if error.is_parse_too_large() {
        return ProxyError::LargeHead;
    }
    if error.is_parse() {
        return ProxyError::NotHttp(error.to_string());
    }
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(error) => std::io::Error::new(error.kind(), error.to_string()).into(),
        None => ProxyError::NotHttp(error.to_string()),
    }
}
