//! The check of a running master's `/healthz`.

use std::{io, net::SocketAddr};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{DoctorStep, MasterSubject, RESPONSE_TIMEOUT, verdicts::seconds};
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::{
        tls::{self, TlsParameters},
        websocket::ByteStream,
    },
};

/// The maximum number of response bytes to read.
const RESPONSE_BYTES_MAX: u64 = 4 * 1024;

/// The maximum number of header fields in a response.
const RESPONSE_FIELDS_MAX: usize = 64;

/// Checks that the master that runs at the address `running` answers `/healthz`.
pub(super) async fn run(master: &MasterSubject, running: Option<SocketAddr>) -> DoctorStep {
    let (Some(address), true) = (running, master.healthz) else {
        let why = if master.healthz {
            "no running master was found"
        } else {
            "`healthz` is off"
        };
        return DoctorStep::skipped("health", "/healthz", why);
    };
    let started = Instant::now();
    let remedy = "check the master's log; restart it if it does not respond";
    let asked = timeout(
        RESPONSE_TIMEOUT,
        ask_for_health(address, master.tls.is_some()),
    )
    .await;
    let failed =
        |evidence: String| Diagnosis::new(DiagnosisCode::HealthFailed, evidence, "", remedy);
    let diagnosis = match asked {
        Ok(Ok(response)) if response.status == Some(StatusCode::OK) => {
            return DoctorStep::ok("health", "/healthz", started.elapsed(), response.line);
        }
        Ok(Ok(response)) => failed(response.line),
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => Diagnosis::new(
            DiagnosisCode::HealthTimeout,
            format!("no response within {}", seconds(RESPONSE_TIMEOUT)),
            "the master is stuck",
            remedy,
        ),
    };
    DoctorStep::failed("health", "/healthz", started.elapsed(), diagnosis)
}

/// The beginning of a response.
struct HealthResponse {
    /// The first line, without control characters.
    line: String,
    /// The status, if the response is HTTP.
    status: Option<StatusCode>,
}

impl HealthResponse {
    fn read(answer: &[u8]) -> Self {
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        // The status is known as soon as the first line is complete.
        let _ = response.parse(answer);
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok());
        let line = String::from_utf8_lossy(answer)
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|character| !character.is_control())
            .collect();
        HealthResponse { line, status }
    }
}

async fn ask_for_health(address: SocketAddr, is_secure: bool) -> io::Result<HealthResponse> {
    let stream = TcpStream::connect(address).await?;
    if !is_secure {
        return response_of(stream).await;
    }
    let parameters = TlsParameters {
        insecure_skip_verify: true,
        ..TlsParameters::default()
    };
    let config = tls::client_config(&parameters).map_err(io::Error::other)?;
    response_of(
        TlsConnector::from(config)
            .connect(address.ip().into(), stream)
            .await?,
    )
    .await
}

async fn response_of(mut stream: impl ByteStream) -> io::Result<HealthResponse> {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // A connection that ends without a TLS close_notify may still have delivered the response.
    let _ = stream
        .take(RESPONSE_BYTES_MAX)
        .read_to_end(&mut answer)
        .await;
    Ok(HealthResponse::read(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_read_from_the_status_line() {
        for (answer, line, status) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.1 200 OK",
                Some(StatusCode::OK),
            ),
            (
                "HTTP/1.1 404 Not 200 Found\r\n\r\n",
                "HTTP/1.1 404 Not 200 Found",
                Some(StatusCode::NOT_FOUND),
            ),
            ("SSH-2.0\u{1b} 200 \r\n", "SSH-2.0 200 ", None),
            ("", "", None),
        ] {
            let response = HealthResponse::read(answer.as_bytes());
            assert_eq!((response.line.as_str(), response.status), (line, status));
        }
    }
}
