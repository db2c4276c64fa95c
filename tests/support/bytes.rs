//! Bytes to send, and their digest.

use std::fmt::Write as _;

use aws_lc_rs::digest;

/// The content of a transfer. Blocks of random bytes and blocks of words alternate, so that it
/// compresses in part. The same seed and length give the same bytes.
pub(crate) fn mixed(seed: u64, length: usize) -> Vec<u8> {
    const BLOCK: usize = 48 * 1024;
    const WORDS: [&str; 8] = [
        "tunnel ", "master ", "stream ", "window ", "channel ", "link\n", "port ", "relay ",
    ];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = Vec::with_capacity(length + BLOCK);
    while content.len() < length {
        let start = content.len();
        content.resize(start + BLOCK, 0);
        random.fill(&mut content[start..]);
        let end = content.len() + BLOCK;
        while content.len() < end {
            content.extend_from_slice(WORDS[random.usize(..WORDS.len())].as_bytes());
        }
    }
    content.truncate(length);
    content
}

/// Bytes that do not compress.
pub(crate) fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut content);
    content
}

/// The SHA-256 in hexadecimal digits.
pub(crate) fn sha256(content: &[u8]) -> String {
    hexadecimal(digest::digest(&digest::SHA256, content).as_ref())
}

/// The bytes in lower-case hexadecimal digits.
pub(crate) fn hexadecimal(content: &[u8]) -> String {
    content.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether the bytes contain the needle.
pub(crate) fn contains(content: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else {
        return true;
    };
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if content[from..].starts_with(rest) {
            return true;
        }
    }
    false
}
