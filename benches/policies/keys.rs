//! Measures a master with many keys in its store.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    attachments,
    database::Database,
    idle::KEYS_PER_LINK,
    median::median,
    numbered_keys::{listed_key, ports},
    options::Options,
    pages,
    peers::Peers,
    percentile::percentile,
    results::Results,
    roles::Master,
};

/// The goal from the start of the process until it listens, in seconds.
const ALLOWED_START: f64 = 2.0;

/// The goal for the resident memory of the master, in MiB.
const ALLOWED_MEMORY: f64 = 100.0;

/// The goal for a registration after a restart, in µs: 10,000 registrations per second.
const ALLOWED_REGISTRATION: f64 = 100.0;

/// The goal for a page of the list, in milliseconds.
const ALLOWED_PAGE: f64 = 50.0;

/// The limit of each key, in bytes per second.
const LIMIT: u64 = 10 << 20;

/// The links of servers that are established concurrently.
const AT_ONCE: usize = 16;

/// The delay between the start and the memory reading.
const SETTLED: Duration = Duration::from_secs(1);

/// The names in JSON of the values of one database.
struct Names {
    start: &'static str,
    memory: &'static str,
    registration: &'static str,
    registered_memory: &'static str,
    store_page: [&'static str; 2],
    api_page: [&'static str; 2],
}

const SQLITE: Names = Names {
    start: "sqlite_start_s",
    memory: "sqlite_memory_mib",
    registration: "sqlite_registration_us",
    registered_memory: "sqlite_registered_memory_mib",
    store_page: ["sqlite_store_page_p50_ms", "sqlite_store_page_p99_ms"],
    api_page: ["sqlite_api_page_p50_ms", "sqlite_api_page_p99_ms"],
};

const POSTGRES: Names = Names {
    start: "postgres_start_s",
    memory: "postgres_memory_mib",
    registration: "postgres_registration_us",
    registered_memory: "postgres_registered_memory_mib",
    store_page: ["postgres_store_page_p50_ms", "postgres_store_page_p99_ms"],
    api_page: ["postgres_api_page_p50_ms", "postgres_api_page_p99_ms"],
};

/// Measures both databases, PostgreSQL only if it is installed.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let database = Database::sqlite()?;
    measure_database(&database, &SQLITE, options, results).await?;
    attachments::measure(&database, options, results).await?;
    drop(database);
    match Database::postgres().await? {
        Some(database) => measure_database(&database, &POSTGRES, options, results).await,
        None => {
            eprintln!("skipped PostgreSQL, which is not installed");
            Ok(())
        }
    }
}

async fn measure_database(
    database: &Database,
    names: &Names,
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    let keys = (0..options.keys).map(|number| listed_key(number, Some(LIMIT)));
    database.fill(keys.collect()).await?;
    let mut starts = Vec::new();
    for _ in 0..options.starts {
        let begun = Instant::now();
        let master = database.start_master().await?;
        starts.push(begun.elapsed().as_secs_f64());
        drop(master);
    }
    let (count, name) = (options.keys, database.name);
    let what = format!("{count} keys in {name}: from the start of the master until it listens");
    let start = median(&starts).unwrap_or(f64::NAN);
    results.record_with_goal(names.start, what, start, "s", ALLOWED_START);
    let folder = TempDir::with_prefix("report-bench-")?;
    let socket = folder.path().join("admin.sock");
    let admin = json!({ "admin": { "listen_at": format!("unix:{}", socket.display()) } });
    let master = database.start_master_with(admin).await?;
    tokio::time::sleep(SETTLED).await;
    let what = "… memory of the master";
    results.record_with_goal(names.memory, what, memory(&master)?, "MiB", ALLOWED_MEMORY);
    let store = database.open().await?;
    let in_store = pages::of_store(&store).await?;
    store.close().await;
    let what = format!("… page of {} keys from the store", report::store::MAX_PAGE);
    record_page(results, names.store_page, what, &in_store);
    let what = "… the same page from the admin API".to_owned();
    record_page(
        results,
        names.api_page,
        what,
        &pages::of_api(&socket).await?,
    );
    register(&master, names, options, results).await
}

fn record_page(results: &mut Results, names: [&'static str; 2], what: String, times: &[f64]) {
    let [p50, p99] = names;
    results.record(p50, format!("{what}: median"), percentile(times, 50), "ms");
    let what = "… 99th percentile";
    results.record_with_goal(p99, what, percentile(times, 99), "ms", ALLOWED_PAGE);
}

/// Measures how long it takes until servers have registered all keys, as after a restart of the
/// master.
async fn register(
    master: &Master,
    names: &Names,
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    let groups: Vec<Peers> = ports(0..options.keys)
        .chunks(KEYS_PER_LINK)
        .map(|ports| Peers::with_ports(master.address, ports.to_vec()))
        .collect();
    let begun = Instant::now();
    stream::iter(&groups)
        .map(|peers| peers.serve())
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let each = begun.elapsed().as_secs_f64() / f64::from(options.keys);
    let what = format!(
        "… registration of all keys by {} servers at once ({:.0} keys/s): time per key",
        groups.len(),
        1.0 / each
    );
    results.record_with_goal(
        names.registration,
        what,
        each * 1e6,
        "µs",
        ALLOWED_REGISTRATION,
    );
    let what = "… memory of the master with all keys registered";
    results.record(names.registered_memory, what, memory(master)?, "MiB");
    for peers in groups {
        peers.end(&[]).await;
    }
    Ok(())
}

/// Returns the resident memory of the master in MiB.
fn memory(master: &Master) -> anyhow::Result<f64> {
    Ok(master.process.memory()?.resident / f64::from(1 << 20))
}
