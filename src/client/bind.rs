//! The local addresses of a client's ports, and their listeners.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tracing::debug;

use crate::net::tcp;

/// First and longest pause between attempts to listen at an unavailable address.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All local addresses of a client. An IPv6 wildcard listener leaves IPv4 to a port that has the
/// IPv4 address.
pub(super) struct LocalAddresses(Arc<[SocketAddr]>);

impl LocalAddresses {
    /// Resolves the addresses. A name that does not resolve now is resolved again by
    /// [`LocalAddress::listen`].
    pub(super) async fn resolve<'a>(addresses: impl Iterator<Item = &'a str>) -> Self {
        let mut all = Vec::new();
        for address in addresses {
            all.extend(tokio::net::lookup_host(address).await.into_iter().flatten());
        }
        LocalAddresses(all.into())
    }

    /// Returns one of the addresses.
    pub(super) fn of(&self, address: String) -> LocalAddress {
        LocalAddress {
            address,
            all: Arc::clone(&self.0),
        }
    }
}

/// The address at which a port listens.
pub(super) struct LocalAddress {
    address: String,
    all: Arc<[SocketAddr]>,
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.address)
    }
}

impl LocalAddress {
    /// Listens at the first available address of the name.
    ///
    /// # Errors
    /// The error of the last address.
    pub(super) async fn listen(&self) -> io::Result<TcpListener> {
        let mut error = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in tokio::net::lookup_host(&self.address).await? {
            match tcp::listen(address, &self.all) {
                Ok(listener) => return Ok(listener),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Retries until it succeeds.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no listener behind.
    pub(super) async fn listen_with_retry(&self, mark: &str) -> TcpListener {
        let mut pause = RETRY_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            match self.listen().await {
                Ok(listener) => return listener,
                Err(error) => {
                    debug!(port = mark, address = %self.address, "cannot listen yet: {error}")
                }
            }
            pause = pause.saturating_mul(2).min(RETRY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_wildcards_of_both_families_share_a_port() {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a listener")
            .local_addr()
            .expect("its address")
            .port();
        let both = [format!("0.0.0.0:{free}"), format!("[::]:{free}")];
        let all = LocalAddresses::resolve(both.iter().map(String::as_str)).await;
        let [v4, v6] = both.map(|address| all.of(address));
        let first = v4.listen().await.expect("IPv4");
        let Ok(second) = v6.listen().await else {
            assert!(
                std::net::TcpListener::bind("[::1]:0").is_err(),
                "this machine has IPv6"
            );
            return;
        };
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn listen_with_retry_succeeds_when_the_address_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = taken.local_addr().expect("its address").to_string();
        let address = LocalAddresses::resolve([address.as_str()].into_iter())
            .await
            .of(address);
        assert_eq!(
            address.listen().await.expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
        let mut later = std::pin::pin!(address.listen_with_retry("port"));
        tokio::time::timeout(RETRY_FIRST * 3, &mut later)
            .await
            .expect_err("still taken");
        drop(taken);
        assert!(later.await.local_addr().is_ok());
    }
}
