//! A program that is spoken to line by line: a shell, a database's prompt.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
};

use super::{programs, wait};

/// A program that waits for the next line.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    listeners: Vec<JoinHandle<()>>,
}

impl Conversation {
    /// Starts the program.
    pub fn start(command: &mut Command) -> Conversation {
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
        let said = sender.clone();
        let listeners = vec![
            thread::spawn(move || {
                output
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| drop(said.send(line)))
            }),
            thread::spawn(move || {
                errors
                    .lines()
                    .map_while(Result::ok)
                    .for_each(|line| drop(sender.send(format!("error: {line}"))))
            }),
        ];
        let input = child.stdin.take();
        Conversation {
            child,
            input,
            answers,
            listeners,
        }
    }

    /// Says a line.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("a conversation that goes on");
        input
            .write_all(format!("{line}\n").as_bytes())
            .expect("the program listens");
        input.flush().expect("the program listens");
    }

    /// Waits for the next line that it says; what it complains about begins with `error: `.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        match self.answers.recv_timeout(wait::PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!(
                "the program says nothing ({error}) and has ended with {:?}",
                self.child.try_wait()
            ),
        }
    }

    /// Says a line and expects this one back.
    #[track_caller]
    pub fn expect(&mut self, line: &str, answer: &str) {
        self.say(line);
        assert_eq!(self.hear(), answer, "to {line:?}");
    }

    /// Says that this was all; how the program ended, and what else it said.
    pub fn finish(mut self) -> (Option<i32>, Vec<String>) {
        self.input = None;
        let status = wait::within(wait::PATIENCE, || self.child.try_wait().ok().flatten());
        (
            status.and_then(|status| status.code()),
            self.answers.try_iter().collect(),
        )
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.input = None;
        if self.child.try_wait().ok().flatten().is_none() {
            // By a signal that `timeout` passes on to the program.
            let pid = self.child.id().to_string();
            programs::run(Command::new("kill").args(["-s", "TERM", &pid]));
            let _ = self.child.wait();
        }
        for listener in self.listeners.drain(..) {
            let _ = listener.join();
        }
    }
}
