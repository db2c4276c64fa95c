//! A client of the admin API: one connection for each request.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    api_tls::TlsArguments,
    api_transport::{ApiTransport, OpenError},
};
use crate::{
    administration::{RecordPage, TokenSecret},
    config::{AdminAddress, AdminConfig},
    store::{Page, Stored},
};

/// The time for a connection, and for a request with its answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The longest answer, in bytes. A page of long records takes a few MiB.
const ANSWER_MAX: usize = 16 << 20;

/// The path of the state of a master.
pub(super) const STATUS_PATH: &str = "/v1/status";

/// How to get a token.
const TOKEN_ADVICE: &str = "create one with `report token add NAME --role own --write FILE`, and pass it with --token-file";

/// A client of the admin API at one address.
#[derive(Debug)]
pub(super) struct ApiClient {
    transport: ApiTransport,
    token: Option<TokenSecret>,
}

/// The answer of a successful request.
#[derive(Debug)]
pub(super) struct Answer(Bytes);

/// The part of a refusal that is for people.
#[derive(Deserialize)]
struct RefusalJson {
    message: String,
}

/// A record with its version, as the API writes it.
#[derive(Deserialize)]
struct StoredJson<T> {
    record: T,
    changed: i64,
}

/// A page of records, as the API writes it.
#[derive(Deserialize)]
struct PageJson<T> {
    items: Vec<StoredJson<T>>,
    #[serde(default)]
    next: Option<String>,
}

impl<T> From<StoredJson<T>> for Stored<T> {
    fn from(json: StoredJson<T>) -> Self {
        Stored {
            record: json.record,
            changed: json.changed,
        }
    }
}

impl Answer {
    /// Returns the JSON of the answer.
    pub(super) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.0)
            .context("the answer of the master is not the expected JSON (is it another version?)")
    }

    /// Returns a record.
    pub(super) fn record<T: DeserializeOwned>(&self) -> anyhow::Result<Stored<T>> {
        Ok(self.json::<StoredJson<T>>()?.into())
    }

    /// Returns a page of records.
    pub(super) fn page<T: DeserializeOwned>(&self) -> anyhow::Result<RecordPage<T>> {
        let page: PageJson<T> = self.json()?;
        Ok(Page {
            items: page.items.into_iter().map(Stored::from).collect(),
            next: page.next,
        })
    }
}

impl ApiClient {
    /// Returns a client of the admin address of a running master, or `None` if no process listens
    /// there.
    ///
    /// # Errors
    /// If this user may not use the address, if the options of TLS cannot be used, or if the
    /// certificate of the address is not trusted.
    pub(super) async fn connect(
        config: &AdminConfig,
        options: &TlsArguments,
        token: Option<TokenSecret>,
    ) -> anyhow::Result<Option<Self>> {
        let transport = ApiTransport::new(config, options);
        let transport = transport.with_context(|| failure(&config.listen_at))?;
        let client = ApiClient { transport, token };
        match timeout(TIMEOUT, client.transport.open()).await {
            Ok(Ok(_)) => Ok(Some(client)),
            Ok(Err(OpenError::Absent(_))) => Ok(None),
            Ok(Err(error)) => Err(error).with_context(|| client.failure()),
            Err(_) => Err(anyhow!("no answer")).with_context(|| client.failure()),
        }
    }

    /// Whether the process at the address has the API. Masters without a store have none.
    ///
    /// # Errors
    /// If it does not answer, or refuses the token.
    pub(super) async fn has_api(&self) -> anyhow::Result<bool> {
        let request = self.request(Method::GET, STATUS_PATH, None, String::new())?;
        let (status, body) = self.bounded_exchange(request).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(self.refusal(status, &body)),
        }
    }

    /// Whether the address admits the requests of this client. Only a unix socket needs no token.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.address(), AdminAddress::Unix(_)) || self.token.is_some()
    }

    /// Returns the error of a request without a token.
    pub(super) fn needs_token(&self) -> anyhow::Error {
        anyhow!(
            "the admin address {} needs a token ({TOKEN_ADVICE})",
            self.address()
        )
    }

    /// Returns the error of a process without the API.
    pub(super) fn has_no_api(&self) -> anyhow::Error {
        anyhow!(
            "the process at {} has no API (it is another role, another version, or a master without \
             a store)",
            self.address()
        )
    }

    fn address(&self) -> &AdminAddress {
        self.transport.address()
    }

    fn failure(&self) -> String {
        failure(self.address())
    }

    /// Sends a request without a body. The query is added to the path.
    pub(super) async fn get(&self, path: &str, query: &impl Serialize) -> anyhow::Result<Answer> {
        let query = query_text(query)?;
        let path = match query.as_str() {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        self.send(Method::GET, &path, None, String::new()).await
    }

    /// Sends a request with a body. `version` is the version of the record that the caller has read.
    pub(super) async fn write(
        &self,
        method: Method,
        path: &str,
        version: Option<i64>,
        body: &impl Serialize,
    ) -> anyhow::Result<Answer> {
        let body = serde_json::to_string(body)?;
        self.send(method, path, version, body).await
    }

    /// Removes a record of this version.
    pub(super) async fn remove(&self, path: &str, version: i64) -> anyhow::Result<()> {
        let removed = self.send(Method::DELETE, path, Some(version), String::new());
        removed.await.map(drop)
    }

    /// Ends what has no version, such as a link.
    pub(super) async fn end(&self, path: &str) -> anyhow::Result<()> {
        let ended = self.send(Method::DELETE, path, None, String::new());
        ended.await.map(drop)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        version: Option<i64>,
        body: String,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path, version, body)?;
        let (status, body) = self.bounded_exchange(request).await?;
        if status.is_success() {
            return Ok(Answer(body));
        }
        Err(self.refusal(status, &body))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        version: Option<i64>,
        body: String,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    /// Sends a request, and waits for the answer for a limited time.
    async fn bounded_exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchanged = timeout(TIMEOUT, self.exchange(request)).await;
        exchanged
            .unwrap_or_else(|_| Err(anyhow!("no answer")))
            .with_context(|| self.failure())
    }

    /// Sends a request over a new connection. Returns the status and the body.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TokioIo::new(self.transport.open().await?);
        let (mut requests, connection) = http1::handshake(stream).await?;
        let exchange = async move {
            let response = requests.send_request(request).await?;
            read(response).await
        };
        // The connection ends when its answer is complete and `requests` is dropped.
        let (answer, _) = tokio::join!(exchange, connection);
        answer.map_err(|error| self.transport.explain(error))
    }

    /// Returns the error of a refused request.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let body: Option<RefusalJson> = serde_json::from_slice(body).ok();
        match (status, body) {
            (StatusCode::UNAUTHORIZED, Some(body)) => anyhow!(
                "the admin address {} refuses the request: {} ({TOKEN_ADVICE})",
                self.address(),
                body.message
            ),
            (_, Some(body)) => anyhow!("{}", body.message),
            (StatusCode::NOT_FOUND, None) => self.has_no_api(),
            (status, None) => anyhow!("the admin address {} answers {status}", self.address()),
        }
    }
}

fn failure(address: &AdminAddress) -> String {
    format!("cannot reach the master at its admin address {address}")
}

/// Reads the whole answer.
async fn read(response: Response<Incoming>) -> anyhow::Result<(StatusCode, Bytes)> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    match body {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) => Err(anyhow!("the answer is incomplete: {error}")),
    }
}

/// Returns the fields of a query as the part of a URL behind the question mark.
fn query_text(query: &impl Serialize) -> anyhow::Result<String> {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    if let serde_json::Value::Object(fields) = serde_json::to_value(query)? {
        for (name, value) in fields {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(value) => {
                    text.append_pair(&name, &value);
                }
                value => {
                    text.append_pair(&name, &value.to_string());
                }
            }
        }
    }
    Ok(text.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        administration::{AccountQuery, KeyQuery},
        policy::AccountId,
    };

    fn client() -> ApiClient {
        let address = AdminAddress::Loopback("127.0.0.1:9300".parse().unwrap());
        ApiClient {
            transport: ApiTransport::new(&AdminConfig::new(address), &TlsArguments::default())
                .unwrap(),
            token: Some(TokenSecret::new([1; 32])),
        }
    }

    #[test]
    fn queries_are_escaped_and_omit_absent_fields() {
        let query = KeyQuery {
            account: Some(AccountId(5)),
            label: Some("a b&c=ä".to_owned()),
            ..KeyQuery::default()
        };
        assert_eq!(
            query_text(&query).unwrap(),
            "account=5&label=a+b%26c%3D%C3%A4"
        );
        assert_eq!(query_text(&AccountQuery::default()).unwrap(), "");
    }

    #[test]
    fn requests_have_a_token_and_a_version() {
        let request = client().request(Method::PATCH, "/v1/relay", Some(7), "{}".to_owned());
        let request = request.unwrap();
        let headers = request.headers();
        assert_eq!(headers[header::IF_MATCH], "\"7\"");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        let token = headers[header::AUTHORIZATION].to_str().unwrap();
        assert!(token.starts_with("Bearer rt1_"));
        assert!(
            !format!("{request:?}").contains("rt1_"),
            "the token is hidden"
        );
        assert!(!format!("{:?}", client()).contains("rt1_"));
    }

    #[test]
    fn refusals_repeat_the_message_of_the_master() {
        let refusal = |status, body: &str| client().refusal(status, body.as_bytes()).to_string();
        let body = r#"{"code": "duplicate", "message": "name \"home\" exists already"}"#;
        assert_eq!(
            refusal(StatusCode::CONFLICT, body),
            "name \"home\" exists already"
        );
        let body = r#"{"code": "forbidden", "message": "the token is wrong"}"#;
        let text = refusal(StatusCode::UNAUTHORIZED, body);
        assert!(
            text.contains("the token is wrong") && text.contains("report token add"),
            "{text}"
        );
        let text = refusal(StatusCode::NOT_FOUND, r#"{"error": "unknown path"}"#);
        assert!(text.contains("has no API"), "{text}");
        let text = refusal(StatusCode::BAD_GATEWAY, "");
        assert!(text.contains("502"), "{text}");
    }
}
