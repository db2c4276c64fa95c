//! The congestion control options of sockets on Linux.

use std::io;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::{AlgorithmError, AlgorithmName};

/// Returns the algorithm of a connection.
pub(super) fn current(stream: &TcpStream) -> Option<AlgorithmName> {
    read(&SockRef::from(stream))
}

/// Sets the algorithm of a connection.
pub(super) fn set(stream: &TcpStream, name: AlgorithmName) -> Result<(), AlgorithmError> {
    write(&SockRef::from(stream), name)
}

/// Returns the algorithm of new sockets.
pub(super) fn default_algorithm() -> Option<AlgorithmName> {
    read(&unconnected().ok()?)
}

/// Checks whether this process may set the algorithm.
pub(super) fn check(name: AlgorithmName) -> Result<(), AlgorithmError> {
    write(&unconnected()?, name)
}

fn unconnected() -> io::Result<Socket> {
    let socket = |domain| Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    socket(Domain::IPV4).or_else(|_| socket(Domain::IPV6))
}

fn read(socket: &Socket) -> Option<AlgorithmName> {
    AlgorithmName::from_bytes(&socket.tcp_congestion().ok()?)
}

fn write(socket: &Socket, name: AlgorithmName) -> Result<(), AlgorithmError> {
    socket
        .set_tcp_congestion(name.as_str().as_bytes())
        .map_err(AlgorithmError::from)
}
