//! Standard input and output of the process as queues of bytes, for a tunnel's stream. A thread
//! serves each of them, because the system has no asynchronous access that works for files, pipes
//! and terminals alike.

use std::{
    io::{self, ErrorKind, Read, Write},
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The maximum number of bytes that one read returns.
const BLOCK: usize = 64 * 1024;

/// The blocks that wait in a queue. The threads handle one more each, so that reading, sending and
/// writing overlap. More would only add delay.
const QUEUE: usize = 1;

/// Standard output as a queue.
pub(super) struct OutputQueue {
    /// Takes the bytes. Dropping it closes standard output after the bytes before. The thread closes
    /// the channel when no more can be written.
    pub bytes: mpsc::Sender<Bytes>,
    /// The outcome, after the last byte is written.
    pub written: oneshot::Receiver<io::Result<()>>,
}

/// Starts to read standard input. The channel closes at its end, and after an error.
///
/// # Errors
/// When the system refuses.
pub(super) fn read_input() -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let input = system::input()?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    // Nothing joins this thread: a read of standard input cannot be interrupted. It ends with the
    // process.
    let thread = thread::Builder::new().name("stdin".to_owned());
    drop(thread.spawn(move || read(input, &sender))?);
    Ok(receiver)
}

/// Takes over standard output. The process must not write to it in another way.
///
/// # Errors
/// When the system refuses.
pub(super) fn write_output() -> io::Result<OutputQueue> {
    let output = system::output()?;
    let (bytes, queue) = mpsc::channel(QUEUE);
    let (outcome, written) = oneshot::channel();
    // The caller waits for `written` instead of the thread.
    let thread = thread::Builder::new().name("stdout".to_owned());
    drop(thread.spawn(move || {
        let result = write(output, queue).map(system::close);
        // Nothing waits for the outcome of a cancelled transfer.
        let _ = outcome.send(result);
    })?);
    Ok(OutputQueue { bytes, written })
}

/// Reads until the end, or until the receiver is dropped.
fn read(mut input: impl Read, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut block = vec![0; BLOCK];
    loop {
        let result = match input.read(&mut block) {
            Ok(0) => return,
            Ok(length) => Ok(Bytes::copy_from_slice(
                block.get(..length).unwrap_or_default(),
            )),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_last = result.is_err();
        if sender.blocking_send(result).is_err() || is_last {
            return;
        }
    }
}

/// Writes until the queue closes. Returns the output.
fn write<W: Write>(mut output: W, mut queue: mpsc::Receiver<Bytes>) -> io::Result<W> {
    while let Some(bytes) = queue.blocking_recv() {
        output.write_all(&bytes)?;
        output.flush()?;
    }
    Ok(output)
}

#[cfg(unix)]
mod system {
    //! Copies of the descriptors, without the buffers of the standard library.

    use std::{
        fs::File,
        io::{self, ErrorKind, Read, Write},
        net::Shutdown,
        os::fd::AsFd,
    };

    use rustix::{
        event::{PollFd, PollFlags, poll},
        io::Errno,
    };
    use socket2::SockRef;

    /// A standard stream. It waits for readiness if another process that shares it has made it
    /// non-blocking.
    pub(super) struct StandardStream(File);

    /// Returns standard input.
    pub(super) fn input() -> io::Result<StandardStream> {
        let copy = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(StandardStream(copy.into()))
    }

    /// Returns standard output. The process then has no other descriptor of it, so that its reader
    /// gets an end of file when the returned one is closed.
    pub(super) fn output() -> io::Result<StandardStream> {
        let copy = io::stdout().as_fd().try_clone_to_owned()?;
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(StandardStream(copy.into()))
    }

    /// Closes standard output.
    pub(super) fn close(output: StandardStream) {
        // A socket may also be standard input, which stays open. Other files have no shutdown.
        let _ = SockRef::from(&output.0).shutdown(Shutdown::Write);
    }

    impl StandardStream {
        fn wait(&self, events: PollFlags) -> io::Result<()> {
            match poll(&mut [PollFd::new(&self.0, events)], None) {
                Err(error) if error != Errno::INTR => Err(error.into()),
                _ => Ok(()),
            }
        }
    }

    impl Read for StandardStream {
        fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
            loop {
                match self.0.read(block) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.wait(PollFlags::IN)?;
                    }
                    result => return result,
                }
            }
        }
    }

    impl Write for StandardStream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            loop {
                match self.0.write(bytes) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.wait(PollFlags::OUT)?;
                    }
                    result => return result,
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(not(unix))]
mod system {
    //! The streams of the standard library. The reader of standard output gets its end of file when
    //! the process ends.

    use std::io;

    /// Returns standard input.
    pub(super) fn input() -> io::Result<io::Stdin> {
        Ok(io::stdin())
    }

    /// Returns standard output.
    pub(super) fn output() -> io::Result<io::Stdout> {
        Ok(io::stdout())
    }

    /// Ends standard output.
    pub(super) fn close(output: io::Stdout) {
        drop(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader with these results, then its end.
    struct Script(Vec<io::Result<&'static [u8]>>);

    impl Read for Script {
        fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let bytes = self.0.remove(0)?;
            block[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn data(bytes: &'static [u8]) -> io::Result<&'static [u8]> {
        Ok(bytes)
    }

    fn failure(kind: ErrorKind) -> io::Result<&'static [u8]> {
        Err(kind.into())
    }

    /// Returns what arrives in the queue.
    fn queued(script: Vec<io::Result<&'static [u8]>>) -> Vec<Result<Bytes, ErrorKind>> {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        thread::scope(|scope| {
            scope.spawn(move || read(Script(script), &sender));
            let results = std::iter::from_fn(|| receiver.blocking_recv());
            results
                .map(|result| result.map_err(|error| error.kind()))
                .collect()
        })
    }

    #[test]
    fn each_read_is_passed_on_at_once_and_the_end_closes_the_queue() {
        let expected: Vec<Result<Bytes, ErrorKind>> = vec![
            Ok(Bytes::from_static(b"a")),
            Ok(Bytes::from_static(b"\0\xff\n")),
        ];
        let script = vec![
            data(b"a"),
            failure(ErrorKind::Interrupted),
            data(b"\0\xff\n"),
        ];
        assert_eq!(queued(script), expected);
        assert!(queued(Vec::new()).is_empty());
    }

    #[test]
    fn a_failed_read_is_the_last() {
        let expected: Vec<Result<Bytes, ErrorKind>> =
            vec![Ok(Bytes::from_static(b"a")), Err(ErrorKind::IsADirectory)];
        let script = vec![data(b"a"), failure(ErrorKind::IsADirectory), data(b"b")];
        assert_eq!(queued(script), expected);
    }

    #[test]
    fn a_reader_stops_without_a_receiver() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        drop(receiver);
        read(io::repeat(0), &sender);
    }

    #[test]
    fn everything_before_the_end_of_the_queue_is_written() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let written = thread::scope(|scope| {
            let writing = scope.spawn(move || write(Vec::<u8>::new(), receiver));
            for _ in 0..100 {
                sender
                    .blocking_send(Bytes::from_static(b"ab"))
                    .expect("taken");
            }
            drop(sender);
            writing.join().expect("no panic")
        });
        assert_eq!(written.expect("written"), b"ab".repeat(100));
    }

    #[test]
    fn a_failed_write_closes_the_queue() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        sender
            .blocking_send(Bytes::from_static(b"ab"))
            .expect("there is room");
        // A slice takes as many bytes as it has.
        let mut room = [0; 1];
        let written = write(&mut room[..], receiver).map(|_| ());
        assert_eq!(written.expect_err("full").kind(), ErrorKind::WriteZero);
        assert!(sender.is_closed());
    }
}
