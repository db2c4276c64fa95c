//! The integration tests: real daemons on loopback, one module for each subject.

mod bad_configuration;
mod bad_peers;
mod bad_ways;
mod bench;
mod black_hole;
mod blindness;
mod descriptors;
mod doctor;
mod ends;
mod fronts;
mod harness;
mod hostile;
mod long_paths;
mod masters;
mod names;
mod prober;
mod proxies;
mod proxy_protocol;
mod quickstart;
mod resources;
mod roles;
#[path = "../support/mod.rs"]
mod support;
mod survival;
mod traffic;
mod vanished;
mod web_server;
