//! Random bytes of the operating system, for keys, nonces and ids. The pure layers take them as arguments.

/// `N` bytes that nobody can guess.
///
/// # Panics
/// When the operating system has no randomness to give: nothing here can be safe then.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
