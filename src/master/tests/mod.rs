//! The master on real loopback sockets.
