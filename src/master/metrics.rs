//! The readiness and the metrics of the master. It cannot read what it relays, so it reports sums
//! only, and no key id.

use std::{fmt, sync::Arc};

use super::{link_totals::LinkTotals, shared::MasterShared};
use crate::{
    metrics::{Degradation, Labels, MetricFamilies, ObservedRole, Sample},
    policy::LimitSubject,
};
use report_proto::frame::Role;

/// The master as its admin address reports it.
pub(super) struct MasterObserver(pub(super) Arc<MasterShared>);

/// The links of one role.
struct RoleTotals {
    role: Role,
    /// The links that are up.
    links: usize,
    /// The open channels of these links.
    channels: usize,
    /// The sums over these links and those that have ended.
    totals: LinkTotals,
}

impl RoleTotals {
    fn peer(&self) -> Labels {
        vec![("peer", self.role.to_string())]
    }

    fn with_direction(&self, direction: &str) -> Labels {
        let mut labels = self.peer();
        labels.push(("direction", direction.to_owned()));
        labels
    }
}

/// The numbers of the registry at one time.
struct RegistryTotals {
    roles: [RoleTotals; 2],
    key_ids: usize,
    attach_requests: usize,
}

impl RegistryTotals {
    /// Reads all established links under one lock, so that a link counts as up or as ended, never
    /// as both. A copy of the handles would touch the same memory of each link under this lock.
    fn read(shared: &MasterShared) -> Self {
        let registry = shared.router.registry();
        let mut roles = [Role::Server, Role::Client].map(|role| RoleTotals {
            role,
            links: 0,
            channels: 0,
            totals: shared.router.ended_links.totals(role),
        });
        for (role, link, channels) in registry.channels() {
            // Other links wait for WELCOME.
            if !link.is_established() {
                continue;
            }
            let mut of_role = roles.iter_mut();
            if let Some(totals) = of_role.find(|totals| totals.role == role) {
                totals.links = totals.links.saturating_add(1);
                totals.channels = totals.channels.saturating_add(channels as usize);
                totals.totals.add(link);
            }
        }
        RegistryTotals {
            roles,
            key_ids: registry.key_ids(),
            attach_requests: registry.attach_requests(),
        }
    }
}

impl ObservedRole for MasterObserver {
    fn name(&self) -> &'static str {
        "master"
    }

    fn missing(&self) -> Vec<String> {
        // Its listeners are bound, and accept links until the drain begins.
        if self.0.draining.is_cancelled() {
            vec!["the master is draining".to_owned()]
        } else {
            Vec::new()
        }
    }

    fn degraded(&self) -> Vec<Degradation> {
        let problem = self.0.router.policies.problem();
        let degradation = problem.map(|problem| Degradation {
            what: problem.cause,
            since: problem.since,
        });
        degradation.into_iter().collect()
    }

    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let totals = RegistryTotals::read(&self.0);
        describe_links(families, &self.0, &totals.roles)?;
        families.gauge_of_counts(
            "report_registered_ports",
            "Key ids that servers have registered.",
            [Sample::of(totals.key_ids)],
        )?;
        families.gauge_of_counts(
            "report_attach_requests",
            "Attach requests of clients without an answer from a server.",
            [Sample::of(totals.attach_requests)],
        )?;
        describe_policies(families, &self.0)?;
        #[cfg(feature = "store")]
        if let Some(records) = &self.0.records {
            records.usage.describe(families)?;
            families.counter(
                "report_dropped_audit_events",
                "Events that are not in the audit log, because too many waited for the database.",
                [Sample::of(records.audit.dropped())],
            )?;
        }
        let (used, limit) = (
            self.0.router.used_bytes(),
            self.0.settings().limits.memory_bytes,
        );
        families.queue_memory(used as u64, limit as u64)?;
        families.refusals(&self.0.router.refusals)
    }
}

/// Writes the families of the database and of tunnels.
fn describe_policies(families: &mut MetricFamilies<'_>, shared: &MasterShared) -> fmt::Result {
    let policies = &shared.router.policies;
    let is_up = !policies.problem().is_some_and(|problem| problem.is_away);
    families.gauge_of_counts(
        "report_store_up",
        "Whether the database of the master answers: 1 or 0. Without a database there is no value.",
        policies.has_store().then(|| Sample::of(usize::from(is_up))),
    )?;
    families.gauge_of_counts(
        "report_client_tunnels",
        "Tunnels that the master relays: each is one client process and one key id.",
        [Sample::of(
            shared.router.live.tunnels_of(LimitSubject::Relay) as usize,
        )],
    )
}

/// Writes the families of links, their channels and their bytes.
fn describe_links(
    families: &mut MetricFamilies<'_>,
    shared: &MasterShared,
    roles: &[RoleTotals],
) -> fmt::Result {
    families.gauge_of_counts(
        "report_links",
        "Links that are up.",
        roles
            .iter()
            .map(|role| Sample::labelled(role.peer(), role.links)),
    )?;
    families.gauge_of_counts(
        "report_links_limit",
        "The limit of links, as the limit of open files allows it (limits.links).",
        [Sample::of(shared.settings().limits.links)],
    )?;
    families.counter(
        "report_established_links",
        "Links that were established.",
        roles
            .iter()
            .map(|role| Sample::labelled(role.peer(), role.totals.links)),
    )?;
    families.gauge_of_counts(
        "report_negotiating_connections",
        "Connections that are not links yet, those of web visitors included.",
        [Sample::of(shared.admission.negotiating())],
    )?;
    families.gauge_of_counts(
        "report_channels",
        "Open channels. Each attachment of a tunnel takes one of a client and one of a server.",
        roles
            .iter()
            .map(|role| Sample::labelled(role.peer(), role.channels)),
    )?;
    families.counter(
        "report_link_bytes",
        "Bytes of sealed messages in channels, received from links and sent to links.",
        roles.iter().flat_map(|role| {
            [
                Sample::labelled(role.with_direction("received"), role.totals.received_bytes),
                Sample::labelled(role.with_direction("sent"), role.totals.sent_bytes),
            ]
        }),
    )
}
