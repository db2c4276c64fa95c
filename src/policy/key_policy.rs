//! The part of a service key that a master holds in memory.

use std::{net::IpAddr, sync::Arc};

use super::{AccountId, Counts, Limits, Networks, ServiceKey, Validity};
use crate::interner::Interner;

/// The part of a service key that decisions need.
///
/// A master holds one for each key of its database, so it is small: 48 bytes and the label. Equal
/// limits are shared, and restrictions that few keys have are behind a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPolicy {
    /// The label for people and for metrics.
    pub label: Box<str>,
    /// The limits, or `None` if there are none.
    pub limits: Option<Arc<Limits>>,
    /// Whether it may be registered and attached to.
    pub enabled: bool,
    /// Whether clients need a credential.
    pub needs_credential: bool,
    /// The account as in a column, where 0 is no account.
    account: i64,
    /// `None` if the key is valid at all times and from all networks.
    restrictions: Option<Box<KeyRestrictions>>,
}

/// When and from where a key may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct KeyRestrictions {
    validity: Validity,
    register_networks: Networks,
    attach_networks: Networks,
}

impl KeyPolicy {
    /// Returns the policy of a key. It shares its limits with an earlier key if possible.
    pub(super) fn new(key: ServiceKey, shared: &mut Interner<Limits>) -> Self {
        let restrictions = KeyRestrictions {
            validity: key.validity(),
            register_networks: key.register_networks,
            attach_networks: key.attach_networks,
        };
        let is_restricted = restrictions != KeyRestrictions::default();
        let is_limited = key.limits != Limits::default();
        KeyPolicy {
            label: key.label.into_boxed_str(),
            limits: is_limited.then(|| shared.share(key.limits)),
            enabled: key.enabled,
            needs_credential: key.needs_credential,
            account: AccountId::column(key.account),
            restrictions: is_restricted.then(|| Box::new(restrictions)),
        }
    }

    /// Returns the account that owns the key.
    #[must_use]
    pub fn account(&self) -> Option<AccountId> {
        AccountId::of_column(self.account)
    }

    /// Returns the time of its validity.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let restrictions = self.restrictions.as_deref();
        restrictions.map_or_else(Validity::default, |restrictions| restrictions.validity)
    }

    /// Whether a server may register it from this address.
    #[must_use]
    pub fn allows_server(&self, address: IpAddr) -> bool {
        let restrictions = self.restrictions.as_deref();
        restrictions.is_none_or(|restrictions| restrictions.register_networks.allow(address))
    }

    /// Whether a client may attach to it from this address.
    #[must_use]
    pub fn allows_client(&self, address: IpAddr) -> bool {
        let restrictions = self.restrictions.as_deref();
        restrictions.is_none_or(|restrictions| restrictions.attach_networks.allow(address))
    }

    /// Returns the highest numbers of the key.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let limits = self.limits.as_ref();
        limits.map_or_else(Counts::default, |limits| limits.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Network, UnixTime};
    use report_proto::id::Id;

    const INSIDE: &str = "10.0.0.1";
    const OUTSIDE: &str = "192.0.2.1";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks(text: &str) -> Networks {
        let network: Network = text.parse().unwrap();
        Networks::new(vec![network])
    }

    fn policy(change: impl FnOnce(&mut ServiceKey)) -> KeyPolicy {
        let mut key = ServiceKey::new(Id([1; 16]), "shell");
        change(&mut key);
        KeyPolicy::new(key, &mut Interner::default())
    }

    #[test]
    fn a_key_takes_little_memory() {
        assert!(size_of::<KeyPolicy>() <= 48, "{}", size_of::<KeyPolicy>());
        let entry = size_of::<(Id, KeyPolicy)>();
        assert!(entry <= 64, "{entry}");
    }

    #[test]
    fn a_usual_key_has_no_memory_beside_its_label() {
        let usual = policy(|key| key.account = Some(AccountId(7)));
        assert_eq!((&usual.limits, &usual.restrictions), (&None, &None));
        assert_eq!(usual.account(), Some(AccountId(7)));
        assert_eq!(usual.validity(), Validity::default());
        assert!(usual.allows_server(address(OUTSIDE)) && usual.allows_client(address(OUTSIDE)));
        assert_eq!(policy(|_| {}).account(), None);
    }

    #[test]
    fn each_restriction_is_kept() {
        let expires = UnixTime::new(50);
        let limited = policy(|key| key.expires = expires);
        assert_eq!(limited.validity().expires, expires);
        let limited = policy(|key| key.register_networks = networks("10.0.0.0/8"));
        assert!(limited.allows_server(address(INSIDE)));
        assert!(!limited.allows_server(address(OUTSIDE)));
        assert!(limited.allows_client(address(OUTSIDE)));
        let limited = policy(|key| key.attach_networks = networks("10.0.0.0/8"));
        assert!(limited.allows_client(address(INSIDE)));
        assert!(!limited.allows_client(address(OUTSIDE)));
        assert!(limited.allows_server(address(OUTSIDE)));
    }
}
