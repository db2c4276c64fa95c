//! Support for the integration tests: real daemons, services, a recording proxy, and the tunnel in
//! front of them.
//!
//! Every daemon listens on loopback at a unique port, has a folder inside its test's, and ends with
//! the test. No test waits by sleeping: see [`wait`].

pub mod attack;
pub mod bytes;
pub mod certificates;
pub mod content;
pub mod daemon;
pub mod fault_injector;
pub mod files;
pub mod fronts;
pub mod line_session;
pub mod memory;
pub mod nginx;
pub mod peer;
pub mod ports;
pub mod postgres;
pub mod prober;
pub mod programs;
pub mod proxies;
pub mod proxy;
pub mod services;
pub mod sshd;
pub mod tunnel;
pub mod wait;
pub mod watchdog;

/// The sizes of the transfers, by `REPORT_TEST_SCALE`.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Rows of one COPY.
    pub rows: u32,
    /// Seconds of one run of wrk.
    pub burst_seconds: u32,
}

/// The selected scale. `full` is for releases, and every other value is for each change.
pub fn scale() -> Scale {
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
