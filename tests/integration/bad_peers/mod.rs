//! Misbehaving peers. The side that can act reports the problem clearly, and other peers keep
//! working.

mod connections;
mod frames;
mod misconfigured;
