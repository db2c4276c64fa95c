//! Tests of the room for handshakes: which connections count, and that the master waits for room.

use tokio::time::Instant;

use super::*;
use crate::master::handshakes::HANDSHAKES_PER_THREAD;

/// The free room when nothing is in progress. The listener holds the room of the next connection.
const FREE: usize = HANDSHAKES_PER_THREAD - 1;

/// Below the time after which no connection counts any more.
const SOON: Duration = Duration::from_secs(1);

fn free(master: &RunningMaster) -> usize {
    master.shared.handshakes.room().available_permits()
}

/// Waits until no connection counts, for less than the time after which none does in any case.
async fn until_free(master: &RunningMaster) {
    let since = Instant::now();
    until("no handshake is in progress", || free(master) == FREE).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

#[tokio::test]
async fn handshake_ends_with_welcome_or_with_the_connection() {
    let master = start();
    until_free(&master).await;
    let silent = master.connect().await;
    until("the connection counts", || free(&master) == FREE - 1).await;
    drop(silent);
    until_free(&master).await;
    let (mut client, mut server) = connected_pair(&master).await;
    until_free(&master).await;
    client.expect_alive().await;
    server.expect_alive().await;
}

#[tokio::test]
async fn visitor_of_the_web_front_is_no_handshake() {
    let master = start();
    let mut visitor = master.connect().await;
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("sent");
    let (answer, _) = head(&mut visitor).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    until_free(&master).await;
    assert_eq!(master.shared.tasks.len(), 1, "the connection is open");
}

#[tokio::test]
async fn connections_wait_in_the_backlog_while_there_is_no_room() {
    let master = start();
    until_free(&master).await;
    let count = u32::try_from(FREE).expect("a small number");
    let others = master.shared.handshakes.room().acquire_many_owned(count);
    let others = with_timeout(others).await.expect("all of the room");
    // It takes the room that the listener holds.
    let _silent = master.connect().await;
    until("it is accepted", || master.shared.tasks.len() == 1).await;
    let mut waiting = master.connect().await;
    waiting
        .write_all(request("/").as_bytes())
        .await
        .expect("sent");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), waiting.read(&mut [0]))
            .await
            .is_err(),
        "no answer yet"
    );
    assert_eq!(master.shared.tasks.len(), 1, "it is not accepted yet");
    drop(others);
    let (answer, _) = head(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}
