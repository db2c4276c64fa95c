//! A master without links, whose live things the tests choose.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::broadcast;

use super::*;
use crate::{
    master::{
        Block, EventKind, LimitsInForce, LiveLink, LiveTunnel, MasterEvent, MasterStatus,
        StoreProblem,
    },
    policy::{AccountId, Admission, Limits},
};
use report_proto::{frame::Role, id::Id};

/// A master whose live things are data.
pub(super) struct FakeMaster {
    state: Mutex<FakeState>,
    events: broadcast::Sender<MasterEvent>,
}

/// The live things.
#[derive(Default)]
pub(super) struct FakeState {
    pub(super) links: Vec<LiveLink>,
    pub(super) tunnels: Vec<LiveTunnel>,
    pub(super) blocks: Vec<Block>,
    pub(super) limits: Vec<LimitsInForce>,
    pub(super) degraded: Option<StoreProblem>,
    pub(super) is_draining: bool,
    /// Whether there is no room for a further block.
    pub(super) is_full: bool,
    /// The refused tokens: addresses and reasons.
    pub(super) refused_tokens: Vec<(IpAddr, String)>,
}

impl Default for FakeMaster {
    fn default() -> Self {
        FakeMaster {
            state: Mutex::default(),
            events: broadcast::channel(4).0,
        }
    }
}

impl FakeMaster {
    pub(super) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap()
    }

    pub(super) fn send(&self, at: i64) {
        let kind = EventKind::StoreRecovered;
        let _ = self.events.send(MasterEvent { at, kind });
    }

    pub(super) fn streams(&self) -> usize {
        self.events.receiver_count()
    }
}

/// Returns a link of a server.
pub(super) fn link(number: u64, account: i64) -> LiveLink {
    LiveLink {
        number,
        role: Role::Server,
        account: Some(AccountId(account)),
        credential: None,
        instance: Id([9; 16]),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        since: NOW,
        channels: 0,
        keys: vec![key(number)],
        received_bytes: 1,
        sent_bytes: 2,
    }
}

/// Returns a tunnel of a key that an account owns.
pub(super) fn tunnel(number: u64, owner: i64) -> LiveTunnel {
    LiveTunnel {
        number,
        key: key(number),
        label: Some("ssh".to_owned()),
        owner: Some(AccountId(owner)),
        account: None,
        credential: None,
        instance: Id([8; 16]),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        since: NOW,
        links: vec![number],
        channels: 1,
        up_bytes: 1,
        down_bytes: 2,
    }
}

/// Returns the limits of a subject.
pub(super) fn limits(kind: &str, id: &str) -> LimitsInForce {
    LimitsInForce {
        kind: kind.to_owned(),
        id: id.to_owned(),
        name: None,
        limits: Limits::default(),
        links: 1,
        tunnels: 1,
        is_stopped: false,
        throttled_up_seconds: 0,
        throttled_down_seconds: 0,
    }
}

/// Returns the key id of a link or a tunnel.
pub(super) fn key(number: u64) -> Id {
    Id(u128::from(number).to_be_bytes())
}

impl AdministeredMaster for FakeMaster {
    fn links(&self) -> Vec<LiveLink> {
        self.state().links.clone()
    }

    fn tunnels(&self) -> Vec<LiveTunnel> {
        self.state().tunnels.clone()
    }

    fn end_link(&self, link: u64) -> bool {
        let mut state = self.state();
        let links = &mut state.links;
        let before = links.len();
        links.retain(|found| found.number != link);
        links.len() < before
    }

    fn end_tunnel(&self, tunnel: u64) -> bool {
        let mut state = self.state();
        let tunnels = &mut state.tunnels;
        let before = tunnels.len();
        tunnels.retain(|found| found.number != tunnel);
        tunnels.len() < before
    }

    fn block_link(&self, link: u64, time: Duration) -> Option<Block> {
        let is_full = self.state().is_full;
        let is_ended = !is_full && self.end_link(link);
        is_ended.then(|| self.add_block(time))
    }

    fn block_tunnel(&self, tunnel: u64, time: Duration) -> Option<Block> {
        let is_full = self.state().is_full;
        let is_ended = !is_full && self.end_tunnel(tunnel);
        is_ended.then(|| self.add_block(time))
    }

    fn blocks(&self) -> Vec<Block> {
        self.state().blocks.clone()
    }

    fn unblock(&self, block: u64) -> bool {
        let mut state = self.state();
        let blocks = &mut state.blocks;
        let before = blocks.len();
        blocks.retain(|found| found.number != block);
        blocks.len() < before
    }

    fn limits(&self) -> Vec<LimitsInForce> {
        self.state().limits.clone()
    }

    fn report_refused_token(&self, address: IpAddr, reason: String) {
        self.state().refused_tokens.push((address, reason));
    }

    fn events(&self) -> broadcast::Receiver<MasterEvent> {
        self.events.subscribe()
    }

    fn status(&self) -> MasterStatus {
        let state = self.state();
        MasterStatus {
            version: "1.2.3".to_owned(),
            admission: Admission::Open,
            store: None,
            degraded: state.degraded.clone(),
            is_draining: state.is_draining,
            links: 0,
            tunnels: 0,
        }
    }

    fn store(&self) -> Option<Arc<Store>> {
        None
    }
}

impl FakeMaster {
    fn add_block(&self, time: Duration) -> Block {
        let block = Block {
            number: 7,
            credential: None,
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            master_key: false,
            key: None,
            until: NOW + i64::try_from(time.as_secs()).unwrap(),
        };
        self.state().blocks.push(block.clone());
        block
    }
}
