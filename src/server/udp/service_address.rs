//! The addresses of a service for one flow, and the socket to the one that is used.
//!
//! A UDP socket connects to any address, even if no program has it. Only an ICMP error, or no answer,
//! tells. A flow therefore tries the next address when one refuses before it has answered.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    config::Target,
    net::{
        connect::{ConnectError, ConnectFault, look_up},
        file_limit::OutOfFiles,
        udp::DatagramSocket,
    },
};

/// The addresses that a flow has not tried yet.
#[derive(Debug)]
pub(super) struct ServiceAddresses {
    /// Names that are not resolved yet, and their ports.
    targets: VecDeque<Target>,
    addresses: VecDeque<SocketAddr>,
    /// The target to which the latest addresses belong.
    target: Option<Target>,
    /// How long the resolution of a name may take.
    limit: Duration,
    errors: Vec<ConnectError>,
}

impl ServiceAddresses {
    /// Returns the addresses of these targets, in their order. Unix sockets carry no datagrams.
    pub(super) fn of_targets(targets: Vec<Target>, limit: Duration) -> Self {
        ServiceAddresses {
            targets: targets.into(),
            addresses: VecDeque::new(),
            target: None,
            limit,
            errors: Vec::new(),
        }
    }

    /// Returns addresses that were checked before.
    pub(super) fn of_addresses(addresses: Vec<SocketAddr>) -> Self {
        ServiceAddresses {
            targets: VecDeque::new(),
            addresses: addresses.into(),
            target: None,
            limit: Duration::ZERO,
            errors: Vec::new(),
        }
    }

    /// Returns whether another address is left.
    pub(super) fn has_more(&self) -> bool {
        self.has_more_of_target() || !self.targets.is_empty()
    }

    /// Returns whether another address of the latest target is left.
    pub(super) fn has_more_of_target(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Returns the target of the latest socket. Addresses that were checked before have none.
    pub(super) fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Returns a socket to the next address.
    ///
    /// # Errors
    /// If no address is left that can be used: the error of each, or only that there is no free
    /// descriptor.
    ///
    /// # Cancel safety
    /// The target is not tried again when the future is dropped.
    pub(super) async fn next_socket(
        &mut self,
    ) -> Result<(SocketAddr, DatagramSocket), ConnectError> {
        loop {
            while let Some(address) = self.addresses.pop_front() {
                match DatagramSocket::connect(address) {
                    Ok(socket) => return Ok((address, socket)),
                    Err(error) => match OutOfFiles::of(&error) {
                        Some(out) => return Err(ConnectError::OutOfFiles(out)),
                        None => self.on_unusable(address, error.into()),
                    },
                }
            }
            match self.targets.pop_front() {
                Some(Target::Tcp(target)) => {
                    let deadline = Instant::now() + self.limit;
                    match look_up(&target.host, target.port, deadline).await {
                        Ok(addresses) => {
                            self.addresses.extend(addresses);
                            self.target = Some(Target::Tcp(target));
                        }
                        Err(ConnectError::OutOfFiles(out)) => {
                            return Err(ConnectError::OutOfFiles(out));
                        }
                        Err(error) => self.errors.push(error),
                    }
                }
                Some(Target::Unix(_)) => {}
                None => return Err(self.take_error()),
            }
        }
    }

    fn on_unusable(&mut self, address: SocketAddr, fault: ConnectFault) {
        self.errors
            .push(ConnectError::Addresses(vec![(address, fault)]));
    }

    fn take_error(&mut self) -> ConnectError {
        let mut errors = std::mem::take(&mut self.errors);
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            Some(last) => {
                errors.push(last);
                ConnectError::Targets(errors)
            }
            None => ConnectError::Targets(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn addresses_follow_in_order_and_then_their_errors() {
        let one = DatagramSocket::bind(([127, 0, 0, 1], 0).into(), &[]).unwrap();
        let one = one.local_addr();
        // The broadcast address needs an option that the sockets do not have.
        let unusable = SocketAddr::from(([255, 255, 255, 255], 9));
        let mut addresses = ServiceAddresses::of_addresses(vec![unusable, one]);
        let (address, socket) = addresses.next_socket().await.unwrap();
        assert_eq!(address, one);
        assert!(socket.local_addr().ip().is_loopback());
        assert!(!addresses.has_more());
        let error = addresses.next_socket().await.unwrap_err();
        assert!(error.to_string().contains("255.255.255.255"), "{error}");
    }

    #[tokio::test]
    async fn a_name_without_address_leaves_the_next_target() {
        let targets = ["does-not-exist.invalid:5", "127.0.0.1:6"];
        let targets = targets.map(|target| target.parse::<Target>().unwrap());
        let mut addresses = ServiceAddresses::of_targets(targets.to_vec(), LONG);
        let (address, _) = addresses.next_socket().await.unwrap();
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 6)));
        let error = addresses.next_socket().await.unwrap_err();
        assert!(matches!(error, ConnectError::Name { .. }), "{error}");
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let target = "localhost:7".parse().unwrap();
        let mut addresses = ServiceAddresses::of_targets(vec![target], LONG);
        let mut tried = Vec::new();
        while addresses.has_more() {
            match addresses.next_socket().await {
                Ok((address, _)) => tried.push(address),
                Err(_) => break,
            }
        }
        assert!(!tried.is_empty());
        assert!(tried.iter().all(|address| address.ip().is_loopback()));
    }
}
