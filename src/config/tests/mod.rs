//! Tests of whole files, valid and invalid: their meaning and their errors. This file contains what
//! the tests share.

mod addresses;
mod diff;
mod examples;
mod field_names;
mod files;
mod formats;
mod includes;
mod ports;
mod problems;
mod secrets;
mod service_ports;
mod stores;
mod values;
mod variables;

use std::{ffi::OsString, path::Path};

use super::*;

const README_MASTER: &str = r#"{"mode":"master","log_level":"debug","listen_at":"0.0.0.0:51324","master_key":"rePortserver"}"#;
const README_SERVER: &str = r#"{"mode":"server","log_level":"debug","master":"rePort.myserver.com:51324","master_key":"rePortserver","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:3389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:22","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;
const README_CLIENT: &str = r#"{"mode":"client","log_level":"debug","master":"rePort.myserver.com:51324","ports":[{"mark":"远程桌面","local_address":"127.0.0.1:13389","port_key":"T6wjoGQaqfDFDs1tySHVe8RXYYxnjWo4","encrypt_method":"aes-128-cfb","compress_method":"zstd"},{"mark":"SSH","local_address":"127.0.0.1:122","port_key":"lm6dQFjcaLyuVoy1Q4DqnunmnVz9b7CE","encrypt_method":"aes-128-cfb","compress_method":"zstd"}]}"#;

fn no_variable(_: &str) -> Option<OsString> {
    None
}

fn read(text: &str) -> Result<LoadedConfig, ConfigError> {
    parse(text, Path::new("c.json"), &no_variable)
}

/// Returns the error lines of an invalid file.
fn error_lines(text: &str) -> Vec<String> {
    read(text)
        .expect_err(text)
        .to_string()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Returns the only error line of an invalid file.
fn error_line(text: &str) -> String {
    let mut lines = error_lines(text);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

#[track_caller]
fn assert_contains(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "missing {part:?} in: {line}");
    }
}

fn master(fields: &str) -> String {
    format!(r#"{{"mode": "master", "listen_at": "127.0.0.1:0", "master_key": "k", {fields}}}"#)
}

fn server(fields: &str) -> String {
    let port = r#"{"mark": "SSH", "local_address": "127.0.0.1:22", "port_key": "p"}"#;
    format!(
        r#"{{"mode": "server", "master": "host:1", "master_key": "k", "ports": [{port}], {fields}}}"#
    )
}

fn ports(mode: &str, ports: &str) -> String {
    let key = if mode == "server" {
        r#""master_key": "k","#
    } else {
        ""
    };
    format!(r#"{{"mode": "{mode}", "master": "host:1", {key} "ports": [{ports}]}}"#)
}

fn server_of(loaded: LoadedConfig) -> ServerConfig {
    let RoleConfig::Server(server) = loaded.config.role else {
        panic!("no server")
    };
    server
}

fn client(fields: &str) -> String {
    let port = r#"{"mark": "SSH", "local_address": "127.0.0.1:122", "port_key": "p"}"#;
    format!(r#"{{"mode": "client", "ports": [{port}], {fields}}}"#)
}

fn client_of(loaded: LoadedConfig) -> ClientConfig {
    let RoleConfig::Client(client) = loaded.config.role else {
        panic!("no client")
    };
    client
}
