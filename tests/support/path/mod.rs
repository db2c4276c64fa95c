//! A path with delay, a bottleneck, losses and cuts, between two network namespaces.
//!
//! Unlike [`proxy`](super::proxy), which ends the TCP connections and copies their bytes, this path
//! carries IP packets. So the kernel's own recovery and congestion control are part of a test.
//!
//! ```text
//!   namespace A                     this process                     namespace B
//!   10.99.0.1/24 ── TUN ──► flows ─► direction ─► transit ──► TUN ── 10.99.0.2/24
//!                   TUN ◄── transit ◄─ direction ◄─ flows ◄── TUN
//! ```
//!
//! | file | contents |
//! |---|---|
//! | [`conditions`] | what happens to each packet: delay, rate, queue, losses, reordering |
//! | [`tcp_flows`] | the TCP connections on the path, and resets that cut them |
//! | `transit` | the packets on the way |
//!
//! It needs root, `ip` and `/dev/net/tun`. The namespaces and devices are removed on drop.

#![allow(
    dead_code,
    reason = "the tests and the benchmark use different parts of the path"
)]

pub(crate) mod conditions;
pub(crate) mod tcp_flows;
mod transit;

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tun_rs::{DeviceBuilder, SyncDevice};

use self::{
    conditions::{Conditions, Direction, DropCause, Fate},
    tcp_flows::{CutFlow, CutTarget, FlowAddresses, FlowTraffic, TcpFlows, Verdict},
    transit::Transit,
};
use super::namespace::{NetworkNamespace, ip};

/// The size of the largest packet.
const MTU: &str = "1500";

/// The packets that a device keeps for this process. It is more than a burst of all connections.
const DEVICE_QUEUE: &str = "2000";

/// A read of a device returns one packet, which is not larger than [`MTU`].
const BUFFER: usize = 2048;

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    A,
    B,
}

impl End {
    /// Both ends.
    pub(crate) const BOTH: [End; 2] = [End::A, End::B];

    /// The address of the end.
    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            End::A => Ipv4Addr::new(10, 99, 0, 1),
            End::B => Ipv4Addr::new(10, 99, 0, 2),
        }
    }

    /// The other end.
    pub(crate) fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }

    fn index(self) -> usize {
        match self {
            End::A => 0,
            End::B => 1,
        }
    }
}

/// The packets of one direction so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PacketCounts {
    pub carried: u64,
    /// Of the carried packets, those that later ones may overtake.
    pub late: u64,
    pub lost: u64,
    pub lost_in_bursts: u64,
    pub queue_full: u64,
    pub blocked: u64,
}

impl PacketCounts {
    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Deliver { late, .. } => {
                self.carried += 1;
                self.late += u64::from(late);
            }
            Fate::Drop(DropCause::Loss) => self.lost += 1,
            Fate::Drop(DropCause::Burst) => self.lost_in_bursts += 1,
            Fate::Drop(DropCause::QueueFull) => self.queue_full += 1,
            Fate::Drop(DropCause::Blocked) => self.blocked += 1,
        }
    }
}

/// The state of a path. The index of a direction is that of the end that sends.
struct PathState {
    directions: [Direction; 2],
    counts: [PacketCounts; 2],
    flows: TcpFlows,
}

/// The state that the threads of a path share.
struct SharedPath {
    start: Instant,
    devices: [SyncDevice; 2],
    state: Mutex<PathState>,
    transits: [Transit; 2],
}

impl SharedPath {
    fn state(&self) -> MutexGuard<'_, PathState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the packets of an end until its device is deleted.
    fn read(&self, from: End) {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.devices[from.index()].recv(&mut buffer) {
                Ok(length) => self.carry(from, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn carry(&self, from: End, packet: &[u8]) {
        let now = self.start.elapsed();
        let mut state = self.state();
        let verdict = state.flows.on_packet(from, now, packet);
        match verdict {
            Verdict::Pass => {}
            Verdict::Drop => return,
            Verdict::Reset(reset) => {
                drop(state);
                return self.send(from, &reset);
            }
        }
        let fate = state.directions[from.index()].on_packet(now, packet.len());
        state.counts[from.index()].count(fate);
        drop(state);
        if let Fate::Deliver { at, .. } = fate {
            self.transits[from.index()].push(at, packet);
        }
    }

    /// Delivers the packets of an end to the other one until the path stops.
    fn deliver(&self, from: End) {
        while let Some(packet) = self.transits[from.index()].next(self.start) {
            self.send(from.other(), &packet);
        }
    }

    fn send(&self, to: End, packet: &[u8]) {
        // An error means that the device is gone, or the kernel drops the packet, as networks do.
        let _ = self.devices[to.index()].send(packet);
    }

    /// Sends the resets of connections that were cut.
    fn reset(&self, cut: &CutFlow) {
        for (end, packet) in &cut.resets {
            self.send(*end, packet);
        }
    }
}

/// A running path. It ends on drop.
pub(crate) struct LossyPath {
    shared: Arc<SharedPath>,
    device_names: [String; 2],
    namespaces: [Arc<NetworkNamespace>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl LossyPath {
    /// Creates the namespaces and the path between them. The first conditions are those of packets
    /// from A to B, the second ones those of packets from B to A.
    ///
    /// # Errors
    /// If namespaces or TUN devices are not permitted. The error contains the remedy.
    pub(crate) fn new(seed: u64, conditions: [Conditions; 2]) -> io::Result<LossyPath> {
        Self::start(seed, conditions).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("no lossy path: {error} (it needs root, ip and /dev/net/tun)"),
            )
        })
    }

    fn start(seed: u64, [from_a, from_b]: [Conditions; 2]) -> io::Result<LossyPath> {
        let namespaces = [
            Arc::new(NetworkNamespace::new("path-a")?),
            Arc::new(NetworkNamespace::new("path-b")?),
        ];
        let device_names = End::BOTH.map(|_| format!("rp{:08x}", fastrand::u32(..)));
        let device = |end: End| {
            let index = end.index();
            create_device(&device_names[index], &namespaces[index], end.address())
        };
        let state = PathState {
            directions: [
                Direction::new(from_a, seed),
                Direction::new(from_b, seed.wrapping_add(1)),
            ],
            counts: [PacketCounts::default(); 2],
            flows: TcpFlows::default(),
        };
        let shared = Arc::new(SharedPath {
            start: Instant::now(),
            devices: [device(End::A)?, device(End::B)?],
            state: Mutex::new(state),
            transits: [Transit::default(), Transit::default()],
        });
        let threads = End::BOTH.map(|end| {
            let (reading, delivering) = (Arc::clone(&shared), Arc::clone(&shared));
            [
                thread::spawn(move || reading.read(end)),
                thread::spawn(move || delivering.deliver(end)),
            ]
        });
        Ok(LossyPath {
            shared,
            device_names,
            namespaces,
            threads: threads.into_iter().flatten().collect(),
        })
    }

    /// The namespace of an end.
    pub(crate) fn namespace(&self, end: End) -> &Arc<NetworkNamespace> {
        &self.namespaces[end.index()]
    }

    /// Sets the congestion control of new connections at both ends.
    ///
    /// # Errors
    /// If the kernel does not have it, or this process may not allow it.
    pub(crate) fn set_congestion_control(&self, name: &str) -> io::Result<()> {
        self.namespaces
            .iter()
            .try_for_each(|namespace| namespace.set_congestion_control(name))
    }

    /// Changes the conditions of later packets of an end.
    pub(crate) fn set_conditions(&self, from: End, conditions: Conditions) {
        let now = self.now();
        self.shared.state().directions[from.index()].set_conditions(now, conditions);
    }

    /// Drops all packets in both directions, or carries them again.
    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        for direction in &mut self.shared.state().directions {
            direction.set_blocked(is_blocked);
        }
    }

    /// Cuts one TCP connection: both ends get a reset. Returns nothing if there is none.
    pub(crate) fn cut_connection(&self, target: CutTarget) -> Option<FlowAddresses> {
        let cut = self.shared.state().flows.cut(target, self.now())?;
        self.shared.reset(&cut);
        Some(cut.addresses)
    }

    /// Cuts all TCP connections. Returns their number.
    pub(crate) fn cut_all_connections(&self) -> usize {
        let cut = self.shared.state().flows.cut_all();
        cut.iter().for_each(|cut| self.shared.reset(cut));
        cut.len()
    }

    /// The traffic of the connections, the busiest one first.
    pub(crate) fn traffic(&self) -> Vec<FlowTraffic> {
        self.shared.state().flows.traffic(self.now())
    }

    /// The packets that an end sent so far.
    pub(crate) fn counts(&self, from: End) -> PacketCounts {
        self.shared.state().counts[from.index()]
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }
}

impl Drop for LossyPath {
    fn drop(&mut self) {
        self.shared.transits.iter().for_each(Transit::stop);
        let mut is_deleted = true;
        for (namespace, device) in self.namespaces.iter().zip(&self.device_names) {
            // A read of a deleted device fails, which ends its thread.
            is_deleted &= namespace.ip(&["link", "delete", device]).is_ok();
        }
        if is_deleted {
            for thread in self.threads.drain(..) {
                // The panic of a thread was printed, and the test fails without its packets.
                let _ = thread.join();
            }
        }
    }
}

/// Creates a TUN device in a namespace.
fn create_device(
    name: &str,
    namespace: &NetworkNamespace,
    address: Ipv4Addr,
) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new().name(name).enable(false).build_sync()?;
    ip(&["link", "set", name, "netns", namespace.name()])?;
    namespace.ip(&["address", "add", &format!("{address}/24"), "dev", name])?;
    namespace.ip(&["link", "set", name, "mtu", MTU, "txqueuelen", DEVICE_QUEUE])?;
    namespace.ip(&["link", "set", name, "up"])?;
    // The kernel would start a connection with what it learned from an earlier one.
    namespace.set_ipv4("tcp_no_metrics_save", "1")?;
    Ok(device)
}
