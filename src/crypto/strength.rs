//! How hard a key is to guess, for warnings; and making one that cannot be guessed.

/// Keys below this many estimated bits are called weak: with Argon2id at 20 ms a guess, 2^64 of them take a million machines longer
/// than ten thousand years.
pub const GOOD_BITS: u32 = 64;

/// Characters of a key from [`generate`]: the fewest base-62 digits that hold 256 bits.
pub const GENERATED_LENGTH: usize = 43;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What [`strength`] thinks of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// It may be guessed.
    Weak {
        /// The estimate, in bits.
        bits: u32,
    },
    /// At least [`GOOD_BITS`].
    Good,
}

/// Estimates how hard `key` is to guess for somebody who tries character by character.
///
/// The estimate is the number of characters that say something times the bits of one character. A character says something unless it
/// repeats the one before it, continues a run from it (`abc`, `321`), or stands in a part of the key that was there before (`abcabc`).
/// One character has log2 of the size of the classes that occur: 26 for lower case, 26 for upper case, 10 for digits, 33 for other
/// ASCII, 1000 for anything else. Words are not looked up, so that `rePortserver` is judged by its letters: the estimate is an upper
/// bound, and a warning is always right.
#[must_use]
pub fn strength(key: &str) -> Strength {
    let characters: Vec<char> = key.chars().collect();
    let telling = telling_characters(&characters);
    let bits = (telling as f64 * alphabet(&characters).log2())
        .floor()
        .max(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturating is right, and it is not negative"
    )]
    match bits as u32 {
        bits if bits >= GOOD_BITS => Strength::Good,
        bits => Strength::Weak { bits },
    }
}

/// A key of 256 bits out of `entropy`: the number that its bytes are (big-endian), written in base 62 with the digits `0-9A-Za-z`, the
/// highest first, padded with `0` to [`GENERATED_LENGTH`] characters. It needs no quoting in JSON, in a shell or in a URL.
#[must_use]
pub fn generate(entropy: [u8; 32]) -> String {
    let mut number = entropy;
    let mut digits: Vec<char> = std::iter::repeat_with(|| char::from(take_digit(&mut number)))
        .take(GENERATED_LENGTH)
        .collect();
    digits.reverse();
    digits.into_iter().collect()
}

/// Divides the number by 62 in place, and returns the digit that is left over.
fn take_digit(number: &mut [u8; 32]) -> u8 {
    let mut rest = 0_u16;
    for byte in number.iter_mut() {
        let value = (rest << 8) | u16::from(*byte);
        *byte = (value / 62).to_be_bytes()[1];
        rest = value % 62;
    }
    DIGITS.get(usize::from(rest)).copied().unwrap_or(b'0')
}

/// The size of the alphabet that the characters seem to be drawn from.
fn alphabet(characters: &[char]) -> f64 {
    type Class = (fn(&char) -> bool, f64);
    let classes: [Class; 5] = [
        (char::is_ascii_lowercase, 26.0),
        (char::is_ascii_uppercase, 26.0),
        (char::is_ascii_digit, 10.0),
        (
            |character| character.is_ascii() && !character.is_ascii_alphanumeric(),
            33.0,
        ),
        (|character| !character.is_ascii(), 1000.0),
    ];
    let size: f64 = classes
        .iter()
        .filter(|(holds, _)| characters.iter().any(holds))
        .map(|(_, size)| size)
        .sum();
    size.max(1.0)
}

/// How many characters are not foretold by those before them.
fn telling_characters(characters: &[char]) -> usize {
    let steps: Vec<i64> = characters.windows(2).map(step).collect();
    let mut telling = characters.len().min(1);
    for (index, step) in steps.iter().enumerate() {
        let run = *step == 0
            || (step.abs() == 1
                && index.checked_sub(1).and_then(|before| steps.get(before)) == Some(step));
        if !run && !stands_before(characters, index.saturating_add(1)) {
            telling = telling.saturating_add(1);
        }
    }
    telling
}

/// The distance from one character to the next.
fn step(pair: &[char]) -> i64 {
    match pair {
        [one, next] => i64::from(u32::from(*next)).saturating_sub(i64::from(u32::from(*one))),
        _ => 0,
    }
}

/// Whether the three characters that end at `index` stood in the key before: it repeats itself there.
fn stands_before(characters: &[char], index: usize) -> bool {
    let Some(start) = index.checked_sub(2) else {
        return false;
    };
    let Some(last) = characters.get(start..=index) else {
        return false;
    };
    characters
        .get(..index)
        .is_some_and(|before| before.windows(3).any(|window| window == last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_readme_are_good_and_short_or_simple_ones_are_weak() {
        for good in [
            "T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4",
            "lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE",
            &generate([7; 32]),
        ] {
            assert_eq!(strength(good), Strength::Good, "{good}");
        }
        for weak in [
            "",
            "a",
            "secret",
            "hunter2",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz",
            "12345678901234567890",
        ] {
            assert!(
                matches!(strength(weak), Strength::Weak { .. }),
                "{weak}: {:?}",
                strength(weak)
            );
        }
        assert_eq!(strength(""), Strength::Weak { bits: 0 });
        assert_eq!(strength("x7"), Strength::Weak { bits: 10 });
    }

    #[test]
    fn repeating_a_part_adds_next_to_nothing() {
        let Strength::Weak { bits: once } = strength("k3vq") else {
            panic!("four characters are weak")
        };
        let Strength::Weak { bits: often } = strength(&"k3vq".repeat(10)) else {
            panic!("repetition is weak")
        };
        assert!(often <= once * 2, "{once} bits became {often}");
    }

    #[test]
    fn a_generated_key_is_the_number_in_base_62() {
        assert_eq!(generate([0; 32]), "0".repeat(GENERATED_LENGTH));
        let mut one = [0; 32];
        one[31] = 61;
        assert_eq!(generate(one), format!("{}z", "0".repeat(42)));
        one[30] = 1; // 256 + 61 = 5 * 62 + 7
        assert_eq!(generate(one), format!("{}57", "0".repeat(41)));
        let all = generate([0xff; 32]);
        assert_eq!(all.len(), GENERATED_LENGTH);
        assert!(
            !all.starts_with('0'),
            "43 digits hold 256 bits with less than one to spare: {all}"
        );
    }

    #[test]
    fn keys_of_different_entropy_differ() {
        let keys: std::collections::HashSet<String> = (0..=255_u8)
            .map(|byte| {
                let mut entropy = [0xa5; 32];
                entropy[usize::from(byte) % 32] = byte.wrapping_add(1);
                generate(entropy)
            })
            .collect();
        assert!(keys.len() > 250, "{}", keys.len());
        assert!(keys.iter().all(|key| key.len() == GENERATED_LENGTH
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    }
}
