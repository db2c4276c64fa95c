//! The rows of the audit log for the events of a master, with their classes and their sources.

use std::net::IpAddr;

use crate::{
    master::events::{EventKind, EventPeer, MasterEvent},
    policy::{Denied, LimitSubject},
    store::AuditEntry,
    throttle::party,
};
use report_proto::id::Id;

/// The most rows of one registration. A larger one is a single row.
const MAX_KEYS: usize = 16;

/// The class of an event, which has a share of the room for waiting events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuditClass {
    /// Registrations and tunnels.
    Use,
    /// Thresholds of quotas.
    Quota,
    /// Links, tokens, registrations and attachments that are refused.
    Refusal,
}

/// A row with its class and its source.
#[derive(Debug, Clone)]
pub(super) struct SourcedEntry {
    /// The class.
    pub(super) class: AuditClass,
    /// The source. That of a refusal is its network.
    pub(super) source: String,
    /// The row.
    pub(super) entry: AuditEntry,
}

/// Returns the rows of an event.
pub(super) fn entries(event: MasterEvent) -> Vec<SourcedEntry> {
    let Some((class, source)) = origin(&event.kind) else {
        return Vec::new();
    };
    let rows = rows(event).into_iter();
    rows.map(|entry| SourcedEntry {
        class,
        source: source.clone(),
        entry,
    })
    .collect()
}

/// Returns the class and the source of an event, or `None` if it has no rows.
fn origin(kind: &EventKind) -> Option<(AuditClass, String)> {
    match kind {
        EventKind::Registered { peer, .. } | EventKind::TunnelUp { peer, .. } => {
            let has_account = peer.account.is_some();
            let source = if has_account {
                actor(peer)
            } else {
                network(peer.address)
            };
            Some((AuditClass::Use, source))
        }
        EventKind::QuotaReached { subject, .. } => Some((AuditClass::Quota, subject.clone())),
        EventKind::LinkDenied { peer, .. }
        | EventKind::RegistrationDenied { peer, .. }
        | EventKind::AttachDenied { peer, .. } => {
            Some((AuditClass::Refusal, network(peer.address)))
        }
        EventKind::LinkRefused { address, .. } | EventKind::TokenRefused { address, .. } => {
            Some((AuditClass::Refusal, network(*address)))
        }
        EventKind::LinkUp { .. }
        | EventKind::LinkEnded { .. }
        | EventKind::TunnelEnded { .. }
        | EventKind::PoliciesChanged { .. }
        | EventKind::StoreDegraded { .. }
        | EventKind::StoreRecovered => None,
    }
}

/// Returns the network of an address.
fn network(address: IpAddr) -> String {
    match party(address) {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(network) => format!("{network}/64"),
    }
}

fn rows(event: MasterEvent) -> Vec<AuditEntry> {
    let at = event.at;
    match event.kind {
        EventKind::Registered { peer, keys } => registered(at, &peer, &keys),
        EventKind::TunnelUp { peer, key, .. } => {
            vec![of_peer(at, &peer, "tunnel.up", Some(key), String::new())]
        }
        EventKind::QuotaReached {
            subject,
            period,
            percent,
            ..
        } => vec![AuditEntry {
            subject,
            ..entry(at, "quota.reached", format!("{percent} % of {period}"))
        }],
        other => refusal(at, other).into_iter().collect(),
    }
}

/// Returns the row of a refusal. Other events have none.
fn refusal(at: i64, kind: EventKind) -> Option<AuditEntry> {
    let of_key = |peer: &EventPeer, action: &str, key: Option<Id>, denied: Denied| {
        of_peer(at, peer, action, key, denied.code().to_owned())
    };
    match kind {
        EventKind::LinkDenied { peer, denied } => Some(of_key(&peer, "link.denied", None, denied)),
        EventKind::RegistrationDenied { peer, key, denied } => {
            Some(of_key(&peer, "registration.denied", Some(key), denied))
        }
        EventKind::AttachDenied { peer, key, denied } => {
            Some(of_key(&peer, "attachment.denied", Some(key), denied))
        }
        EventKind::LinkRefused { address, reason } => {
            Some(of_stranger(at, address, "link.refused", reason))
        }
        EventKind::TokenRefused { address, reason } => {
            Some(of_stranger(at, address, "token.refused", reason))
        }
        _ => None,
    }
}

/// Returns the rows of a registration: one for each key id, unless there are many.
fn registered(at: i64, peer: &EventPeer, keys: &[Id]) -> Vec<AuditEntry> {
    let action = "key.registered";
    if keys.len() > MAX_KEYS {
        let detail = format!("{} keys", keys.len());
        return vec![of_peer(at, peer, action, None, detail)];
    }
    let rows = keys.iter();
    rows.map(|key| of_peer(at, peer, action, Some(*key), String::new()))
        .collect()
}

/// Returns a row without an actor, an address and a subject.
fn entry(happened: i64, action: &str, detail: String) -> AuditEntry {
    AuditEntry {
        happened,
        actor: String::new(),
        address: String::new(),
        action: action.to_owned(),
        subject: String::new(),
        detail,
        repeats: 0,
    }
}

/// Returns a row about an address whose peer is unknown.
fn of_stranger(happened: i64, address: IpAddr, action: &str, detail: String) -> AuditEntry {
    AuditEntry {
        address: address.to_string(),
        ..entry(happened, action, detail)
    }
}

/// Returns a row about a peer, and a key if it concerns one.
fn of_peer(
    happened: i64,
    peer: &EventPeer,
    action: &str,
    key: Option<Id>,
    detail: String,
) -> AuditEntry {
    let subject = key.map(|key| LimitSubject::Key(key).to_string());
    AuditEntry {
        actor: actor(peer),
        address: peer.address.to_string(),
        subject: subject.unwrap_or_default(),
        ..entry(happened, action, detail)
    }
}

/// Returns the actor of a peer: its credential, its account, or its role.
fn actor(peer: &EventPeer) -> String {
    match (peer.credential, peer.account) {
        (Some(credential), Some(account)) => format!("account {account} credential {credential}"),
        (_, Some(account)) => format!("account {account}"),
        (_, None) => peer.role.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{AccountId, CredentialId};
    use report_proto::frame::Role;

    const NOW: i64 = 1_800_000_000;

    fn peer() -> EventPeer {
        EventPeer {
            link: 7,
            role: Role::Client,
            account: Some(AccountId(3)),
            credential: Some(CredentialId(Id([1; 16]))),
            address: [192, 0, 2, 1].into(),
        }
    }

    fn event(kind: EventKind) -> MasterEvent {
        MasterEvent { at: NOW, kind }
    }

    fn tunnel(key: u8) -> AuditEntry {
        let key = Id([key; 16]);
        let kind = EventKind::TunnelUp {
            peer: peer(),
            tunnel: 1,
            key,
        };
        rows(event(kind)).remove(0)
    }

    #[test]
    fn rows_name_the_actor_the_address_and_the_subject() {
        let row = tunnel(2);
        let credential = Id([1; 16]);
        assert_eq!(row.actor, format!("account 3 credential {credential}"));
        assert_eq!(row.address, "192.0.2.1");
        assert_eq!(row.subject, format!("key {}", Id([2; 16])));
        assert_eq!((&*row.action, row.happened), ("tunnel.up", NOW));
        let kind = EventKind::LinkDenied {
            peer: EventPeer {
                credential: None,
                account: None,
                ..peer()
            },
            denied: Denied::AccountExpired,
        };
        let row = rows(event(kind)).remove(0);
        assert_eq!((&*row.actor, &*row.detail), ("client", "account_expired"));
        assert!(rows(event(EventKind::StoreRecovered)).is_empty());
        let kind = EventKind::TokenRefused {
            address: [192, 0, 2, 8].into(),
            reason: "the token is wrong".to_owned(),
        };
        let row = rows(event(kind)).remove(0);
        assert_eq!(
            (&*row.action, &*row.address, &*row.detail),
            ("token.refused", "192.0.2.8", "the token is wrong")
        );
    }

    #[test]
    fn a_large_registration_is_one_row() {
        for (number, rows) in [(1, 1), (16, 16), (17, 1)] {
            let keys = (0..number).map(|key| Id([key; 16])).collect();
            let kind = EventKind::Registered { peer: peer(), keys };
            assert_eq!(entries(event(kind)).len(), rows, "{number}");
        }
    }

    #[test]
    fn sources_are_accounts_and_networks() {
        let source = |kind| {
            let rows = entries(event(kind));
            (rows[0].class, rows[0].source.clone())
        };
        let address: IpAddr = "2001:db8:1:2:3::4".parse().unwrap();
        let anonymous = EventPeer {
            credential: None,
            account: None,
            address,
            ..peer()
        };
        let tunnel_up = |peer: EventPeer| EventKind::TunnelUp {
            peer,
            tunnel: 1,
            key: Id([1; 16]),
        };
        let network = "2001:db8:1:2::/64".to_owned();
        let expected = (AuditClass::Use, actor(&peer()));
        assert_eq!(source(tunnel_up(peer())), expected);
        let expected = (AuditClass::Use, network.clone());
        assert_eq!(source(tunnel_up(anonymous.clone())), expected);
        let denied = EventKind::LinkDenied {
            peer: anonymous,
            denied: Denied::AccountExpired,
        };
        assert_eq!(source(denied), (AuditClass::Refusal, network.clone()));
        let reason = "the token is wrong".to_owned();
        let refused = EventKind::TokenRefused { address, reason };
        assert_eq!(source(refused), (AuditClass::Refusal, network));
    }
}
