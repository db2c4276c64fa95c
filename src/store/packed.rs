//! The text of many buckets of usage: a few bytes for each bucket, and none for idle ones.
//!
//! ```text
//!  version ─ index of the first bucket ─ unit of up, of down ─ rest of up, of down ─ runs …
//!  run: idle buckets before it ─ number of its buckets ─ (up, down) of each bucket, in units
//! ```
//!
//! All numbers are LEB128, and the text is base64. A bucket is rounded to a unit that is a power of
//! two, so that the largest one takes two bytes in each direction. What the rounding takes away is
//! added to the next bucket, and the rest of the last one is stored. So sums over all buckets are
//! exact, and a single bucket is accurate to one part in 8,192 of the largest one.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};

use crate::policy::Moved;

/// The version of the layout.
const VERSION: u64 = 1;

/// The bits of the largest bucket in units: two bytes of LEB128.
const UNIT_BITS: u32 = 14;

/// The most buckets of a text, so that an invalid one cannot exhaust the memory.
const MAX_BUCKETS: u64 = 100_000;

/// Buckets by their index, which is their time divided by the length of a bucket.
pub(super) type Buckets = BTreeMap<i64, Moved>;

/// Returns the text of buckets. Idle ones are left out.
pub(super) fn pack(buckets: &Buckets) -> String {
    let idle = Moved::default();
    let busy = || buckets.iter().filter(move |(_, moved)| **moved != idle);
    let Some((first, _)) = busy().next() else {
        return String::new();
    };
    let mut up = Rounding::new(busy().map(|(_, moved)| moved.up));
    let mut down = Rounding::new(busy().map(|(_, moved)| moved.down));
    let mut runs: Vec<Run> = Vec::new();
    let mut expected = *first;
    for (index, moved) in busy() {
        if runs.is_empty() || *index != expected {
            let idle = index.saturating_sub(expected);
            runs.push(Run {
                idle: u64::try_from(idle).unwrap_or_default(),
                values: Vec::new(),
            });
        }
        if let Some(run) = runs.last_mut() {
            run.values
                .push([up.units(moved.up), down.units(moved.down)]);
        }
        expected = index.saturating_add(1);
    }
    let mut bytes = Vec::new();
    let first = u64::try_from(*first).unwrap_or_default();
    let (up_bits, down_bits) = (u64::from(up.shift), u64::from(down.shift));
    for number in [VERSION, first, up_bits, down_bits, up.carry, down.carry] {
        put(&mut bytes, number);
    }
    for run in runs {
        put(&mut bytes, run.idle);
        put(&mut bytes, run.values.len() as u64);
        let values = run.values.into_iter().flatten();
        values.for_each(|value| put(&mut bytes, value));
    }
    BASE64.encode(bytes)
}

/// Returns the buckets of a text, or `None` if it is invalid.
pub(super) fn unpack(text: &str) -> Option<Buckets> {
    let mut buckets = Buckets::new();
    if text.is_empty() {
        return Some(buckets);
    }
    let bytes = BASE64.decode(text).ok()?;
    let mut input = &*bytes;
    if take(&mut input)? != VERSION {
        return None;
    }
    let mut next = i64::try_from(take(&mut input)?).ok()?;
    let shifts = [take(&mut input)?, take(&mut input)?].map(|shift| u32::try_from(shift).ok());
    let [Some(up), Some(down)] = shifts else {
        return None;
    };
    let rest = [take(&mut input)?, take(&mut input)?];
    let mut count = 0_u64;
    while !input.is_empty() {
        let idle = i64::try_from(take(&mut input)?).ok()?;
        next = next.checked_add(idle)?;
        let length = take(&mut input)?;
        count = count.checked_add(length)?;
        if count > MAX_BUCKETS {
            return None;
        }
        for _ in 0..length {
            let moved = Moved {
                up: scaled(take(&mut input)?, up)?,
                down: scaled(take(&mut input)?, down)?,
            };
            buckets.insert(next, moved);
            next = next.checked_add(1)?;
        }
    }
    let mut last = buckets.last_entry()?;
    let [up, down] = rest;
    last.get_mut().up = last.get().up.checked_add(up)?;
    last.get_mut().down = last.get().down.checked_add(down)?;
    Some(buckets)
}

/// Consecutive buckets that are not idle.
struct Run {
    /// The idle buckets before them.
    idle: u64,
    /// The units of each direction.
    values: Vec<[u64; 2]>,
}

/// Rounds the numbers of one direction, and passes what it takes away on to the next number.
struct Rounding {
    shift: u32,
    carry: u64,
}

impl Rounding {
    fn new(values: impl Iterator<Item = u64>) -> Self {
        let largest = values.max().unwrap_or_default();
        let bits = u64::BITS.saturating_sub(largest.leading_zeros());
        let shift = bits.saturating_sub(UNIT_BITS);
        Rounding { shift, carry: 0 }
    }

    /// Returns the units of the next number.
    fn units(&mut self, value: u64) -> u64 {
        let value = value.saturating_add(self.carry);
        let units = value.checked_shr(self.shift).unwrap_or_default();
        let whole = units.checked_shl(self.shift).unwrap_or_default();
        self.carry = value.saturating_sub(whole);
        units
    }
}

/// Returns the bytes of a number of units.
fn scaled(units: u64, shift: u32) -> Option<u64> {
    let value = units.checked_shl(shift)?;
    (value.checked_shr(shift)? == units).then_some(value)
}

/// Appends a number.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number = number.checked_shr(7).unwrap_or_default();
        if number == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Takes a number from the start of the input.
fn take(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= scaled(u64::from(byte & 0x7f), shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buckets(values: &[(i64, u64, u64)]) -> Buckets {
        let bucket = |(index, up, down): &(i64, u64, u64)| {
            let (up, down) = (*up, *down);
            (*index, Moved { up, down })
        };
        values.iter().map(bucket).collect()
    }

    fn sum(buckets: &Buckets) -> (u64, u64) {
        let sum = |of: fn(&Moved) -> u64| buckets.values().map(of).sum();
        (sum(|moved| moved.up), sum(|moved| moved.down))
    }

    #[test]
    fn small_numbers_are_exact() {
        let values = buckets(&[(7, 1, 0), (8, 16_383, 2), (20, 0, 5), (21, 300, 40)]);
        assert_eq!(unpack(&pack(&values)), Some(values));
        assert_eq!(unpack(&pack(&Buckets::new())), Some(Buckets::new()));
    }

    #[test]
    fn idle_buckets_take_no_room() {
        let idle = buckets(&[(7, 1, 1), (8, 0, 0), (9, 1, 1)]);
        let unpacked = unpack(&pack(&idle)).unwrap();
        assert_eq!(unpacked, buckets(&[(7, 1, 1), (9, 1, 1)]));
        assert_eq!(pack(&buckets(&[(7, 0, 0)])), "");
    }

    #[test]
    fn two_days_of_busy_minutes_take_16_kib() {
        let busy: Buckets = (0..2_880)
            .map(|index| {
                let up = 123_456_789 + u64::try_from(index).unwrap() * 77_777;
                let moved = Moved { up, down: up * 9 };
                (29_000_000 + index, moved)
            })
            .collect();
        let text = pack(&busy);
        assert!(text.len() <= 16 * 1024, "{}", text.len());
        assert_eq!(sum(&unpack(&text).unwrap()), sum(&busy));
    }

    #[test]
    fn invalid_texts_are_refused() {
        let valid = pack(&buckets(&[(7, 1, 2), (9, 300, 4)]));
        assert_eq!(unpack("not base64!"), None);
        for length in 1..valid.len() {
            // A text may end between two runs, but then with fewer buckets.
            let shorter = valid.get(..length).and_then(unpack);
            assert_ne!(shorter, unpack(&valid), "{length}");
        }
        let mut bytes = Vec::new();
        for number in [VERSION, 1, 0, 0, 0, 0, 0, u64::MAX] {
            put(&mut bytes, number);
        }
        assert_eq!(unpack(&BASE64.encode(&bytes)), None, "too many buckets");
        let mut bytes = Vec::new();
        for number in [VERSION + 1, 1, 0, 0, 0, 0, 0, 0] {
            put(&mut bytes, number);
        }
        assert_eq!(unpack(&BASE64.encode(&bytes)), None, "another version");
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_buckets_are_close(
            values in prop::collection::btree_map(
                0_i64..5_000,
                (0_u64..1 << 45, 0_u64..1 << 20).prop_map(|(up, down)| Moved { up, down }),
                0..200,
            ),
        ) {
            let unpacked = unpack(&pack(&values)).expect("a valid text");
            prop_assert_eq!(sum(&unpacked), sum(&values));
            let largest = values.values().map(|moved| moved.up).max().unwrap_or(0);
            for (index, moved) in &values {
                let found = unpacked.get(index).copied().unwrap_or_default();
                // The last bucket also gets the rest of all.
                prop_assert!(found.up.abs_diff(moved.up) <= (largest >> 13) + 1);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&BASE64.encode(&bytes));
        }
    }
}
