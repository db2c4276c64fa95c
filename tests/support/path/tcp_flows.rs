//! The TCP connections on a path, and resets that end one of them at both ends.
//!
//! An end accepts a reset only with the sequence number that it expects next (RFC 5961). That is the
//! acknowledgement number of the packets that it sends. So the first resets of a cut carry the last
//! number of each end. A cut connection passes nothing more, and each further packet of an end is
//! answered by a reset with its own number. The second part also covers an end that received more
//! in the meantime: it answers the first reset with a packet.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::End;

/// The time in which the weight of older traffic falls to 37 %.
const RECENT: Duration = Duration::from_secs(1);

/// The length of the IP and TCP headers without options.
const HEADERS: usize = 40;
const TCP_PROTOCOL: u8 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The fields of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TcpSegment {
    source: SocketAddrV4,
    destination: SocketAddrV4,
    flags: u8,
    acknowledgement: u32,
}

impl TcpSegment {
    /// Parses an IPv4 packet. Returns nothing for other protocols.
    fn parse(packet: &[u8]) -> Option<TcpSegment> {
        let first = *packet.first()?;
        if first >> 4 != 4 || *packet.get(9)? != TCP_PROTOCOL {
            return None;
        }
        let tcp = packet.get(usize::from(first & 0x0f) * 4..)?;
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
        let port = |bytes: &[u8]| <[u8; 2]>::try_from(bytes).ok().map(u16::from_be_bytes);
        let number = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes);
        Some(TcpSegment {
            source: SocketAddrV4::new(address(packet.get(12..16)?)?, port(tcp.get(0..2)?)?),
            destination: SocketAddrV4::new(address(packet.get(16..20)?)?, port(tcp.get(2..4)?)?),
            acknowledgement: number(tcp.get(8..12)?)?,
            flags: *tcp.get(13)?,
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A connection, as the addresses at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowAddresses {
    pub a: SocketAddrV4,
    pub b: SocketAddrV4,
}

impl FlowAddresses {
    fn at(&self, end: End) -> SocketAddrV4 {
        match end {
            End::A => self.a,
            End::B => self.b,
        }
    }
}

/// The traffic of a connection in both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowTraffic {
    pub addresses: FlowAddresses,
    /// All bytes with their headers.
    pub bytes: u64,
    /// The bytes of about the last second.
    pub recent_bytes: f64,
}

/// Which connection to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutTarget {
    /// The one that moved the most in the last second or so.
    Busiest,
    /// The busiest one with this port at one of its ends.
    Port(u16),
}

/// The action for a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The path carries it.
    Pass,
    /// The path drops it, and sends this packet back to its sender.
    Reset(Vec<u8>),
    /// The path drops it.
    Drop,
}

/// A connection that was cut, and the packets that reset it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CutFlow {
    pub addresses: FlowAddresses,
    pub resets: Vec<(End, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Flow {
    bytes: u64,
    recent: f64,
    recent_at: Duration,
    /// The sequence number that each end expects next.
    expected: [Option<u32>; 2],
    is_cut: bool,
}

impl Flow {
    fn recent(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.recent_at);
        self.recent * (-age.as_secs_f64() / RECENT.as_secs_f64()).exp()
    }
}

/// The connections that were seen on a path. It forgets none, as tests open few.
#[derive(Debug, Default)]
pub(crate) struct TcpFlows {
    flows: HashMap<FlowAddresses, Flow>,
}

impl TcpFlows {
    /// Notes a packet that an end has sent, and decides whether its connection is cut.
    pub(crate) fn on_packet(&mut self, from: End, now: Duration, packet: &[u8]) -> Verdict {
        let Some(segment) = TcpSegment::parse(packet) else {
            return Verdict::Pass;
        };
        let (source, destination) = (segment.source, segment.destination);
        let addresses = match from {
            End::A => FlowAddresses {
                a: source,
                b: destination,
            },
            End::B => FlowAddresses {
                a: destination,
                b: source,
            },
        };
        let flow = self.flows.entry(addresses).or_default();
        if segment.has(SYN) && !segment.has(ACK) {
            // A new connection, maybe with the addresses of an earlier one.
            *flow = Flow::default();
        }
        if flow.is_cut {
            return if segment.has(ACK) && !segment.has(RST) {
                Verdict::Reset(reset(destination, source, segment.acknowledgement))
            } else {
                Verdict::Drop
            };
        }
        flow.recent = flow.recent(now) + packet.len() as f64;
        flow.recent_at = now;
        flow.bytes += packet.len() as u64;
        if segment.has(ACK) {
            flow.expected[from.index()] = Some(segment.acknowledgement);
        }
        Verdict::Pass
    }

    /// Cuts a connection. Returns nothing if there is none.
    pub(crate) fn cut(&mut self, target: CutTarget, now: Duration) -> Option<CutFlow> {
        let fits = |addresses: &FlowAddresses| match target {
            CutTarget::Busiest => true,
            CutTarget::Port(port) => addresses.a.port() == port || addresses.b.port() == port,
        };
        let (addresses, _) = self
            .flows
            .iter()
            .filter(|(addresses, flow)| !flow.is_cut && fits(addresses))
            .max_by(|(_, one), (_, other)| one.recent(now).total_cmp(&other.recent(now)))?;
        self.cut_flow(*addresses)
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&mut self) -> Vec<CutFlow> {
        let all: Vec<FlowAddresses> = self
            .flows
            .iter()
            .filter(|(_, flow)| !flow.is_cut)
            .map(|(addresses, _)| *addresses)
            .collect();
        all.into_iter()
            .filter_map(|addresses| self.cut_flow(addresses))
            .collect()
    }

    fn cut_flow(&mut self, addresses: FlowAddresses) -> Option<CutFlow> {
        let flow = self.flows.get_mut(&addresses)?;
        flow.is_cut = true;
        let reset_of = |end: End| {
            let expected = flow.expected[end.index()]?;
            let packet = reset(addresses.at(end.other()), addresses.at(end), expected);
            Some((end, packet))
        };
        let resets = [End::A, End::B].into_iter().filter_map(reset_of).collect();
        Some(CutFlow { addresses, resets })
    }

    /// The connections that are not cut, the busiest one first.
    pub(crate) fn traffic(&self, now: Duration) -> Vec<FlowTraffic> {
        let mut traffic: Vec<FlowTraffic> = self
            .flows
            .iter()
            .filter(|(_, flow)| !flow.is_cut)
            .map(|(addresses, flow)| FlowTraffic {
                addresses: *addresses,
                bytes: flow.bytes,
                recent_bytes: flow.recent(now),
            })
            .collect();
        traffic.sort_by(|one, other| other.recent_bytes.total_cmp(&one.recent_bytes));
        traffic
    }
}

/// A packet that resets the connection at `to`, which expects this sequence number.
fn reset(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    let mut packet = vec![0; HEADERS];
    let (ip, tcp) = packet.split_at_mut(20);
    // Version and length of the header, the length of the packet, "don't fragment", TTL, protocol.
    ip[..4].copy_from_slice(&[0x45, 0, 0, HEADERS as u8]);
    ip[6..10].copy_from_slice(&[0x40, 0, 64, TCP_PROTOCOL]);
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12..14].copy_from_slice(&[0x50, RST]);
    let pseudo_header = sum(&ip[12..20]) + u32::from(TCP_PROTOCOL) + tcp.len() as u32;
    let of_tcp = checksum(pseudo_header + sum(tcp));
    tcp[16..18].copy_from_slice(&of_tcp.to_be_bytes());
    let of_ip = checksum(sum(ip));
    ip[10..12].copy_from_slice(&of_ip.to_be_bytes());
    packet
}

/// The sum of 16-bit words. The length is even.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The Internet checksum (RFC 1071) of a sum of words.
fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 40_000);
    const B: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 443);
    const START: Duration = Duration::ZERO;

    /// A segment with these flags and this acknowledgement number.
    fn segment(
        from: SocketAddrV4,
        to: SocketAddrV4,
        flags: u8,
        number: u32,
        body: usize,
    ) -> Vec<u8> {
        let mut packet = reset(from, to, 0);
        packet[28..32].copy_from_slice(&number.to_be_bytes());
        packet[33] = flags;
        packet.resize(HEADERS + body, 0);
        packet
    }

    /// The end that a reset is for, and its sequence number.
    fn reset_at(packet: &[u8]) -> (SocketAddrV4, u32) {
        let segment = TcpSegment::parse(packet).expect("a TCP segment");
        assert!(segment.has(RST) && !segment.has(ACK));
        let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap());
        (segment.destination, sequence)
    }

    fn flows() -> TcpFlows {
        let mut flows = TcpFlows::default();
        assert_eq!(
            flows.on_packet(End::A, START, &segment(A, B, ACK, 1000, 100)),
            Verdict::Pass
        );
        assert_eq!(
            flows.on_packet(End::B, START, &segment(B, A, ACK, 2000, 0)),
            Verdict::Pass
        );
        flows
    }

    #[test]
    fn checksums_of_a_reset_are_correct() {
        let packet = reset(A, B, 0x0102_0304);
        let (ip, tcp) = packet.split_at(20);
        assert_eq!(checksum(sum(ip)), 0);
        let pseudo_header = sum(&ip[12..20]) + u32::from(TCP_PROTOCOL) + 20;
        assert_eq!(checksum(pseudo_header + sum(tcp)), 0);
        assert_eq!(reset_at(&packet), (B, 0x0102_0304));
    }

    #[test]
    fn cut_resets_both_ends_with_the_numbers_that_they_expect() {
        let mut flows = flows();
        let cut = flows.cut(CutTarget::Busiest, START).expect("a connection");
        let resets: Vec<_> = cut
            .resets
            .iter()
            .map(|(_, packet)| reset_at(packet))
            .collect();
        assert_eq!(resets, [(A, 1000), (B, 2000)]);
        assert_eq!(
            flows.cut(CutTarget::Busiest, START),
            None,
            "it is cut already"
        );
    }

    #[test]
    fn packet_of_a_cut_connection_is_answered_by_a_reset() {
        let mut flows = flows();
        flows.cut(CutTarget::Port(443), START);
        let more = flows.on_packet(End::B, START, &segment(B, A, ACK, 2500, 0));
        let Verdict::Reset(packet) = &more else {
            panic!("{more:?}");
        };
        assert_eq!(reset_at(packet), (B, 2500));
        let of_an_end = flows.on_packet(End::A, START, &segment(A, B, RST | ACK, 0, 0));
        assert_eq!(of_an_end, Verdict::Drop, "resets are not answered");
    }

    #[test]
    fn new_connection_with_the_same_addresses_passes() {
        let mut flows = flows();
        flows.cut(CutTarget::Busiest, START);
        for (flags, number) in [(SYN, 0), (ACK, 1)] {
            let packet = segment(A, B, flags, number, 0);
            assert_eq!(flows.on_packet(End::A, START, &packet), Verdict::Pass);
        }
    }

    #[test]
    fn busiest_connection_is_the_one_with_the_most_recent_traffic() {
        let mut flows = TcpFlows::default();
        let other = SocketAddrV4::new(*A.ip(), 40_001);
        for _ in 0..10 {
            flows.on_packet(End::A, START, &segment(A, B, ACK, 1, 1000));
        }
        let later = Duration::from_secs(5);
        flows.on_packet(End::A, later, &segment(other, B, ACK, 1, 1000));
        let traffic = flows.traffic(later);
        assert_eq!(traffic[0].addresses.a, other);
        assert!(traffic[1].bytes > traffic[0].bytes);
        let cut = flows.cut(CutTarget::Busiest, later).expect("a connection");
        assert_eq!(cut.addresses.a, other);
        assert_eq!(flows.cut(CutTarget::Port(1), later), None);
        assert_eq!(flows.cut_all().len(), 1, "the other one");
    }

    #[test]
    fn other_packets_pass() {
        let mut flows = TcpFlows::default();
        let packets: [&[u8]; 3] = [&[], &[0x60; 40], &[0x45; 12]];
        for packet in packets {
            assert_eq!(flows.on_packet(End::A, START, packet), Verdict::Pass);
        }
        assert!(flows.traffic(START).is_empty());
    }
}
