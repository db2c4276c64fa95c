//! Secrets and plaintext, and the places where they must not be: the paths of both roles, the
//! master's memory and the logs.

use std::{io::Read as _, net::TcpStream};

use report_proto::crypto::PortKeys;
use serde_json::json;

use super::ENCRYPTED;
use crate::support::{
    bytes as content, memory,
    proxy::{Path, Proxy},
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel},
};

/// Larger than what a path buffers, so part of it is in the master's queues too.
const CONTENT: usize = 2 << 20;

/// A service that sends one unique text over and over.
struct MarkedService {
    marker: String,
    port: Port,
    _service: Service,
}

impl MarkedService {
    fn new(encrypt: &'static str) -> MarkedService {
        let marker = format!(
            "a unique text of the service with {encrypt}, {}",
            content::hexadecimal(&content::random(fastrand::u64(..), 16))
        );
        let repeated = marker
            .as_bytes()
            .iter()
            .copied()
            .cycle()
            .take(CONTENT)
            .collect();
        let service = services::source_that_stays(repeated);
        let port = Port::new(
            encrypt,
            service.address(),
            Methods {
                encrypt,
                compress: "null",
            },
        );
        MarkedService {
            marker,
            port,
            _service: service,
        }
    }
}

/// A tunnel with a port for each encryption and one without, over recorded paths.
struct RecordedTunnel {
    tunnel: Tunnel,
    ports: Vec<Port>,
    sealed: [MarkedService; 3],
    plain: MarkedService,
    server_path: Proxy,
    client_path: Proxy,
}

impl RecordedTunnel {
    fn new() -> RecordedTunnel {
        let testbed = Testbed::new(Front::Direct);
        let [server_path, client_path] =
            [(); 2].map(|()| Proxy::recording(testbed.master_address()));
        let sealed = ENCRYPTED.map(MarkedService::new);
        let plain = MarkedService::new("plain");
        let ports = sealed
            .iter()
            .chain([&plain])
            .map(|marked| marked.port.clone())
            .collect::<Vec<_>>();
        let fields = Fields {
            server: json!({"master": server_path.address().to_string()}),
            client: json!({"master": client_path.address().to_string()}),
            ..Fields::default()
        };
        RecordedTunnel {
            tunnel: Tunnel::on(testbed, ports.clone(), fields),
            ports,
            sealed,
            plain,
            server_path,
            client_path,
        }
    }

    /// Completes one transfer of each port, and starts a second one of each at a low rate. Returns
    /// the connections of the second ones.
    fn transfer(&self) -> Vec<TcpStream> {
        for port in &self.ports {
            services::connect(port.local)
                .read_exact(&mut vec![0; CONTENT])
                .unwrap();
        }
        self.client_path.set_path(Path {
            bytes_per_second: Some(128 << 10),
            ..Path::default()
        });
        let under_way: Vec<_> = self
            .ports
            .iter()
            .map(|port| services::connect(port.local))
            .collect();
        for mut stream in &under_way {
            stream.read_exact(&mut [0]).unwrap();
        }
        under_way
    }

    /// The texts of the encrypted services, and all port keys.
    fn secrets(&self) -> Vec<&[u8]> {
        let texts = self.sealed.iter().map(|marked| marked.marker.as_bytes());
        let keys = self.ports.iter().map(|port| port.key.as_bytes());
        texts.chain(keys).collect()
    }

    /// Asserts that the path of a role carried none of the secrets.
    #[track_caller]
    fn assert_path_hides(&self, secrets: &[&[u8]], name: &str, path: &Proxy) {
        let [up, down] = path.recorded();
        // Roles mask what they send, and the masking key travels with the payload, so a mask hides
        // nothing.
        let up = [unmasked(&up), up].concat();
        for secret in secrets {
            let seen = content::contains(&up, secret) || content::contains(&down, secret);
            assert!(
                !seen,
                "on the {name}'s path: {}",
                String::from_utf8_lossy(secret)
            );
        }
        let from_service = if name == "server" { &up } else { &down };
        assert!(
            from_service.len() > self.ports.len() * CONTENT,
            "the {name}'s path was recorded"
        );
        // The search works: the plain port's text is visible.
        assert!(
            content::contains(from_service, self.plain.marker.as_bytes()),
            "the plain port is readable on the {name}'s path"
        );
    }

    /// Asserts that the master's memory has none of the secrets.
    #[track_caller]
    fn assert_master_memory_hides(&self, secrets: &[&[u8]]) {
        let found = memory::found_in_memory(self.tunnel.master.pid(), secrets);
        assert!(
            found.is_empty(),
            "the master's memory contains {:?}",
            found
                .iter()
                .map(|secret| String::from_utf8_lossy(secret))
                .collect::<Vec<_>>()
        );
        let ids: Vec<[u8; 16]> = self
            .ports
            .iter()
            .map(|port| PortKeys::derive(&port.key).id.0)
            .collect();
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_slice()).collect();
        let held = memory::found_in_memory(self.tunnel.master.pid(), &ids);
        assert!(
            ids.iter().all(|id| held.contains(id)),
            "the search finds the key ids, which the master holds"
        );
    }
}

#[test]
fn neither_path_nor_master_sees_plaintext_or_port_keys() {
    let recorded = RecordedTunnel::new();
    let _under_way = recorded.transfer();
    let secrets = recorded.secrets();
    recorded.assert_path_hides(&secrets, "server", &recorded.server_path);
    recorded.assert_path_hides(&secrets, "client", &recorded.client_path);
    recorded.assert_master_memory_hides(&secrets);
}

/// The payloads of a role's WebSocket, without the HTTP request before them.
fn unmasked(recorded: &[u8]) -> Vec<u8> {
    let end = recorded
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("the end of the request")
        + 4;
    let mut rest = &recorded[end..];
    let mut payloads = Vec::new();
    // The last frame may be incomplete.
    while let Some((payload, behind)) = first_frame(rest) {
        payloads.extend(payload);
        rest = behind;
    }
    payloads
}

/// The unmasked payload of the first frame (RFC 6455, section 5.2) and the bytes after it. `None`
/// when the frame is incomplete.
fn first_frame(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&[_, length], rest) = bytes.split_first_chunk()?;
    assert!(length & 0x80 != 0, "a role masks");
    let (length, rest) = match length & 0x7f {
        126 => rest
            .split_first_chunk()
            .map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest
            .split_first_chunk()
            .map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        length => (u64::from(length), rest),
    };
    let (mask, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect(),
        rest,
    ))
}

#[test]
fn the_logs_contain_no_key() {
    let echo = services::echo();
    let fields = || json!({"log_level": "trace"});
    let fields = Fields {
        master: fields(),
        server: fields(),
        client: fields(),
    };
    let tunnel = Tunnel::on(
        Testbed::new(Front::Direct),
        vec![Port::new("echo", echo.address(), Methods::DEFAULT)],
        fields,
    );
    let spoken = "a line that passes through the tunnel";
    services::ping(&services::connect(tunnel.local("echo")), spoken.as_bytes()).unwrap();
    for (name, role) in [
        ("master", &tunnel.master),
        ("server", &tunnel.server),
        ("client", &tunnel.client),
    ] {
        let log = role.log();
        assert!(!log.is_empty(), "the {name} logs at trace");
        for secret in [
            tunnel.probe().key.as_str(),
            tunnel.testbed.master_key.as_str(),
            spoken,
        ] {
            assert!(!log.contains(secret), "the {name}'s log contains {secret}");
        }
    }
}
