//! The peers that the operator has blocked for a while. A master keeps them in memory only: a block
//! for ever is a disabled account or key, or a revoked credential.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    master::{
        administered::Block,
        identity::Identity,
        router::{LinkRef, Router},
    },
    policy::{CredentialId, Denied},
    throttle::party,
};
use report_proto::id::Id;

/// The most blocks. Each decision about a link or an attachment visits all of them.
const MAX_BLOCKS: usize = 256;

/// The blocks of a master.
#[derive(Debug, Default)]
pub(in crate::master) struct Blocks(Mutex<BlockTable>);

#[derive(Debug, Default)]
struct BlockTable {
    last: u64,
    blocks: Vec<Block>,
}

impl Blocks {
    /// Blocks a peer, at one key or everywhere, until a time. Returns `None` if there are too many
    /// blocks.
    pub(in crate::master) fn add(
        &self,
        identity: Identity,
        address: IpAddr,
        key: Option<Id>,
        [now, until]: [i64; 2],
    ) -> Option<Block> {
        let mut table = self.table();
        table.blocks.retain(|block| block.until > now);
        if table.blocks.len() >= MAX_BLOCKS {
            return None;
        }
        table.last = table.last.saturating_add(1);
        let credential = identity.credential().map(CredentialId);
        let block = Block {
            number: table.last,
            credential,
            address: credential.is_none().then(|| party(address)),
            master_key: identity == Identity::MasterKey,
            key,
            until,
        };
        table.blocks.push(block.clone());
        Some(block)
    }

    /// Removes a block. Returns whether it existed.
    pub(in crate::master) fn remove(&self, number: u64) -> bool {
        let mut table = self.table();
        let before = table.blocks.len();
        table.blocks.retain(|block| block.number != number);
        table.blocks.len() < before
    }

    /// Returns the blocks in force.
    pub(in crate::master) fn all(&self, now: i64) -> Vec<Block> {
        let table = self.table();
        let blocks = table.blocks.iter().filter(|block| block.until > now);
        blocks.cloned().collect()
    }

    /// Checks that a peer is not blocked, everywhere or at this key.
    pub(in crate::master) fn check(
        &self,
        identity: Identity,
        address: IpAddr,
        key: Option<Id>,
        now: i64,
    ) -> Result<(), Denied> {
        let table = self.table();
        let credential = identity.credential().map(CredentialId);
        let is_blocked = table.blocks.iter().any(|block| {
            let is_peer = match credential {
                Some(_) => block.credential == credential,
                None => {
                    block.address == Some(party(address))
                        && block.master_key == (identity == Identity::MasterKey)
                }
            };
            is_peer && block.until > now && (block.key.is_none() || block.key == key)
        });
        drop(table);
        if is_blocked {
            Err(Denied::Blocked)
        } else {
            Ok(())
        }
    }

    fn table(&self) -> MutexGuard<'_, BlockTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Router {
    /// Ends the links of blocked peers. The task of a link that is entered at the same time decides
    /// about it again.
    pub(in crate::master) fn end_blocked_links(&self) {
        let (blocks, now) = (&self.policies.blocks, self.policies.clock().seconds());
        let registry = self.registry();
        let links = registry.handles().map(|(_, link)| link);
        let blocked = links.filter(|link| {
            let peer = &link.peer;
            let checked = blocks.check(peer.identity, peer.visitor, None, now);
            checked.is_err()
        });
        let blocked: Vec<Arc<LinkRef>> = blocked.cloned().collect();
        drop(registry);
        for link in blocked {
            self.end_denied(&link, Denied::Blocked);
        }
    }

    /// Closes the tunnels of blocked clients to a key.
    pub(in crate::master) fn close_blocked_tunnels(&self, key: Id) {
        let (blocks, now) = (&self.policies.blocks, self.policies.clock().seconds());
        for (_, pair) in self.live.pairs_of([key], []) {
            let peer = pair.client();
            let checked = blocks.check(peer.identity, peer.visitor, Some(key), now);
            if let Err(denied) = checked {
                self.close_denied(&pair, key, denied);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::AccountId;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const KEY: Id = Id([7; 16]);

    fn with_credential(byte: u8) -> Identity {
        Identity::Credential {
            id: Id([byte; 16]),
            account: AccountId(2),
        }
    }

    #[test]
    fn a_block_names_the_credential_or_else_the_address() {
        let blocks = Blocks::default();
        let block = blocks.add(with_credential(1), HERE, None, [10, 20]);
        assert_eq!(block.map(|block| block.address), Some(None));
        blocks.add(Identity::Anonymous, HERE, None, [10, 20]);
        let check = |identity, address| blocks.check(identity, address, None, 10);
        assert_eq!(check(with_credential(1), ELSEWHERE), Err(Denied::Blocked));
        assert_eq!(check(with_credential(2), HERE), Ok(()));
        assert_eq!(check(Identity::Anonymous, HERE), Err(Denied::Blocked));
        assert_eq!(check(Identity::MasterKey, HERE), Ok(()), "a server");
        assert_eq!(check(Identity::Anonymous, ELSEWHERE), Ok(()));
    }

    #[test]
    fn a_block_ends_with_its_time_or_its_removal() {
        let blocks = Blocks::default();
        let first = blocks
            .add(Identity::Anonymous, HERE, None, [10, 20])
            .unwrap();
        let check = |now| blocks.check(Identity::Anonymous, HERE, None, now);
        assert_eq!(check(19), Err(Denied::Blocked));
        assert_eq!(check(20), Ok(()));
        assert!(blocks.remove(first.number));
        assert!(!blocks.remove(first.number));
        assert_eq!(check(19), Ok(()));
        assert_eq!(blocks.all(0), []);
    }

    #[test]
    fn a_block_of_one_key_leaves_the_others() {
        let blocks = Blocks::default();
        blocks.add(Identity::Anonymous, HERE, Some(KEY), [10, 20]);
        let check = |key| blocks.check(Identity::Anonymous, HERE, key, 10);
        assert_eq!(check(Some(KEY)), Err(Denied::Blocked));
        assert_eq!(check(Some(Id([8; 16]))), Ok(()));
        assert_eq!(check(None), Ok(()), "the link is admitted");
    }

    #[test]
    fn the_number_of_blocks_is_bounded_and_expired_ones_make_room() {
        let blocks = Blocks::default();
        let add = |now| blocks.add(Identity::Anonymous, HERE, None, [now, now + 10]);
        for _ in 0..MAX_BLOCKS {
            assert!(add(10).is_some());
        }
        assert_eq!(add(10), None);
        assert!(add(20).is_some());
        assert_eq!(blocks.all(20).len(), 1);
    }
}
