//! Random bytes from the operating system, for keys, nonces and ids. The pure layers take them as
//! arguments.

/// Returns `N` unpredictable bytes.
///
/// # Panics
/// If the operating system provides no randomness: nothing can be secure then.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
