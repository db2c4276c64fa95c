//! An HTTP answer in place of the WebSocket: who gave it, what is likely behind it, what can be done.

use http::{HeaderMap, StatusCode, header};

use super::{
    evidence,
    middlebox::{middlebox, telling},
};
use crate::link::Reason;

/// An HTTP answer other than 101.
#[derive(Debug)]
pub struct Refusal {
    /// Of the answer.
    pub status: StatusCode,
    /// The headers that tell who answered.
    pub telling: Vec<(&'static str, String)>,
    /// What answered, as far as that is known.
    pub middlebox: Option<&'static str>,
    /// Where it wants the request to go instead.
    pub location: Option<String>,
    /// The first line of text in the body.
    pub body: String,
    /// Whether the body is a page for people.
    pub is_page: bool,
    /// Whether the answer has passed through nginx, and is not its own.
    is_from_behind_nginx: bool,
    /// The host that was asked.
    asked: String,
}

impl Refusal {
    /// Reads an answer of `asked`, a host with or without a port, with the beginning of its body.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8], asked: &str) -> Self {
        let text = |name: header::HeaderName| {
            headers
                .get(name)
                .map(|value| evidence(value.as_bytes()))
                .filter(|text| !text.is_empty())
        };
        let kind = text(header::CONTENT_TYPE)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let beginning = String::from_utf8_lossy(body)
            .trim_start()
            .to_ascii_lowercase();
        let middlebox = middlebox(headers, body);
        Refusal {
            status,
            telling: telling(headers, evidence),
            middlebox,
            location: text(header::LOCATION),
            body: evidence(body),
            is_page: kind.contains("html")
                || beginning.starts_with("<!doctype html")
                || beginning.starts_with("<html"),
            // Its own pages have its name in their last line.
            is_from_behind_nginx: middlebox == Some("nginx")
                && !beginning.is_empty()
                && !beginning.contains("nginx"),
            asked: asked.to_owned(),
        }
    }

    /// What is told of it.
    pub(super) fn reason(&self) -> Reason {
        let (cause, remedy) = self.cause_and_remedy();
        Reason::new(self.seen(), cause, remedy)
    }

    fn seen(&self) -> String {
        let mut text = format!("no WebSocket there: HTTP status {}", self.status);
        if !self.telling.is_empty() {
            let telling: Vec<String> = self
                .telling
                .iter()
                .map(|(name, value)| format!("{name} {value:?}"))
                .collect();
            text.push_str(&format!(" ({})", telling.join(", ")));
        }
        if !self.body.is_empty() {
            text.push_str(&format!(", it says {:?}", self.body));
        }
        text
    }

    fn who(&self) -> &'static str {
        self.middlebox.unwrap_or("a proxy or firewall")
    }

    fn cause_and_remedy(&self) -> (String, String) {
        let who = self.who();
        let pair = |cause: String, remedy: &str| (cause, remedy.to_owned());
        match (&self.location, self.status.as_u16()) {
            (Some(location), 300..=399) => self.redirected(location),
            (_, 400 | 497) if self.body.to_ascii_lowercase().contains("https") => {
                pair("the port expects TLS".to_owned(), "write wss:// in `master`")
            }
            (_, 400 | 426) => pair(
                format!("{who} in front of the master may not pass Upgrade and Connection on"),
                Self::PASS_ON,
            ),
            (_, 401) => pair(
                format!("{who} in front of the master wants to know who asks"),
                "give it an `Authorization` by `headers` or `headers_file`",
            ),
            (_, 403) => pair(
                format!("{who} refuses the request: a rule against WebSockets, against this address, or against programs that are no browser"),
                "allow it there, or try another `user_agent`, `headers`, another port or another network",
            ),
            (_, 404) if self.is_from_behind_nginx => pair(
                "nginx has passed the request on, and what is behind it has no such WebSocket: nginx does not pass Upgrade on, or the path is not the master's"
                    .to_owned(),
                Self::PASS_ON_AND_PATH,
            ),
            (_, 404 | 410) => pair(
                "the master may be at another path or port, this may be some other web server, or a proxy that does not pass Upgrade on".to_owned(),
                "check `master`: its path must be the `path` of the master",
            ),
            (_, 405 | 501) => pair(
                format!("{who} does not allow this method or Upgrade there: it filters WebSockets, or the path is another program's"),
                "check the path in `master`, or allow WebSockets there",
            ),
            (_, 407) => pair(
                format!("{who} on the way wants to know who asks"),
                "name it in `proxy`, as http://USER:PASSWORD@HOST:PORT",
            ),
            (_, 431) => pair(
                "the request's header is too long, or has too many fields, for the master or what stands before it".to_owned(),
                "write fewer `headers`, and let proxies before the master add fewer",
            ),
            (_, 413 | 414) => {
                pair(format!("the request is too large for {who}"), "write fewer `headers`, or a shorter path in `master`")
            }
            (_, 429) => pair(format!("{who} limits how often one may ask"), "wait, or raise the limit there for the master's path"),
            (_, 502..=504 | 520..=524 | 530) => pair(
                format!("a proxy answers{}, but the master behind it does not", self.named()),
                "is it running, and is its address right in the proxy's configuration?",
            ),
            (_, 500..=599) => pair(format!("{who} in front of the master has an error of its own"), "look into its log"),
            (_, 200..=299) if self.is_page => pair(
                "a page for people is answered in place of the master: that of a login to this network, of a filter, or some other web server's; or a proxy dropped Upgrade".to_owned(),
                "open the address in a browser; check the path in `master`, and that the proxy in front passes Upgrade and Connection on",
            ),
            _ => pair(
                "the master may be at another path or port, or this is some other web server, or a proxy that dropped Upgrade".to_owned(),
                "check `master`, and that a proxy in front of it passes Upgrade and Connection on",
            ),
        }
    }

    /// What an operator of nginx, and of everything that is set up like it, has to write.
    const PASS_ON: &'static str = "let it pass them on (nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                                   proxy_set_header Connection \"upgrade\"`), or turn WebSockets on there";

    const PASS_ON_AND_PATH: &'static str = "in nginx, write `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\"` \
         for this path; then check the path in `master`";

    fn named(&self) -> String {
        self.middlebox
            .map_or_else(String::new, |name| format!(" ({name})"))
    }

    fn redirected(&self, location: &str) -> (String, String) {
        let shown = location.replacen("http", "ws", 1);
        let is_elsewhere = host_of(location)
            .is_some_and(|host| !host.eq_ignore_ascii_case(host_without_port(&self.asked)));
        if is_elsewhere {
            let cause = format!(
                "it redirects to {location:?}: a page to log in to this network, or a filter, answers in place of the master"
            );
            return (
                cause,
                format!(
                    "open it in a browser and log in; if that is the master itself, write {shown:?} in `master`"
                ),
            );
        }
        let shown = if location.starts_with('/') {
            format!("the path {location:?}")
        } else {
            format!("{shown:?}")
        };
        (
            format!("it redirects to {location:?}"),
            format!("if that is the master, write {shown} in `master`"),
        )
    }
}

/// The host of a URL that has one.
fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next().map(host_without_port)
}

fn host_without_port(authority: &str) -> &str {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Refusal {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Refusal::new(
            StatusCode::from_u16(status).unwrap(),
            &map,
            body.as_bytes(),
            "tunnel.example.com:443",
        )
    }

    #[test]
    fn every_status_has_a_cause_and_a_remedy_of_its_own() {
        for (status, cause, remedy) in [
            (401, "wants to know who asks", "headers_file"),
            (403, "rule against WebSockets", "user_agent"),
            (
                404,
                "another path",
                "its path must be the `path` of the master",
            ),
            (405, "filters WebSockets", "path in `master`"),
            (407, "wants to know who asks", "`proxy`"),
            (413, "too large", "fewer `headers`"),
            (426, "Upgrade and Connection", "proxy_set_header Upgrade"),
            (429, "limits how often", "wait"),
            (431, "too many fields", "fewer `headers`"),
            (500, "error of its own", "log"),
            (502, "the master behind it does not", "is it running"),
            (504, "the master behind it does not", "is it running"),
        ] {
            let reason = refusal(status, &[], "").reason();
            assert!(
                reason.cause.contains(cause) && reason.remedy.contains(remedy),
                "{status}: {reason}"
            );
            assert!(reason.evidence.contains(&status.to_string()), "{reason}");
        }
    }

    #[test]
    fn a_captive_portal_is_told_from_a_master_that_moved() {
        let portal = refusal(302, &[("location", "http://login.hotel.example/?to=x")], "").reason();
        assert!(
            portal.cause.contains("login.hotel.example") && portal.remedy.contains("in a browser"),
            "{portal}"
        );
        let moved = refusal(
            301,
            &[("location", "https://tunnel.example.com/tunnel")],
            "",
        )
        .reason();
        assert!(
            !moved.remedy.contains("browser")
                && moved.remedy.contains("wss://tunnel.example.com/tunnel"),
            "{moved}"
        );
        let path = refusal(301, &[("location", "/tunnel/")], "").reason();
        assert!(path.remedy.contains("the path \"/tunnel/\""), "{path}");
    }

    #[test]
    fn an_answer_that_passed_through_nginx_is_told_from_nginxs_own() {
        let own = "<html><head><title>404 Not Found</title></head><body><hr><center>nginx/1.22.1</center></body></html>";
        let master = "<html>\r\n<head><title>404 Not Found</title></head>\r\n</html>";
        let server = [("server", "nginx/1.22.1")];
        assert!(
            refusal(404, &server, master)
                .reason()
                .cause
                .contains("does not pass Upgrade on, or the path")
        );
        assert!(
            !refusal(404, &server, own)
                .reason()
                .cause
                .contains("passed the request on")
        );
    }

    #[test]
    fn a_page_in_place_of_the_master_is_told_with_who_made_it() {
        let page = refusal(
            200,
            &[("content-type", "text/html"), ("via", "1.1 gw (squid/5.7)")],
            "<h1>Blocked</h1>",
        )
        .reason();
        assert!(
            page.evidence.contains("squid/5.7") && page.evidence.contains("\"Blocked\""),
            "{page}"
        );
        assert!(page.cause.contains("page for people"), "{page}");
    }
}
