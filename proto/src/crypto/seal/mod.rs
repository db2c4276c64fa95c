//! Seals and opens the messages of one attachment, one direction each (PROTOCOL 8).
//!
//! ```text
//! Open ──a message fails to open, or its number is exhausted──► Failed (permanently)
//! ```
//!
//! This module works on keys and bytes. It does not know the contents of a message. All operations
//! are in place: the buffer that the caller fills is the one that is sent.

mod cipher;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::BytesMut;

pub(super) use self::cipher::DirectionKeys;
pub use self::cipher::{OVERHEAD, SealError};
use self::cipher::{OpeningCipher, SealingCipher};

/// Seals the messages of a direction. The peer must open them in the same order.
pub struct Sealer {
    /// The number of the next message.
    next: u64,
    /// `None` after a failure.
    cipher: Option<SealingCipher>,
}

/// Opens the messages of a direction, in the order in which they were sealed.
pub struct Opener {
    /// The number of the next message.
    next: u64,
    /// `None` after a failure.
    cipher: Option<OpeningCipher>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sealer")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Opener")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(direction: DirectionKeys) -> Self {
        Sealer {
            next: 0,
            cipher: Some(direction.into_sealing_cipher()),
        }
    }

    /// Seals `buffer[from..]` in place as the next message and appends the tag.
    ///
    /// Reserve [`OVERHEAD`] bytes for the tag when you allocate the buffer. Otherwise appending may
    /// copy it.
    ///
    /// # Errors
    /// Returns an error if all message numbers are used, or if `from` is beyond the end of the
    /// buffer. The buffer is then unchanged.
    pub fn seal(&mut self, buffer: &mut BytesMut, from: usize) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let message = buffer.get_mut(from..).ok_or(SealError::Range)?;
        let number = next_number(&mut self.next)?;
        let Some(tag) = cipher.seal(number, message) else {
            self.cipher = None;
            return Err(SealError::Failed);
        };
        buffer.extend_from_slice(&tag);
        Ok(())
    }
}

impl Opener {
    pub(super) fn new(direction: DirectionKeys) -> Self {
        Opener {
            next: 0,
            cipher: Some(direction.into_opening_cipher()),
        }
    }

    /// Opens the next message in place and removes its tag.
    ///
    /// The tag is verified in constant time, before or during decryption. After an error the
    /// contents of the buffer are unspecified.
    ///
    /// # Errors
    /// Returns an error if the message is not the next one that the peer sealed. All later calls
    /// fail as well.
    pub fn open(&mut self, buffer: &mut BytesMut) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let opened = next_number(&mut self.next).and_then(|number| {
            let length = buffer
                .len()
                .checked_sub(OVERHEAD)
                .ok_or(SealError::Corrupt)?;
            let (message, tag) = buffer
                .split_at_mut_checked(length)
                .ok_or(SealError::Corrupt)?;
            cipher.open(number, message, tag)?;
            Ok(length)
        });
        match opened {
            Ok(length) => buffer.truncate(length),
            Err(error) => {
                // The two ends are out of step from here: drop the keys and refuse every later
                // message.
                self.cipher = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Returns the next message number.
///
/// Each number is used once. The last one is never used, so that the counter cannot wrap.
fn next_number(next: &mut u64) -> Result<u64, SealError> {
    let number = *next;
    *next = number.checked_add(1).ok_or(SealError::Exhausted)?;
    Ok(number)
}
