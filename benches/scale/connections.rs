//! Measures the memory of idle connections in the three processes.
//!
//! The cost is the growth of memory over the value without connections.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    options::Options,
    processes::{self, Memory},
    results::Results,
    roles::System,
};

/// The goal for a client or a server, in KiB per idle connection.
const ALLOWED_AT_ENDS: f64 = 8.0;

/// The goal for the master, in KiB per idle connection.
///
/// The master holds nothing for a connection. The value covers pages that the allocator takes for
/// other reasons during the measurement, divided by the number of connections.
const ALLOWED_AT_MASTER: f64 = 0.1;

/// The number of connections that open concurrently.
const AT_ONCE: usize = 64;

/// The listen backlog of the service.
const BACKLOG: u32 = 1024;

/// The open files of a process apart from those connections.
const OTHER_FILES: usize = 200;

/// The bytes that each connection echoes before it goes idle.
const ECHO: usize = 64;

/// The roles in the order of [`memory`]: the names in JSON of all memory and of heap and stacks, the
/// role, and its goal.
const ROLES: [(&str, &str, &str, f64); 3] = [
    (
        "connection_client_kib",
        "connection_client_heap_kib",
        "client",
        ALLOWED_AT_ENDS,
    ),
    (
        "connection_master_kib",
        "connection_master_heap_kib",
        "master",
        ALLOWED_AT_MASTER,
    ),
    (
        "connection_server_kib",
        "connection_server_heap_kib",
        "server",
        ALLOWED_AT_ENDS,
    ),
];

/// Opens the connections and measures their cost.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let count = options.connections;
    // This process holds both ends of each connection.
    processes::check_file_limit(2 * count + OTHER_FILES)?;
    let service = Service::start()?;
    let system = System::start(service.address).await?;
    // Open and close the first connections, so that one-time allocations do not count.
    drop(open(system.entry, count.min(AT_ONCE)).await?);
    tokio::time::sleep(options.connections_rest).await;
    let before = memory(&system)?;
    let mut connections = open(system.entry, count).await?;
    tokio::time::sleep(options.connections_rest).await;
    let after = memory(&system)?;
    echo(&mut connections[0])
        .await
        .context("the connections were lost")?;
    for ((before, after), (name, heap, role, goal)) in before.iter().zip(after).zip(ROLES) {
        let each = |before: f64, after: f64| (after - before).max(0.0) / 1024.0 / count as f64;
        let what = format!("{role}: per connection of {count} idle ones");
        results.record_with_goal(
            name,
            what,
            each(before.resident, after.resident),
            "KiB",
            goal,
        );
        results.record(
            heap,
            "… of which heap and stacks",
            each(before.anonymous, after.anonymous),
            "KiB",
        );
    }
    Ok(())
}

/// Returns the memory of client, master and server.
fn memory(system: &System) -> anyhow::Result<[Memory; 3]> {
    Ok([
        system.client.memory()?,
        system.master.process.memory()?,
        system.server.memory()?,
    ])
}

/// Opens connections and lets each echo once.
async fn open(entry: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let one = |_| async move {
        let mut connection = TcpStream::connect(entry).await?;
        echo(&mut connection).await?;
        anyhow::Ok(connection)
    };
    stream::iter(0..count)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn echo(connection: &mut TcpStream) -> anyhow::Result<()> {
    let (sent, mut received) = ([b'e'; ECHO], [0; ECHO]);
    let echoed = async {
        connection.write_all(&sent).await?;
        connection.read_exact(&mut received).await
    };
    tokio::time::timeout(Duration::from_secs(30), echoed)
        .await
        .context("no echo within 30 s")??;
    ensure!(sent == received, "the echo differs from the sent bytes");
    Ok(())
}

/// A service that echoes until it is dropped.
pub(crate) struct Service {
    pub address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Service {
    /// Starts the service on a port that the system chooses.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener));
        Ok(Service {
            address,
            _tasks: tasks,
        })
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    // If accepting fails, the measurement notices that the echoes stop.
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(answer(connection));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut connection: TcpStream) {
    if connection.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = connection.read(&mut buffer).await {
        if connection.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
