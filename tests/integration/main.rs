//! The integration tests: real daemons on loopback, one module for each subject.

mod admin;
#[cfg(feature = "store")]
mod admin_api;
#[cfg(feature = "store")]
mod administration;
mod bad_configuration;
mod bad_peers;
mod bench;
mod black_hole;
mod commands;
mod configuration_files;
mod connection_failures;
#[cfg(feature = "store")]
mod deploy;
mod descriptors;
mod doctor;
mod ends;
mod fronts;
mod harness;
mod hostile;
#[cfg(feature = "store")]
mod keys_page;
mod lanes;
mod long_paths;
mod lossy_datagrams;
mod lossy_path;
mod master_confidentiality;
mod name_resolution;
#[cfg(feature = "store")]
mod policies;
mod port_ranges;
mod prober;
mod proxies;
mod proxy_protocol;
mod quickstart;
mod reload;
mod resources;
mod roles;
mod several_masters;
mod socks;
#[cfg(feature = "store")]
mod store;
mod store_daemons;
#[path = "../support/mod.rs"]
mod support;
mod survival;
mod systemd;
mod targets;
mod traffic;
mod udp;
mod udp_wireguard;
#[cfg(target_os = "linux")]
mod unix_sockets;
#[cfg(feature = "store")]
mod usage;
mod vanished_host;
mod web_server;
