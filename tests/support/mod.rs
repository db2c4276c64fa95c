//! What the integration tests stand on: real daemons, services, a recording proxy, and the tunnel in front of them.
//!
//! Every daemon listens on loopback at a port of its own, lives in a folder of its test, and ends with the test. Nothing waits by sleeping:
//! see [`wait`].

pub mod attack;
pub mod bytes;
pub mod certificates;
pub mod content;
pub mod conversation;
pub mod daemon;
pub mod files;
pub mod fronts;
pub mod memory;
pub mod nginx;
pub mod peer;
pub mod ports;
pub mod postgres;
pub mod prober;
pub mod programs;
pub mod proxies;
pub mod proxy;
pub mod saboteur;
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

/// `full` is what the release is proven with, everything else what is run at each change.
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
