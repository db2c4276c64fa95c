//! The master role: the relay.
