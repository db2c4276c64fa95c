//! The service in namespace B. The first byte of a connection selects what it does.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use crate::namespace::NetworkNamespace;

/// Sends what it receives.
pub(crate) const ECHO: u8 = b'e';
/// Sends without end.
pub(crate) const DOWNLOAD: u8 = b'd';
/// Receives and counts without end.
pub(crate) const UPLOAD: u8 = b'u';
/// Sends content. Its length and its seed follow in 8 bytes each.
pub(crate) const SEND: u8 = b's';
/// Receives content, with the same fields, and answers [`CORRECT`] or [`WRONG`].
pub(crate) const RECEIVE: u8 = b'r';

pub(crate) const CORRECT: u8 = 1;
pub(crate) const WRONG: u8 = 0;

/// The bytes of one read or write.
pub(crate) const PIECE: usize = 64 << 10;

/// A service at all addresses of the namespace.
pub(crate) struct FarService {
    port: u16,
    received: Arc<AtomicU64>,
    namespace: Arc<NetworkNamespace>,
    is_stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FarService {
    /// Starts the service.
    pub(crate) fn start(namespace: &Arc<NetworkNamespace>) -> io::Result<Self> {
        let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let port = listener.local_addr()?.port();
        let (received, is_stopping) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counter, stop) = (Arc::clone(&received), Arc::clone(&is_stopping));
        let acceptor = thread::spawn(move || accept(&listener, &counter, &stop));
        Ok(FarService {
            port,
            received,
            namespace: Arc::clone(namespace),
            is_stopping,
            acceptor: Some(acceptor),
        })
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the counter of the bytes that uploads brought.
    pub(crate) fn received(&self) -> &AtomicU64 {
        &self.received
    }
}

impl Drop for FarService {
    fn drop(&mut self) {
        self.is_stopping.store(true, Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        // The connection wakes the acceptor.
        let woken = self.namespace.run(|| TcpStream::connect(address).is_ok());
        if let Some(acceptor) = self.acceptor.take()
            && woken.unwrap_or(false)
        {
            // The panic of a thread was printed.
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, received: &Arc<AtomicU64>, is_stopping: &AtomicBool) {
    let mut connections: Vec<(Weak<TcpStream>, JoinHandle<()>)> = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if is_stopping.load(Relaxed) {
            break;
        }
        connections.retain(|(_, thread)| !thread.is_finished());
        let stream = Arc::new(stream);
        let (handle, received) = (Arc::downgrade(&stream), Arc::clone(received));
        let thread = thread::spawn(move || {
            // An error means that the load has closed the connection, or that it was cut.
            let _ = serve(&stream, &received);
        });
        connections.push((handle, thread));
    }
    for (handle, thread) in connections {
        if let Some(stream) = handle.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = thread.join();
    }
}

fn serve(mut stream: &TcpStream, received: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut command = [0];
    stream.read_exact(&mut command)?;
    match command[0] {
        ECHO => echo(stream),
        DOWNLOAD => {
            let block = random_block();
            loop {
                stream.write_all(&block)?;
            }
        }
        UPLOAD => count(stream, received),
        SEND => {
            let content = Content::read(stream)?;
            content.send(stream)?;
            stream.shutdown(Shutdown::Write)?;
            // The end of the other direction means that everything has arrived.
            stream.read(&mut command).map(drop)
        }
        RECEIVE => {
            let content = Content::read(stream)?;
            let is_correct = content.receive(stream)?;
            stream.write_all(&[if is_correct { CORRECT } else { WRONG }])
        }
        _ => Ok(()),
    }
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Counts the bytes of a connection until it ends.
pub(crate) fn count(mut stream: &TcpStream, received: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => received.fetch_add(length as u64, Relaxed),
        };
    }
}

/// Returns bytes that do not compress.
pub(crate) fn random_block() -> Vec<u8> {
    let mut block = vec![0; PIECE];
    fastrand::Rng::with_seed(1).fill(&mut block);
    block
}

/// Content whose bytes depend on their position, so that a lost or doubled piece shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content {
    pub length: u64,
    pub seed: u64,
}

impl Content {
    /// Returns the fields of a request.
    pub(crate) fn fields(&self) -> [u8; 16] {
        let mut fields = [0; 16];
        fields[..8].copy_from_slice(&self.length.to_be_bytes());
        fields[8..].copy_from_slice(&self.seed.to_be_bytes());
        fields
    }

    fn read(mut stream: &TcpStream) -> io::Result<Content> {
        let (mut length, mut seed) = ([0; 8], [0; 8]);
        stream.read_exact(&mut length)?;
        stream.read_exact(&mut seed)?;
        Ok(Content {
            length: u64::from_be_bytes(length),
            seed: u64::from_be_bytes(seed),
        })
    }

    /// Fills the piece with this number.
    fn fill(&self, number: u64, piece: &mut [u8]) {
        let mut random = fastrand::Rng::with_seed(self.seed ^ number.rotate_left(32));
        random.fill(piece);
    }

    fn pieces(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (length, piece) = (self.length, PIECE as u64);
        (0..length.div_ceil(piece)).map(move |number| {
            let left = length - number * piece;
            (number, left.min(piece) as usize)
        })
    }

    /// Sends the content.
    pub(crate) fn send(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        for (number, length) in self.pieces() {
            self.fill(number, &mut buffer[..length]);
            stream.write_all(&buffer[..length])?;
        }
        Ok(())
    }

    /// Receives as many bytes. Returns whether they are the content.
    pub(crate) fn receive(&self, mut stream: &TcpStream) -> io::Result<bool> {
        let (mut buffer, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
        let mut is_correct = true;
        for (number, length) in self.pieces() {
            stream.read_exact(&mut buffer[..length])?;
            self.fill(number, &mut expected[..length]);
            is_correct &= buffer[..length] == expected[..length];
        }
        Ok(is_correct)
    }
}
