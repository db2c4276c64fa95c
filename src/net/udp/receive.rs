//! Receives batches of datagrams. Each datagram is copied into a buffer of its length: one that waits
//! must not keep the large buffer of a batch.

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use quinn_udp::{RecvMeta, UdpSocketState};
use smallvec::SmallVec;
use tokio::net::UdpSocket;

/// The buffers of a batch. The kernel can fill each with many datagrams of one source.
const BUFFERS: usize = 16;

/// The length of a buffer: the most that the kernel joins.
const BUFFER_LENGTH: usize = 65_536;

thread_local! {
    /// The buffers of this thread, as a thousand sockets must not have their own. Nothing is left in
    /// them.
    static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A datagram that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// The sender.
    pub source: SocketAddr,
    /// The address of this machine to which it was sent, if the system tells.
    pub local_ip: Option<IpAddr>,
    /// The content.
    pub bytes: Bytes,
}

/// Appends the datagrams that have arrived, up to the size of a batch.
///
/// # Errors
/// `WouldBlock` if there is none, or another error of the system.
pub(super) fn receive(
    state: &UdpSocketState,
    io: &UdpSocket,
    datagrams: &mut Vec<ReceivedDatagram>,
) -> io::Result<()> {
    BATCH.with_borrow_mut(|batch| {
        if batch.is_empty() {
            *batch = vec![0; BUFFERS * BUFFER_LENGTH];
        }
        let buffers = batch.chunks_exact_mut(BUFFER_LENGTH);
        let mut buffers: SmallVec<[IoSliceMut<'_>; BUFFERS]> =
            buffers.map(IoSliceMut::new).collect();
        let mut metas = [RecvMeta::default(); BUFFERS];
        let received = state.recv(io.into(), &mut buffers, &mut metas)?;
        for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
            split(buffer, meta, datagrams);
        }
        Ok(())
    })
}

/// Appends the datagrams in a buffer.
fn split(buffer: &[u8], meta: &RecvMeta, datagrams: &mut Vec<ReceivedDatagram>) {
    let datagram = |bytes: &[u8]| ReceivedDatagram {
        source: meta.addr,
        local_ip: meta.dst_ip,
        bytes: Bytes::copy_from_slice(bytes),
    };
    let filled = buffer.get(..meta.len).unwrap_or(buffer);
    if filled.is_empty() {
        datagrams.push(datagram(filled));
    } else {
        datagrams.extend(filled.chunks(meta.stride.max(1)).map(datagram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_datagrams_are_split_and_an_empty_one_is_kept() {
        let lengths = |len, stride| {
            let mut meta = RecvMeta::default();
            (meta.len, meta.stride) = (len, stride);
            let mut datagrams = Vec::new();
            split(&[7; 100], &meta, &mut datagrams);
            let lengths = datagrams.iter().map(|one| one.bytes.len());
            lengths.collect::<Vec<_>>()
        };
        assert_eq!(lengths(100, 30), [30, 30, 30, 10]);
        assert_eq!(lengths(60, 30), [30, 30]);
        assert_eq!(lengths(20, 20), [20]);
        assert_eq!(lengths(0, 0), [0]);
        // Never happens.
        assert_eq!(lengths(101, 200), [100]);
        assert_eq!(lengths(2, 0), [1, 1]);
    }
}
