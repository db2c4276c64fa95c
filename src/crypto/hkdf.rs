//! HKDF-SHA-256, as PROTOCOL 1.3 and 8.2 use it.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};

/// `N` bytes of HKDF-SHA-256 over `input`. An empty `salt` is HKDF without salt.
pub(super) fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[&[u8]]) -> [u8; N] {
    const {
        assert!(
            N <= 255 * 32,
            "HKDF-SHA-256 gives at most 255 blocks of 32 bytes"
        )
    };
    let mut output = [0; N];
    let secret = Salt::new(HKDF_SHA256, salt).extract(input);
    #[expect(
        clippy::expect_used,
        reason = "fails only for a length over 255 blocks, or unlike that of the output: both are N"
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
