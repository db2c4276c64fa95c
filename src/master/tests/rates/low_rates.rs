//! Low rates: the burst is a part of the rate over ten seconds, and short messages wait shortly.

use super::*;

#[tokio::test(start_paused = true)]
async fn first_ten_seconds_of_a_limit_are_within_three_percent() {
    for (rate, length) in [(64 * 1024, 1_400), (64 * 1024, 4_100), (1_000_000, 16_000)] {
        let mut master = MemoryMaster::start();
        let (mut server, mut client) = master.pair().await;
        master.limit(PORT, rate);
        let deadline = Instant::now() + 10 * SECOND;
        let sending = send_until(&mut server, length, deadline);
        let ((), received) = tokio::join!(sending, received_until(&mut client, deadline));
        let expected = usize::try_from(10 * rate).expect("it fits");
        // The burst is a part of them.
        assert!(
            received.abs_diff(expected) <= expected * 3 / 100,
            "{received} of {expected} in messages of {length}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn message_of_another_client_waits_for_one_message_of_a_copy() {
    const RATE: u64 = 64 * 1024;
    let mut master = MemoryMaster::start();
    let (mut server, client) = master.pair().await;
    let mut other = master.client(3);
    assert_eq!(connect(&mut other, &mut server, 1, PORT).await, 2);
    master.limit(PORT, RATE);
    for _ in 0..20 {
        server.data(1, &[1; 4_096]).await;
    }
    for _ in 0..5 {
        tokio::time::sleep(SECOND / 10).await;
        let begun = Instant::now();
        server.data(2, b"echo").await;
        other.expect_data(1, b"echo").await;
        // A message of the copy takes a sixteenth of a second.
        let waited = begun.elapsed();
        assert!(waited <= SECOND / 10, "{waited:?}");
    }
    drop(client);
}
