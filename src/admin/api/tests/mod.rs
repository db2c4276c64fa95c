//! Tests of the API through its routes, without sockets. The database is a file of SQLite.

mod document;
mod fake_master;
mod listener;
mod live;
mod outages;
mod records;
mod rights;
mod usage;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::fake_master::FakeMaster;
use super::*;
use crate::{
    admin::connection::{AdminConnection, Origin},
    administration::{HashText, NewToken, TokenSecret},
    policy::{TokenId, TokenRole, UnixTime},
    store::Store,
};

/// The present time of the tests.
const NOW: i64 = 1_800_000_000;

/// The address of requests that do not care.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The API over a fake master and an empty database.
struct Testbed {
    api: Arc<Api>,
    master: Arc<FakeMaster>,
    store: Arc<Store>,
    now: Arc<AtomicI64>,
    _folder: TempDir,
}

/// An answer with its whole body.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().unwrap()
    }

    /// Asserts that the request is refused with this status, code and field.
    #[track_caller]
    fn assert_refused(&self, status: u16, code: &str, field: Option<&str>) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        assert_eq!(body["field"].as_str(), field, "{self:?}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }

    /// Asserts the status of a request that is not refused.
    #[track_caller]
    fn assert_status(&self, status: StatusCode) -> &Self {
        assert_eq!(self.status, status.as_u16(), "{self:?}");
        self
    }
}

/// A request of a test. It comes from the unix socket unless it has a token or an address.
struct Call {
    method: Method,
    path: String,
    headers: Vec<(header::HeaderName, String)>,
    body: Body,
    origin: Origin,
}

fn call(method: Method, path: &str) -> Call {
    Call {
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: Body::empty(),
        origin: Origin::UnixSocket,
    }
}

fn get(path: &str) -> Call {
    call(Method::GET, path)
}

fn post(path: &str, body: &Value) -> Call {
    call(Method::POST, path).json(body)
}

fn patch(path: &str, version: &str, body: &Value) -> Call {
    call(Method::PATCH, path).version(version).json(body)
}

fn delete(path: &str, version: &str) -> Call {
    call(Method::DELETE, path).version(version)
}

impl Call {
    fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = Body::from(body.to_string());
        self.header(header::CONTENT_TYPE, "application/json")
    }

    fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Expects a version: the text of an `ETag`.
    fn version(self, version: &str) -> Self {
        self.header(header::IF_MATCH, version)
    }

    fn from(mut self, address: IpAddr) -> Self {
        self.origin = Origin::Address(address);
        self
    }

    /// Sends a token, from loopback unless another address follows.
    fn token(self, token: &str) -> Self {
        self.from(LOCAL)
            .header(header::AUTHORIZATION, &format!("Bearer {token}"))
    }
}

impl Testbed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keys.db").display());
        let store = Arc::new(Store::open(url.parse().unwrap()).await.unwrap());
        let now = Arc::new(AtomicI64::new(NOW));
        let clock: Clock = {
            let now = Arc::clone(&now);
            Arc::new(move || now.load(Relaxed))
        };
        let administration = Administration::new(Arc::clone(&store), Arc::clone(&clock));
        let master = Arc::new(FakeMaster::default());
        let administered = Arc::clone(&master) as Arc<dyn AdministeredMaster>;
        Testbed {
            api: Arc::new(Api::new(administration, administered, clock)),
            master,
            store,
            now,
            _folder: folder,
        }
    }

    /// Sends a request, and returns its answer without the body.
    async fn respond(&self, call: Call) -> Response {
        let mut request = Request::builder().method(call.method).uri(call.path);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let mut request = request.body(call.body).unwrap();
        request
            .extensions_mut()
            .insert(AdminConnection::new(call.origin));
        let service = TowerToHyperService::new(routes(&self.api));
        service.call(request).await.unwrap()
    }

    async fn send(&self, call: Call) -> Answer {
        Answer::read(self.respond(call).await).await
    }

    /// Creates a token. Returns its text and its id.
    async fn token(&self, role: TokenRole, expires: Option<i64>) -> (String, TokenId) {
        let secret = TokenSecret::new(crate::random::bytes());
        let new = NewToken {
            name: format!("{role:?} {}", &secret.as_str()[4..12]),
            role,
            hash: HashText(secret.hash()),
            expires: expires.and_then(UnixTime::new),
        };
        let added = self.api.administration.add_token(&actor(), new).await;
        (secret.as_str().to_owned(), added.unwrap().record.id)
    }

    /// Creates an account. Returns its path and its `ETag`.
    async fn account(&self, name: &str) -> (String, String) {
        let added = self
            .send(post("/v1/accounts", &json!({ "name": name })))
            .await;
        added.assert_status(StatusCode::CREATED);
        let path = added.header("location").to_owned();
        (path, added.header("etag").to_owned())
    }
}

/// The actor of what a test prepares.
fn actor() -> Actor {
    Actor::command_line()
}
