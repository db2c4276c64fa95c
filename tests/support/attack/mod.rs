//! Tools for attacks: the link of a client that obeys no rule, tunnel endpoints on it, and a
//! monitor of the attack's cost.

mod resource_monitor;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::Write as _,
    net::{SocketAddr, TcpStream},
};

use ::bytes::{Bytes, BytesMut};
use report::tunnel::offer::{AttachAnswer, Grant, Methods, Offer, ResumeRequest, VERSION};
use report_proto::{
    crypto::{
        EncryptMethod, LinkKey, Opener, PortKeys, Sealer, TunnelSecret,
        handshake::{Initiator, OVERHEAD},
    },
    frame::{AttachHeader, Code, Frame, Notice, Role},
    id::Id,
};

pub(crate) use self::resource_monitor::ResourceMonitor;
use super::{
    bytes,
    peer::{self, Peer, Received},
    tunnel, wait,
};

/// Connects a client without a key, up to WELCOME. `None` when the master ends the link first.
#[track_caller]
pub(crate) fn connect_keyless_client(master: SocketAddr) -> Option<Peer> {
    let mut peer = Peer::try_connect(master)?;
    peer.try_hello(Role::Client, &LinkKey::derive(None), Id(peer::random()), 1)?;
    matches!(peer.frame(), Some(Frame::Welcome { .. })).then_some(peer)
}

/// A link that sends arbitrary frames and records what it receives.
pub(crate) struct HostileLink {
    peer: Peer,
    paused: HashSet<u32>,
    /// Received DATA that the test has not consumed yet.
    data: HashMap<u32, VecDeque<Bytes>>,
    /// The last ATTACH that was sent.
    pub last_attach: Option<Frame>,
    /// Channels that the master closed.
    pub closed: HashMap<u32, Code>,
    /// The ERROR that ended the link.
    pub error: Option<Notice>,
    pub has_ended: bool,
}

impl HostileLink {
    /// Connects a client without a key.
    #[track_caller]
    pub(crate) fn connect(master: SocketAddr) -> HostileLink {
        HostileLink {
            peer: connect_keyless_client(master).expect("the master accepts the client"),
            paused: HashSet::new(),
            data: HashMap::new(),
            last_attach: None,
            closed: HashMap::new(),
            error: None,
            has_ended: false,
        }
    }

    /// Processes everything that has arrived. Answers PINGs.
    pub(crate) fn process_received(&mut self) {
        loop {
            match self.peer.try_read() {
                Received::Nothing => return,
                Received::End => return self.has_ended = true,
                Received::Message(message) => {
                    match Frame::decode(message).expect("the master's message is a frame") {
                        Frame::Ping(token) => self.peer.send(&Frame::Pong(token)),
                        Frame::Pause(channel) => drop(self.paused.insert(channel)),
                        Frame::Resume(channel) => drop(self.paused.remove(&channel)),
                        Frame::Close { channel, notice } => {
                            self.closed.insert(channel, notice.code);
                        }
                        Frame::Data { channel, payload } => {
                            self.data.entry(channel).or_default().push_back(payload)
                        }
                        Frame::Error(notice) => self.error = Some(notice),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Sends several frames at once.
    pub(crate) fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        self.peer.send_all(frames);
    }

    /// Waits until `probe` finds something in what the link has received.
    #[track_caller]
    pub(crate) fn wait_until<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut HostileLink) -> Option<T>,
    ) -> T {
        wait::until(what, || {
            self.process_received();
            probe(self)
        })
    }

    /// Whether DATA of a channel has arrived that the test has not consumed.
    pub(crate) fn has_data(&self, channel: u32) -> bool {
        self.data.get(&channel).is_some_and(|data| !data.is_empty())
    }

    /// Waits until the channel may send. Returns false when it is closed instead.
    #[track_caller]
    pub(crate) fn wait_until_sendable(&mut self, channel: u32) -> bool {
        self.wait_until("the channel may send", |link| {
            let is_over = link.has_ended || link.closed.contains_key(&channel);
            (is_over || !link.paused.contains(&channel)).then_some(!is_over)
        })
    }

    /// The next DATA of a channel.
    #[track_caller]
    fn data_of(&mut self, channel: u32) -> Bytes {
        self.data_of_any(&[channel]).1
    }

    /// The next DATA of any of these channels, with the index of its channel.
    #[track_caller]
    fn data_of_any(&mut self, channels: &[u32]) -> (usize, Bytes) {
        self.wait_until("the other end sends DATA", |link| {
            let next = channels.iter().enumerate().find_map(|(index, channel)| {
                let next = link.data.get_mut(channel).and_then(VecDeque::pop_front);
                next.map(|data| (index, data))
            });
            let all_closed = channels
                .iter()
                .all(|channel| link.closed.contains_key(channel));
            assert!(
                next.is_some() || !all_closed,
                "the channels are closed: {:?}",
                link.closed
            );
            next
        })
    }
}

/// The endpoint of a client that holds the port key, on one channel.
pub(crate) struct RawTunnel {
    channel: u32,
    sealer: Sealer,
    opener: Opener,
    id: Id,
    instance: Id,
    /// The secret that proves the tunnel on further lanes.
    pub secret: TunnelSecret,
    /// The initial grant of the server.
    pub grant: Grant,
}

impl RawTunnel {
    /// Attaches a new tunnel to a port that uses the default methods. Its own windows are empty, so
    /// it receives no stream data.
    #[track_caller]
    pub(crate) fn attach(link: &mut HostileLink, channel: u32, keys: &PortKeys) -> RawTunnel {
        let (answer, session) = handshake_on(link, channel, keys);
        let AttachAnswer::Accept {
            tunnel: id,
            instance,
            grant,
            ..
        } = answer
        else {
            panic!("not accepted: {answer:?}")
        };
        let secret = session.tunnel_secret();
        let (sealer, opener) = session.initiator(EncryptMethod::Aes128Gcm);
        RawTunnel {
            channel,
            sealer,
            opener,
            id,
            instance,
            secret,
            grant,
        }
    }

    /// Sends an attempt to attach the same tunnel on another channel, as a further lane.
    pub(crate) fn request_lane(
        &self,
        link: &mut HostileLink,
        channel: u32,
        keys: &PortKeys,
        attempt: u64,
    ) -> Initiator {
        let resumption = ResumeRequest {
            tunnel: self.id,
            attempt,
            joins: true,
        };
        request_on(link, channel, keys, Some(self.instance), Some(resumption))
    }

    /// Attaches the same tunnel on another channel, as a further lane.
    #[track_caller]
    pub(crate) fn join(
        &self,
        link: &mut HostileLink,
        channel: u32,
        keys: &PortKeys,
        attempt: u64,
    ) -> RawTunnel {
        let initiator = self.request_lane(link, channel, keys, attempt);
        let (answer, session) = answer_on(link, channel, initiator);
        assert!(
            matches!(answer, AttachAnswer::Resume { joins: true }),
            "{answer:?}"
        );
        let (sealer, opener) = session
            .with_tunnel_secret(&self.secret)
            .initiator(EncryptMethod::Aes128Gcm);
        RawTunnel {
            channel,
            sealer,
            opener,
            secret: self.secret.clone(),
            ..*self
        }
    }

    /// Waits until the server has processed everything that was sent.
    #[track_caller]
    pub(crate) fn wait_processed(&mut self, link: &mut HostileLink) {
        RawTunnel::wait_processed_on(link, &mut [self]);
    }

    /// Sends PING on the first of these lanes, and waits for PONG on any of them. The other end
    /// chooses the lane, and leaves one that answers late.
    pub(crate) fn wait_processed_on(link: &mut HostileLink, lanes: &mut [&mut RawTunnel]) {
        const TOKEN: u64 = 42;
        if let Some(first) = lanes.first_mut() {
            let ping = first.sealed(&tunnel_frames::ping(TOKEN));
            link.send([ping]);
        }
        let channels: Vec<u32> = lanes.iter().map(|lane| lane.channel).collect();
        loop {
            let (index, data) = link.data_of_any(&channels);
            let mut message = BytesMut::from(&data[..]);
            lanes[index]
                .opener
                .open(&mut message)
                .expect("the server's message decrypts");
            if bytes::contains(&message, &tunnel_frames::pong(TOKEN)) {
                return;
            }
        }
    }

    /// The DATA frame of a message.
    pub(crate) fn sealed(&mut self, message: &[u8]) -> Frame {
        let mut payload = BytesMut::with_capacity(message.len() + OVERHEAD);
        payload.extend_from_slice(message);
        self.sealer
            .seal(&mut payload, 0)
            .expect("there are message numbers left");
        Frame::Data {
            channel: self.channel,
            payload: payload.freeze(),
        }
    }
}

#[track_caller]
fn handshake_on(
    link: &mut HostileLink,
    channel: u32,
    keys: &PortKeys,
) -> (AttachAnswer, report_proto::crypto::SessionKeys) {
    let initiator = request_on(link, channel, keys, None, None);
    answer_on(link, channel, initiator)
}

/// Sends ATTACH.
fn request_on(
    link: &mut HostileLink,
    channel: u32,
    keys: &PortKeys,
    instance: Option<Id>,
    resume: Option<ResumeRequest>,
) -> Initiator {
    let tunnel::Methods { encrypt, compress } = tunnel::Methods::DEFAULT;
    let methods = Methods {
        encrypt: encrypt.to_owned(),
        compress: compress.to_owned(),
        protocol: "tcp".to_owned(),
        ports: 1,
    };
    let grant = Grant {
        stream_window: 0,
        tunnel_window: 0,
        zstd_contexts: 0,
    };
    let offer = serde_json::to_vec(&Offer {
        version: VERSION,
        methods,
        grant,
        lanes: false,
        resume,
    })
    .expect("JSON of an offer");
    let (initiator, message) =
        Initiator::start(&keys.psk, keys.id, &offer, peer::random()).expect("a first message");
    let attach = Frame::Attach {
        channel,
        header: AttachHeader {
            port: keys.id,
            instance,
            avoid: Vec::new(),
        },
        message: message.into(),
    };
    link.last_attach = Some(attach.clone());
    link.send([attach]);
    initiator
}

/// Waits for the server's answer to ATTACH.
#[track_caller]
fn answer_on(
    link: &mut HostileLink,
    channel: u32,
    initiator: Initiator,
) -> (AttachAnswer, report_proto::crypto::SessionKeys) {
    let (payload, session) = initiator
        .finish(&link.data_of(channel))
        .expect("an answer of a server with the port key");
    (
        serde_json::from_slice(&payload).expect("an answer"),
        session,
    )
}

/// The frames of a tunnel (PROTOCOL 9.1), encoded.
pub(crate) mod tunnel_frames {
    /// OPEN with an empty window.
    pub(crate) fn open(stream: u64, details: &[u8]) -> Vec<u8> {
        [
            numbers(1, &[stream, 0, details.len() as u64]),
            details.to_vec(),
        ]
        .concat()
    }

    /// DATA.
    pub(crate) fn data(stream: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
        [
            numbers(2, &[stream, offset, bytes.len() as u64]),
            bytes.to_vec(),
        ]
        .concat()
    }

    /// PING.
    pub(crate) fn ping(token: u64) -> Vec<u8> {
        numbers(7, &[token])
    }

    /// PONG.
    pub(crate) fn pong(token: u64) -> Vec<u8> {
        numbers(8, &[token])
    }

    fn numbers(kind: u8, values: &[u64]) -> Vec<u8> {
        let all = values.iter().flat_map(|&value| match value {
            0..0x40 => vec![value as u8],
            0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
            _ => (u32::try_from(value).expect("a small number") | 0x8000_0000)
                .to_be_bytes()
                .to_vec(),
        });
        [kind].into_iter().chain(all).collect()
    }
}

/// WebSocket messages as bytes, for tests that write them piece by piece or never read.
pub(crate) mod wire {
    /// The header of a binary frame of this length, with a mask of zeros.
    pub(crate) fn head(length: usize) -> Vec<u8> {
        let mut head = vec![0x82];
        match length {
            0..126 => head.push(0x80 | length as u8),
            126..0x1_0000 => {
                head.push(0x80 | 126);
                head.extend((length as u16).to_be_bytes());
            }
            _ => {
                head.push(0x80 | 127);
                head.extend((length as u64).to_be_bytes());
            }
        }
        head.extend([0; 4]);
        head
    }

    /// A message.
    pub(crate) fn message(content: &[u8]) -> Vec<u8> {
        [head(content.len()), content.to_vec()].concat()
    }
}

/// Writes as much as the peer accepts and returns the number of bytes. Returns 0 when the
/// connection is closed.
pub(crate) fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("a non-blocking socket");
    stream.write(bytes).unwrap_or(0)
}
