//! Tables that are looked up several times for every message.

use std::collections::HashMap;

/// A hash table for short keys. The standard library's hash would take a sixth of what a client does for a small message (counted in instructions).
/// This one is seeded at random too, so that a peer who chooses the keys cannot choose collisions.
pub type Map<Key, Value> = HashMap<Key, Value, foldhash::fast::RandomState>;
