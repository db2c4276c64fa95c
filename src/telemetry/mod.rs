//! Log output: level, format and destination. This module does not know what is logged.

mod escape;
mod json;
mod queue;

use std::{
    env, fmt,
    io::{self, IsTerminal},
    sync::OnceLock,
    time::Duration,
};

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tracing::{Dispatch, Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        MakeWriter, SubscriberBuilder,
        format::{JsonFields, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

pub use escape::{escape_json, escape_text};
use json::JsonFormat;
use queue::LogQueue;

/// The queue in front of standard error, set when logging starts.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Changes the minimum level of logged events.
type SetLevel = Box<dyn Fn(Level) + Send + Sync>;

/// Changes the level of the process, set when logging starts.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// How long [`flush`] waits for the reader of standard error.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// RFC 3339 in UTC with milliseconds, as in `2026-02-28T23:59:59.999Z`.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The words of the line that reports dropped lines.
const DROP_MESSAGE: &str = "log lines were dropped";

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, in colours on a terminal.
    #[default]
    Text,
    /// One JSON object per line, never in colours.
    Json,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system cannot create the writer thread.
    #[error("cannot start the log writer thread: {0}")]
    Thread(#[from] io::Error),
    /// Logging has already started.
    #[error(transparent)]
    Again(#[from] TryInitError),
}

/// The target prefix of the events of this crate.
const CRATE_TARGET: &str = "report";

/// Crates that log nothing. Two of them format whole payloads. `sspi` handles passwords, and our
/// own log lines include its errors.
const SILENCED_TARGETS: [&str; 3] = ["tungstenite", "tokio_tungstenite", "sspi"];

/// Sends the logs of all threads to standard error: our own from `level` up, those of other crates
/// from `warn` up. Terminals get text in colours unless `NO_COLOR` is set
/// (<https://no-color.org>).
///
/// Logging never blocks on the reader of standard error and never fails: see `queue`.
///
/// # Errors
/// Fails when logging has already started, or the writer thread cannot start.
pub fn start(level: Level, format: LogFormat) -> Result<(), StartError> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty());
    let dumb = named("TERM").is_some_and(|terminal| terminal == "dumb");
    let colour = io::stderr().is_terminal() && named("NO_COLOR").is_none() && !dumb;
    let queue = LogQueue::start(io::stderr(), format)?;
    let (dispatch, set_level) = pipeline(level, format, colour, queue.clone());
    dispatch.try_init()?;
    let _ = QUEUE.set(queue);
    let _ = SET_LEVEL.set(set_level);
    Ok(())
}

/// Changes the minimum level of rePort's events, after [`start`].
pub fn set_level(level: Level) {
    if let Some(set_level) = SET_LEVEL.get() {
        set_level(level);
    }
}

/// Writes queued lines before the process exits. A blocked reader delays this by at most
/// `FLUSH_TIMEOUT`.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Returns the format of the logs, or `None` before they start.
#[must_use]
pub fn format() -> Option<LogFormat> {
    QUEUE.get().map(LogQueue::format)
}

/// Returns how many log lines were dropped since the start, because the reader of standard error was
/// too slow or its writes failed.
#[must_use]
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped_total)
}

/// Formats the system's time as the log lines show it.
#[must_use]
pub fn timestamp() -> String {
    let now = OffsetDateTime::now_utc();
    now.format(TIMESTAMP).unwrap_or_default()
}

/// The clock of the log lines.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&timestamp())
    }
}

/// Builds the pipeline from events to the lines that `writer` gets. JSON ignores `colour`. The level
/// can change later.
fn pipeline<W>(level: Level, format: LogFormat, colour: bool, writer: W) -> (Dispatch, SetLevel)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The builder has its own filter, which would stop at `info`.
    let builder = SubscriberBuilder::default()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(writer);
    match format {
        LogFormat::Text => {
            let text = builder.compact().with_timer(Utc).with_ansi(colour);
            let (filter, handle) = reload::Layer::new(filter(level));
            let dispatch = Dispatch::new(text.finish().with(filter));
            (dispatch, level_setter(handle))
        }
        LogFormat::Json => {
            let json = builder.with_ansi(false).fmt_fields(JsonFields::new());
            let json = json.event_format(JsonFormat);
            let (filter, handle) = reload::Layer::new(filter(level));
            let dispatch = Dispatch::new(json.finish().with(filter));
            (dispatch, level_setter(handle))
        }
    }
}

/// Returns the function that changes a filter.
fn level_setter<S: 'static>(handle: reload::Handle<Targets, S>) -> SetLevel {
    Box::new(move |level| {
        // The filter lives as long as the process.
        let _ = handle.reload(filter(level));
    })
}

/// Returns a pipeline with a fixed level.
#[cfg(test)]
fn dispatch<W>(level: Level, format: LogFormat, colour: bool, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    pipeline(level, format, colour, writer).0
}

fn filter(level: Level) -> Targets {
    let own = LevelFilter::from_level(level);
    let others = own.min(LevelFilter::WARN);
    let silent = SILENCED_TARGETS.map(|target| (target, LevelFilter::OFF));
    Targets::new()
        .with_default(others)
        .with_target(CRATE_TARGET, own)
        .with_targets(silent)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Returns the log output of `events`.
    pub(super) fn logged(
        level: Level,
        format: LogFormat,
        colour: bool,
        events: impl FnOnce(),
    ) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("lock not poisoned").write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Buffer::default();
        let writer = lines.clone();
        let dispatch = dispatch(level, format, colour, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, events);
        String::from_utf8(lines.0.lock().expect("lock not poisoned").clone()).expect("text")
    }

    /// Returns the log output of `events` as text.
    fn logged_text(level: Level, events: impl FnOnce()) -> String {
        logged(level, LogFormat::Text, false, events)
    }

    #[test]
    fn timestamps_follow_rfc_3339() {
        // From `date -u -d @SECONDS`.
        for (milliseconds, text) in [
            (0_i64, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_500, "2025-12-31T23:59:59.500Z"),
        ] {
            let time =
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
            assert_eq!(time.unwrap().format(TIMESTAMP).unwrap(), text);
        }
    }

    #[test]
    fn own_events_pass_from_the_configured_level_up() {
        let text = logged_text(Level::DEBUG, || {
            tracing::trace!("too fine");
            tracing::debug!(port = "远程桌面", "attached");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("DEBUG") && text.contains("attached port=\"远程桌面\""),
            "{text}"
        );
        let (time, _) = text.split_once(' ').expect("a time stamp first");
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn a_later_level_holds_for_the_next_events() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let lines = Arc::clone(&lines);
            move || Lines(Arc::clone(&lines))
        };
        let (dispatch, set_level) = pipeline(Level::WARN, LogFormat::Text, false, writer);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::debug!("first");
            set_level(Level::DEBUG);
            tracing::debug!("second");
            set_level(Level::ERROR);
            tracing::warn!("third");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(text.contains("second"), "{text}");
        assert!(!text.contains("first") && !text.contains("third"), "{text}");
    }

    /// Collects log lines.
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn other_crates_log_from_warn_up_and_websocket_crates_never() {
        let events = || {
            tracing::warn!(target: "rustls::conn", "warned");
            tracing::info!(target: "hyper::proto", "payload one");
            tracing::error!(target: "tungstenite::protocol", "payload two");
            tracing::error!(target: "tokio_tungstenite", "payload three");
        };
        let text = logged_text(Level::TRACE, events);
        assert!(
            text.contains("warned") && !text.contains("payload"),
            "{text}"
        );
        assert_eq!(
            logged_text(Level::ERROR, events),
            "",
            "a level below warn holds for all"
        );
        let json = logged(Level::TRACE, LogFormat::Json, false, events);
        assert!(
            json.lines().count() == 1 && json.contains("warned"),
            "{json}"
        );
    }

    #[test]
    fn only_text_has_colours() {
        let event = || tracing::warn!("warned");
        let text = logged(Level::INFO, LogFormat::Text, true, event);
        assert!(text.contains("\u{1b}["), "{text}");
        let json = logged(Level::INFO, LogFormat::Json, true, event);
        assert!(
            !json.contains('\u{1b}') && !json.contains("\\u001b"),
            "{json}"
        );
    }
}
