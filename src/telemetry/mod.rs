//! Logs: what is written, how and where to. Knows nothing of what is logged.

mod clock;
mod escape;
mod queue;

use std::{
    env,
    io::{self, IsTerminal},
    sync::OnceLock,
    time::Duration,
};

use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{MakeWriter, SubscriberBuilder},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

pub use clock::{Utc, rfc3339};
pub use escape::{shown, shown_in_json};
use queue::LogQueue;

/// The queue in front of standard error, once logs have been started.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// How long the end of the process waits for the reader of its logs.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Why logs cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gives no thread to write them.
    #[error("cannot start the thread that writes logs: {0}")]
    Thread(#[from] io::Error),
    /// They have been started before.
    #[error(transparent)]
    Again(#[from] TryInitError),
}

/// The target that our own events begin with.
const OWN: &str = "report";

/// Crates that format whole payloads when they log, and one that deals with passwords, whose errors stand in lines of ours.
const SILENT: [&str; 3] = ["tungstenite", "tokio_tungstenite", "sspi"];

/// Sends the process's logs to standard error, from now on and for all threads: our own from `level` up, those of other crates from `warn`
/// up. In colour on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
///
/// Logging never waits for the reader of standard error and never fails: see `queue`.
///
/// # Errors
/// When logs have been started before, or the thread that writes them cannot be.
pub fn start(level: Level) -> Result<(), StartError> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty());
    let dumb = named("TERM").is_some_and(|terminal| terminal == "dumb");
    let colour = io::stderr().is_terminal() && named("NO_COLOR").is_none() && !dumb;
    let queue = LogQueue::start(io::stderr())?;
    subscriber(level, colour, queue.clone()).try_init()?;
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Writes what is queued, before the process ends; a reader that stands still is not waited for.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_MAX);
    }
}

fn subscriber<W>(level: Level, colour: bool, writer: W) -> impl Subscriber + for<'a> LookupSpan<'a>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The builder has a filter of its own, which would stop at `info`.
    let builder = SubscriberBuilder::default()
        .compact()
        .with_timer(Utc)
        .with_ansi(colour)
        .with_writer(writer);
    builder
        .with_max_level(LevelFilter::TRACE)
        .finish()
        .with(filter(level))
}

fn filter(level: Level) -> Targets {
    let own = LevelFilter::from_level(level);
    let others = own.min(LevelFilter::WARN);
    let silent = SILENT.map(|target| (target, LevelFilter::OFF));
    Targets::new()
        .with_default(others)
        .with_target(OWN, own)
        .with_targets(silent)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged while `events` runs.
    fn logged(level: Level, events: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("nobody panicked").write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(level, false, move || writer.clone()), events);
        String::from_utf8(lines.0.lock().expect("nobody panicked").clone()).expect("text")
    }

    #[test]
    fn our_own_events_are_written_from_the_level_up() {
        let text = logged(Level::DEBUG, || {
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
    fn other_crates_are_heard_from_warn_up_and_the_websocket_never() {
        let events = || {
            tracing::warn!(target: "rustls::conn", "warned");
            tracing::info!(target: "hyper::proto", "payload one");
            tracing::error!(target: "tungstenite::protocol", "payload two");
            tracing::error!(target: "tokio_tungstenite", "payload three");
        };
        let text = logged(Level::TRACE, events);
        assert!(
            text.contains("warned") && !text.contains("payload"),
            "{text}"
        );
        assert_eq!(
            logged(Level::ERROR, events),
            "",
            "a level below warn holds for all"
        );
    }
}
