//! Ends and blocks links and tunnels of a running master. Lists and removes its blocks.

use std::fmt;

use clap::Args;
use http::Method;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    live::{text, time},
    output::Output,
    session::Session,
    table::Table,
    values::duration_in_seconds,
};
use crate::admin::api::{BlockRequest, MAX_BLOCK};

/// The path of the blocks.
const BLOCKS_PATH: &str = "/v1/blocks";

/// The object that a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LiveKind {
    /// A link.
    Link,
    /// A tunnel.
    Tunnel,
}

impl LiveKind {
    fn path(self, number: u64) -> String {
        format!("/v1/{self}s/{number}")
    }
}

impl fmt::Display for LiveKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LiveKind::Link => "link",
            LiveKind::Tunnel => "tunnel",
        })
    }
}

/// The arguments of a command on one thing of a list.
#[derive(Debug, Args)]
pub(super) struct ListedNumber {
    /// Number, as the list shows it
    pub(super) number: u64,
}

/// The arguments of a command that ends and blocks.
#[derive(Debug, Args)]
pub(super) struct BlockArguments {
    /// Number, as the list shows it
    number: u64,
    /// Time of the block
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = block_seconds)]
    seconds: u32,
}

/// The blocks in force. Their fields are those of the API.
#[derive(Deserialize)]
struct BlockList {
    items: Vec<Value>,
}

/// Reads the time of a block.
fn block_seconds(text: &str) -> Result<u32, String> {
    duration_in_seconds(text)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| (1..=MAX_BLOCK).contains(seconds))
        .ok_or_else(|| {
            let days = MAX_BLOCK / 86_400;
            format!(
                "\"{text}\" is not a time from 1 s to {days} d (write one such as \"30m\", \"1h\" or \
                 \"7d\")"
            )
        })
}

/// Ends a link or a tunnel.
pub(super) async fn end(
    kind: LiveKind,
    arguments: &ListedNumber,
    session: &Session,
) -> anyhow::Result<Output> {
    let number = arguments.number;
    let master = session.records.master()?;
    master.end(&kind.path(number)).await?;
    done("ended", &kind.to_string(), number, session)
}

/// Ends a link or a tunnel, and refuses its peer for a while.
pub(super) async fn block(
    kind: LiveKind,
    arguments: &BlockArguments,
    session: &Session,
) -> anyhow::Result<Output> {
    let number = arguments.number;
    let request = BlockRequest {
        seconds: arguments.seconds,
    };
    let path = format!("{}/block", kind.path(number));
    let master = session.records.master()?;
    let answer = master.write(Method::POST, &path, None, &request).await?;
    let block: Value = answer.json()?;
    session.view.output(&block, || {
        let id = text(&block, "number");
        let until = time(&block, "until", &session.view.zone);
        format!(
            "ended {kind} {number}\nblock {id} refuses {} until {until}\n",
            peer(&block)
        )
    })
}

/// Lists the blocks.
pub(super) async fn blocks(session: &Session) -> anyhow::Result<Output> {
    let answer = session.records.live(BLOCKS_PATH, &Value::Null).await?;
    let blocks: BlockList = answer.json()?;
    let zone = &session.view.zone;
    session
        .view
        .output(&blocks.items, || block_table(&blocks.items, zone).text())
}

/// Removes a block.
pub(super) async fn unblock(arguments: &ListedNumber, session: &Session) -> anyhow::Result<Output> {
    let number = arguments.number;
    let master = session.records.master()?;
    master.end(&format!("{BLOCKS_PATH}/{number}")).await?;
    done("removed", "block", number, session)
}

/// Returns the output of a change without a record.
fn done(what: &str, kind: &str, number: u64, session: &Session) -> anyhow::Result<Output> {
    let changed = json!({"kind": kind, "number": number});
    let text = || format!("{what} {kind} {number}\n");
    session.view.output(&changed, text)
}

fn block_table(blocks: &[Value], zone: &TimeZone) -> Table {
    let mut table = Table::new(&[">BLOCK", "PEER", "KEY", "UNTIL"]);
    for block in blocks {
        table.add([
            text(block, "number"),
            peer(block),
            text(block, "key"),
            time(block, "until", zone),
        ]);
    }
    table
}

/// Returns the peer that a block refuses.
fn peer(block: &Value) -> String {
    let (credential, address) = (text(block, "credential"), text(block, "address"));
    if !credential.is_empty() {
        return format!("credential {credential}");
    }
    let has_master_key = block.get("master_key").and_then(Value::as_bool);
    match has_master_key {
        Some(true) => format!("servers at {address}"),
        _ => format!("clients at {address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_block_has_bounds() {
        assert_eq!(block_seconds("1s"), Ok(1));
        assert_eq!(block_seconds("90m"), Ok(5_400));
        assert_eq!(block_seconds("30d"), Ok(MAX_BLOCK));
        for text in ["", "0s", "60", "31d", "soon", "99999999999w"] {
            let error = block_seconds(text).unwrap_err();
            assert!(
                error.starts_with(&format!("\"{text}\" is not a time from 1 s to 30 d (write")),
                "{error}"
            );
        }
    }

    #[test]
    fn blocks_name_the_peer_and_the_key() {
        let blocks = [
            json!({
                "number": 1, "credential": "00112233445566778899aabbccddeeff", "address": null,
                "master_key": false, "key": null, "until": 1_800_003_600
            }),
            json!({
                "number": 2, "credential": null, "address": "192.0.2.7", "master_key": true,
                "key": null, "until": 1_800_000_060
            }),
            json!({
                "number": 13, "credential": null, "address": "2001:db8::", "master_key": false,
                "key": "0123456789abcdef0123456789abcdef", "until": 1_800_000_000
            }),
        ];
        let expected = "\
BLOCK  PEER                                         KEY                               UNTIL
    1  credential 00112233445566778899aabbccddeeff  -                                 2027-01-15T09:00:00+00:00
    2  servers at 192.0.2.7                         -                                 2027-01-15T08:01:00+00:00
   13  clients at 2001:db8::                        0123456789abcdef0123456789abcdef  2027-01-15T08:00:00+00:00
";
        assert_eq!(block_table(&blocks, &TimeZone::UTC).text(), expected);
    }
}
