//! What an attack needs: the link of a client that keeps to no rule, the ends of tunnels on it, and the measure of what the attack costs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ::bytes::{Bytes, BytesMut};
use report::{
    crypto::{
        EncryptMethod, LinkKey, Opener, PortKeys, Sealer, TunnelSecret,
        handshake::{Initiator, OVERHEAD},
    },
    frame::{AttachHeader, Code, Frame, Notice, Role},
    id::Id,
    tunnel::offer::{Answer, Grant, Methods, Offer, Resumption, VERSION},
};

use super::{
    bytes,
    daemon::Daemon,
    files, memory,
    peer::{self, Heard, Peer},
    tunnel, wait,
};

/// The link of a client without a key, up to WELCOME; nothing when the master ends it before.
#[track_caller]
pub fn stranger(master: SocketAddr) -> Option<Peer> {
    let mut peer = Peer::try_connect(master)?;
    peer.try_hello(Role::Client, &LinkKey::derive(None), Id(peer::random()), 1)?;
    matches!(peer.frame(), Some(Frame::Welcome { .. })).then_some(peer)
}

/// A link that sends what it wants, and remembers what it is told.
pub struct HostileLink {
    peer: Peer,
    paused: HashSet<u32>,
    /// DATA that came, until somebody asks for it.
    data: HashMap<u32, VecDeque<Bytes>>,
    /// Channels that the master closed.
    pub closed: HashMap<u32, Code>,
    /// The ERROR that ended the link.
    pub error: Option<Notice>,
    pub has_ended: bool,
}

impl HostileLink {
    /// That of a client without a key.
    #[track_caller]
    pub fn stranger(master: SocketAddr) -> HostileLink {
        HostileLink {
            peer: stranger(master).expect("a client is let in"),
            paused: HashSet::new(),
            data: HashMap::new(),
            closed: HashMap::new(),
            error: None,
            has_ended: false,
        }
    }

    /// Takes in everything that has come; PINGs are answered.
    pub fn hear(&mut self) {
        loop {
            match self.peer.look() {
                Heard::Nothing => return,
                Heard::End => return self.has_ended = true,
                Heard::Message(message) => {
                    match Frame::decode(message).expect("what the master sends is a frame") {
                        Frame::Ping(token) => self.peer.send(&Frame::Pong(token)),
                        Frame::Pause(channel) => drop(self.paused.insert(channel)),
                        Frame::Resume(channel) => drop(self.paused.remove(&channel)),
                        Frame::Close { channel, notice } => {
                            drop(self.closed.insert(channel, notice.code))
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

    /// Sends frames, many at a time.
    pub fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        self.peer.send_all(frames);
    }

    /// Waits until it is told something.
    #[track_caller]
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mut told: impl FnMut(&mut HostileLink) -> Option<T>,
    ) -> T {
        wait::until(what, || {
            self.hear();
            told(self)
        })
    }

    /// Waits until the channel may be sent on, or is closed: then it says false.
    #[track_caller]
    pub fn may_send(&mut self, channel: u32) -> bool {
        self.wait_until("the channel goes on", |link| {
            let is_over = link.has_ended || link.closed.contains_key(&channel);
            (is_over || !link.paused.contains(&channel)).then_some(!is_over)
        })
    }

    /// The next DATA of a channel.
    #[track_caller]
    fn data_of(&mut self, channel: u32) -> Bytes {
        self.wait_until("the other end sends", |link| {
            let next = link.data.get_mut(&channel).and_then(VecDeque::pop_front);
            assert!(
                next.is_some() || !link.closed.contains_key(&channel),
                "the channel is closed: {:?}",
                link.closed
            );
            next
        })
    }
}

/// The end of a client that holds the port key, on one channel.
pub struct RawTunnel {
    channel: u32,
    sealer: Sealer,
    opener: Opener,
    id: Id,
    instance: Id,
    secret: TunnelSecret,
    /// What the server grants at first.
    pub grant: Grant,
}

impl RawTunnel {
    /// A new tunnel to a port, whose methods are the usual ones. It takes nothing: its windows are empty.
    #[track_caller]
    pub fn attach(link: &mut HostileLink, channel: u32, keys: &PortKeys) -> RawTunnel {
        let (answer, session) = shake_hands(link, channel, keys, None, None);
        let Answer::Accept {
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

    /// The same tunnel on another channel, to which it moves.
    #[track_caller]
    pub fn moved(&self, link: &mut HostileLink, channel: u32, keys: &PortKeys) -> RawTunnel {
        let resumption = Resumption {
            tunnel: self.id,
            attempt: 1,
            moves: true,
        };
        let (answer, session) =
            shake_hands(link, channel, keys, Some(self.instance), Some(resumption));
        assert!(
            matches!(answer, Answer::Resume { moves: true }),
            "{answer:?}"
        );
        let (sealer, opener) = session
            .resuming(&self.secret)
            .initiator(EncryptMethod::Aes128Gcm);
        RawTunnel {
            channel,
            sealer,
            opener,
            secret: self.secret.clone(),
            ..*self
        }
    }

    /// Waits until the server has handled everything that was sent.
    #[track_caller]
    pub fn wait_handled(&mut self, link: &mut HostileLink) {
        const TOKEN: u64 = 42;
        let ping = self.sealed(&tunnel_frames::ping(TOKEN));
        link.send([ping]);
        loop {
            let mut message = BytesMut::from(&link.data_of(self.channel)[..]);
            self.opener
                .open(&mut message)
                .expect("what the server sends opens");
            if bytes::contains(&message, &tunnel_frames::pong(TOKEN)) {
                return;
            }
        }
    }

    /// The DATA frame of a message.
    pub fn sealed(&mut self, message: &[u8]) -> Frame {
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
fn shake_hands(
    link: &mut HostileLink,
    channel: u32,
    keys: &PortKeys,
    instance: Option<Id>,
    resume: Option<Resumption>,
) -> (Answer, report::crypto::SessionKeys) {
    let tunnel::Methods { encrypt, compress } = tunnel::Methods::USUAL;
    let methods = Methods {
        encrypt: encrypt.to_owned(),
        compress: compress.to_owned(),
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
        resume,
    })
    .expect("JSON of an offer");
    let (initiator, message) =
        Initiator::start(&keys.psk, keys.id, &offer, peer::random()).expect("a first message");
    link.send([Frame::Attach {
        channel,
        header: AttachHeader {
            port: keys.id,
            instance,
            avoid: Vec::new(),
        },
        message: message.into(),
    }]);
    let (payload, session) = initiator
        .finish(&link.data_of(channel))
        .expect("an answer of a server with the port key");
    (
        serde_json::from_slice(&payload).expect("an answer"),
        session,
    )
}

/// The frames of a tunnel (PROTOCOL 9.1), encoded.
pub mod tunnel_frames {
    /// OPEN with an empty window.
    pub fn open(stream: u64, details: &[u8]) -> Vec<u8> {
        [
            numbers(1, &[stream, 0, details.len() as u64]),
            details.to_vec(),
        ]
        .concat()
    }

    /// DATA.
    pub fn data(stream: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
        [
            numbers(2, &[stream, offset, bytes.len() as u64]),
            bytes.to_vec(),
        ]
        .concat()
    }

    /// PING.
    pub fn ping(token: u64) -> Vec<u8> {
        numbers(7, &[token])
    }

    /// PONG.
    pub fn pong(token: u64) -> Vec<u8> {
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

/// A WebSocket as bytes: whoever writes them one by one, or reads nothing, needs no library.
pub mod wire {
    /// The head of a binary frame of so many bytes whose mask changes nothing.
    pub fn head(length: usize) -> Vec<u8> {
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
    pub fn message(content: &[u8]) -> Vec<u8> {
        [head(content.len()), content.to_vec()].concat()
    }
}

/// Writes as much as the peer takes, and says how much that was; nothing more of a connection that is over.
pub fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("it does not wait");
    stream.write(bytes).unwrap_or(0)
}

/// Measures what a role holds, until it is dropped.
pub struct Watch {
    before: u64,
    log_before: usize,
    peak: Arc<Peak>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Peak {
    memory: AtomicU64,
    files: AtomicUsize,
    is_over: AtomicBool,
}

/// What an attack has cost a role.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Resident bytes more than before, at most.
    pub memory: u64,
    /// Descriptors, at most.
    pub files: usize,
    /// Bytes of its log since then.
    pub log: usize,
}

impl Watch {
    /// Begins with what the role holds now.
    pub fn over(role: &Daemon) -> Watch {
        let (pid, peak) = (role.pid(), Arc::new(Peak::default()));
        let seen = Arc::clone(&peak);
        let look = move || {
            seen.memory.fetch_max(memory::resident_bytes(pid), Relaxed);
            seen.files.fetch_max(files::open_files(pid), Relaxed);
        };
        look();
        let (before, over) = (peak.memory.load(Relaxed), Arc::clone(&peak));
        let thread = thread::spawn(move || {
            while !over.is_over.load(Relaxed) {
                look();
                wait::pause(Duration::from_millis(100));
            }
        });
        Watch {
            before,
            log_before: role.log().len(),
            peak,
            thread: Some(thread),
        }
    }

    /// What it has cost until now.
    pub fn cost(&self, role: &Daemon) -> Cost {
        let cost = Cost {
            memory: self
                .peak
                .memory
                .load(Relaxed)
                .max(memory::resident_bytes(role.pid()))
                .saturating_sub(self.before),
            files: self
                .peak
                .files
                .load(Relaxed)
                .max(files::open_files(role.pid())),
            log: role.log().len() - self.log_before,
        };
        println!("{cost:?}");
        cost
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.peak.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
