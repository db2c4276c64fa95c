//! Usage that masters count while connections live: after kills and restarts, and while the database
//! is away.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use report::{
    policy::{LimitSubject, Moved},
    store::{Store, UsageStep},
};
use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    ports,
    postgres::Postgres,
    programs,
    services::{self, Service},
    tunnel::{Fields, Front, Methods, Port, Testbed, Tunnel, with},
    wait,
};

/// The most usage in time that a killed master loses.
const MOST_LOST: Duration = Duration::from_secs(5);

/// How long the database is away: a minute at full scale.
fn outage() -> Duration {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => Duration::from_secs(60),
        _ => Duration::from_secs(6),
    }
}

/// A database, read as another process would.
struct Database {
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Database {
    fn open(url: &str) -> Database {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let url = url.parse().expect("the address of a database");
        let store = runtime.block_on(Store::open(url)).expect("a database");
        Database { runtime, store }
    }

    /// The usage of the relay over all masters, or `None` while the database is away.
    fn usage(&self) -> Option<Moved> {
        let usage = self
            .store
            .usage(LimitSubject::Relay, UsageStep::Day, 0, i64::MAX);
        let days = self.runtime.block_on(usage).ok()?;
        Some(days.iter().fold(Moved::default(), |sum, day| Moved {
            up: sum.up + day.moved.up,
            down: sum.down + day.moved.down,
        }))
    }
}

/// The bytes that a master has passed on since its start, as its metrics report them.
#[track_caller]
fn relayed(admin: SocketAddr) -> Moved {
    let text = String::from_utf8(programs::curl(admin, "/metrics")).expect("text");
    let sent_to = |peer: &str| {
        let name = format!("report_link_bytes_total{{peer=\"{peer}\",direction=\"sent\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().expect("a number"))
    };
    Moved {
        up: sent_to("server"),
        down: sent_to("client"),
    }
}

fn plus(one: Moved, other: Moved) -> Moved {
    Moved {
        up: one.up + other.up,
        down: one.down + other.down,
    }
}

/// The fields of a master with a database and an admin address.
fn counting(url: &str, admin: SocketAddr) -> Value {
    json!({"store": url, "grace_period": "2s", "admin": {"listen_at": admin.to_string()}})
}

/// Reads from a service without end, a few MB a second, and counts what arrives.
struct Transfer {
    arrived: Arc<AtomicU64>,
    stream: Arc<TcpStream>,
    reader: Option<JoinHandle<()>>,
}

impl Transfer {
    fn start(local: SocketAddr) -> Transfer {
        let stream = Arc::new(services::connect(local));
        let arrived = Arc::<AtomicU64>::default();
        let (counter, reading) = (Arc::clone(&arrived), Arc::clone(&stream));
        let reader = thread::spawn(move || {
            let mut block = vec![0; 64 * 1024];
            loop {
                match services::read(&*reading, &mut block) {
                    Ok(0) | Err(_) => return,
                    Ok(length) => counter.fetch_add(length as u64, Relaxed),
                };
                wait::pause(Duration::from_millis(10));
            }
        });
        Transfer {
            arrived,
            stream,
            reader: Some(reader),
        }
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    /// Waits until some more bytes have arrived.
    #[track_caller]
    fn wait_for_more(&self) {
        let before = self.arrived();
        wait::until_true("more bytes arrive", || self.arrived() > before + 1_000_000);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Ends the read of the other thread. The connection may be lost already.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[test]
fn a_killed_master_loses_the_usage_of_five_seconds_at_most() {
    let testbed = Testbed::new(Front::Direct);
    let url = format!("sqlite:{}", testbed.folder().join("keys.db").display());
    let service = services::endless();
    let port = Port::new("endless", service.address(), Methods::DEFAULT);
    let fields = Fields {
        master: json!({"store": url}),
        ..Fields::default()
    };
    let mut tunnel = Tunnel::on(testbed, vec![port.clone()], fields);
    let transfer = Transfer::start(port.local);
    // Samples of what had arrived by which time.
    let mut samples = vec![(Instant::now(), 0)];
    let started = Instant::now();
    wait::until_true("the transfer runs for a while", || {
        samples.push((Instant::now(), transfer.arrived()));
        started.elapsed() > MOST_LOST + Duration::from_secs(4)
    });
    tunnel.master.kill();
    let killed = Instant::now();
    let arrived = transfer.arrived();
    let counted = Database::open(&url).usage().expect("an answer").down;
    let earlier = samples
        .iter()
        .rev()
        .find(|(time, _)| killed.duration_since(*time) >= MOST_LOST);
    let (_, earlier) = *earlier.expect("a sample");
    assert!(
        earlier > 1_000_000,
        "{earlier} bytes are too few for this test"
    );
    assert!(counted >= earlier, "counted {counted}, arrived {earlier}");
    // Sealing adds little, and the queues and windows in between hold some megabytes.
    let most = arrived + arrived / 10 + (64 << 20);
    assert!(counted <= most, "counted {counted}, arrived {arrived}");
}

/// Two masters with one database, a server that is linked to both, and a client of each.
struct TwoMasters {
    masters: [CountingMaster; 2],
    clients: [(Daemon, Port); 2],
    _server: Daemon,
    _service: Service,
    testbed: Testbed,
    url: String,
}

struct CountingMaster {
    daemon: Daemon,
    address: SocketAddr,
    admin: SocketAddr,
}

impl CountingMaster {
    fn start(testbed: &Testbed, url: &str, address: SocketAddr, admin: SocketAddr) -> Self {
        let fields = with(
            counting(url, admin),
            json!({"listen_at": address.to_string()}),
        );
        let name = format!("master-{}", address.port());
        let mut daemon = testbed.role(&name, &testbed.master_configuration(fields));
        daemon.wait_ready(|| ports::has_listener_at(address) && ports::has_listener_at(admin));
        CountingMaster {
            daemon,
            address,
            admin,
        }
    }
}

impl TwoMasters {
    fn new(url: &str) -> TwoMasters {
        let testbed = Testbed::new(Front::Direct);
        let service = services::echo();
        let masters = [testbed.master_address(), ports::free()]
            .map(|address| CountingMaster::start(&testbed, url, address, ports::free()));
        let port = Port::new("echo", service.address(), Methods::DEFAULT);
        let both = masters.each_ref().map(|master| master.address.to_string());
        let server = testbed.server(
            "server",
            std::slice::from_ref(&port),
            json!({"master": both}),
        );
        let clients = masters.each_ref().map(|master| {
            let port = port.at_another_address();
            let name = format!("client-{}", master.address.port());
            let fields = json!({"master": master.address.to_string()});
            let client = testbed.client(&name, std::slice::from_ref(&port), fields);
            (client, port)
        });
        let lab = TwoMasters {
            masters,
            clients,
            _server: server,
            _service: service,
            testbed,
            url: url.to_owned(),
        };
        lab.transfer();
        lab
    }

    /// Moves some bytes through both masters.
    #[track_caller]
    fn transfer(&self) {
        let message = "x".repeat(200_000);
        for (_, port) in &self.clients {
            wait::until_true("the tunnel works", || services::echoes(port.local));
            let answer = programs::nc(port.local, message.as_bytes()).succeeded();
            assert_eq!(answer.out.len(), message.len());
        }
    }

    /// The bytes of both masters since their starts.
    #[track_caller]
    fn relayed(&self) -> Moved {
        let [first, second] = self.masters.each_ref().map(|master| relayed(master.admin));
        plus(first, second)
    }

    /// Waits until the database has exactly what the masters have passed on, and what earlier ones
    /// had. Returns the sum.
    #[track_caller]
    fn wait_until_written(&self, database: &Database, earlier: Moved) -> Moved {
        wait::until("all usage is written", || {
            let before = plus(self.relayed(), earlier);
            let counted = database.usage()?;
            // Nothing may move in between, such as a keep-alive of a tunnel.
            (before == plus(self.relayed(), earlier) && counted == before).then_some(counted)
        })
    }

    /// Kills both masters and starts them again. Returns what they had written.
    #[track_caller]
    fn kill_and_restart(&mut self, database: &Database) -> Moved {
        for master in &mut self.masters {
            master.daemon.kill();
        }
        let written = wait::until("no commit is on its way", || {
            let before = database.usage()?;
            wait::pause(Duration::from_millis(300));
            (database.usage()? == before).then_some(before)
        });
        for master in &mut self.masters {
            let (address, admin) = (master.address, master.admin);
            *master = CountingMaster::start(&self.testbed, &self.url, address, admin);
        }
        written
    }
}

#[test]
fn two_masters_add_up_over_kills_and_restarts() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let postgres = Postgres::start(folder.path(), ports::free());
    let url = postgres.create_database("usage");
    let mut lab = TwoMasters::new(&url);
    let database = Database::open(&url);
    let mut earlier = Moved::default();
    for round in 0..3 {
        lab.transfer();
        let written = lab.wait_until_written(&database, earlier);
        assert!(written.up >= (round + 1) * 400_000, "{written:?}");
        earlier = lab.kill_and_restart(&database);
        // A few bytes may have moved after the last flush of a killed master, and were counted or
        // lost. Nothing is counted twice.
        assert!(
            earlier.up >= written.up && earlier.up - written.up < 20_000,
            "{written:?}, {earlier:?}"
        );
        assert!(earlier.down >= written.down && earlier.down - written.down < 20_000);
        lab.transfer();
    }
    // A graceful end writes everything.
    let before = lab.wait_until_written(&database, earlier);
    lab.transfer();
    for (client, _) in &mut lab.clients {
        client.stop();
    }
    let relayed = plus(lab.relayed(), earlier);
    for master in &mut lab.masters {
        assert_eq!(master.daemon.stop().code(), Some(0));
    }
    let counted = database.usage().expect("an answer");
    assert!(counted.up >= relayed.up && counted.down >= relayed.down);
    assert!(counted.up >= before.up + 400_000, "{before:?}, {counted:?}");
}

#[test]
fn usage_is_complete_after_the_database_was_away() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let mut postgres = Postgres::start(folder.path(), ports::free());
    let url = postgres.create_database("usage");
    let admin = ports::free();
    let service = services::endless();
    let port = Port::new("endless", service.address(), Methods::DEFAULT);
    let fields = Fields {
        master: counting(&url, admin),
        ..Fields::default()
    };
    let tunnel = Tunnel::on(Testbed::new(Front::Direct), vec![port.clone()], fields);
    let database = Database::open(&url);
    let transfer = Transfer::start(port.local);
    wait::until_true("usage is counted", || {
        database.usage().is_some_and(|usage| usage.down > 0)
    });
    postgres.stop();
    let stopped = Instant::now();
    while stopped.elapsed() < outage() {
        transfer.wait_for_more();
        assert!(tunnel.is_connected(), "new connections work");
    }
    tunnel.master.wait_for_line(&["store away"]);
    let before = relayed(admin);
    postgres.start_again();
    wait::until_true("what was counted is written", || {
        database
            .usage()
            .is_some_and(|usage| usage.down >= before.down)
    });
    transfer.wait_for_more();
    assert_eq!(tunnel.client.log().matches("tunnel resumed").count(), 0);
    drop(transfer);
    let written = wait::until("all usage is written", || {
        let (before, counted) = (relayed(admin), database.usage()?);
        (before == relayed(admin) && counted == before).then_some(counted)
    });
    assert!(written.down >= before.down);
}
