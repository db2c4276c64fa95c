//! Stands in for the reader on systems without sock_diag.

use super::TcpStats;
use crate::tcp_table::TcpConnection;

/// A reader of TCP statistics, which this system does not have.
#[derive(Debug)]
pub enum TcpStatsReader {}

impl TcpStatsReader {
    /// Returns `None`.
    #[must_use]
    pub fn open() -> Option<Self> {
        None
    }

    /// Returns the statistics of a connection. Never called: there is no reader.
    pub fn read(&mut self, _connection: &TcpConnection) -> Option<TcpStats> {
        match *self {}
    }
}
