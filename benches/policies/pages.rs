//! Reads the whole list of keys, page by page.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use report::store::{MAX_PAGE, Store};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::percentile::milliseconds_since;

/// Returns the time of each page from the store in milliseconds.
pub(crate) async fn of_store(store: &Store) -> anyhow::Result<Vec<f64>> {
    let (mut after, mut times) = (None, Vec::new());
    loop {
        let begun = Instant::now();
        let page = store.keys(None, after.as_ref(), MAX_PAGE).await?;
        times.push(milliseconds_since(begun));
        after = page.next;
        if after.is_none() {
            return Ok(times);
        }
    }
}

/// Returns the time of each page from the admin API in milliseconds, with a connection for each.
pub(crate) async fn of_api(socket: &Path) -> anyhow::Result<Vec<f64>> {
    let first = format!("/v1/keys?size={MAX_PAGE}");
    let (mut target, mut times) = (first.clone(), Vec::new());
    loop {
        let begun = Instant::now();
        let page = get(socket, &target).await?;
        times.push(milliseconds_since(begun));
        match page.get("next").and_then(Value::as_str) {
            Some(next) => target = format!("{first}&after={next}"),
            None => return Ok(times),
        }
    }
}

/// Returns the JSON at a path of the admin address.
async fn get(socket: &Path, target: &str) -> anyhow::Result<Value> {
    let mut connection = UnixStream::connect(socket).await?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is incomplete")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{target}: {status}: {body}");
    serde_json::from_str(body).with_context(|| format!("{target}: invalid JSON"))
}
