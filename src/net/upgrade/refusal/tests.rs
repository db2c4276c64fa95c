//! Tests of the codes, causes and remedies of refusals.

use http::HeaderValue;

use super::*;

fn refusal(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> UpgradeRefusal {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_static(value));
    }
    UpgradeRefusal::new(
        StatusCode::from_u16(status).unwrap(),
        &map,
        body.as_bytes(),
        "tunnel.example.com:443",
    )
}

/// Statuses, each with its code and a part of its cause and of its remedy.
const STATUSES: [(u16, DiagnosisCode, &str, &str); 12] = [
    (
        401,
        DiagnosisCode::HttpAuthenticationRequired,
        "requires authentication",
        "headers_file",
    ),
    (
        403,
        DiagnosisCode::HttpForbidden,
        "rule against WebSockets",
        "user_agent",
    ),
    (
        404,
        DiagnosisCode::HttpNotFound,
        "another path",
        "its path must be the `path` of the master",
    ),
    (
        405,
        DiagnosisCode::HttpMethodNotAllowed,
        "filters WebSockets",
        "path in `master`",
    ),
    (
        407,
        DiagnosisCode::HttpProxyAuthenticationRequired,
        "requires authentication",
        "`proxy`",
    ),
    (
        413,
        DiagnosisCode::HttpRequestTooLarge,
        "too large",
        "fewer `headers`",
    ),
    (
        426,
        DiagnosisCode::HttpUpgradeNotForwarded,
        "Upgrade and Connection",
        "proxy_set_header Upgrade",
    ),
    (
        429,
        DiagnosisCode::HttpRateLimited,
        "limits the request rate",
        "wait",
    ),
    (
        431,
        DiagnosisCode::HttpRequestTooLarge,
        "too many fields",
        "fewer `headers`",
    ),
    (
        500,
        DiagnosisCode::HttpGatewayError,
        "internal error",
        "log",
    ),
    (
        502,
        DiagnosisCode::HttpMasterUnreachable,
        "the master behind it does not",
        "the master is running",
    ),
    (
        504,
        DiagnosisCode::HttpMasterUnreachable,
        "the master behind it does not",
        "the master is running",
    ),
];

#[test]
fn every_status_has_a_specific_cause_and_remedy() {
    for (status, code, cause, remedy) in STATUSES {
        let diagnosis = refusal(status, &[], "").diagnosis();
        assert_eq!(diagnosis.code, code, "{status}");
        assert!(
            diagnosis.cause.contains(cause) && diagnosis.remedy.contains(remedy),
            "{status}: {diagnosis}"
        );
        assert!(
            diagnosis.evidence.contains(&status.to_string()),
            "{diagnosis}"
        );
    }
}

#[test]
fn captive_portal_is_distinguished_from_a_moved_master() {
    let portal = refusal(302, &[("location", "http://login.hotel.example/?to=x")], "").diagnosis();
    assert_eq!(portal.code, DiagnosisCode::HttpLoginPage);
    assert!(
        portal.cause.contains("login.hotel.example") && portal.remedy.contains("in a browser"),
        "{portal}"
    );
    let moved = refusal(
        301,
        &[("location", "https://tunnel.example.com/tunnel")],
        "",
    )
    .diagnosis();
    assert_eq!(moved.code, DiagnosisCode::HttpRedirected);
    assert!(
        !moved.remedy.contains("browser")
            && moved.remedy.contains("wss://tunnel.example.com/tunnel"),
        "{moved}"
    );
    let path = refusal(301, &[("location", "/tunnel/")], "").diagnosis();
    assert!(path.remedy.contains("the path \"/tunnel/\""), "{path}");
}

#[test]
fn forwarded_response_is_distinguished_from_an_nginx_page() {
    let own = "<html><head><title>404 Not Found</title></head><body><hr><center>nginx/1.22.1</center></body></html>";
    let master = "<html>\r\n<head><title>404 Not Found</title></head>\r\n</html>";
    let server = [("server", "nginx/1.22.1")];
    assert!(
        refusal(404, &server, master)
            .diagnosis()
            .cause
            .contains("does not forward Upgrade, or the path")
    );
    assert!(
        !refusal(404, &server, own)
            .diagnosis()
            .cause
            .contains("forwarded the request")
    );
}

#[test]
fn html_page_is_reported_with_its_sender() {
    let page = refusal(
        200,
        &[("content-type", "text/html"), ("via", "1.1 gw (squid/5.7)")],
        "<h1>Blocked</h1>",
    )
    .diagnosis();
    assert!(
        page.evidence.contains("squid/5.7") && page.evidence.contains("\"Blocked\""),
        "{page}"
    );
    assert!(page.cause.contains("an HTML page"), "{page}");
}

#[test]
fn full_master_is_distinguished_from_an_unreachable_one() {
    let full = refusal(503, &[("retry-after", "20")], "");
    assert_eq!(full.retry_after, Some(Duration::from_secs(20)));
    let diagnosis = full.diagnosis();
    assert_eq!(diagnosis.code, DiagnosisCode::HttpOverloaded);
    assert!(
        diagnosis.evidence.contains("Retry-After 20 s") && diagnosis.cause.contains("no room"),
        "{diagnosis}"
    );
    let unreachable = refusal(503, &[], "");
    assert_eq!(unreachable.retry_after, None);
    assert_eq!(unreachable.code(), DiagnosisCode::HttpMasterUnreachable);
    let limited = refusal(429, &[("retry-after", "7")], "").diagnosis();
    assert_eq!(limited.code, DiagnosisCode::HttpRateLimited);
    assert!(limited.evidence.contains("Retry-After 7 s"), "{limited}");
}
