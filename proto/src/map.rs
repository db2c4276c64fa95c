//! Hash tables for several look-ups per message.

use std::collections::HashMap;

/// A hash table for short keys. The standard library's hash function would take a sixth of a
/// client's work for a small message (counted in instructions). This one is also seeded at random,
/// so that a peer cannot choose keys that collide.
pub type Map<Key, Value> = HashMap<Key, Value, foldhash::fast::RandomState>;
