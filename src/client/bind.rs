//! The local addresses of a client's ports, and the listeners there.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tracing::debug;

use crate::link::tcp;

/// Between two attempts at an address that is taken: the first pause, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All local addresses of a client: an IPv6 wildcard leaves IPv4 to a port that has the IPv4 one.
pub struct Addresses(Arc<[SocketAddr]>);

impl Addresses {
    /// Looks the addresses up; a name that does not resolve now is looked up again when it is listened at.
    pub async fn resolve<'a>(addresses: impl Iterator<Item = &'a str>) -> Self {
        let mut all = Vec::new();
        for address in addresses {
            all.extend(tokio::net::lookup_host(address).await.into_iter().flatten());
        }
        Addresses(all.into())
    }

    /// One of them.
    pub fn of(&self, address: String) -> Address {
        Address {
            address,
            all: Arc::clone(&self.0),
        }
    }
}

/// Where a port listens.
pub struct Address {
    address: String,
    all: Arc<[SocketAddr]>,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.address)
    }
}

impl Address {
    /// A listener at the first address of the name that can be listened at.
    ///
    /// # Errors
    /// That of the last one.
    pub async fn listen(&self) -> io::Result<TcpListener> {
        let mut error = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in tokio::net::lookup_host(&self.address).await? {
            match tcp::listen(address, &self.all) {
                Ok(listener) => return Ok(listener),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Tries until it succeeds.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn listen_in_the_end(&self, mark: &str) -> TcpListener {
        let mut pause = RETRY_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            match self.listen().await {
                Ok(listener) => return listener,
                Err(error) => {
                    debug!(port = mark, address = %self.address, "still cannot listen: {error}")
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
        let all = Addresses::resolve(both.iter().map(String::as_str)).await;
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
    async fn an_address_that_is_taken_is_listened_at_when_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = taken.local_addr().expect("its address").to_string();
        let address = Addresses::resolve([address.as_str()].into_iter())
            .await
            .of(address);
        assert_eq!(
            address.listen().await.expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
        let mut later = std::pin::pin!(address.listen_in_the_end("port"));
        tokio::time::timeout(RETRY_FIRST * 3, &mut later)
            .await
            .expect_err("still taken");
        drop(taken);
        assert!(later.await.local_addr().is_ok());
    }
}
