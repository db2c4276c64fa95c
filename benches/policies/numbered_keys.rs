//! Keys with consecutive ids, as the store lists them and as servers and clients use them.

use report::{
    policy::{Rate, RateLimit, ServiceKey},
    tunnel::PortParameters,
};
use report_proto::{crypto::EncryptMethod, id::Id};

use crate::port::port;

/// The credit of each stream at first, as the roles grant it (PROTOCOL 12). More would delay the
/// echoes beside a slow download.
const STREAM_WINDOW_INITIAL: u64 = 16 * 1024;

/// Returns the id of a key.
fn key_id(number: u32) -> Id {
    Id((u128::from(number) + 1).to_be_bytes())
}

/// Returns a key of the store, whose downloads may have a limit in bytes per second.
pub(crate) fn listed_key(number: u32, rate: Option<u64>) -> ServiceKey {
    let mut key = ServiceKey::new(key_id(number), format!("key-{number:06}"));
    key.limits.rates.down = rate.map(|rate| RateLimit {
        rate: Rate(rate),
        burst: None,
    });
    key
}

/// Returns the ports of keys. Their secret is the same, because a derivation takes 20 ms.
pub(crate) fn ports(numbers: impl IntoIterator<Item = u32>) -> Vec<PortParameters> {
    let derived = port(
        "policies",
        "a port key of all numbered keys",
        EncryptMethod::Aes128Gcm,
    );
    let numbered = |number| {
        let mut port = derived.clone();
        port.keys.id = key_id(number);
        port.stream_window.initial = STREAM_WINDOW_INITIAL;
        port
    };
    numbers.into_iter().map(numbered).collect()
}
