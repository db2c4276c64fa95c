//! The queue between log events and standard error. Logging never blocks. When the reader of
//! standard error is blocked or gone, or its disk is full, the queue drops and counts lines. It
//! resumes when writing works again.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use super::{
    LogFormat,
    escape::{escape_json, escape_log_line},
    json,
};

/// The maximum size of the queue in bytes: several thousand lines, enough for any burst that a
/// terminal can display.
const QUEUED_MAX: usize = 512 * 1024;

/// The queued lines and the numbers of dropped lines.
#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last notice about them.
    dropped: u64,
    /// Lines dropped since the start.
    dropped_total: u64,
    is_writing: bool,
}

/// A queue of log lines. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct LogQueue {
    format: LogFormat,
    shared: Arc<(Mutex<QueueState>, Condvar)>,
}

impl LogQueue {
    /// Starts a thread that writes the queue to `output`.
    ///
    /// # Errors
    /// Fails when the thread cannot start.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        format: LogFormat,
    ) -> io::Result<LogQueue> {
        let queue = LogQueue {
            format,
            shared: Arc::default(),
        };
        let lines = queue.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || lines.write_all_to(output))?;
        Ok(queue)
    }

    /// Returns the format of the lines.
    pub(super) fn format(&self) -> LogFormat {
        self.format
    }

    /// Waits until all queued lines are written or dropped, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (_, changed) = &*self.shared;
        let is_busy = |lines: &mut QueueState| lines.is_writing || !lines.waiting.is_empty();
        drop(changed.wait_timeout_while(self.lines(), limit, is_busy));
    }

    /// Returns the number of lines dropped since the start.
    pub(super) fn dropped_total(&self) -> u64 {
        self.lines().dropped_total
    }

    fn lines(&self) -> MutexGuard<'_, QueueState> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.lines();
        // Drop the new line: logging must never wait for the reader.
        if lines.bytes.saturating_add(line.len()) > QUEUED_MAX {
            lines.dropped = lines.dropped.saturating_add(1);
            lines.dropped_total = lines.dropped_total.saturating_add(1);
            return;
        }
        lines.bytes = lines.bytes.saturating_add(line.len());
        lines.waiting.push_back(line.to_vec());
        drop(lines);
        self.shared.1.notify_all();
    }

    /// Waits for the next line. Also returns the number of lines dropped before it.
    fn next(&self) -> (Vec<u8>, u64) {
        let (_, changed) = &*self.shared;
        let mut lines = self.lines();
        // The previous line is written, so a waiting flush may be complete.
        lines.is_writing = false;
        changed.notify_all();
        loop {
            if let Some(line) = lines.waiting.pop_front() {
                lines.bytes = lines.bytes.saturating_sub(line.len());
                lines.is_writing = true;
                return (line, std::mem::take(&mut lines.dropped));
            }
            lines = changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_all_to(&self, mut output: impl Write) {
        loop {
            let (line, dropped) = self.next();
            let notice = if dropped > 0 {
                self.drop_notice(dropped)
            } else {
                String::new()
            };
            let is_noticed = output.write_all(notice.as_bytes()).is_ok();
            let is_written = is_noticed
                && output
                    .write_all(&line)
                    .and_then(|()| output.flush())
                    .is_ok();
            // Count a failed line as dropped, and restore a count that was not reported.
            let failed = u64::from(!is_written);
            let lost = failed.saturating_add(if is_noticed { 0 } else { dropped });
            if lost > 0 {
                let mut lines = self.lines();
                lines.dropped = lines.dropped.saturating_add(lost);
                lines.dropped_total = lines.dropped_total.saturating_add(failed);
            }
        }
    }

    /// Returns the line that reports dropped lines.
    fn drop_notice(&self, dropped: u64) -> String {
        match self.format {
            LogFormat::Text => format!(
                "{} WARN {} dropped={dropped}\n",
                super::timestamp(),
                super::DROP_MESSAGE
            ),
            LogFormat::Json => json::drop_notice(dropped) + "\n",
        }
    }
}

/// Queues a line. Never fails.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\n');
        let escaped = match self.format {
            LogFormat::Text => escape_log_line(text),
            LogFormat::Json => escape_json(text),
        };
        self.push(format!("{escaped}\n").as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogQueue {
    type Writer = LogQueue;

    fn make_writer(&self) -> LogQueue {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// An output with a reader that can block and a disk that can be full.
    struct Output {
        written: SyncSender<String>,
        is_full: Arc<AtomicBool>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Blocks while the test does not read.
            self.written
                .send(String::from_utf8_lossy(bytes).into_owned())
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (LogQueue, Receiver<String>, Arc<AtomicBool>) {
        queue_of(LogFormat::Text)
    }

    fn queue_of(format: LogFormat) -> (LogQueue, Receiver<String>, Arc<AtomicBool>) {
        let (written, reader) = sync_channel(0);
        let is_full = Arc::new(AtomicBool::new(false));
        let output = Output {
            written,
            is_full: Arc::clone(&is_full),
        };
        let queue = LogQueue::start(output, format).expect("a thread");
        (queue, reader, is_full)
    }

    #[test]
    fn a_blocked_reader_does_not_block_logging_and_gets_the_drop_count() {
        let (mut queue, reader, _) = queue();
        let line = "x".repeat(1023) + "\n";
        let count = 2 * QUEUED_MAX / line.len();
        (0..count).for_each(|_| queue.write_all(line.as_bytes()).expect("never fails"));
        // The test starts to read.
        let read = || std::iter::from_fn(|| reader.recv_timeout(Duration::from_millis(500)).ok());
        let texts: Vec<String> = read().collect();
        let written = texts.iter().filter(|text| **text == line).count();
        let dropped = texts
            .iter()
            .filter_map(|text| {
                text.trim_end()
                    .split_once("dropped=")?
                    .1
                    .parse::<usize>()
                    .ok()
            })
            .sum::<usize>();
        assert!(
            dropped > 0 && written + dropped == count,
            "{written} written and {dropped} dropped of {count}"
        );
        queue.write_all(b"after\n").expect("never fails");
        assert_eq!(read().collect::<String>(), "after\n");
    }

    #[test]
    fn failed_writes_are_counted_and_logging_resumes() {
        let (mut queue, reader, is_full) = queue();
        is_full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            queue.write_all(b"lost\n").expect("never fails");
        }
        LogQueue::flush(&queue, SOON);
        is_full.store(false, Ordering::SeqCst);
        queue.write_all(b"there is room\n").expect("never fails");
        let notice = reader.recv_timeout(SOON).expect("a notice");
        assert!(
            notice.ends_with("log lines were dropped dropped=3\n"),
            "{notice}"
        );
        assert_eq!(
            reader.recv_timeout(SOON).expect("a line"),
            "there is room\n"
        );
    }

    #[test]
    fn a_closed_reader_does_not_stop_logging() {
        let (mut queue, reader, _) = queue();
        drop(reader);
        for _ in 0..100 {
            queue
                .write_all(b"to a closed reader\n")
                .expect("never fails");
        }
        LogQueue::flush(&queue, SOON);
        assert_eq!(queue.lines().dropped, 100);
        assert_eq!(queue.dropped_total(), 100);
    }

    /// Logs an event whose texts would start a second line, turn the direction and clear a terminal.
    fn log_hostile_event(queue: LogQueue) {
        let format = queue.format();
        let dispatch = crate::telemetry::dispatch(tracing::Level::INFO, format, false, queue);
        tracing::dispatcher::with_default(&dispatch, || {
            let span = tracing::info_span!("span", mark = "\u{2066}\u{9b}2J\u{7f}");
            let _inside = span.enter();
            tracing::info!(agent = %"x\n2026 ERROR forged", "link\u{202e} up\u{1b}[2J");
        });
    }

    #[test]
    fn an_event_is_always_one_line() {
        let (queue, reader, _) = queue();
        log_hostile_event(queue);
        let text = reader.recv_timeout(SOON).expect("a line");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.ends_with('\n')
                && !text.contains(['\u{202e}', '\u{1b}'])
                && text.contains("forged"),
            "{text}"
        );
    }

    #[test]
    fn a_json_event_is_one_line_without_control_characters_and_keeps_its_values() {
        let (queue, reader, _) = queue_of(LogFormat::Json);
        log_hostile_event(queue);
        let text = reader.recv_timeout(SOON).expect("a line");
        let line = text.strip_suffix('\n').expect("a line break");
        assert_eq!(line, escape_json(line), "nothing is left to escape");
        assert!(
            line.contains("\\u202e") && line.contains("\\u009b"),
            "{line}"
        );
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["fields"]["message"], "link\u{202e} up\u{1b}[2J");
        assert_eq!(line["fields"]["agent"], "x\n2026 ERROR forged");
        let mark = &line["spans"][0]["fields"]["mark"];
        assert_eq!(mark, "\u{2066}\u{9b}2J\u{7f}");
    }

    #[test]
    fn dropped_json_lines_are_reported_as_json() {
        let (mut queue, reader, is_full) = queue_of(LogFormat::Json);
        is_full.store(true, Ordering::SeqCst);
        queue.write_all(b"{\"lost\":1}\n").expect("never fails");
        LogQueue::flush(&queue, SOON);
        is_full.store(false, Ordering::SeqCst);
        queue.write_all(b"{\"kept\":1}\n").expect("never fails");
        let notice = reader.recv_timeout(SOON).expect("a notice");
        assert!(notice.ends_with('\n'), "{notice}");
        let notice: serde_json::Value = serde_json::from_str(&notice).expect("JSON");
        assert_eq!(notice["fields"]["message"], "log lines were dropped");
        assert_eq!(notice["fields"]["dropped"], 1);
        let line = reader.recv_timeout(SOON).expect("a line");
        assert_eq!(line, "{\"kept\":1}\n");
    }

    #[test]
    fn a_flush_waits_no_longer_than_its_limit() {
        let (mut queue, _reader, _) = queue();
        queue.write_all(b"never read\n").expect("never fails");
        LogQueue::flush(&queue, Duration::from_millis(10));
        assert!(queue.lines().is_writing || !queue.lines().waiting.is_empty());
    }
}
