//! Connections that wait for a tunnel. They enter it in the order in which they were accepted; one whose application has gone in the meantime does not.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{Mutex, OwnedMutexGuard},
    task::unconstrained,
    time::Instant,
};

use super::orphans::Orphans;

/// How often it is looked whether the application of a held connection still has it. The kernel forgets what it is asked about after a minute.
const LOOK: Duration = Duration::from_secs(20);

/// The order in which the connections of a port were accepted.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<()>>);

/// A connection's place in the queue.
pub enum Place {
    /// Nobody is before it.
    First(Turn),
    /// Others are.
    Behind(Pin<Box<dyn Future<Output = Turn> + Send>>),
}

/// It is the connection's turn, until this is dropped.
pub type Turn = OwnedMutexGuard<()>;

impl Queue {
    /// The next place. Dropping it leaves the queue.
    pub fn join(&self) -> Place {
        if let Ok(turn) = Arc::clone(&self.0).try_lock_owned() {
            return Place::First(turn);
        }
        // The mutex serves in the order in which it was asked first, which is now.
        let mut turn = Box::pin(unconstrained(Arc::clone(&self.0).lock_owned()));
        match turn.as_mut().now_or_never() {
            Some(turn) => Place::First(turn),
            None => Place::Behind(turn),
        }
    }
}

impl Place {
    /// Waits until nobody is before it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub async fn turn(self) -> Turn {
        match self {
            Place::First(turn) => turn,
            Place::Behind(turn) => turn.await,
        }
    }
}

/// Waits until the application has reset the connection, or has closed it entirely where that can be told.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped; nothing is read from the connection.
pub async fn given_up(socket: &TcpStream, orphans: &Orphans, accepted: Instant) {
    let closed = async {
        loop {
            tokio::time::sleep(LOOK).await;
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
    async fn turns_come_in_the_order_of_the_places_whoever_waits_first() {
        let queue = Queue::default();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let first = queue.join();
        assert!(matches!(first, Place::First(_)));
        let mut tasks = tokio::task::JoinSet::new();
        let places: Vec<Place> = (0..100).map(|_| queue.join()).collect();
        // One that gives up leaves its place to the next.
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
            "the first has its turn"
        );
        drop(first);
        tasks.join_all().await;
        let expected: Vec<usize> = (0..100).filter(|number| number % 7 != 3).collect();
        assert_eq!(*order.lock().expect("not poisoned"), expected);
        assert!(matches!(queue.join(), Place::First(_)));
    }

    #[tokio::test]
    async fn a_reset_is_seen_behind_unread_data_and_an_end_of_file_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a listener");
        for shut_down in [false, true] {
            let mut application =
                std::net::TcpStream::connect(listener.local_addr().expect("an address"))
                    .expect("connects");
            let (socket, _) = listener.accept().await.expect("the connection");
            std::io::Write::write_all(&mut application, b"unread").expect("sent");
            if shut_down {
                application
                    .shutdown(std::net::Shutdown::Write)
                    .expect("shut down");
            }
            let (orphans, accepted) = (Orphans::default(), Instant::now());
            let held = tokio::time::timeout(
                Duration::from_millis(200),
                given_up(&socket, &orphans, accepted),
            )
            .await;
            assert!(held.is_err(), "it is there");
            socket2::SockRef::from(&application)
                .set_linger(Some(Duration::ZERO))
                .expect("set");
            drop(application);
            tokio::time::timeout(LOOK / 2, given_up(&socket, &orphans, accepted))
                .await
                .expect("the reset is seen");
        }
    }
}
