//! `report links`, `report tunnels` and `report status`: the live values of a running master.
//! `live_actions` changes them.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    api_client::STATUS_PATH,
    live_actions::{self, BlockArguments, ListedNumber, LiveKind},
    output::Output,
    session::Session,
    table::Table,
    target::TargetArguments,
    values::{bytes_text, time_text},
};
use crate::{policy::AccountId, store::MAX_PAGE};

/// The arguments of `report links`.
#[derive(Debug, Args)]
pub(in crate::cli) struct LinksArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(subcommand)]
    command: Option<LinkCommand>,
}

/// The arguments of `report tunnels`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TunnelsArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(subcommand)]
    command: Option<TunnelCommand>,
}

/// The arguments of `report status`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArguments {
    #[command(flatten)]
    target: TargetArguments,
}

#[derive(Debug, Subcommand)]
enum LinkCommand {
    /// End a link, whose role may connect again
    End(ListedNumber),
    /// End a link, and refuse its peer for a while
    Block(BlockArguments),
    /// List the blocks of links and tunnels
    Blocks,
    /// Remove a block of a link or tunnel
    Unblock(ListedNumber),
}

#[derive(Debug, Subcommand)]
enum TunnelCommand {
    /// End a tunnel, whose client may attach again
    End(ListedNumber),
    /// End a tunnel, and refuse its client at the key for a while
    Block(BlockArguments),
}

/// The query of a page.
#[derive(Serialize)]
struct PageQuery {
    after: Option<String>,
    size: u32,
}

/// A page of live things. Their fields are those of the API.
#[derive(Deserialize)]
struct LivePage {
    items: Vec<Value>,
    #[serde(default)]
    next: Option<String>,
}

/// The names of accounts.
type Names = HashMap<AccountId, String>;

/// Lists the links of the master, or ends or blocks one.
pub(super) async fn links(arguments: &LinksArguments) -> anyhow::Result<Output> {
    let session = arguments.target.open_master().await?;
    match &arguments.command {
        None => list_links(&session).await,
        Some(LinkCommand::End(number)) => live_actions::end(LiveKind::Link, number, &session).await,
        Some(LinkCommand::Block(block)) => {
            live_actions::block(LiveKind::Link, block, &session).await
        }
        Some(LinkCommand::Blocks) => live_actions::blocks(&session).await,
        Some(LinkCommand::Unblock(number)) => live_actions::unblock(number, &session).await,
    }
}

/// Lists the tunnels of the master, or ends or blocks one.
pub(super) async fn tunnels(arguments: &TunnelsArguments) -> anyhow::Result<Output> {
    let session = arguments.target.open_master().await?;
    match &arguments.command {
        None => list_tunnels(&session).await,
        Some(TunnelCommand::End(number)) => {
            live_actions::end(LiveKind::Tunnel, number, &session).await
        }
        Some(TunnelCommand::Block(block)) => {
            live_actions::block(LiveKind::Tunnel, block, &session).await
        }
    }
}

/// Shows the state of the master.
pub(super) async fn status(arguments: &StatusArguments) -> anyhow::Result<Output> {
    let session = arguments.target.open_master().await?;
    let answer = session.records.live(STATUS_PATH, &Value::Null).await?;
    let status: Value = answer.json()?;
    let zone = &session.view.zone;
    session
        .view
        .output(&status, || status_table(&status, zone).text())
}

async fn list_links(session: &Session) -> anyhow::Result<Output> {
    let links = all(session, "/v1/links").await?;
    let names = names(&links, &["account"], session).await;
    let zone = &session.view.zone;
    session
        .view
        .output(&links, || link_table(&links, &names, zone).text())
}

async fn list_tunnels(session: &Session) -> anyhow::Result<Output> {
    let tunnels = all(session, "/v1/tunnels").await?;
    let names = names(&tunnels, &["account", "owner"], session).await;
    let zone = &session.view.zone;
    session
        .view
        .output(&tunnels, || tunnel_table(&tunnels, &names, zone).text())
}

/// Returns the items of all pages.
async fn all(session: &Session, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut query = PageQuery {
        after: None,
        size: MAX_PAGE,
    };
    loop {
        let page: LivePage = session.records.live(path, &query).await?.json()?;
        all.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}

/// Returns the names of the accounts in these fields.
async fn names(items: &[Value], fields: &[&str], session: &Session) -> Names {
    let accounts = items
        .iter()
        .flat_map(|item| fields.iter().filter_map(|field| account(item, field)));
    session.account_names(accounts).await
}

fn account(item: &Value, field: &str) -> Option<AccountId> {
    item.get(field).and_then(Value::as_i64).map(AccountId)
}

/// Returns the text of a field. Absent ones are empty.
pub(super) fn text(item: &Value, field: &str) -> String {
    match item.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.len().to_string(),
        Some(other) => other.to_string(),
    }
}

fn name(item: &Value, field: &str, names: &Names) -> String {
    let name = account(item, field).and_then(|id| names.get(&id));
    name.cloned().unwrap_or_else(|| text(item, field))
}

/// Returns the time in a field. Absent ones are empty.
pub(super) fn time(item: &Value, field: &str, zone: &TimeZone) -> String {
    let time = item.get(field).and_then(Value::as_i64);
    time.map_or_else(String::new, |time| time_text(time, zone))
}

fn bytes(item: &Value, field: &str) -> String {
    let bytes = item.get(field).and_then(Value::as_u64);
    bytes.map_or_else(String::new, bytes_text)
}

fn link_table(links: &[Value], names: &Names, zone: &TimeZone) -> Table {
    let mut table = Table::new(&[
        ">LINK",
        "ROLE",
        "ACCOUNT",
        "ADDRESS",
        "SINCE",
        ">CHANNELS",
        ">KEYS",
        ">RECEIVED",
        ">SENT",
    ]);
    for link in links {
        table.add([
            text(link, "number"),
            text(link, "role"),
            name(link, "account", names),
            text(link, "address"),
            time(link, "since", zone),
            text(link, "channels"),
            text(link, "keys"),
            bytes(link, "received_bytes"),
            bytes(link, "sent_bytes"),
        ]);
    }
    table
}

fn tunnel_table(tunnels: &[Value], names: &Names, zone: &TimeZone) -> Table {
    let mut table = Table::new(&[
        ">TUNNEL", "KEY", "OWNER", "CLIENT", "ADDRESS", "SINCE", ">LANES", ">UP", ">DOWN",
    ]);
    for tunnel in tunnels {
        let label = match text(tunnel, "label") {
            label if label.is_empty() => text(tunnel, "key"),
            label => label,
        };
        table.add([
            text(tunnel, "number"),
            label,
            name(tunnel, "owner", names),
            name(tunnel, "account", names),
            text(tunnel, "address"),
            time(tunnel, "since", zone),
            text(tunnel, "channels"),
            bytes(tunnel, "up_bytes"),
            bytes(tunnel, "down_bytes"),
        ]);
    }
    table
}

fn status_table(status: &Value, zone: &TimeZone) -> Table {
    let problem = status.get("degraded").filter(|problem| !problem.is_null());
    let state = match problem {
        _ if status.get("is_draining").and_then(Value::as_bool) == Some(true) => {
            "draining".to_owned()
        }
        None => "ok".to_owned(),
        Some(problem) => {
            let (since, cause) = (time(problem, "since", zone), text(problem, "cause"));
            format!("degraded since {since}: {cause}")
        }
    };
    Table::of_fields([
        ("version", text(status, "version")),
        ("state", state),
        ("admission", text(status, "admission")),
        ("store", text(status, "store")),
        ("links", text(status, "links")),
        ("tunnels", text(status, "tunnels")),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn links_have_names_sizes_and_local_times() {
        let links = [
            json!({
                "number": 7, "role": "server", "account": 2, "address": "192.0.2.7",
                "since": 1_800_000_000, "channels": 3, "keys": ["00", "01"],
                "received_bytes": 1536, "sent_bytes": 0
            }),
            json!({
                "number": 12, "role": "client", "account": null, "address": "2001:db8::1",
                "since": 1_800_000_060, "channels": 1, "keys": [],
                "received_bytes": 5, "sent_bytes": 1_073_741_824
            }),
        ];
        let names = Names::from([(AccountId(2), "anna".to_owned())]);
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let expected = "\
LINK  ROLE    ACCOUNT  ADDRESS      SINCE                      CHANNELS  KEYS  RECEIVED     SENT
   7  server  anna     192.0.2.7    2027-01-15T09:00:00+01:00         3     2   1.5 KiB      0 B
  12  client  -        2001:db8::1  2027-01-15T09:01:00+01:00         1     0       5 B  1.0 GiB
";
        assert_eq!(link_table(&links, &names, &zone).text(), expected);
    }

    #[test]
    fn tunnels_of_unknown_keys_show_the_id() {
        let tunnels = [json!({
            "number": 1, "key": "0123456789abcdef0123456789abcdef", "label": null, "owner": 2,
            "account": 9, "address": "192.0.2.8", "since": 1_800_000_000, "channels": 2,
            "up_bytes": 10, "down_bytes": 2048
        })];
        let names = Names::from([(AccountId(2), "anna".to_owned())]);
        let expected = "\
TUNNEL  KEY                               OWNER  CLIENT  ADDRESS    SINCE                      LANES    UP     DOWN
     1  0123456789abcdef0123456789abcdef  anna   9       192.0.2.8  2027-01-15T08:00:00+00:00      2  10 B  2.0 KiB
";
        assert_eq!(
            tunnel_table(&tunnels, &names, &TimeZone::UTC).text(),
            expected
        );
    }

    #[test]
    fn the_state_names_a_problem_of_the_database() {
        let status = |degraded: Value, is_draining: bool| {
            let status = json!({
                "version": "0.1.0", "admission": "known", "store": "sqlite:/keys.db",
                "degraded": degraded, "is_draining": is_draining, "links": 3, "tunnels": 1
            });
            status_table(&status, &TimeZone::UTC).text()
        };
        let expected = "\
version    0.1.0
state      ok
admission  known
store      sqlite:/keys.db
links      3
tunnels    1
";
        assert_eq!(status(Value::Null, false), expected);
        let problem = json!({"cause": "no answer", "since": 1_800_000_000, "is_away": true});
        let text = status(problem, false);
        let line = "state      degraded since 2027-01-15T08:00:00+00:00: no answer\n";
        assert!(text.contains(line), "{text}");
        assert!(status(Value::Null, true).contains("state      draining\n"));
    }
}
