//! Writes the events of a master into the audit log of its database: registrations, tunnels, links and
//! tokens that are refused, and quotas. Changes of records are part of their transaction (`Change::record`).
//!
//! ```text
//!  Events ──bounded──► AuditBatch ──each second──► database
//!    └─ too many, or the database is away for long: dropped and counted
//! ```

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    events::{EventKind, EventPeer, MasterEvent},
    policies::Clock,
};
use crate::{
    policy::{Denied, LimitSubject},
    store::{AuditEntry, AuditRow, Store},
};
use report_proto::id::Id;

/// The time between two batches.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The time within which equal events are counted instead of repeated, in seconds.
const REPEAT_TIME: i64 = 60;

/// The most events that wait for the database.
const MAX_WAITING: usize = 4_096;

/// The most different events whose repetitions are counted. Others are repeated.
const MAX_RECENT: usize = 4_096;

/// The most rows of one registration. A larger one is a single row.
const MAX_KEYS: usize = 16;

/// How long the end of a master waits for the database.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes events into the audit log.
#[derive(Debug)]
pub(super) struct AuditWriter {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    dropped: AtomicU64,
}

impl AuditWriter {
    /// Creates a writer.
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(AuditWriter {
            store,
            clock,
            dropped: AtomicU64::new(0),
        })
    }

    /// Returns how many events were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Writes events until `ended` is cancelled, and then those that are left.
    ///
    /// # Cancel safety
    /// A dropped future loses the events of the last second.
    pub(super) async fn run(&self, mut events: Receiver<MasterEvent>, ended: CancellationToken) {
        let mut batch = AuditBatch::default();
        let writing = self.write_batches(&mut events, &mut batch);
        ended.run_until_cancelled(writing).await;
        loop {
            match events.try_recv() {
                Ok(event) => self.add(&mut batch, event),
                Err(TryRecvError::Lagged(missed)) => self.count_dropped(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        batch.end_repetitions();
        let written = timeout(FINISH_TIMEOUT, self.write(&mut batch));
        if written.await.is_err() {
            warn!("events of the last second are not in the audit log");
        }
    }

    async fn write_batches(&self, events: &mut Receiver<MasterEvent>, batch: &mut AuditBatch) {
        let mut batches = interval(BATCH_INTERVAL);
        batches.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.add(batch, event),
                    Err(RecvError::Lagged(missed)) => self.count_dropped(missed),
                    Err(RecvError::Closed) => return,
                },
                _ = batches.tick() => {
                    batch.end_old_repetitions(self.clock.seconds());
                    self.write(batch).await;
                }
            }
        }
    }

    fn add(&self, batch: &mut AuditBatch, event: MasterEvent) {
        for entry in entries(event) {
            if !batch.add(entry) {
                self.count_dropped(1);
            }
        }
    }

    fn count_dropped(&self, events: u64) {
        self.dropped.fetch_add(events, Relaxed);
    }

    /// Writes the events that wait. They stay if the database is away.
    async fn write(&self, batch: &mut AuditBatch) {
        match self.store.write_audit_rows(&batch.waiting).await {
            Ok(()) => batch.waiting.clear(),
            Err(error) if error.is_away() => debug!(%error, "audit log not written"),
            Err(error) => {
                warn!(%error, "audit log not written");
                // The database refuses these events, and would refuse them again.
                self.count_dropped(batch.waiting.len() as u64);
                batch.waiting.clear();
            }
        }
    }
}

/// The events that wait for the database, and the repetitions of recent ones.
#[derive(Debug, Default)]
struct AuditBatch {
    /// A batch whose answer was lost is written again, in the same places.
    waiting: Vec<AuditRow>,
    /// Recent events without their times, with the time of the first one and the number of others.
    recent: HashMap<AuditEntry, (i64, u32)>,
}

impl AuditBatch {
    /// Adds an event. Returns `false` if it is dropped, because too many wait.
    fn add(&mut self, entry: AuditEntry) -> bool {
        let happened = entry.happened;
        let timeless = AuditEntry {
            happened: 0,
            ..entry.clone()
        };
        if let Some((_, repeats)) = self.recent.get_mut(&timeless) {
            *repeats = repeats.saturating_add(1);
            return true;
        }
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push(AuditRow::new(entry));
        if self.recent.len() < MAX_RECENT {
            self.recent.insert(timeless, (happened, 0));
        }
        true
    }

    /// Makes a row of the repetitions of each event that happened a minute ago.
    fn end_old_repetitions(&mut self, now: i64) {
        let is_old = |first: i64| now.saturating_sub(first) >= REPEAT_TIME || first > now;
        self.end_repetitions_of(is_old);
    }

    /// Makes a row of the repetitions of each event.
    fn end_repetitions(&mut self) {
        self.end_repetitions_of(|_| true);
    }

    fn end_repetitions_of(&mut self, is_ended: impl Fn(i64) -> bool) {
        let ended = self.recent.extract_if(|_, (first, _)| is_ended(*first));
        // The number of recent events bounds these rows too.
        let rows = ended.filter_map(|(entry, (first, repeats))| {
            let repeats = repeats.checked_sub(1)?;
            Some(AuditEntry {
                happened: first,
                repeats,
                ..entry
            })
        });
        self.waiting.extend(rows.map(AuditRow::new));
    }
}

/// Returns the rows of an event.
fn entries(event: MasterEvent) -> Vec<AuditEntry> {
    let at = event.at;
    let denied = |denied: Denied| denied.code().to_owned();
    match event.kind {
        EventKind::LinkDenied { peer, denied: why } => {
            vec![of_peer(at, &peer, "link.denied", None, denied(why))]
        }
        EventKind::Registered { peer, keys } => registered(at, &peer, &keys),
        EventKind::RegistrationDenied {
            peer,
            key,
            denied: why,
        } => vec![of_peer(
            at,
            &peer,
            "registration.denied",
            Some(key),
            denied(why),
        )],
        EventKind::TunnelUp { peer, key, .. } => {
            vec![of_peer(at, &peer, "tunnel.up", Some(key), String::new())]
        }
        EventKind::AttachDenied {
            peer,
            key,
            denied: why,
        } => vec![of_peer(
            at,
            &peer,
            "attachment.denied",
            Some(key),
            denied(why),
        )],
        EventKind::LinkRefused { address, reason } => {
            vec![of_stranger(at, address, "link.refused", reason)]
        }
        EventKind::TokenRefused { address, reason } => {
            vec![of_stranger(at, address, "token.refused", reason)]
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
        EventKind::LinkUp { .. }
        | EventKind::LinkEnded { .. }
        | EventKind::TunnelEnded { .. }
        | EventKind::PoliciesChanged { .. }
        | EventKind::StoreDegraded { .. }
        | EventKind::StoreRecovered => Vec::new(),
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
        entries(event(kind)).remove(0)
    }

    fn waiting(batch: &AuditBatch) -> Vec<AuditEntry> {
        let rows = batch.waiting.iter();
        rows.map(|row| row.entry.clone()).collect()
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
        let row = entries(event(kind)).remove(0);
        assert_eq!((&*row.actor, &*row.detail), ("client", "account_expired"));
        assert!(entries(event(EventKind::StoreRecovered)).is_empty());
        let kind = EventKind::TokenRefused {
            address: [192, 0, 2, 8].into(),
            reason: "the token is wrong".to_owned(),
        };
        let row = entries(event(kind)).remove(0);
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
    fn repetitions_within_a_minute_are_one_row() {
        let mut batch = AuditBatch::default();
        for seconds in [0, 1, 2, 59] {
            let happened = NOW + seconds;
            assert!(batch.add(AuditEntry {
                happened,
                ..tunnel(1)
            }));
        }
        assert!(batch.add(tunnel(2)));
        assert_eq!(waiting(&batch), [tunnel(1), tunnel(2)]);
        batch.waiting.clear();
        batch.end_old_repetitions(NOW + 59);
        assert!(batch.waiting.is_empty());
        batch.end_old_repetitions(NOW + 60);
        let repeated = AuditEntry {
            repeats: 2,
            ..tunnel(1)
        };
        assert_eq!(waiting(&batch), [repeated]);
        assert!(batch.add(tunnel(1)));
        assert_eq!(batch.waiting.len(), 2);
    }

    #[test]
    fn events_beyond_the_bound_are_dropped() {
        let mut batch = AuditBatch::default();
        let entry = |number: usize| AuditEntry {
            detail: number.to_string(),
            ..tunnel(1)
        };
        for number in 0..MAX_WAITING {
            assert!(batch.add(entry(number)));
        }
        assert!(!batch.add(entry(MAX_WAITING)));
        assert!(batch.add(entry(0)), "a repetition takes no room");
        batch.end_repetitions();
        assert_eq!(batch.waiting.len(), MAX_WAITING + 1);
    }
}
