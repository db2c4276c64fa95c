//! The order in which the children of one node are served: start-time fair queueing (Goyal, Vin and
//! Cheng, 1996).
//!
//! Each child has a *finish tag*: the virtual time at which its last message would end if every
//! child had its share alone. The child with the earliest *start tag* is next. The start tag is the
//! finish tag, but no earlier than the virtual time of the queue, so a pause saves up nothing.
//!
//! The data path uses deficit round robin (`report_proto::drr`) instead. It forgets the credit of a
//! sender that leaves the round. Here a sender leaves it after every grant until its link asks
//! again, so the credit would be lost each time. A tag stays with its node.

use std::collections::BTreeSet;

/// A point in virtual time: bytes per unit of weight, in units of 1 / [`TAG_SCALE`].
pub(super) type Tag = u128;

/// The precision of a tag, so that large weights divide small messages without loss.
const TAG_SCALE: u128 = 1 << 32;

/// Returns the virtual time that `bytes` take for a child with this weight.
pub(super) fn tag_cost(bytes: u64, weight: u32) -> Tag {
    u128::from(bytes).saturating_mul(TAG_SCALE) / u128::from(weight.max(1))
}

/// The children that wait, in the order of service.
#[derive(Debug)]
pub(super) struct FairQueue<K> {
    waiting: BTreeSet<(Tag, K)>,
    /// The start tag of the child that was served last.
    virtual_time: Tag,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        FairQueue {
            waiting: BTreeSet::new(),
            virtual_time: 0,
        }
    }
}

impl<K: Copy + Ord> FairQueue<K> {
    /// Adds a child with this finish tag. Returns its start tag.
    pub(super) fn add(&mut self, child: K, finish: Tag) -> Tag {
        let start = finish.max(self.virtual_time);
        self.waiting.insert((start, child));
        start
    }

    /// Removes a child that was added with this start tag.
    pub(super) fn remove(&mut self, child: K, start: Tag) {
        self.waiting.remove(&(start, child));
    }

    /// Returns the child that is next.
    pub(super) fn first(&self) -> Option<K> {
        self.waiting.first().map(|(_, child)| *child)
    }

    /// Serves a child that was added with this start tag: removes it and advances the virtual time.
    pub(super) fn serve(&mut self, child: K, start: Tag) {
        self.remove(child, start);
        self.virtual_time = self.virtual_time.max(start);
    }

    /// Whether no child waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that always waits, with its weight, the length of its messages, and its tags.
    struct Backlogged {
        weight: u32,
        length: u64,
        start: Tag,
        sent: u64,
    }

    /// Serves children that always wait until they have sent `total` bytes together. Each leaves the
    /// queue after a message and returns at once.
    fn serve(children: &mut [Backlogged], total: u64) {
        let mut queue = FairQueue::default();
        for (number, child) in children.iter_mut().enumerate() {
            child.start = queue.add(number, 0);
        }
        while children.iter().map(|child| child.sent).sum::<u64>() < total {
            let number = queue.first().unwrap();
            let child = &mut children[number];
            queue.serve(number, child.start);
            child.sent += child.length;
            let finish = child.start + tag_cost(child.length, child.weight);
            child.start = queue.add(number, finish);
        }
    }

    fn backlogged(weight: u32, length: u64) -> Backlogged {
        Backlogged {
            weight,
            length,
            start: 0,
            sent: 0,
        }
    }

    #[test]
    fn children_share_by_weight_for_any_length_of_message() {
        let mut children = [
            backlogged(1, 65_536),
            backlogged(1, 100),
            backlogged(3, 1_000),
        ];
        serve(&mut children, 50_000_000);
        for child in &children {
            let expected = 10_000_000 * u64::from(child.weight);
            let difference = child.sent.abs_diff(expected);
            assert!(difference <= 2 * 65_536, "{} of {expected}", child.sent);
        }
    }

    #[test]
    fn child_that_waits_again_precedes_busy_ones_once() {
        let mut queue = FairQueue::default();
        let mut start = queue.add("bulk", 0);
        for _ in 0..100 {
            queue.serve("bulk", start);
            start = queue.add("bulk", start + tag_cost(1_000, 1));
        }
        let late = queue.add("late", 0);
        assert_eq!(queue.first(), Some("late"));
        queue.serve("late", late);
        // Its pause has saved up nothing.
        queue.add("late", late + tag_cost(2_000, 1));
        assert_eq!(queue.first(), Some("bulk"));
    }

    #[test]
    fn removed_child_is_not_served() {
        let mut queue = FairQueue::default();
        let start = queue.add(1, 0);
        queue.add(2, 5);
        queue.remove(1, start);
        assert_eq!(queue.first(), Some(2));
        assert!(!queue.is_empty());
        queue.remove(2, 5);
        assert!(queue.is_empty());
    }

    #[test]
    fn extreme_weights_are_harmless() {
        assert_eq!(tag_cost(7, 0), tag_cost(7, 1));
        assert!(tag_cost(1, u32::MAX) > 0);
        assert!(tag_cost(u64::MAX, 1) > tag_cost(u64::MAX, 2));
    }
}
