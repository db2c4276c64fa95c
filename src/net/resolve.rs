//! Resolves names with a bounded number of threads. The system's resolver blocks a thread while it
//! waits for a silent DNS server. Without a bound, the look-ups of one such name would occupy all
//! threads for blocking work and delay every other name.
//!
//! Concurrent callers share one look-up per name. At most `MAX_LOOK_UPS` look-ups run at a time;
//! further ones wait. No answer is cached: a later caller starts a new look-up.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

pub use super::name_error::{NameError, NameFault};
use super::{file_limit::OutOfFiles, name_error::name_fault};

/// The maximum number of concurrent look-ups. The runtime has 512 threads for blocking work; the
/// others stay free for files.
const MAX_LOOK_UPS: usize = 64;

/// The age at which callers no longer join a look-up. Resolvers give up earlier, unless they hang.
const STALE: Duration = Duration::from_secs(60);

/// The result of a look-up. Its addresses have port 0.
type LookUpResult = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// Blocks until a name is resolved.
type ResolveFn = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Returns the addresses of `host`, at least one, in the order of the system's resolver. An IP
/// address is returned at once.
///
/// # Errors
/// Why there is no address.
///
/// # Cancel safety
/// Cancel safe. The look-up itself continues, and counts towards the limit until it ends.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    match look_up(host, port).await {
        Ok(addresses) if addresses.is_empty() => Err(NameError::NoAddress),
        Ok(addresses) => Ok(addresses),
        // The resolver's errors do not state that a descriptor was missing.
        Err(error) => Err(match OutOfFiles::of(&error).or_else(OutOfFiles::now) {
            Some(out) => NameError::OutOfFiles { out, error },
            None => NameError::LookUp {
                fault: name_fault(&error),
                error,
            },
        }),
    }
}

/// Returns the addresses of `host`, in the order of the system's resolver. An IP address is
/// returned at once.
///
/// # Errors
/// The resolver's error.
///
/// # Cancel safety
/// Cancel safe. The look-up itself continues, and counts towards the limit until it ends.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static LOOK_UPS: LazyLock<Arc<LookUps>> = LazyLock::new(|| LookUps::new(MAX_LOOK_UPS, system));
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let with_port = |mut address: SocketAddr| {
        address.set_port(port);
        address
    };
    match LOOK_UPS.look_up(host).await {
        Ok(addresses) => Ok(addresses.iter().copied().map(with_port).collect()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
    }
}

fn system(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

/// A look-up in progress.
struct PendingLookUp {
    answer: watch::Receiver<Option<LookUpResult>>,
    since: Instant,
}

/// The look-ups in progress.
struct LookUps {
    resolver: Box<ResolveFn>,
    room: Arc<Semaphore>,
    pending: Mutex<HashMap<String, PendingLookUp>>,
    /// Signalled when a look-up starts: it may be for the name that a caller waits to look up.
    started: Notify,
}

impl LookUps {
    fn new(
        max: usize,
        resolver: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(max));
        Arc::new(LookUps {
            resolver: Box::new(resolver),
            room,
            pending: Mutex::default(),
            started: Notify::new(),
        })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<String, PendingLookUp>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the look-up of this name, if one is in progress.
    fn join_pending(
        pending: &HashMap<String, PendingLookUp>,
        host: &str,
    ) -> Option<watch::Receiver<Option<LookUpResult>>> {
        pending
            .get(host)
            .filter(|pending| pending.since.elapsed() < STALE)
            .map(|pending| pending.answer.clone())
    }

    async fn look_up(self: &Arc<Self>, host: &str) -> LookUpResult {
        let mut room = std::pin::pin!(Arc::clone(&self.room).acquire_owned());
        loop {
            // Register first, so that no start is missed.
            let started = self.started.notified();
            let pending = Self::join_pending(&self.pending(), host);
            if let Some(pending) = pending {
                return answer(pending).await;
            }
            tokio::select! {
                permit = &mut room => match permit {
                    Ok(permit) => return answer(self.start(host, permit)).await,
                    Err(_) => return Err(Arc::new(io::Error::other("the process is shutting down"))),
                },
                () = started => {}
            }
        }
    }

    /// Starts a look-up, unless another caller has started one for this name.
    fn start(
        self: &Arc<Self>,
        host: &str,
        permit: OwnedSemaphorePermit,
    ) -> watch::Receiver<Option<LookUpResult>> {
        let mut pending = self.pending();
        // Check again under the lock: another caller may have started it in the meantime.
        if let Some(pending) = Self::join_pending(&pending, host) {
            return pending;
        }
        let (sender, receiver) = watch::channel(None);
        pending.insert(
            host.to_owned(),
            PendingLookUp {
                answer: receiver.clone(),
                since: Instant::now(),
            },
        );
        drop(pending);
        let look_up = LookUp {
            all: Arc::clone(self),
            host: host.to_owned(),
            sender,
            _permit: permit,
        };
        tokio::task::spawn_blocking(move || look_up.run());
        self.started.notify_waiters();
        receiver
    }
}

async fn answer(mut pending: watch::Receiver<Option<LookUpResult>>) -> LookUpResult {
    match pending
        .wait_for(Option::is_some)
        .await
        .map(|answer| answer.clone())
    {
        Ok(Some(answer)) => answer,
        Ok(None) | Err(_) => Err(Arc::new(io::Error::other("the look-up was aborted"))),
    }
}

/// One look-up on its thread. It stays in progress until dropped, whether or not it ran.
struct LookUp {
    all: Arc<LookUps>,
    host: String,
    sender: watch::Sender<Option<LookUpResult>>,
    _permit: OwnedSemaphorePermit,
}

impl LookUp {
    fn run(self) {
        let found = (self.all.resolver)(&self.host);
        // From here on, a caller starts a new look-up.
        self.remove_self();
        self.sender
            .send_replace(Some(found.map(Arc::from).map_err(Arc::new)));
    }

    /// Removes this look-up from the table, unless a newer one has replaced it.
    fn remove_self(&self) {
        let mut pending = self.all.pending();
        if pending
            .get(&self.host)
            .is_some_and(|pending| pending.answer.same_channel(&self.sender.subscribe()))
        {
            pending.remove(&self.host);
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.remove_self();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Condvar,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    /// A DNS server that answers only "responsive" until it is opened. It counts its queries.
    #[derive(Default)]
    struct SilentDnsServer {
        queries: AtomicUsize,
        max_running: AtomicUsize,
        running: AtomicUsize,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl SilentDnsServer {
        fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
            self.queries.fetch_add(1, SeqCst);
            let now = self.running.fetch_add(1, SeqCst) + 1;
            self.max_running.fetch_max(now, SeqCst);
            if host != "responsive" {
                drop(
                    self.opened
                        .wait_while(self.open.lock().unwrap(), |open| !*open)
                        .unwrap(),
                );
            }
            self.running.fetch_sub(1, SeqCst);
            if host == "unknown" {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(vec![([127, 0, 0, 1], 0).into()])
            }
        }

        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    /// Opens the server even if a test fails: the runtime waits for its threads.
    struct OpenOnDrop(Arc<SilentDnsServer>);

    impl Drop for OpenOnDrop {
        fn drop(&mut self) {
            self.0.open();
        }
    }

    fn look_ups(max: usize) -> (Arc<LookUps>, OpenOnDrop) {
        let server = Arc::new(SilentDnsServer::default());
        let resolver = Arc::clone(&server);
        (
            LookUps::new(max, move |host| resolver.resolve(host)),
            OpenOnDrop(server),
        )
    }

    /// Waits until the condition holds, for work on other threads.
    async fn wait_until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.unwrap();
    }

    const SOON: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn concurrent_callers_share_one_look_up() {
        let (all, server) = look_ups(2);
        let callers = join_all((0..1000).map(|_| all.look_up("unresponsive")));
        let mut callers = std::pin::pin!(callers);
        assert!(timeout(SHORT, &mut callers).await.is_err());
        // Another name is not delayed.
        assert!(
            timeout(SOON, all.look_up("responsive"))
                .await
                .unwrap()
                .is_ok()
        );
        server.0.open();
        assert!(
            timeout(SOON, callers)
                .await
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(server.0.queries.load(SeqCst), 2);
        assert!(all.look_up("unresponsive").await.is_ok());
        assert_eq!(server.0.queries.load(SeqCst), 3, "the answer is not kept");
    }

    #[tokio::test]
    async fn abandoned_look_up_counts_until_it_ends() {
        let (all, server) = look_ups(2);
        for _ in 0..10 {
            assert!(
                timeout(Duration::from_millis(5), all.look_up("unresponsive"))
                    .await
                    .is_err()
            );
        }
        server.0.open();
        assert!(all.look_up("unresponsive").await.is_ok());
        assert_eq!(server.0.max_running.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn hung_look_up_does_not_block_its_name() {
        let (all, server) = look_ups(2);
        assert!(timeout(SHORT, all.look_up("unresponsive")).await.is_err());
        let old = Instant::now().checked_sub(STALE).unwrap();
        all.pending()
            .values_mut()
            .for_each(|pending| pending.since = old);
        assert!(timeout(SHORT, all.look_up("unresponsive")).await.is_err());
        wait_until(|| server.0.queries.load(SeqCst) == 2).await;
        server.0.open();
    }

    #[tokio::test]
    async fn concurrent_look_ups_are_limited() {
        let (all, server) = look_ups(8);
        let names: Vec<String> = (0..100)
            .map(|number| format!("name{}", number % 50))
            .collect();
        let mut callers = std::pin::pin!(join_all(names.iter().map(|name| all.look_up(name))));
        assert!(timeout(SHORT, &mut callers).await.is_err());
        wait_until(|| server.0.queries.load(SeqCst) == 8).await;
        server.0.open();
        assert!(
            timeout(SOON, callers)
                .await
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(server.0.max_running.load(SeqCst), 8);
        wait_until(|| all.pending().is_empty() && all.room.available_permits() == 8).await;
    }

    #[tokio::test]
    async fn errors_are_not_cached() {
        let (all, server) = look_ups(1);
        server.0.open();
        assert_eq!(
            all.look_up("unknown").await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(all.look_up("known").await.is_ok());
    }

    #[tokio::test]
    async fn ip_address_needs_no_look_up() {
        let found = timeout(SOON, look_up("::1", 7)).await.unwrap().unwrap();
        assert_eq!(found, ["[::1]:7".parse().unwrap()]);
        let local = look_up("localhost", 7).await.unwrap();
        assert!(
            !local.is_empty()
                && local
                    .iter()
                    .all(|address| address.ip().is_loopback() && address.port() == 7)
        );
    }
}
