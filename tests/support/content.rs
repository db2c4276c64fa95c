//! Content of any length that no process has to store. The seed determines the bytes at each
//! offset, so a receiver can report the first wrong byte.

use std::sync::LazyLock;

use super::bytes;

/// Each page of this many bytes begins with a stamp of the seed and the page number.
const PAGE: u64 = 4096;

/// The content between the stamps, repeated without end. It compresses in part, and it repeats at a
/// larger distance than any compressor's window.
static FILLER: LazyLock<Vec<u8>> = LazyLock::new(|| bytes::mixed(1, 4 << 20));

/// The content of one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub seed: u64,
    pub length: u64,
}

impl Content {
    /// Fills the block with the content from the offset on. Returns the filled part.
    pub(crate) fn fill<'a>(&self, offset: u64, block: &'a mut [u8]) -> &'a [u8] {
        let length = block
            .len()
            .min(usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut filled = 0;
        while filled < length {
            let at = offset + filled as u64;
            let (number, inside) = (at / PAGE, (at % PAGE) as usize);
            let page = self.page(number);
            let count = (length - filled).min(page.len() - inside);
            block[filled..filled + count].copy_from_slice(&page[inside..inside + count]);
            filled += count;
        }
        &block[..length]
    }

    fn page(&self, number: u64) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        let start = (number * PAGE) as usize % FILLER.len();
        page.copy_from_slice(&FILLER[start..start + PAGE as usize]);
        page[..8].copy_from_slice(&self.seed.to_be_bytes());
        page[8..16].copy_from_slice(&number.to_be_bytes());
        page
    }

    /// The offset of the first byte in `received` that differs from the content. `received` begins
    /// at `offset`.
    pub(crate) fn first_difference(&self, offset: u64, received: &[u8]) -> Option<u64> {
        let mut expected = vec![0; received.len()];
        let expected = self.fill(offset, &mut expected);
        if expected == received {
            return None;
        }
        let equal = expected
            .iter()
            .zip(received)
            .take_while(|(expected, received)| expected == received)
            .count();
        Some(offset + equal as u64)
    }
}
