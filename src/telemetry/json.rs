//! Log lines as JSON: one object per line.
//!
//! The formatter of tracing-subscriber is not used, because it omits the ancestors of an explicit
//! parent span.

use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::{LookupSpan, Scope},
};

/// A log line: an event, or the notice of dropped lines.
#[derive(Debug, Serialize)]
struct JsonLine<'l, F> {
    timestamp: String,
    level: &'l str,
    target: &'l str,
    fields: F,
    /// From the outermost span to the innermost.
    spans: Vec<JsonSpan>,
}

#[derive(Debug, Serialize)]
struct JsonSpan {
    name: &'static str,
    fields: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
struct DropFields {
    message: &'static str,
    dropped: u64,
}

/// Returns the line that reports dropped lines, without a line break.
pub(super) fn drop_notice(dropped: u64) -> String {
    let line = JsonLine {
        timestamp: super::timestamp(),
        level: Level::WARN.as_str(),
        target: module_path!(),
        fields: DropFields {
            message: super::DROP_MESSAGE,
            dropped,
        },
        spans: Vec::new(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// Formats an event as one JSON object. `N` formats fields as JSON objects.
#[derive(Debug)]
pub(super) struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        let line = JsonLine {
            timestamp: super::timestamp(),
            level: event.metadata().level().as_str(),
            target: event.metadata().target(),
            fields: raw(fields),
            spans: spans(context),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// Returns the spans of the event of `context`.
fn spans<S, N>(context: &FmtContext<'_, S, N>) -> Vec<JsonSpan>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    let scope = context.event_scope().into_iter();
    let spans = scope.flat_map(Scope::from_root).map(|span| {
        let extensions = span.extensions();
        let fields = extensions.get::<FormattedFields<N>>();
        JsonSpan {
            name: span.metadata().name(),
            fields: fields.and_then(|fields| raw(fields.fields.clone())),
        }
    });
    spans.collect()
}

/// Returns formatted fields unless they are not JSON.
fn raw(fields: String) -> Option<Box<RawValue>> {
    RawValue::from_string(fields).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tracing::{field::Empty, info_span};

    use super::*;
    use crate::telemetry::{LogFormat, tests::logged};

    /// Returns the log output of `events` as JSON, without the timestamps.
    fn lines(events: impl FnOnce()) -> Vec<Value> {
        let text = logged(Level::DEBUG, LogFormat::Json, true, events);
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).expect(line);
            let time = line["timestamp"].take();
            let time = time.as_str().expect("a time stamp");
            assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
            line
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn a_line_contains_the_fields_of_the_event_and_of_all_its_spans() {
        let lines = lines(|| {
            let link = info_span!("link", link = 7, peer = %"[::1]:80", role = Empty);
            let _inside = link.enter();
            link.record("role", "client");
            let _stream = info_span!("stream").entered();
            tracing::warn!(times = 3, ok = true, "refused: {}", "\"why\"");
        });
        let expected = json!({
            "timestamp": null,
            "level": "WARN",
            "target": module_path!(),
            "fields": {"message": "refused: \"why\"", "times": 3, "ok": true},
            "spans": [
                {"name": "link", "fields": {"link": 7, "peer": "[::1]:80", "role": "client"}},
                {"name": "stream", "fields": {}},
            ],
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn an_explicit_parent_counts_with_its_ancestors() {
        let lines = lines(|| {
            let tunnel = info_span!("tunnel", port = "web");
            let stream = info_span!(parent: &tunnel, "stream", number = 5);
            tracing::info!(parent: &stream, "opened");
            tracing::info!("alone");
        });
        assert_eq!(
            lines[0]["spans"],
            json!([
                {"name": "tunnel", "fields": {"port": "web"}},
                {"name": "stream", "fields": {"number": 5}},
            ])
        );
        assert_eq!(lines[1]["spans"], json!([]));
    }

    #[test]
    fn the_drop_notice_has_the_fields_of_a_line() {
        let notice: Value = serde_json::from_str(&drop_notice(12)).expect("JSON");
        assert_eq!(notice["level"], "WARN");
        assert_eq!(notice["fields"]["dropped"], 12);
        let line = &lines(|| tracing::info!("a line"))[0];
        let names = |line: &Value| -> Vec<String> {
            let fields = line.as_object().expect("an object");
            fields.keys().cloned().collect()
        };
        assert_eq!(names(&notice), names(line));
    }
}
