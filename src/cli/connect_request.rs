//! What `report connect` requests from the server, and why it gets no connection.

use std::{fmt::Display, net::Ipv6Addr};

use anyhow::bail;
use bytes::Bytes;

use super::InvalidArguments;
use crate::{
    client::pipe::PipeError,
    config::{HostPort, PortConfig, ServiceProtocol},
    text::without_password,
    tunnel::{
        ResetCode,
        confirmation::ConfirmationError,
        details::{NamedTarget, OpenDetails},
        raw::RawError,
    },
};

/// Returns the details of a stream to a port. `to` is the destination of a SOCKS5 port.
///
/// # Errors
/// When the port carries no connections, the offset is not in its range, or the destination is
/// invalid or missing.
pub(super) fn details(
    port: &PortConfig,
    offset: Option<u16>,
    to: Option<&str>,
) -> anyhow::Result<Bytes> {
    let mark = &port.mark;
    if port.protocol == ServiceProtocol::Udp {
        bail!(
            "\"{mark}\" carries datagrams only, and `report connect` a connection: listen with `report forward`, or with a client"
        );
    }
    let details = OpenDetails {
        offset: checked_offset(port, offset)?,
        target: target(port, to)?,
        ..OpenDetails::default()
    };
    Ok(details.encode())
}

fn checked_offset(port: &PortConfig, offset: Option<u16>) -> Result<u16, InvalidArguments> {
    let (mark, range) = (&port.mark, port.range());
    match offset {
        Some(offset) if offset < range => Ok(offset),
        None if range == 1 => Ok(0),
        _ => Err(InvalidArguments(format!(
            "\"{mark}\" has {range} {}: choose one with --offset, from 0 to {}",
            if range == 1 { "port" } else { "ports" },
            range.saturating_sub(1)
        ))),
    }
}

fn target(port: &PortConfig, to: Option<&str>) -> Result<Option<NamedTarget>, InvalidArguments> {
    let mark = &port.mark;
    match (port.protocol == ServiceProtocol::Socks5, to) {
        (true, Some(to)) => destination(to).map(Some),
        (false, None) => Ok(None),
        (true, None) => Err(InvalidArguments(format!(
            "\"{mark}\" is a SOCKS5 proxy: name the destination with --to HOST:PORT"
        ))),
        (false, Some(_)) => Err(InvalidArguments(format!(
            "--to is only for a SOCKS5 proxy, and the server chooses the address of \"{mark}\": remove it"
        ))),
    }
}

fn destination(text: &str) -> Result<NamedTarget, InvalidArguments> {
    let invalid = |problem: &dyn Display| {
        InvalidArguments(format!("--to (\"{}\") {problem}", without_password(text)))
    };
    // ssh replaces `%h:%p` by an IPv6 address without brackets.
    let address = text.rsplit_once(':').and_then(|(host, port)| {
        let is_ipv6 = host.parse::<Ipv6Addr>().is_ok();
        is_ipv6.then(|| format!("[{host}]:{port}"))
    });
    let address = address.as_deref().unwrap_or(text);
    let HostPort { host, port } = address
        .parse()
        .and_then(HostPort::dialable)
        .map_err(|error| invalid(&error))?;
    NamedTarget::new(host, port).map_err(|error| invalid(&error))
}

/// Returns why a connection failed, and what to do.
pub(super) fn failure(error: &PipeError, mark: &str) -> String {
    let code = match error {
        PipeError::Stream(RawError::Stream(error)) => error.reset_code(),
        _ => None,
    };
    let problem = match code {
        Some(ResetCode::Refused) => {
            "the service refused the connection: check that it runs, and `local_address` of the server"
        }
        Some(ResetCode::Unreachable) => {
            "the server cannot reach the service: check `local_address` of the server, and its log"
        }
        Some(ResetCode::Timeout) => {
            "the service did not answer the server in time: check that it runs, and the firewall before it"
        }
        other => return general_failure(other, error, mark),
    };
    format!("\"{mark}\": {problem}")
}

/// Returns why there is no connection to the destination of a SOCKS5 port, and what to do.
pub(super) fn unconfirmed(error: &ConfirmationError, mark: &str) -> String {
    let code = match error {
        ConfirmationError::Stream(error) => error.reset_code(),
        ConfirmationError::Unseen | ConfirmationError::Invalid => None,
    };
    let problem = match code {
        Some(ResetCode::Denied) => {
            "the rules of the server do not allow the destination: add it to `allow` of the server's port"
        }
        Some(ResetCode::NotFound) => {
            "the name of the destination does not resolve at the server: correct --to"
        }
        Some(ResetCode::Refused) => {
            "the destination refused the connection: check that the service runs, and --to"
        }
        Some(ResetCode::Unreachable) => {
            "the server has no route to the destination: check --to, and the network of the server"
        }
        Some(ResetCode::Timeout) => {
            "the destination did not answer the server in time: check --to, and the firewall before it"
        }
        other => return general_failure(other, error, mark),
    };
    format!("\"{mark}\": {problem}")
}

/// Returns a failure that does not depend on the address of the service.
fn general_failure(code: Option<ResetCode>, error: &dyn Display, mark: &str) -> String {
    let problem = match code {
        Some(ResetCode::Limit) => {
            "the server has too many connections: raise its `limits`, or end other connections"
        }
        Some(ResetCode::Shutdown) => "the server is shutting down: try again",
        Some(ResetCode::Reset) => "the service reset the connection",
        _ => return format!("\"{mark}\": {error}"),
    };
    format!("\"{mark}\": {problem}")
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, path::Path};

    use super::*;
    use crate::{
        config::{self, RoleConfig},
        tunnel::TunnelStreamError,
    };
    use report_proto::mux::StreamError;

    fn port(fields: &str) -> PortConfig {
        let text = format!(
            r#"{{"mode": "client", "master": "host:1", "ports": [{{"mark": "x", "port_key": "k", {fields}}}]}}"#
        );
        let loaded = config::parse(&text, Path::new("c.json"), &|_| None);
        let RoleConfig::Client(client) = loaded.expect(&text).config.role else {
            panic!("no client")
        };
        client.ports[0].clone()
    }

    fn proxy() -> PortConfig {
        port(r#""local_address": "127.0.0.1:1", "protocol": "socks5""#)
    }

    #[test]
    fn the_offset_is_within_the_range() {
        let single = port(r#""local_address": "127.0.0.1:1""#);
        for offset in [None, Some(0)] {
            let details = details(&single, offset, None).expect("the only one");
            assert!(details.is_empty());
        }
        let range = port(r#""local_address": "127.0.0.1:7-9""#);
        assert_eq!(
            details(&range, Some(2), None).expect("the last"),
            r#"{"offset":2}"#
        );
        for (port, offset, says) in [
            (&single, Some(1), "has 1 port:"),
            (&range, None, "from 0 to 2"),
            (&range, Some(3), "from 0 to 2"),
        ] {
            let error = details(port, offset, None).expect_err(says);
            assert!(error.is::<InvalidArguments>(), "{error}");
            let error = error.to_string();
            assert!(
                error.contains(says) && error.contains("--offset"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_port_of_datagrams_is_refused() {
        let datagrams = port(r#""local_address": "127.0.0.1:1", "protocol": "udp""#);
        let error = details(&datagrams, None, None).expect_err("datagrams");
        assert!(error.to_string().contains("report forward"), "{error}");
        let both = port(r#""local_address": "127.0.0.1:1", "protocol": "both""#);
        assert!(details(&both, None, None).is_ok());
    }

    #[test]
    fn a_proxy_needs_a_destination() {
        let proxy = proxy();
        for (to, host, port) in [
            ("NAS.lan:22", "nas.lan", 22),
            ("192.0.2.1:80", "192.0.2.1", 80),
            ("[::1]:22", "::1", 22),
            ("2001:db8::1:22", "2001:db8::1", 22),
        ] {
            let details = details(&proxy, None, Some(to)).expect(to);
            let expected = format!(r#"{{"target":{{"host":"{host}","port":{port}}}}}"#);
            assert_eq!(details, expected, "{to}");
        }
        for (to, says) in [
            (None, "--to HOST:PORT"),
            (Some("nas.lan"), "--to (\"nas.lan\") has no port"),
            (Some("nas.lan:0"), "has port 0"),
            (Some("127.1:22"), "has the host \"127.1\""),
            (Some(""), "has no port"),
            (Some("me:hush@nas.lan:22"), "--to (\"me:***@nas.lan:22\")"),
        ] {
            let error = details(&proxy, None, to).expect_err(says);
            assert!(error.is::<InvalidArguments>(), "{error}");
            let error = error.to_string();
            assert!(error.contains(says) && !error.contains("hush"), "{error}");
        }
        let service = port(r#""local_address": "127.0.0.1:1""#);
        let error = details(&service, None, Some("nas.lan:22")).expect_err("a service");
        assert!(error.to_string().starts_with("--to is only"), "{error}");
    }

    fn stream_error(code: ResetCode) -> TunnelStreamError {
        TunnelStreamError::Stream(StreamError::Reset(code))
    }

    #[test]
    fn failures_name_the_port_and_a_remedy() {
        for (code, says) in [
            (ResetCode::Refused, "refused the connection: check"),
            (ResetCode::Unreachable, "cannot reach the service: check"),
            (ResetCode::Timeout, "in time: check"),
            (ResetCode::Limit, "raise its `limits`"),
            (ResetCode::Protocol, "protocol"),
        ] {
            let error = PipeError::Stream(RawError::Stream(stream_error(code)));
            let text = failure(&error, "SSH");
            assert!(
                text.starts_with("\"SSH\": ") && text.contains(says),
                "{text}"
            );
        }
        let input = failure(&PipeError::Input(ErrorKind::IsADirectory.into()), "SSH");
        assert!(input.contains("cannot read the input"), "{input}");
    }

    #[test]
    fn a_missing_confirmation_names_the_port_and_a_remedy() {
        for (code, says) in [
            (ResetCode::Denied, "add it to `allow`"),
            (ResetCode::NotFound, "correct --to"),
            (ResetCode::Refused, "and --to"),
            (ResetCode::Unreachable, "no route to the destination"),
            (ResetCode::Timeout, "in time: check --to"),
            (ResetCode::Shutdown, "try again"),
        ] {
            let text = unconfirmed(&stream_error(code).into(), "exit");
            assert!(
                text.starts_with("\"exit\": ") && text.contains(says),
                "{text}"
            );
        }
        let text = unconfirmed(&ConfirmationError::Invalid, "exit");
        assert!(text.contains("no confirmation"), "{text}");
    }
}
