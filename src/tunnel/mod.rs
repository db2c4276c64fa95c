//! A mux over a channel.
