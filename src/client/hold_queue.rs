//! The queue of connections that wait for a tunnel. They enter it in the order in which they were
//! accepted, except those whose application has closed the connection.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::Interest,
    sync::{Mutex, OwnedMutexGuard},
    task::unconstrained,
    time::Instant,
};

use super::orphans::Orphans;
use crate::net::local_stream::LocalStream;

/// Interval between checks whether the application still has a held connection. The kernel forgets
/// the state that is checked after a minute.
const APPLICATION_CHECK: Duration = Duration::from_secs(20);

/// Keeps the connections of a port in the order in which they were accepted.
#[derive(Clone, Default)]
pub(super) struct HoldQueue(Arc<Mutex<()>>);

/// A connection's place in the queue.
pub(super) enum QueuePlace {
    /// The queue was empty.
    First(QueueTurn),
    /// Other connections are ahead.
    Behind(Pin<Box<dyn Future<Output = QueueTurn> + Send>>),
}

/// The turn of a connection. It lasts until this is dropped.
pub(super) type QueueTurn = OwnedMutexGuard<()>;

impl HoldQueue {
    /// Joins the queue. Dropping the place leaves the queue.
    pub(super) fn join(&self) -> QueuePlace {
        if let Ok(turn) = Arc::clone(&self.0).try_lock_owned() {
            return QueuePlace::First(turn);
        }
        // A tokio mutex is fair: it serves waiters in the order of their first poll, which is now.
        let mut turn = Box::pin(unconstrained(Arc::clone(&self.0).lock_owned()));
        match turn.as_mut().now_or_never() {
            Some(turn) => QueuePlace::First(turn),
            None => QueuePlace::Behind(turn),
        }
    }
}

impl QueuePlace {
    /// Waits until no other connection is ahead.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub(super) async fn turn(self) -> QueueTurn {
        match self {
            QueuePlace::First(turn) => turn,
            QueuePlace::Behind(turn) => turn.await,
        }
    }
}

/// Waits until the application has reset the connection, or has closed it in both directions where
/// that can be detected.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped. Nothing is read from the connection.
pub(super) async fn wait_abandoned(socket: &LocalStream, orphans: &Orphans, accepted: Instant) {
    let closed = async {
        loop {
            tokio::time::sleep(APPLICATION_CHECK).await;
            if orphans.has_peer_of(socket, accepted).await {
                return;
            }
        }
    };
    tokio::select! {
        _ = socket.ready(Interest::ERROR) => {}
        () = closed => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_follow_the_order_of_the_places() {
        let queue = HoldQueue::default();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let first = queue.join();
        assert!(matches!(first, QueuePlace::First(_)));
        let mut tasks = tokio::task::JoinSet::new();
        let places: Vec<QueuePlace> = (0..100).map(|_| queue.join()).collect();
        // A place that is dropped leaves its turn to the next one.
        for (number, place) in places
            .into_iter()
            .enumerate()
            .rev()
            .filter(|(number, _)| number % 7 != 3)
        {
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                let turn = place.turn().await;
                order.lock().expect("not poisoned").push(number);
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        assert!(
            order.lock().expect("not poisoned").is_empty(),
            "the first connection holds the turn"
        );
        drop(first);
        tasks.join_all().await;
        let expected: Vec<usize> = (0..100).filter(|number| number % 7 != 3).collect();
        assert_eq!(*order.lock().expect("not poisoned"), expected);
        assert!(matches!(queue.join(), QueuePlace::First(_)));
    }

    #[tokio::test]
    async fn a_reset_is_detected_behind_unread_data_and_an_end_of_file_is_not_a_reset() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a listener");
        for shut_down in [false, true] {
            let mut application =
                std::net::TcpStream::connect(listener.local_addr().expect("an address"))
                    .expect("connects");
            let (socket, _) = listener.accept().await.expect("the connection");
            let socket = LocalStream::from(socket);
            std::io::Write::write_all(&mut application, b"unread").expect("sent");
            if shut_down {
                application
                    .shutdown(std::net::Shutdown::Write)
                    .expect("shut down");
            }
            let (orphans, accepted) = (Orphans::default(), Instant::now());
            let held = tokio::time::timeout(
                Duration::from_millis(200),
                wait_abandoned(&socket, &orphans, accepted),
            )
            .await;
            assert!(held.is_err(), "the application still has the connection");
            socket2::SockRef::from(&application)
                .set_linger(Some(Duration::ZERO))
                .expect("set");
            drop(application);
            tokio::time::timeout(
                APPLICATION_CHECK / 2,
                wait_abandoned(&socket, &orphans, accepted),
            )
            .await
            .expect("the reset is detected");
        }
    }
}
