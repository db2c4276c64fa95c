//! Estimates the strength of a key for warnings, and generates strong keys.

/// The estimated bits below which a key is weak.
///
/// With Argon2id at 20 ms per guess, 2^64 guesses take a million machines over 10,000 years.
pub const GOOD_BITS: u32 = 64;

/// The length of a key from [`generate`]: the fewest base-62 digits that hold 256 bits.
pub const GENERATED_LENGTH: usize = 43;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The result of [`strength`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// The key may be guessed.
    Weak {
        /// The estimate, in bits.
        bits: u32,
    },
    /// The estimate is at least [`GOOD_BITS`].
    Good,
}

/// Estimates the strength of `key` against a character-by-character attack.
///
/// The estimate is the number of unpredictable characters times the bits per character. A character
/// is predictable if it:
///
/// - repeats the previous character,
/// - continues a run (`abc`, `321`), or
/// - ends three characters that occurred earlier in the key (`abcabc`).
///
/// The bits per character are the log2 of the total size of the character classes that occur: 26
/// for lower case, 26 for upper case, 10 for digits, 33 for other ASCII, 1000 for anything else.
///
/// The estimate does not use a dictionary, so `rePortserver` is rated by its letters. It is
/// therefore an upper bound, and a warning is always justified.
#[must_use]
pub fn strength(key: &str) -> Strength {
    let characters: Vec<char> = key.chars().collect();
    let unpredictable = unpredictable_characters(&characters);
    let bits = (unpredictable as f64 * alphabet(&characters).log2())
        .floor()
        .max(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is not negative, and saturation is correct"
    )]
    match bits as u32 {
        bits if bits >= GOOD_BITS => Strength::Good,
        bits => Strength::Weak { bits },
    }
}

/// Encodes `entropy` as a key of 256 bits.
///
/// The key is the big-endian number of the bytes in base 62 with the digits `0-9A-Za-z`. It is
/// padded with leading `0`s to [`GENERATED_LENGTH`] characters. It needs no quoting in JSON, shells
/// or URLs.
#[must_use]
pub fn generate(entropy: [u8; 32]) -> String {
    let mut number = entropy;
    let mut digits: Vec<char> = std::iter::repeat_with(|| char::from(take_digit(&mut number)))
        .take(GENERATED_LENGTH)
        .collect();
    digits.reverse();
    digits.into_iter().collect()
}

/// Divides the number by 62 in place and returns the digit of the remainder.
fn take_digit(number: &mut [u8; 32]) -> u8 {
    let mut rest = 0_u16;
    for byte in number.iter_mut() {
        let value = (rest << 8) | u16::from(*byte);
        *byte = (value / 62).to_be_bytes()[1];
        rest = value % 62;
    }
    DIGITS.get(usize::from(rest)).copied().unwrap_or(b'0')
}

/// Returns the total size of the character classes that occur.
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
        .filter(|(matches, _)| characters.iter().any(matches))
        .map(|(_, size)| size)
        .sum();
    size.max(1.0)
}

/// Counts the characters that do not follow from those before them.
fn unpredictable_characters(characters: &[char]) -> usize {
    let steps: Vec<i64> = characters.windows(2).map(step).collect();
    let mut unpredictable = characters.len().min(1);
    for (index, step) in steps.iter().enumerate() {
        let run = *step == 0
            || (step.abs() == 1
                && index.checked_sub(1).and_then(|before| steps.get(before)) == Some(step));
        if !run && !repeats_earlier(characters, index.saturating_add(1)) {
            unpredictable = unpredictable.saturating_add(1);
        }
    }
    unpredictable
}

/// Returns the distance from one character to the next.
fn step(pair: &[char]) -> i64 {
    match pair {
        [one, next] => i64::from(u32::from(*next)).saturating_sub(i64::from(u32::from(*one))),
        _ => 0,
    }
}

/// Returns whether the three characters that end at `index` occurred earlier in the key.
fn repeats_earlier(characters: &[char], index: usize) -> bool {
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
    fn strength_accepts_readme_keys_and_rejects_simple_ones() {
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
    fn repetition_adds_little_strength() {
        let Strength::Weak { bits: once } = strength("k3vq") else {
            panic!("four characters are weak")
        };
        let Strength::Weak { bits: often } = strength(&"k3vq".repeat(10)) else {
            panic!("repetition is weak")
        };
        assert!(often <= once * 2, "{once} bits became {often}");
    }

    #[test]
    fn generate_encodes_entropy_in_base_62() {
        assert_eq!(generate([0; 32]), "0".repeat(GENERATED_LENGTH));
        let mut one = [0; 32];
        one[31] = 61;
        assert_eq!(generate(one), format!("{}z", "0".repeat(42)));
        one[30] = 1; // 256 + 61 = 5 * 62 + 7
        assert_eq!(generate(one), format!("{}57", "0".repeat(41)));
        let all = generate([0xff; 32]);
        assert_eq!(all.len(), GENERATED_LENGTH);
        assert!(!all.starts_with('0'), "256 bits need all 43 digits: {all}");
    }

    #[test]
    fn generated_keys_differ() {
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
