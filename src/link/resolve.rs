//! Looks names up, within bounds. The system's resolver blocks a thread, for as long as a silent DNS server lets it wait: without bounds, the look-ups of
//! one such name would take all threads that there are for blocking work, and every other name would wait behind them.
//!
//! One name has one look-up at a time, and all its callers share the answer. There are at most [`MOST`] look-ups at a time; further ones wait for their
//! turn. No answer is cached: a caller that comes after it starts another look-up.

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

/// Look-ups at a time. The runtime has 512 threads for blocking work: the others stay free for files.
const MOST: usize = 64;

/// A look-up that has run for this long is not joined any more: resolvers give up before, unless they hang.
const STALE: Duration = Duration::from_secs(60);

/// What a look-up gives. Its addresses have port 0.
type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// Blocks until a name is resolved.
type Resolver = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The addresses of `host`, in the order of the system's resolver. An IP address is its own answer, at once.
///
/// # Errors
/// That of the resolver.
///
/// # Cancel safety
/// The look-up runs on without its caller, and counts until it ends.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static LOOK_UPS: LazyLock<Arc<LookUps>> = LazyLock::new(|| LookUps::new(MOST, system));
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

/// A look-up under way.
struct Running {
    answer: watch::Receiver<Option<Answer>>,
    since: Instant,
}

/// The look-ups under way.
struct LookUps {
    resolver: Box<Resolver>,
    room: Arc<Semaphore>,
    running: Mutex<HashMap<String, Running>>,
    /// A look-up has begun: it may be of the same name as one that waits for room.
    begun: Notify,
}

impl LookUps {
    fn new(
        most: usize,
        resolver: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(most));
        Arc::new(LookUps {
            resolver: Box::new(resolver),
            room,
            running: Mutex::default(),
            begun: Notify::new(),
        })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the look-up of this name will give, if one is under way.
    fn joined(
        running: &HashMap<String, Running>,
        host: &str,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        running
            .get(host)
            .filter(|running| running.since.elapsed() < STALE)
            .map(|running| running.answer.clone())
    }

    async fn look_up(self: &Arc<Self>, host: &str) -> Answer {
        let mut room = std::pin::pin!(Arc::clone(&self.room).acquire_owned());
        loop {
            // From here on it notices every beginning.
            let begun = self.begun.notified();
            let running = Self::joined(&self.running(), host);
            if let Some(running) = running {
                return answer(running).await;
            }
            tokio::select! {
                permit = &mut room => match permit {
                    Ok(permit) => return answer(self.begin(host, permit)).await,
                    Err(_) => return Err(Arc::new(io::Error::other("the process ends"))),
                },
                () = begun => {}
            }
        }
    }

    /// Begins a look-up, unless one of the name has begun meanwhile.
    fn begin(
        self: &Arc<Self>,
        host: &str,
        permit: OwnedSemaphorePermit,
    ) -> watch::Receiver<Option<Answer>> {
        let mut running = self.running();
        if let Some(running) = Self::joined(&running, host) {
            return running;
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(
            host.to_owned(),
            Running {
                answer: receiver.clone(),
                since: Instant::now(),
            },
        );
        drop(running);
        let look_up = LookUp {
            all: Arc::clone(self),
            host: host.to_owned(),
            sender,
            _permit: permit,
        };
        tokio::task::spawn_blocking(move || look_up.run());
        self.begun.notify_waiters();
        receiver
    }
}

async fn answer(mut running: watch::Receiver<Option<Answer>>) -> Answer {
    match running
        .wait_for(Option::is_some)
        .await
        .map(|answer| answer.clone())
    {
        Ok(Some(answer)) => answer,
        Ok(None) | Err(_) => Err(Arc::new(io::Error::other("the look-up was cut off"))),
    }
}

/// One of them, on its thread. It is under way until it is dropped, whether it has run or not.
struct LookUp {
    all: Arc<LookUps>,
    host: String,
    sender: watch::Sender<Option<Answer>>,
    _permit: OwnedSemaphorePermit,
}

impl LookUp {
    fn run(self) {
        let found = (self.all.resolver)(&self.host);
        // A caller that comes after this starts another look-up.
        self.leave();
        self.sender
            .send_replace(Some(found.map(Arc::from).map_err(Arc::new)));
    }

    /// Leaves the table, unless a newer look-up of the name has its place there.
    fn leave(&self) {
        let mut running = self.all.running();
        if running
            .get(&self.host)
            .is_some_and(|running| running.answer.same_channel(&self.sender.subscribe()))
        {
            running.remove(&self.host);
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.leave();
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

    /// A DNS server that is silent about every name but "answered" until it is opened, and how often it was asked.
    #[derive(Default)]
    struct Silent {
        asked: AtomicUsize,
        most: AtomicUsize,
        now: AtomicUsize,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Silent {
        fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
            self.asked.fetch_add(1, SeqCst);
            let now = self.now.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(now, SeqCst);
            if host != "answered" {
                drop(
                    self.opened
                        .wait_while(self.open.lock().unwrap(), |open| !*open)
                        .unwrap(),
                );
            }
            self.now.fetch_sub(1, SeqCst);
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

    /// Opens it when a test fails: its runtime waits for the threads.
    struct Opened(Arc<Silent>);

    impl Drop for Opened {
        fn drop(&mut self) {
            self.0.open();
        }
    }

    fn look_ups(most: usize) -> (Arc<LookUps>, Opened) {
        let server = Arc::new(Silent::default());
        let resolver = Arc::clone(&server);
        (
            LookUps::new(most, move |host| resolver.resolve(host)),
            Opened(server),
        )
    }

    /// Waits until it is so: threads take their time.
    async fn until(what: impl Fn() -> bool) {
        let waiting = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.unwrap();
    }

    const SOON: Duration = Duration::from_secs(20);
    const A_MOMENT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn all_who_ask_for_a_name_share_one_look_up() {
        let (all, server) = look_ups(2);
        let asking = join_all((0..1000).map(|_| all.look_up("silent")));
        let mut asking = std::pin::pin!(asking);
        assert!(timeout(A_MOMENT, &mut asking).await.is_err());
        // Another name waits for none of them.
        assert!(
            timeout(SOON, all.look_up("answered"))
                .await
                .unwrap()
                .is_ok()
        );
        server.0.open();
        assert!(
            timeout(SOON, asking)
                .await
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(server.0.asked.load(SeqCst), 2);
        assert!(all.look_up("silent").await.is_ok());
        assert_eq!(server.0.asked.load(SeqCst), 3, "the answer is not kept");
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_counts_until_it_ends() {
        let (all, server) = look_ups(2);
        for _ in 0..10 {
            assert!(
                timeout(Duration::from_millis(5), all.look_up("silent"))
                    .await
                    .is_err()
            );
        }
        server.0.open();
        assert!(all.look_up("silent").await.is_ok());
        assert_eq!(server.0.most.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_look_up_that_hangs_does_not_hold_its_name_for_ever() {
        let (all, server) = look_ups(2);
        assert!(timeout(A_MOMENT, all.look_up("silent")).await.is_err());
        let old = Instant::now().checked_sub(STALE).unwrap();
        all.running()
            .values_mut()
            .for_each(|running| running.since = old);
        assert!(timeout(A_MOMENT, all.look_up("silent")).await.is_err());
        until(|| server.0.asked.load(SeqCst) == 2).await;
        server.0.open();
    }

    #[tokio::test]
    async fn no_more_look_ups_run_than_there_is_room_for_and_the_others_follow() {
        let (all, server) = look_ups(8);
        let names: Vec<String> = (0..100)
            .map(|number| format!("name{}", number % 50))
            .collect();
        let mut asking = std::pin::pin!(join_all(names.iter().map(|name| all.look_up(name))));
        assert!(timeout(A_MOMENT, &mut asking).await.is_err());
        until(|| server.0.asked.load(SeqCst) == 8).await;
        server.0.open();
        assert!(
            timeout(SOON, asking)
                .await
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(server.0.most.load(SeqCst), 8);
        until(|| all.running().is_empty() && all.room.available_permits() == 8).await;
    }

    #[tokio::test]
    async fn an_error_is_shared_and_not_kept() {
        let (all, server) = look_ups(1);
        server.0.open();
        assert_eq!(
            all.look_up("unknown").await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(all.look_up("known").await.is_ok());
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
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
