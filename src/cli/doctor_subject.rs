//! The subject of `report doctor`: what it checks for a configuration.

use std::time::Duration;

use super::roles::{self, client_secret, port_parameters, server_secret, uplink};
use crate::{
    config::{
        ClientConfig, Destinations, LinkConfig, MasterConfig, PortConfig, ServerConfig, Target,
    },
    doctor::{ListenAddress, MasterSubject, MasterTarget, Subject, SubjectPort},
    link::authenticate::LinkSecret,
    net::{dial::Dialer, tls::TlsError},
    tunnel::ProcessShared,
};
use report_proto::{crypto::LinkKey, frame::Role};

/// The minimum time to wait for a server. On a slow path a tunnel needs a second after the link.
const SERVER_WAIT_MIN: Duration = Duration::from_secs(3);

/// The durations of the checks of a server or a client.
pub(super) struct ProbeTimes {
    /// The duration of each measurement.
    pub measure: Duration,
    /// The idle periods to probe. Empty when the check is not wanted.
    pub idle_periods: Vec<Duration>,
}

/// Returns what to check for a server.
///
/// # Errors
/// Fails when a TLS file cannot be used.
pub(super) fn server_subject(
    server: &ServerConfig,
    times: ProbeTimes,
) -> Result<Subject, TlsError> {
    // The first port of a range stands for all: the others may be in use now and then only.
    let services = |port: &PortConfig| match port.destinations() {
        Destinations::Address(address) => address.at(0).into_iter().collect::<Vec<_>>(),
        Destinations::Targets(targets) => targets.to_vec(),
        Destinations::Allowed(_) => Vec::new(),
    };
    let link = &server.link;
    Ok(Subject {
        role: Role::Server,
        secret: server_secret(server),
        masters: targets(link, LinkSecret::Anonymous)?,
        ports: subject_ports(server.enabled_ports(), link, services),
        connect_timeout: *link.connect_timeout,
        server_timeout: SERVER_WAIT_MIN,
        heartbeat: *link.heartbeat,
        measure: times.measure,
        idle_periods: times.idle_periods,
    })
}

/// Returns what to check for a client.
///
/// # Errors
/// Fails when a TLS file cannot be used.
pub(super) fn client_subject(
    client: &ClientConfig,
    times: ProbeTimes,
) -> Result<Subject, TlsError> {
    let link = &client.link;
    Ok(Subject {
        role: Role::Client,
        secret: client_secret(client),
        masters: targets(link, client_secret(client))?,
        ports: subject_ports(client.enabled_ports(), link, |_| Vec::new()),
        connect_timeout: *link.connect_timeout,
        server_timeout: SERVER_WAIT_MIN.max((*client.hold_timeout).min(SERVER_WAIT_MIN * 2)),
        heartbeat: *link.heartbeat,
        measure: times.measure,
        idle_periods: times.idle_periods,
    })
}

/// Returns the masters of a role. Each has a separate client with this secret, so that each is
/// checked separately.
fn targets(link: &LinkConfig, secret: LinkSecret) -> Result<Vec<MasterTarget>, TlsError> {
    let clients = uplink(link, Role::Client, secret)?.each();
    let dialers = link
        .masters
        .iter()
        .map(|address| Dialer::new(address.clone(), link.dial_parameters()));
    dialers
        .zip(clients)
        .map(|(dialer, client)| {
            Ok(MasterTarget {
                dialer: dialer?,
                client,
            })
        })
        .collect()
}

fn subject_ports<'c>(
    ports: impl Iterator<Item = &'c PortConfig>,
    link: &LinkConfig,
    services: impl Fn(&PortConfig) -> Vec<Target>,
) -> Vec<SubjectPort> {
    let process_shared = ProcessShared::default();
    let subject_port = |port: &PortConfig| SubjectPort {
        port: port_parameters(port, link, &process_shared),
        services: services(port),
    };
    ports.map(subject_port).collect()
}

/// Returns what to check for a master.
pub(super) async fn master_subject(master: &MasterConfig) -> MasterSubject {
    let mut addresses = Vec::new();
    for written in master.listen_at.iter() {
        let resolved = roles::resolve(written)
            .await
            .map_err(|error| error.diagnosis());
        addresses.push(ListenAddress {
            written: written.to_string(),
            resolved,
        });
    }
    MasterSubject {
        addresses,
        path: master.path.to_string(),
        secret: master
            .master_key
            .as_ref()
            .map_or(LinkSecret::Anonymous, |key| {
                LinkKey::derive(Some(key.expose())).into()
            }),
        tls: master
            .tls
            .as_ref()
            .map(|files| (files.cert.to_path_buf(), files.key.to_path_buf())),
        healthz: master.healthz,
        peer_requirement: peer_requirement(master),
        congestion_control: master.congestion_control,
    }
}

/// Returns the requirement of the master for every peer, if any.
fn peer_requirement(master: &MasterConfig) -> Option<&'static str> {
    if master
        .tls
        .as_ref()
        .is_some_and(|files| files.client_ca.is_some())
    {
        return Some("a certificate (`tls.client_ca`)");
    }
    master
        .proxy_protocol
        .then_some("the PROXY protocol (`proxy_protocol`)")
}
