//! The links of each slot: which one may register, and which ones end when another one arrives.

use super::{AuthenticatedLink, LinkEntry, Registry, Superseded};
use crate::{master::limits::LinkNumber, policy::AccountId};
use report_proto::{
    frame::{Role, Slot},
    id::Id,
};

/// Identifies a slot among those of all instances. Newer links take over within it. The role and the
/// account are part of the key, because instance ids are no secrets: neither a client nor another
/// account can take over a server by using its instance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SlotKey {
    pub(super) account: Option<AccountId>,
    pub(super) role: Role,
    pub(super) instance: Id,
    pub(super) slot: Slot,
}

/// The links of one slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotLinks {
    /// The link that may register key ids.
    newest: LinkNumber,
    /// The older link that keeps its channels, during a handover.
    older: Option<LinkNumber>,
}

impl<L> LinkEntry<L> {
    /// Whether the role uses the link. Channels alone do not show that: those of a first flight are
    /// open even if the role never received WELCOME.
    fn is_in_use(&self) -> bool {
        self.channels > 0 && self.has_sent_data
    }
}

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Adds an authenticated link. The previous link of the slot loses its registrations. With
    /// `moves`, one older link keeps its channels. Returns the older links that the caller must end.
    pub(in crate::master) fn add_link(
        &mut self,
        new_link: AuthenticatedLink<L>,
    ) -> Result<Vec<L>, Superseded> {
        let AuthenticatedLink {
            link, epoch, moves, ..
        } = new_link;
        let key = new_link.key();
        let previous = self.slots.get(&key).copied();
        if let Some(entry) = previous.and_then(|previous| self.links.get(&previous.newest))
            && entry.epoch >= epoch
        {
            return Err(Superseded(entry.epoch));
        }
        let older = previous
            .filter(|_| moves)
            .map(|previous| self.link_to_keep(previous));
        let newest = link;
        self.slots.insert(key, SlotLinks { newest, older });
        self.links.insert(link, LinkEntry::new(new_link));
        let Some(previous) = previous else {
            return Ok(Vec::new());
        };
        // Without registrations, the previous link gets no new channels, even if it stays open.
        self.inherit(previous.newest, link);
        let ended = previous
            .older
            .into_iter()
            .chain([previous.newest])
            .filter(|number| Some(*number) != older);
        Ok(ended
            .filter_map(|number| self.links.get(&number))
            .map(|entry| entry.handle.clone())
            .collect())
    }

    /// Returns the link of a slot that stays beside a new one: the newest, unless only the older one
    /// is in use. The newest may be dead, or an attempt that failed at the role only (PROTOCOL 5.2).
    fn link_to_keep(&self, links: SlotLinks) -> LinkNumber {
        let is_in_use = |link: &LinkNumber| self.links.get(link).is_some_and(LinkEntry::is_in_use);
        links
            .older
            .filter(|older| is_in_use(older) && !is_in_use(&links.newest))
            .unwrap_or(links.newest)
    }

    /// Records that the role has sent DATA on the link.
    pub(in crate::master) fn on_data(&mut self, link: LinkNumber) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.has_sent_data = true;
        }
    }

    /// Removes a link from those of its slot.
    pub(super) fn forget_link(&mut self, key: SlotKey, link: LinkNumber) {
        let Some(slot_links) = self.slots.get_mut(&key) else {
            return;
        };
        if slot_links.newest != link {
            slot_links.older.take_if(|older| *older == link);
        } else if let Some(older) = slot_links.older.take() {
            // The handover target is lost, so the older link may register again.
            slot_links.newest = older;
        } else {
            self.slots.remove(&key);
        }
    }

    /// Whether this is the newest link of its slot.
    pub(super) fn is_current(&self, link: LinkNumber) -> bool {
        self.links
            .get(&link)
            .and_then(|entry| self.slots.get(&entry.key))
            .is_some_and(|slot_links| slot_links.newest == link)
    }
}
