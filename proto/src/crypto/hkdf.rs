//! HKDF-SHA-256 for PROTOCOL 1.3 and 8.2.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

/// Derives `N` bytes from `input` with HKDF-SHA-256. An empty `salt` means no salt.
pub(super) fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[&[u8]]) -> [u8; N] {
    const {
        assert!(
            N <= 255 * 32,
            "HKDF-SHA-256 yields at most 255 blocks of 32 bytes"
        )
    };
    let mut output = [0; N];
    let secret = Salt::new(HKDF_SHA256, salt).extract(input);
    #[expect(
        clippy::expect_used,
        reason = "fails only if N exceeds 255 blocks or differs from the output length: N is both"
    )]
    secret
        .expand(info, Length(N))
        .and_then(|key| key.fill(&mut output))
        .expect("the length is in range");
    output
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
