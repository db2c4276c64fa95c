//! The client role: listens locally, carries what connects into tunnels.
