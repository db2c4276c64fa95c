//! Bounds the handshakes in progress: connections between accept and WELCOME. While there is no
//! room, the master accepts nothing, and further connections wait in the backlog of the kernel. So
//! when ten thousand roles return at once, the first ones are linked before their deadlines.
//!
//! A connection counts until it is a link, turns out to be a visitor of the web front, or ends. The
//! deadlines of `MasterTiming` (`tls`, `header`, `authentication`) end it after some ten seconds
//! each. Strangers could occupy all the room for that long, so a connection counts for at most
//! [`COUNTED_TIME`]. Then the limits of `admission` alone apply to it.

use std::{
    num::NonZeroUsize,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

/// Handshakes in progress for each thread of the master: few enough to end before their deadlines,
/// even with TLS.
pub(crate) const HANDSHAKES_PER_THREAD: usize = 1_024;

/// The longest time for which a connection counts: a handshake of several round trips on an ordinary
/// path.
pub(crate) const COUNTED_TIME: Duration = Duration::from_secs(2);

/// The room for handshakes of a master.
#[derive(Debug)]
pub(super) struct Handshakes(Arc<Semaphore>);

impl Handshakes {
    /// Creates room for `max` handshakes at a time.
    pub(super) fn new(max: usize) -> Self {
        Handshakes(Arc::new(Semaphore::new(max)))
    }

    /// Creates room for the handshakes of this many threads.
    pub(super) fn for_threads(threads: NonZeroUsize) -> Self {
        Self::new(HANDSHAKES_PER_THREAD.saturating_mul(threads.get()))
    }

    /// Waits for room, then for `next`, which accepts a connection. The permit of the connection
    /// begins when `next` ends.
    ///
    /// # Cancel safety
    /// As cancel safe as `next`.
    pub(super) async fn begin<T>(&self, next: impl Future<Output = T>) -> (HandshakePermit, T) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.0).acquire_owned().await.ok();
        let accepted = next.await;
        (HandshakePermit::begin(room), accepted)
    }

    /// Begins the handshake of a connection that is accepted now. Returns `None` if there is no room.
    pub(super) fn try_begin(&self) -> Option<HandshakePermit> {
        let room = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(HandshakePermit::begin(Some(room)))
    }

    /// Returns the semaphore, whose permits are the free room.
    #[cfg(test)]
    pub(super) fn room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0)
    }
}

/// The handshake of one connection. Dropping the permit ends it.
#[derive(Debug)]
pub(super) struct HandshakePermit {
    room: Mutex<Option<OwnedSemaphorePermit>>,
    until: Instant,
}

impl HandshakePermit {
    fn begin(room: Option<OwnedSemaphorePermit>) -> Self {
        HandshakePermit {
            room: Mutex::new(room),
            until: Instant::now() + COUNTED_TIME,
        }
    }

    /// Counts the connection no longer.
    pub(super) fn release(&self) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        drop(room.take());
    }

    /// Runs a step of the handshake. Counts the connection no longer when its time is over; the step
    /// continues.
    ///
    /// # Cancel safety
    /// As cancel safe as `step`.
    pub(super) async fn run<T>(&self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        tokio::select! {
            biased;
            output = &mut step => return output,
            () = sleep_until(self.until) => self.release(),
        }
        step.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn next_connection_is_accepted_only_when_there_is_room() {
        let handshakes = Handshakes::new(2);
        let (first, ()) = handshakes.begin(ready(())).await;
        let (second, ()) = handshakes.begin(ready(())).await;
        assert!(timeout(SHORT, handshakes.begin(ready(()))).await.is_err());
        first.release();
        let (third, ()) = handshakes.begin(ready(())).await;
        assert!(timeout(SHORT, handshakes.begin(ready(()))).await.is_err());
        drop((second, third));
        assert_eq!(handshakes.room().available_permits(), 2);
        first.release();
        assert_eq!(handshakes.room().available_permits(), 2, "released once");
    }

    #[tokio::test]
    async fn connection_that_does_not_wait_needs_room_too() {
        let handshakes = Handshakes::new(1);
        let only = handshakes.try_begin().expect("room");
        assert!(handshakes.try_begin().is_none());
        only.release();
        assert!(handshakes.try_begin().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn accept_that_is_cancelled_takes_no_room() {
        let handshakes = Handshakes::new(1);
        assert!(
            timeout(SHORT, handshakes.begin(pending::<()>()))
                .await
                .is_err()
        );
        assert_eq!(handshakes.room().available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handshake_counts_for_a_limited_time_and_continues() {
        let handshakes = Handshakes::new(1);
        let (slow, ()) = handshakes.begin(ready(())).await;
        let begun = Instant::now();
        let step = slow.run(tokio::time::sleep(5 * COUNTED_TIME));
        let next = async {
            handshakes.begin(ready(())).await;
            begun.elapsed()
        };
        let ((), waited) = tokio::join!(step, next);
        assert!(
            waited >= COUNTED_TIME && waited < COUNTED_TIME + SHORT,
            "{waited:?}"
        );
        assert!(begun.elapsed() >= 5 * COUNTED_TIME, "the step ended");
    }

    #[tokio::test(start_paused = true)]
    async fn step_that_ends_in_time_stays_counted_until_the_permit_is_dropped() {
        let handshakes = Handshakes::new(1);
        let (permit, ()) = handshakes.begin(ready(())).await;
        assert_eq!(permit.run(ready(7)).await, 7);
        assert_eq!(handshakes.room().available_permits(), 0);
        drop(permit);
        assert_eq!(handshakes.room().available_permits(), 1);
    }
}
