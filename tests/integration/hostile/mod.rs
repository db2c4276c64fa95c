//! Hostile peers: the memory, descriptors and log that an attack costs the attacked role, and its
//! effect on other peers.
//!
//! Every attack comes from the one address of the tests. That is the harder case: the harmless
//! peers share the attacker's address.

mod key_holders;
mod keyless_clients;
mod lanes;

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use report_proto::{
    crypto::LinkKey,
    frame::{Frame, Role},
    id::Id,
};
use serde_json::{Value, json};

use crate::support::{
    peer::{self, Peer},
    services,
    tunnel::{Fields, Front, Port, Testbed, Tunnel, with},
    wait,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The bytes that an attack may add to a log.
const LOG_LIMIT: usize = 20 * KIB as usize;

/// The longest acceptable round trip through a tunnel, and the longest wait of a new link.
const ECHO_LIMIT: Duration = Duration::from_secs(1);
const LINK_LIMIT: Duration = Duration::from_secs(5);

/// The default log level.
fn with_default_log_level(fields: Value) -> Value {
    with(json!({"log_level": "info"}), fields)
}

/// A tunnel before the attack. `master` has the fields of its master.
fn tunnel(ports: Vec<Port>, master: Value) -> Tunnel {
    let fields = Fields {
        master: with_default_log_level(master),
        server: with_default_log_level(json!({})),
        client: with_default_log_level(json!({})),
    };
    let mut testbed = Testbed::new(Front::Direct);
    // Memory that the key derivation has used and freed would hide the same amount of the attack's
    // cost. With these thresholds the allocator returns it.
    testbed.environment = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
        .map(|name| (name.to_owned(), "131072".to_owned()))
        .to_vec();
    Tunnel::on(testbed, ports, fields)
}

/// Runs attackers in separate threads while `work` runs. Returns the result of each attacker.
fn under_attack<R: Send>(
    count: usize,
    attack: impl Fn(&AtomicBool) -> R + Sync,
    work: impl FnOnce(),
) -> Vec<R> {
    /// Ends the attack when `work` ends, by a panic too, because a scope waits for its threads.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..count).map(|_| scope.spawn(|| attack(&done))).collect();
        {
            let _done = Done(&done);
            work();
        }
        attackers
            .into_iter()
            .map(|attacker| attacker.join().unwrap())
            .collect()
    })
}

/// Harmless peers beside the attack.
struct Bystander {
    old: TcpStream,
    master_key: LinkKey,
    clients: AtomicUsize,
}

impl Bystander {
    /// Opens a connection through the tunnel.
    fn of(tunnel: &Tunnel) -> Bystander {
        let old = services::connect(tunnel.probe().local);
        services::ping(&old, b"before").unwrap();
        Bystander {
            old,
            master_key: LinkKey::derive(Some(&tunnel.testbed.master_key)),
            clients: AtomicUsize::new(0),
        }
    }

    /// Asserts that the old connection, a new client and a server that proves the master key are
    /// all served.
    #[track_caller]
    fn assert_served(&self, tunnel: &Tunnel) {
        self.assert_echo();
        let took = self.new_server(tunnel);
        assert!(took < LINK_LIMIT, "a new server waited {took:?}");
        let took = self.new_client(tunnel);
        assert!(took < LINK_LIMIT, "a new client waited {took:?}");
        self.assert_echo();
    }

    /// Asserts that the old connection is answered soon. The median of five round trips counts, so
    /// the machine may be busy once.
    #[track_caller]
    fn assert_echo(&self) {
        let mut times = [(); 5].map(|()| {
            let start = Instant::now();
            services::ping(&self.old, b"still there").expect("the old connection works");
            start.elapsed()
        });
        times.sort();
        assert!(
            times[2] < ECHO_LIMIT,
            "echoes over the old tunnel took {times:?}"
        );
    }

    /// How long a server that proves the master key waits.
    #[track_caller]
    fn new_server(&self, tunnel: &Tunnel) -> Duration {
        let start = Instant::now();
        wait::until_true("the master accepts a server", || {
            let Some(mut server) = Peer::try_connect(tunnel.testbed.master_address()) else {
                return false;
            };
            server
                .try_hello(Role::Server, &self.master_key, Id(peer::random()), 1)
                .is_some()
                && matches!(server.frame(), Some(Frame::Welcome { .. }))
        });
        start.elapsed()
    }

    /// How long the first connection of a client that has just begun to listen waits.
    #[track_caller]
    fn new_client(&self, tunnel: &Tunnel) -> Duration {
        let port = tunnel.probe().at_another_address();
        let name = format!("client-{}", self.clients.fetch_add(1, Relaxed));
        let mut client = tunnel.testbed.client(
            &name,
            std::slice::from_ref(&port),
            with_default_log_level(json!({})),
        );
        let start = Instant::now();
        wait::until_true("a new client attaches", || services::echoes(port.local));
        let took = start.elapsed();
        client.stop();
        took
    }
}
