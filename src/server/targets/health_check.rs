//! One check of one target: a connection, and an HTTP request over it if the configuration asks for
//! one.

use std::{io, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    config::{HealthCheck, HealthCheckKind, Target},
    net::{connect::ConnectError, local_stream::LocalStream, proxy_protocol},
    server::dial::connect_target,
};

/// The statuses of a healthy target: success, and redirections, which the check does not follow.
const HEALTHY_STATUSES: std::ops::Range<u16> = 200..400;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The target accepts no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The target has closed the connection.
    #[error("it did not accept the PROXY protocol header: {0}")]
    Header(io::Error),
    /// The path or the host cannot be requested.
    #[error("invalid request: {0} (correct `path` of `health_check`)")]
    Request(#[from] http::Error),
    /// The target does not answer with HTTP.
    #[error("no HTTP response: {0}")]
    Http(#[from] hyper::Error),
    /// The target answers with an error.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The check took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Checks a target once. With `proxy_protocol` the connection begins with a header that says LOCAL:
/// it is not one of an application.
///
/// # Errors
/// Why the target is not healthy.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn check_target(
    target: &Target,
    check: &HealthCheck,
    proxy_protocol: bool,
) -> Result<(), CheckError> {
    let limit = *check.timeout;
    let checked = timeout(limit, check_without_limit(target, check, proxy_protocol)).await;
    checked.unwrap_or(Err(CheckError::Timeout(limit)))
}

async fn check_without_limit(
    target: &Target,
    check: &HealthCheck,
    proxy_protocol: bool,
) -> Result<(), CheckError> {
    let mut stream = connect_target(target, *check.timeout).await?;
    if proxy_protocol {
        let header = proxy_protocol::encode(None);
        let written = stream.write_all(&header).await;
        written.map_err(CheckError::Header)?;
    }
    match check.kind {
        HealthCheckKind::Tcp => Ok(()),
        HealthCheckKind::Http => request(stream, target, &check.path).await,
    }
}

/// Requests a path and reads the status of the response.
async fn request(stream: LocalStream, target: &Target, path: &str) -> Result<(), CheckError> {
    let request = Request::get(path)
        .header(header::HOST, host(target))
        .header(header::USER_AGENT, "rePort")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut response = pin!(requests.send_request(request));
    let answered = tokio::select! {
        biased;
        answered = &mut response => answered,
        // It has passed on the response, or the reason why there is none.
        _ = &mut connection => response.await,
    };
    let status = answered?.status();
    if HEALTHY_STATUSES.contains(&status.as_u16()) {
        return Ok(());
    }
    Err(CheckError::Status(status))
}

/// Returns the Host of a request.
fn host(target: &Target) -> String {
    match target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(_) => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn check(kind: &str) -> HealthCheck {
        let text = format!(r#"{{"kind": "{kind}", "timeout": "5s"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn http_check(path: &str) -> HealthCheck {
        let text = format!(r#"{{"kind": "http", "path": "{path}", "timeout": "5s"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    async fn listen() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        (listener, target.parse().unwrap())
    }

    /// Reads the head of a request.
    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Checks a target that answers with these bytes and closes the connection. Returns the request
    /// too.
    async fn checked_with(answer: &str, path: &str) -> (Result<(), CheckError>, String) {
        let (listener, target) = listen().await;
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            head
        };
        let check = http_check(path);
        tokio::join!(check_target(&target, &check, false), answering)
    }

    #[tokio::test]
    async fn statuses_of_success_and_redirections_are_healthy() {
        for (status, is_healthy) in [
            (200, true),
            (204, true),
            (302, true),
            (399, true),
            (400, false),
            (404, false),
            (503, false),
        ] {
            let answer = format!("HTTP/1.1 {status} Word\r\nContent-Length: 0\r\n\r\n");
            let (result, _) = checked_with(&answer, "/").await;
            assert_eq!(result.is_ok(), is_healthy, "{status}");
            if let Err(error) = result {
                assert!(error.to_string().contains(&status.to_string()), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn the_request_names_the_path_and_the_target_and_the_body_is_not_awaited() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst bytes";
        let (result, head) = checked_with(answer, "/up?deep=1").await;
        assert!(result.is_ok(), "{result:?}");
        assert!(head.starts_with("GET /up?deep=1 HTTP/1.1\r\n"), "{head}");
        let head = head.to_lowercase();
        assert!(head.contains("\r\nhost: 127.0.0.1:"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_is_an_error() {
        for answer in ["SSH-2.0-OpenSSH_9.9\r\n\r\n", ""] {
            let (result, _) = checked_with(answer, "/").await;
            assert!(matches!(result, Err(CheckError::Http(_))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_is_not_healthy() {
        let (listener, target) = listen().await;
        let check = serde_json::from_str(r#"{"kind": "http", "timeout": "50ms"}"#).unwrap();
        // The kernel accepts the connection, and no program reads it.
        let error = check_target(&target, &check, false).await.unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        drop(listener);
    }

    #[tokio::test]
    async fn a_connection_suffices_for_tcp_and_a_refusal_is_an_error() {
        let (listener, target) = listen().await;
        assert!(check_target(&target, &check("tcp"), false).await.is_ok());
        drop(listener);
        let error = check_target(&target, &check("tcp"), false).await;
        assert!(
            matches!(error, Err(CheckError::Connect(_))),
            "no listener: {error:?}"
        );
    }

    #[tokio::test]
    async fn a_service_that_expects_the_proxy_protocol_receives_local() {
        let (listener, target) = listen().await;
        let check = check("tcp");
        let received = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            received
        };
        let (result, received) = tokio::join!(check_target(&target, &check, true), received);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(received, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }
}
