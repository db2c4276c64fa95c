//! Small TCP services inside the test, each with one behaviour, and the record of how their
//! connections ended.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::SockRef;

use super::{bytes, wait};

/// Writes random bytes until the connection accepts no more.
pub(crate) fn write_until_closed(mut stream: &TcpStream) {
    let block = bytes::random(1, 256 << 10);
    while stream.write_all(&block).is_ok() {}
}

/// Reads once. Repeats the read after a signal, because the system does not restart reads with a
/// timeout.
///
/// # Errors
/// Every error of the read except an interruption.
pub(crate) fn read(mut stream: impl Read, block: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads until the connection ends, and counts the bytes.
pub(crate) fn count(stream: &TcpStream, arrived: &AtomicU64) {
    let mut block = vec![0; 256 << 10];
    while let Ok(count @ 1..) = read(stream, &mut block) {
        arrived.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// How reading from a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// End of file.
    Clean,
    /// ECONNRESET.
    Reset,
    /// Nothing arrived within the timeout.
    Silent,
    /// Another error.
    Broken(io::ErrorKind),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Ending::Reset,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ending::Silent,
            kind => Ending::Broken(kind),
        }
    }
}

/// The connections of a service, and how they ended, in the order in which they ended.
#[derive(Debug, Default)]
struct ConnectionRecord {
    live: Vec<Weak<TcpStream>>,
    accepted: usize,
    endings: Vec<Ending>,
}

/// A listening service. Its connections end with it.
#[derive(Debug)]
pub(crate) struct Service {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    seen: Arc<Mutex<ConnectionRecord>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Service {
    /// Serves each connection in a separate thread.
    pub(crate) fn start(answer: impl Fn(&TcpStream) -> Ending + Send + Sync + 'static) -> Service {
        Service::at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// The same at a given address.
    pub(crate) fn at(
        address: SocketAddr,
        answer: impl Fn(&TcpStream) -> Ending + Send + Sync + 'static,
    ) -> Service {
        let listener = TcpListener::bind(address).expect("the service's address is free");
        let address = listener.local_addr().expect("the address of a listener");
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(ConnectionRecord::default()));
        let (stop, notes, answer) = (stopping.clone(), seen.clone(), Arc::new(answer));
        let acceptor = thread::spawn(move || accept(&listener, &stop, &notes, &answer));
        Service {
            address,
            stopping,
            seen,
            acceptor: Some(acceptor),
        }
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of accepted connections.
    pub(crate) fn accepted(&self) -> usize {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .accepted
    }

    /// The number of open connections.
    pub(crate) fn live(&self) -> usize {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .live
            .iter()
            .filter(|stream| stream.strong_count() > 0)
            .count()
    }

    /// How its connections ended so far.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .endings
            .clone()
    }

    /// Waits until this many connections have ended. Returns how they ended.
    #[track_caller]
    pub(crate) fn wait_for_endings(&self, count: usize) -> Vec<Ending> {
        wait::until("the service's connections have ended", || {
            Some(self.endings()).filter(|endings| endings.len() >= count)
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept<A: Fn(&TcpStream) -> Ending + Send + Sync + 'static>(
    listener: &TcpListener,
    stopping: &AtomicBool,
    seen: &Arc<Mutex<ConnectionRecord>>,
    answer: &Arc<A>,
) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.live.retain(|stream| stream.strong_count() > 0);
            seen.live.push(Arc::downgrade(&stream));
            seen.accepted += 1;
        }
        let (seen, answer) = (seen.clone(), answer.clone());
        threads.push(thread::spawn(move || {
            let ending = answer(&stream);
            drop(stream);
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .endings
                .push(ending);
        }));
    }
    let live = std::mem::take(&mut seen.lock().unwrap_or_else(PoisonError::into_inner).live);
    for stream in live.iter().filter_map(Weak::upgrade) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Sends back what it receives, and the end of file too.
pub(crate) fn echo() -> Service {
    Service::start(echo_connection)
}

fn echo_connection(mut stream: &TcpStream) -> Ending {
    let mut block = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return Ending::Clean,
            Ok(count) => {
                if let Err(error) = stream.write_all(&block[..count]) {
                    return error.into();
                }
            }
            Err(error) => return error.into(),
        }
    }
}

/// Sends nothing until end of file, then the length and SHA-256 of everything that arrived, as
/// `LENGTH DIGEST`.
pub(crate) fn digest_after_end() -> Service {
    Service::start(|mut stream| {
        let mut content = Vec::new();
        if let Err(error) = stream.read_to_end(&mut content) {
            return error.into();
        }
        match stream.write_all(format!("{} {}", content.len(), bytes::sha256(&content)).as_bytes())
        {
            Ok(()) => Ending::Clean,
            Err(error) => error.into(),
        }
    })
}

/// Sends this content immediately and ends its direction. Then it reads until the peer ends too.
pub(crate) fn source(content: Vec<u8>) -> Service {
    Service::start(move |mut stream| {
        if let Err(error) = stream
            .write_all(&content)
            .and_then(|()| stream.shutdown(Shutdown::Write))
        {
            return error.into();
        }
        drain(stream)
    })
}

/// Sends this content without an end of file, then reads.
pub(crate) fn source_that_stays(content: Vec<u8>) -> Service {
    Service::start(move |mut stream| match stream.write_all(&content) {
        Ok(()) => drain(stream),
        Err(error) => error.into(),
    })
}

/// Reads and sends nothing.
pub(crate) fn sink() -> Service {
    Service::start(drain)
}

/// Reads one byte, then resets the connection.
pub(crate) fn resetter() -> Service {
    Service::start(|mut stream| {
        let _ = stream.read(&mut [0]);
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        Ending::Reset
    })
}

/// Sends this content. Resets the connection after the peer has confirmed it with one byte.
pub(crate) fn resets_after(content: Vec<u8>) -> Service {
    Service::start(move |mut stream| {
        let _ = stream.write_all(&content);
        let _ = stream.read(&mut [0]);
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        Ending::Reset
    })
}

/// Sends without end and never reads.
pub(crate) fn endless() -> Service {
    Service::start(|mut stream| {
        let block = bytes::random(1, 64 * 1024);
        loop {
            if let Err(error) = stream.write_all(&block) {
                return error.into();
            }
        }
    })
}

fn drain(mut stream: &TcpStream) -> Ending {
    match io::copy(&mut stream, &mut io::sink()) {
        Ok(_) => Ending::Clean,
        Err(error) => error.into(),
    }
}

/// Connects. Reads and writes on the connection time out after [`wait::TIMEOUT`].
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address)
        .unwrap_or_else(|error| panic!("a connection to {address}: {error}"));
    stream.set_nodelay(true).expect("no delay");
    stream
        .set_read_timeout(Some(wait::TIMEOUT))
        .expect("a limit for reading");
    stream
        .set_write_timeout(Some(wait::TIMEOUT))
        .expect("a limit for writing");
    stream
}

/// Reads until the connection ends in any way.
pub(crate) fn read_to_ending(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let mut content = Vec::new();
    // On an error the buffer keeps what arrived before.
    match stream.read_to_end(&mut content) {
        Ok(_) => (content, Ending::Clean),
        Err(error) => (content, error.into()),
    }
}

/// Ends the connection by a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("no lingering");
    drop(stream);
}

/// Sends the message to an echo service and checks that it comes back.
///
/// # Errors
/// When another answer, or none, came.
pub(crate) fn ping(mut stream: &TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer)?;
    if answer == message {
        Ok(())
    } else {
        Err(io::Error::other("the echo is not what was sent"))
    }
}

/// Whether an echo service answers on a new connection.
pub(crate) fn echoes(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|stream| {
        let _ = stream.set_read_timeout(Some(wait::TIMEOUT));
        ping(&stream, b"are you there?").is_ok()
    })
}
