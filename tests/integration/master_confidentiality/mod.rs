//! The limits of a hostile master. It sees no plaintext and no port key, and it gets no data out of
//! a service.

mod replays;
mod secrecy;

/// The methods with encryption.
const ENCRYPTED: [&str; 3] = ["aes-128-cfb", "aes-128-gcm", "chacha20-poly1305"];
