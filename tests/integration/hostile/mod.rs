//! Hostile peers: what an attack costs the role that is attacked, in memory, descriptors and log, and what others notice of it.
//!
//! Every attack comes from the one address of the tests, which is the harder case: those who do no harm are of the attacker's own party.

mod holders;
mod strangers;

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use report::{
    crypto::LinkKey,
    frame::{Frame, Role},
    id::Id,
};
use serde_json::{Value, json};

use crate::support::{
    peer::{self, Peer},
    services,
    tunnel::{Fields, Front, Port, Scene, Tunnel, with},
    wait,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What an attack may add to a log.
const LOG: usize = 20 * KIB as usize;

/// How long a round trip through a tunnel takes at most, and a new link until it is up.
const ECHO: Duration = Duration::from_secs(1);
const ENTRY: Duration = Duration::from_secs(5);

/// Logs as they are unless somebody asks for more.
fn quiet(fields: Value) -> Value {
    with(json!({"log_level": "info"}), fields)
}

/// A tunnel before the attack, whose master has these fields.
fn tunnel(ports: Vec<Port>, master: Value) -> Tunnel {
    let fields = Fields {
        master: quiet(master),
        server: quiet(json!({})),
        client: quiet(json!({})),
    };
    let mut scene = Scene::new(Front::Direct);
    // Memory that was used for the keys, and is free, would hide as much of what an attack takes.
    scene.environment = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
        .map(|name| (name.to_owned(), "131072".to_owned()))
        .to_vec();
    Tunnel::on(scene, ports, fields)
}

/// Runs attackers in threads of their own while something else is done, and says what became of each.
fn under_attack<R: Send>(
    count: usize,
    attack: impl Fn(&AtomicBool) -> R + Sync,
    work: impl FnOnce(),
) -> Vec<R> {
    /// Ends the attack when the work ends, by a panic too: a scope waits for its threads.
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

/// Those who do no harm.
struct Bystander {
    old: TcpStream,
    master_key: LinkKey,
    clients: AtomicUsize,
}

impl Bystander {
    /// One with a connection through the tunnel.
    fn of(tunnel: &Tunnel) -> Bystander {
        let old = services::connect(tunnel.probe().local);
        services::ping(&old, b"before").unwrap();
        Bystander {
            old,
            master_key: LinkKey::derive(Some(&tunnel.scene.master_key)),
            clients: AtomicUsize::new(0),
        }
    }

    /// That everybody is served: the old connection, a new client, and a server that proves the master key.
    #[track_caller]
    fn is_served(&self, tunnel: &Tunnel) {
        self.has_echo();
        let took = self.new_server(tunnel);
        assert!(took < ENTRY, "a new server waited {took:?}");
        let took = self.new_client(tunnel);
        assert!(took < ENTRY, "a new client waited {took:?}");
        self.has_echo();
    }

    /// That the old connection is answered soon: the machine may be busy once, not most of the time.
    #[track_caller]
    fn has_echo(&self) {
        let mut times = [(); 5].map(|()| {
            let start = Instant::now();
            services::ping(&self.old, b"still there").expect("the old connection goes on");
            start.elapsed()
        });
        times.sort();
        assert!(times[2] < ECHO, "echoes over the old tunnel took {times:?}");
    }

    /// How long a server that proves the master key waits.
    #[track_caller]
    fn new_server(&self, tunnel: &Tunnel) -> Duration {
        let start = Instant::now();
        wait::until_true("a server is let in", || {
            let Some(mut server) = Peer::try_connect(tunnel.scene.master_address()) else {
                return false;
            };
            server
                .try_hello(Role::Server, &self.master_key, Id(peer::random()), 1)
                .is_some()
                && matches!(server.frame(), Some(Frame::Welcome { .. }))
        });
        start.elapsed()
    }

    /// How long the first connection of a client waits that has just begun to listen.
    #[track_caller]
    fn new_client(&self, tunnel: &Tunnel) -> Duration {
        let port = tunnel.probe().elsewhere();
        let name = format!("client-{}", self.clients.fetch_add(1, Relaxed));
        let mut client = tunnel
            .scene
            .client(&name, std::slice::from_ref(&port), quiet(json!({})));
        let start = Instant::now();
        wait::until_true("a new client attaches", || services::echoes(port.local));
        let took = start.elapsed();
        client.stop();
        took
    }
}
