//! Several addresses of one master name: which of them a further link of a role should use, so that
//! its links lead to different masters.

use std::net::{IpAddr, SocketAddr};

use super::{DialError, DialPeer, Dialer};
use crate::net::websocket::MessageSocket;

impl Dialer {
    /// Connects like [`Self::dial`], at another address than the other links of a role if possible.
    /// `used` has the address of each of them.
    ///
    /// # Errors
    /// As [`Self::dial`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections made so far.
    pub async fn dial_apart(&self, used: &[IpAddr]) -> Result<MessageSocket, DialError> {
        self.dial_avoiding(used, &()).await
    }

    /// Returns the addresses of the master's name. Returns none if they are unknown: the look-up
    /// failed, or a proxy resolves the name.
    ///
    /// # Cancel safety
    /// Cancel safe. The look-up itself continues.
    pub async fn master_addresses(&self) -> Vec<IpAddr> {
        if !matches!(self.chosen_proxy(), Ok(None)) {
            return Vec::new();
        }
        let (host, port) = self.destination();
        let found = self.resolve(DialPeer::Master, host, port).await;
        let found = found.unwrap_or_default();
        found.iter().map(SocketAddr::ip).collect()
    }

    /// Returns whether the master's port accepts connections at this address.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accepts_at(&self, address: IpAddr) -> bool {
        let (_, port) = self.destination();
        let connected = self.connect_to(SocketAddr::new(address, port)).await;
        connected.is_ok()
    }
}

/// Sorts addresses for one more link of a role: those with the fewest of its other links first. Of
/// equal ones, an address of the same family as those links goes first, because one of the other
/// family may belong to the same master. The remaining order stays.
pub(super) fn prefer_unused(mut addresses: Vec<SocketAddr>, used: &[IpAddr]) -> Vec<SocketAddr> {
    let is_other_family =
        |address: &SocketAddr| used.iter().all(|one| one.is_ipv6() != address.is_ipv6());
    addresses.sort_by_key(|address| {
        let links = used.iter().filter(|one| **one == address.ip()).count();
        (links, is_other_family(address))
    });
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addresses: &[&str], used: &[&str]) -> Vec<String> {
        let addresses = addresses
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), 443))
            .collect();
        let used: Vec<IpAddr> = used.iter().map(|ip| ip.parse().unwrap()).collect();
        let sorted = prefer_unused(addresses, &used);
        sorted.iter().map(|one| one.ip().to_string()).collect()
    }

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";
    const A6: &str = "2001:db8::1";
    const B6: &str = "2001:db8::2";

    #[test]
    fn unused_addresses_of_the_same_family_come_first() {
        assert_eq!(sorted(&[A, A6, B, B6], &[A]), [B, A6, B6, A]);
        assert_eq!(sorted(&[A6, A, B6, B], &[B6]), [A6, A, B, B6]);
        assert_eq!(sorted(&[A, B], &[A, A, B]), [B, A]);
        assert_eq!(sorted(&[A, A6], &[A]), [A6, A]);
    }

    #[test]
    fn order_stays_without_other_links() {
        assert_eq!(sorted(&[B6, A, A6, B], &[]), [B6, A, A6, B]);
        assert_eq!(sorted(&[B, A], &[A, B]), [B, A]);
    }
}
