//! The local web server: a 404 page or the files of a folder, and the health check. Knows requests,
//! but nothing of links or upgrades.

use std::{convert::Infallible, io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tower_http::services::ServeDir;

use super::{
    request_head::{MAX_FIELDS, READ_FIELDS},
    static_folder::Folder,
};
use crate::net::websocket::ByteStream;

/// The path of the health check, if enabled.
pub const HEALTH_PATH: &str = "/healthz";

/// The smallest configurable limit of a request head: the minimum of hyper's buffer.
pub const MIN_HEADER_BYTES: usize = 8 * 1024;

/// The one hidden folder that web servers publish (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// The body of a response.
type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// A local web server.
#[derive(Debug, Clone)]
pub(super) struct StaticSite {
    pub content: Content,
    /// Whether [`HEALTH_PATH`] answers.
    pub healthz: bool,
    pub limits: SiteLimits,
}

/// The content of the web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// The same page for every request.
    Page(StatusCode),
    /// The files of a folder, and a page for missing ones.
    Files(PathBuf),
}

/// The limits for a visitor.
#[derive(Debug, Clone)]
pub(super) struct SiteLimits {
    /// The longest request head, in bytes.
    pub header_bytes: usize,
    /// The timeout for a head, and between two requests.
    pub header: Duration,
    /// The lifetime of a connection, regardless of its activity.
    pub connection: Duration,
}

impl StaticSite {
    /// Serves a connection until it ends.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the connection.
    pub(super) async fn serve(&self, stream: impl ByteStream) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(self.answer(request).await)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .half_close(true)
            .max_buf_size(self.limits.header_bytes.max(MIN_HEADER_BYTES))
            .max_header_size(self.limits.header_bytes)
            .max_headers(READ_FIELDS)
            .serve_connection(TokioIo::new(stream), service);
        let _ = tokio::time::timeout(self.limits.connection, connection).await;
    }

    async fn answer<B: Send + 'static>(&self, request: Request<B>) -> Response<ResponseBody> {
        let is_head = request.method() == Method::HEAD;
        if request.headers().len() > MAX_FIELDS {
            let title = format!(
                "{}: more than {MAX_FIELDS} fields",
                title(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            );
            return page_with_title(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &title, is_head);
        }
        if self.healthz
            && request.uri().path() == HEALTH_PATH
            && (is_head || request.method() == Method::GET)
        {
            return text_response(StatusCode::OK, "text/plain", "ok\n".to_owned(), is_head);
        }
        match &self.content {
            Content::Page(status) => page(*status, is_head),
            Content::Files(_) if is_hidden(request.uri().path()) => {
                page(StatusCode::NOT_FOUND, is_head)
            }
            Content::Files(folder) => serve_file(folder, request)
                .await
                .unwrap_or_else(|status| page(status, is_head)),
        }
    }
}

/// Returns a file, or the status for an error page.
async fn serve_file<B: Send + 'static>(
    folder: &PathBuf,
    request: Request<B>,
) -> Result<Response<ResponseBody>, StatusCode> {
    let answered = ServeDir::with_backend(folder, Folder::new(folder))
        .try_call(request)
        .await;
    let response = answered.map_err(|_| StatusCode::NOT_FOUND)?;
    match response.status() {
        status @ (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => Err(status),
        _ => Ok(response.map(UnsyncBoxBody::new)),
    }
}

/// Whether the path has a part that begins with a dot. Such files are not meant for visitors.
fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| {
        let part = percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
        part.starts_with(b".") && part != WELL_KNOWN.as_bytes()
    })
}

/// Returns the page of a common web server for this status.
fn page(status: StatusCode, is_head: bool) -> Response<ResponseBody> {
    page_with_title(status, &title(status), is_head)
}

/// Returns a status code with its reason, which is the title of its page.
pub(super) fn title(status: StatusCode) -> String {
    format!(
        "{} {}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default()
    )
}

/// Returns a page with this title.
fn page_with_title(status: StatusCode, title: &str, is_head: bool) -> Response<ResponseBody> {
    text_response(status, "text/html", page_text(title), is_head)
}

/// Returns the HTML of a page with this title.
pub(super) fn page_text(title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    )
}

fn text_response(
    status: StatusCode,
    kind: &'static str,
    body: String,
    is_head: bool,
) -> Response<ResponseBody> {
    let length = body.len();
    let body = Full::new(if is_head {
        Bytes::new()
    } else {
        Bytes::from(body)
    });
    let mut response = Response::new(UnsyncBoxBody::new(body.map_err(|never| match never {})));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(content: Content) -> StaticSite {
        let limits = SiteLimits {
            header_bytes: 16 * 1024,
            header: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        };
        StaticSite {
            content,
            healthz: true,
            limits,
        }
    }

    async fn response_to(
        site: &StaticSite,
        method: &str,
        path: &str,
    ) -> (StatusCode, String, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::<Bytes>::default())
            .expect("a request");
        let response = site.answer(request).await;
        let kind = response
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|kind| kind.to_str().expect("text").to_owned());
        assert!(
            !format!("{response:?}")
                .to_ascii_lowercase()
                .contains("report"),
            "{response:?}"
        );
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (
            status,
            kind.unwrap_or_default(),
            String::from_utf8(body.to_vec()).expect("text"),
        )
    }

    #[tokio::test]
    async fn health_check_answers_only_when_enabled() {
        let site = site(Content::Page(StatusCode::NOT_FOUND));
        assert_eq!(
            response_to(&site, "GET", HEALTH_PATH).await,
            (StatusCode::OK, "text/plain".into(), "ok\n".into())
        );
        assert_eq!(
            response_to(&site, "POST", HEALTH_PATH).await.0,
            StatusCode::NOT_FOUND
        );
        let without = StaticSite {
            healthz: false,
            ..site
        };
        assert_eq!(
            response_to(&without, "GET", HEALTH_PATH).await,
            response_to(&without, "GET", "/anything").await
        );
    }

    #[tokio::test]
    async fn files_are_served_except_hidden_and_outside_ones() {
        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("www");
        std::fs::create_dir_all(folder.join(".git")).expect("folders");
        for (name, text) in [
            ("www/index.html", "home"),
            ("www/a.css", "a{}"),
            ("www/.git/config", "x"),
            ("secret", "x"),
        ] {
            std::fs::write(outside.path().join(name), text).expect("a file");
        }
        let site = site(Content::Files(folder));
        assert_eq!(
            response_to(&site, "GET", "/").await,
            (StatusCode::OK, "text/html".into(), "home".into())
        );
        assert_eq!(
            response_to(&site, "GET", "/a.css?v=1").await,
            (StatusCode::OK, "text/css".into(), "a{}".into())
        );
        for path in [
            "/none",
            "/.git/config",
            "/%2egit/config",
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
        ] {
            let (status, _, body) = response_to(&site, "GET", path).await;
            assert_eq!(
                (status, body.contains("<h1>404 Not Found</h1>")),
                (StatusCode::NOT_FOUND, true),
                "{path}"
            );
        }
        assert_eq!(
            response_to(&site, "POST", "/").await.0,
            StatusCode::METHOD_NOT_ALLOWED
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn symlinks_out_of_the_folder_give_404() {
        use std::os::unix::fs::symlink;

        let outside = tempfile::tempdir().expect("a folder");
        let folder = outside.path().join("www");
        std::fs::create_dir_all(folder.join("sub")).expect("folders");
        for (name, text) in [("www/sub/index.html", "sub"), ("secret.txt", "secret")] {
            std::fs::write(outside.path().join(name), text).expect("a file");
        }
        for (target, link) in [
            ("../secret.txt", "secret.txt"),
            ("..", "up"),
            ("/etc", "etc"),
            ("sub", "near"),
        ] {
            symlink(target, folder.join(link)).expect("a link");
        }
        let site = site(Content::Files(folder));
        assert_eq!(
            response_to(&site, "GET", "/near/index.html").await,
            (StatusCode::OK, "text/html".into(), "sub".into())
        );
        assert_eq!(response_to(&site, "HEAD", "/near/").await.0, StatusCode::OK);
        for path in [
            "/secret.txt",
            "/up/secret.txt",
            "/up",
            "/up/",
            "/etc",
            "/etc/",
            "/etc/passwd",
            "/up/www/sub/none",
        ] {
            for method in ["GET", "HEAD"] {
                assert_eq!(
                    response_to(&site, method, path).await.0,
                    StatusCode::NOT_FOUND,
                    "{method} {path}"
                );
            }
        }
    }
}
