//! UDP services that answer each datagram, and sockets that ask them.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{ports, wait};

/// How often a service looks whether it has to end.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Holds the largest datagrams.
const BUFFER: usize = 65_536;

/// The buffers of the sockets. The kernel may grant less.
const KERNEL_BUFFER: usize = 4 << 20;

/// Returns the answers to a datagram from this source.
type Answer = dyn Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync;

/// A UDP service on a thread. It ends on drop.
pub(crate) struct DatagramService {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    sources: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramService {
    /// Starts a service at this address.
    pub(crate) fn at(
        address: SocketAddr,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> DatagramService {
        let socket = bind(address);
        let address = socket.local_addr().expect("an address");
        socket
            .set_read_timeout(Some(CHECK_INTERVAL))
            .expect("a positive time");
        let stop = Arc::new(AtomicBool::new(false));
        let sources: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&sources));
        let thread = thread::spawn(move || serve(&socket, &answer, &stopped, &seen));
        DatagramService {
            address,
            stop,
            sources,
            thread: Some(thread),
        }
    }

    /// Starts a service at an unused address.
    pub(crate) fn start(
        answer: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> DatagramService {
        DatagramService::at(ports::free(), answer)
    }

    /// Starts a service that returns each datagram.
    pub(crate) fn echo() -> DatagramService {
        DatagramService::start(|datagram, _| vec![datagram.to_vec()])
    }

    /// Starts such a service at this address.
    pub(crate) fn echo_at(address: SocketAddr) -> DatagramService {
        DatagramService::at(address, |datagram, _| vec![datagram.to_vec()])
    }

    /// The address of the service.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sources so far, each once, in the order of their first datagrams.
    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        self.sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for DatagramService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a UDP service has panicked");
        }
    }
}

fn serve(socket: &UdpSocket, answer: &Answer, stop: &AtomicBool, sources: &Mutex<Vec<SocketAddr>>) {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        // A failure is the end of the interval, or an earlier source that is gone.
        let Ok((length, source)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut seen = sources.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(&source) {
            seen.push(source);
        }
        drop(seen);
        for datagram in answer(&buffer[..length], source) {
            let _ = socket.send_to(&datagram, source);
        }
    }
}

/// A socket with large buffers.
fn bind(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    let _ = SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER);
    let _ = SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER);
    socket
}

/// An application with one socket.
pub(crate) struct Asker {
    socket: UdpSocket,
}

impl Asker {
    /// An application that asks the service at this address of this machine.
    pub(crate) fn of(service: SocketAddr) -> Asker {
        let socket = bind(SocketAddr::new(service.ip(), 0));
        socket.connect(service).expect("a local address");
        Asker { socket }
    }

    /// The source of the application.
    pub(crate) fn source(&self) -> SocketAddr {
        self.socket.local_addr().expect("an address")
    }

    /// Sends a datagram and forgets it.
    pub(crate) fn send(&self, datagram: &[u8]) {
        // An error is the refusal of an earlier datagram.
        if self.socket.send(datagram).is_err() {
            self.socket.send(datagram).expect("sent");
        }
    }

    /// Returns the next datagram that arrives within this time.
    pub(crate) fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; BUFFER];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.socket
                .set_read_timeout(Some(left))
                .expect("a positive time");
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Some(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends a datagram. Returns the answer that arrives within this time.
    pub(crate) fn ask(&self, datagram: &[u8], limit: Duration) -> Option<Vec<u8>> {
        self.send(datagram);
        self.receive(limit)
    }

    /// Asks until there is an answer, as the first datagrams may be lost while a tunnel is made.
    #[track_caller]
    pub(crate) fn ask_until_answered(&self, datagram: &[u8]) -> Vec<u8> {
        wait::until("a datagram is answered", || {
            self.ask(datagram, Duration::from_millis(500))
        })
    }
}
