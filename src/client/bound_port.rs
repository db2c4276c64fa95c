//! The listeners of a port. An address that is unavailable is retried while the client runs.

use tokio_util::sync::CancellationToken;

use super::bind::{BindAddress, BoundListener};

/// The client cannot listen at a local address.
#[derive(Debug, thiserror::Error)]
#[error(
    "port \"{mark}\": cannot listen at `local_address` {local_address}: {source}{remedy}{}",
    other_addresses(.others)
)]
pub struct ListenError {
    mark: String,
    local_address: String,
    source: std::io::Error,
    remedy: &'static str,
    /// How many other addresses of the port are unavailable too.
    others: usize,
}

fn other_addresses(others: &usize) -> String {
    match others {
        0 => String::new(),
        1 => "; 1 other port of its range is unavailable too".to_owned(),
        others => format!("; {others} other ports of its range are unavailable too"),
    }
}

impl ListenError {
    fn new(mark: &str, address: &BindAddress, source: std::io::Error) -> Self {
        ListenError {
            mark: mark.to_owned(),
            local_address: address.to_string(),
            remedy: address.remedy(&source),
            source,
            others: 0,
        }
    }

    /// Whether another listener uses the address.
    pub(super) fn is_in_use(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

/// The listener of one address of a port, or its UDP socket.
pub(super) struct PortListener {
    /// The number of the address in the range of the port.
    pub(super) offset: u16,
    state: ListenerState,
}

enum ListenerState {
    Bound(BoundListener),
    /// The address is unavailable. The client retries it while it runs.
    Pending(BindAddress),
}

impl PortListener {
    /// Listens at all addresses of a port. Also returns the error of the first one that is
    /// unavailable.
    pub(super) async fn bind(
        mark: &str,
        addresses: Vec<BindAddress>,
    ) -> (Vec<Self>, Option<ListenError>) {
        let (mut listeners, mut failed) = (Vec::<Self>::new(), None::<ListenError>);
        for mut address in addresses {
            if let Some(streams) = listeners.last().and_then(Self::bound) {
                address.follow(streams);
            }
            let offset = address.offset;
            let state = match address.listen().await {
                Ok(listener) => ListenerState::Bound(listener),
                Err(source) => {
                    match &mut failed {
                        Some(first) => first.others += 1,
                        None => {
                            failed = Some(ListenError::new(mark, &address, source));
                        }
                    }
                    ListenerState::Pending(address)
                }
            };
            listeners.push(PortListener { offset, state });
        }
        (listeners, failed)
    }

    /// Returns the listener once its address is available. Returns `None` if `cancel` is cancelled
    /// before that.
    pub(super) async fn open(
        self,
        mark: &str,
        cancel: &CancellationToken,
    ) -> Option<BoundListener> {
        match self.state {
            ListenerState::Bound(listener) => Some(listener),
            ListenerState::Pending(address) => {
                cancel
                    .run_until_cancelled(address.listen_with_retry(mark))
                    .await
            }
        }
    }

    /// Returns the listener if it is open.
    pub(super) fn bound(&self) -> Option<&BoundListener> {
        match &self.state {
            ListenerState::Bound(listener) => Some(listener),
            ListenerState::Pending(_) => None,
        }
    }

    /// Tries to listen again at an address that was unavailable.
    pub(super) async fn retry(self, mark: &str) -> (Self, Option<ListenError>) {
        let ListenerState::Pending(address) = self.state else {
            return (self, None);
        };
        let (state, error) = match address.listen().await {
            Ok(listener) => (ListenerState::Bound(listener), None),
            Err(source) => {
                let error = ListenError::new(mark, &address, source);
                (ListenerState::Pending(address), Some(error))
            }
        };
        let offset = self.offset;
        (PortListener { offset, state }, error)
    }
}
