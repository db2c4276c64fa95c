//! Support for the integration tests: real daemons, services, a recording proxy, and the tunnel in
//! front of them.
//!
//! Every daemon listens on loopback at a unique port, has a folder inside its test's, and ends with
//! the test. No test waits by sleeping: see [`wait`].

pub(crate) mod attack;
pub(crate) mod bytes;
pub(crate) mod certificates;
pub(crate) mod content;
pub(crate) mod daemon;
pub(crate) mod datagrams;
pub(crate) mod fault_injector;
pub(crate) mod files;
pub(crate) mod fronts;
pub(crate) mod line_session;
pub(crate) mod mariadb;
pub(crate) mod memory;
pub(crate) mod namespace;
pub(crate) mod nginx;
pub(crate) mod path;
pub(crate) mod peer;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod prober;
pub(crate) mod programs;
pub(crate) mod proxies;
pub(crate) mod proxy;
pub(crate) mod services;
pub(crate) mod shipped;
pub(crate) mod sshd;
pub(crate) mod tunnel;
pub(crate) mod wait;
pub(crate) mod watchdog;

/// The sizes of the transfers, by `REPORT_TEST_SCALE`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Rows of one COPY.
    pub rows: u32,
    /// Seconds of one run of wrk.
    pub burst_seconds: u32,
}

/// The selected scale. `full` is for releases, and every other value is for each change.
pub(crate) fn scale() -> Scale {
    match std::env::var("REPORT_TEST_SCALE").as_deref() {
        Ok("full") => Scale {
            file_bytes: 1 << 30,
            rows: 1_000_000,
            burst_seconds: 10,
        },
        _ => Scale {
            file_bytes: 16 << 20,
            rows: 50_000,
            burst_seconds: 1,
        },
    }
}
