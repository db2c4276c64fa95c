//! The user that an application must authenticate as, compared in constant time. Wrong passwords
//! from other machines are throttled.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{Context, Digest, SHA256},
};

use crate::{config::SocksUser, throttle::Throttle};

/// The user of a proxy.
pub(in crate::client) struct ProxyCredentials {
    /// Digests have one length, so the comparison tells nothing about that of the password.
    expected: Digest,
    throttle: Mutex<Throttle>,
}

/// The result of an authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserCheck {
    Accepted,
    Wrong,
    /// Too many wrong passwords came from the address. This one was not compared.
    Throttled,
}

impl ProxyCredentials {
    /// Takes the user of a configuration.
    pub(in crate::client) fn new(user: &SocksUser) -> Self {
        let password = user.password.expose().as_bytes();
        ProxyCredentials {
            expected: digest(user.name.as_bytes(), password),
            throttle: Mutex::default(),
        }
    }

    /// Compares a name and a password from `address`. All programs on this machine share one
    /// address, so one of them must not throttle the others.
    pub(super) fn check(
        &self,
        now: Instant,
        address: Option<IpAddr>,
        name: &[u8],
        password: &[u8],
    ) -> UserCheck {
        let address = address
            .map(|address| address.to_canonical())
            .filter(|address| !address.is_loopback());
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if address.is_some_and(|address| throttle.throttles(now, address)) {
            return UserCheck::Throttled;
        }
        let found = digest(name, password);
        if verify_slices_are_equal(found.as_ref(), self.expected.as_ref()).is_ok() {
            return UserCheck::Accepted;
        }
        if let Some(address) = address {
            throttle.record_failure(now, address);
        }
        UserCheck::Wrong
    }
}

/// The length of the name separates it from the password.
fn digest(name: &[u8], password: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&(name.len() as u64).to_be_bytes());
    context.update(name);
    context.update(password);
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Secret, throttle::THROTTLE_BURST};

    fn credentials() -> ProxyCredentials {
        ProxyCredentials::new(&SocksUser {
            name: "user".to_owned(),
            password: Secret::new("pass".to_owned()),
        })
    }

    #[test]
    fn only_the_whole_name_and_password_are_accepted() {
        let credentials = credentials();
        let now = Instant::now();
        let check = |name: &str, password: &str| {
            credentials.check(now, None, name.as_bytes(), password.as_bytes())
        };
        assert_eq!(check("user", "pass"), UserCheck::Accepted);
        for (name, password) in [
            ("user", ""),
            ("", "pass"),
            ("user", "passs"),
            ("user", "pas"),
            ("use", "rpass"),
            ("userp", "ass"),
            ("User", "pass"),
            ("", ""),
        ] {
            assert_eq!(check(name, password), UserCheck::Wrong, "{name}");
        }
    }

    #[test]
    fn guesses_from_another_machine_are_throttled_and_local_ones_are_not() {
        let credentials = credentials();
        let now = Instant::now();
        let other: IpAddr = "192.0.2.1".parse().expect("an address");
        for _ in 0..THROTTLE_BURST {
            let checked = credentials.check(now, Some(other), b"user", b"guess");
            assert_eq!(checked, UserCheck::Wrong);
        }
        let checked = credentials.check(now, Some(other), b"user", b"pass");
        assert_eq!(checked, UserCheck::Throttled);
        let third: IpAddr = "198.51.100.1".parse().expect("an address");
        let checked = credentials.check(now, Some(third), b"user", b"pass");
        assert_eq!(checked, UserCheck::Accepted);
        let local: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        for _ in 0..2 * THROTTLE_BURST {
            let checked = credentials.check(now, Some(local), b"user", b"guess");
            assert_eq!(checked, UserCheck::Wrong);
        }
        let checked = credentials.check(now, Some(local), b"user", b"pass");
        assert_eq!(checked, UserCheck::Accepted);
    }
}
