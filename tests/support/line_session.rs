//! A program that reads and writes lines: a shell, a database's prompt.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
};

use super::{programs, wait};

/// A running program that waits for the next line.
#[derive(Debug)]
pub(crate) struct LineSession {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
}

impl LineSession {
    /// Starts the program.
    pub(crate) fn start(command: &mut Command) -> LineSession {
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, answers) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().expect("a piped standard output"));
        let errors = BufReader::new(child.stderr.take().expect("a piped standard error"));
        let stdout_lines = sender.clone();
        let readers = vec![
            thread::spawn(move || {
                output
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| drop(stdout_lines.send(line)))
            }),
            thread::spawn(move || {
                errors
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| drop(sender.send(format!("error: {line}"))))
            }),
        ];
        let input = child.stdin.take();
        LineSession {
            child,
            input,
            answers,
            readers,
        }
    }

    /// Sends a line to the program.
    #[track_caller]
    pub(crate) fn send_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open session");
        input
            .write_all(format!("{line}\n").as_bytes())
            .expect("the program reads its input");
        input.flush().expect("the program reads its input");
    }

    /// Waits for the next line of the program. A line of its error output begins with `error: `.
    #[track_caller]
    pub(crate) fn read_line(&mut self) -> String {
        match self.answers.recv_timeout(wait::TIMEOUT) {
            Ok(line) => line,
            Err(error) => panic!(
                "no output ({error}); the exit status is {:?}",
                self.child.try_wait()
            ),
        }
    }

    /// Sends a line and asserts that the program answers with this one.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, answer: &str) {
        self.send_line(line);
        assert_eq!(self.read_line(), answer, "to {line:?}");
    }

    /// Closes the program's input. Returns its exit code and the rest of its output.
    pub(crate) fn finish(mut self) -> (Option<i32>, Vec<String>) {
        self.input = None;
        let status = wait::within(wait::TIMEOUT, || self.child.try_wait().ok().flatten());
        (
            status.and_then(|status| status.code()),
            self.answers.try_iter().collect(),
        )
    }
}

impl Drop for LineSession {
    fn drop(&mut self) {
        self.input = None;
        if self.child.try_wait().ok().flatten().is_none() {
            // `timeout` passes this signal on to the program.
            let pid = self.child.id().to_string();
            programs::run(Command::new("kill").args(["-s", "TERM", &pid]));
            let _ = self.child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}
