//! The way to one master, from its name to the role that it takes in.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout};

use super::{
    Journal, MasterWay, Outcome, Step, Traveller,
    judge::{self, milliseconds},
};
use crate::{
    crypto::LinkKey,
    frame::{Frame, Role, Terms},
    id::Id,
    link::{
        MessageSocket, Reason,
        authenticate::{self, Introduction, JoinError},
        dial::{ChosenProxy, DialError, Dialer, Layer, Passage, Peer, Sight, Survey, TlsSession},
        proxy::ProxyKind,
        tcp,
        tls::{Certificate, moment},
        upgrade::Answered,
    },
    random,
};

/// What the doctor says of itself in a master's log.
const AGENT: &str = concat!("report/", env!("CARGO_PKG_VERSION"), " doctor");

/// Small messages that are sent one at a time.
const SMALL_MESSAGES: u64 = 10;

/// How long each of them may take.
const SMALL_MESSAGE_PATIENCE: Duration = Duration::from_secs(10);

/// The token of the PING behind a large message.
const LARGE_TOKEN: u64 = SMALL_MESSAGES;

/// A message of several packets, in bytes.
const LARGE_MESSAGE: usize = 8 * 1024;

/// How long it may take until the PING behind it is answered: a path of 16 kbit/s does so.
const LARGE_MESSAGE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the closing of a link may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// What nobody has behind a WebSocket, and many ask for.
const STRANGERS_PATH: &str = "/robots.txt";

/// The steps behind a name, in their order.
const STEPS: [&str; 7] = [
    "tcp",
    "proxy",
    "tls",
    "upgrade",
    "clock",
    "master_key",
    "small_messages",
];

/// Walks the way, and says whether the master took the role in.
pub(super) async fn walk(
    traveller: &Traveller,
    way: &MasterWay,
    journal: &mut Journal<'_>,
) -> bool {
    let dialer = &way.dialer;
    let master = dialer.address().to_string();
    journal.doing(&format!("walking to {master}"));
    let walked = Walk {
        dialer,
        master: &master,
        journal: &mut *journal,
    };
    let failed = match walked.dialled().await {
        Ok((socket, connection)) => {
            return admitted(traveller, &master, socket, connection, journal).await;
        }
        Err(failed) => failed,
    };
    let after = STEPS
        .iter()
        .position(|step| *step == failed)
        .map_or(0, |position| position + 1);
    for step in STEPS.into_iter().skip(after) {
        let is_on_the_way = step != "tls" || dialer.address().is_secure();
        let is_done = journal
            .steps()
            .iter()
            .any(|done| done.name == step && done.subject == master);
        if is_on_the_way && !is_done {
            journal.enter(Step::skipped(
                step,
                &master,
                format!("the step {failed} failed"),
            ));
        }
    }
    false
}

/// The name of the step that failed.
type FailedStep = &'static str;

struct Walk<'w, 'j, 't> {
    dialer: &'w Dialer,
    master: &'w str,
    journal: &'j mut Journal<'t>,
}

impl Walk<'_, '_, '_> {
    /// From the name to the WebSocket, and how long a connection took, unless it is one to a proxy.
    async fn dialled(mut self) -> Result<(MessageSocket, Option<Duration>), FailedStep> {
        let proxy = match self.dialer.chosen_proxy() {
            Ok(proxy) => proxy,
            Err(error) => return self.failed(&error, Duration::ZERO),
        };
        let connection = self.survey(proxy.as_ref()).await?;
        let begun = Instant::now();
        let (dialled, passages) = self.dialer.dial_watched().await;
        let failed = dialled.as_ref().err();
        if proxy.is_none() && failed.is_none_or(|error| rank(error.layer().1) > rank(Layer::Tcp)) {
            self.journal.enter(Step::ok(
                "proxy",
                self.master,
                Duration::ZERO,
                "none: the master is dialled directly",
            ));
        }
        for (index, passage) in passages.iter().enumerate() {
            let place = (passage.peer, passage.layer);
            // Where it failed; or where it came again, as to a proxy that does not keep connections.
            let is_again = passages
                .iter()
                .skip(index + 1)
                .any(|later| (later.peer, later.layer) == place);
            if !is_again && failed.is_none_or(|error| error.layer() != place) {
                self.passed(passage, proxy.as_ref());
            }
        }
        let outcome = match dialled {
            Ok(socket) => Ok((socket, connection)),
            Err(error) => self.failed(
                &error,
                passages
                    .last()
                    .map_or_else(|| begun.elapsed(), |passage| passage.took),
            ),
        };
        // Who refuses has a clock, too.
        if let Some(answered) = answered(&passages) {
            let step = clock(self.dialer, answered).await;
            self.journal.enter(step);
        }
        outcome
    }

    /// The name and the addresses of whom is connected to first.
    async fn survey(
        &mut self,
        proxy: Option<&ChosenProxy>,
    ) -> Result<Option<Duration>, FailedStep> {
        let begun = Instant::now();
        let Survey {
            peer,
            host,
            port,
            name_took,
            addresses,
        } = match self.dialer.survey().await {
            Ok(survey) => survey,
            Err(error) => return self.failed(&error, begun.elapsed()),
        };
        let list: Vec<String> = addresses
            .iter()
            .map(|(address, _)| address.ip().to_string())
            .collect();
        let whose = if peer == Peer::Proxy {
            "the proxy's "
        } else {
            ""
        };
        let found = format!("{whose}{host} is {}", list.join(", "));
        self.journal.enter(Step::ok(
            "name",
            &host,
            name_took,
            if is_address(&host) {
                "it is an address".to_owned()
            } else {
                found
            },
        ));
        if !self.dialer.resolves_here(proxy) {
            let name = self.dialer.address().host();
            self.journal.enter(Step::skipped(
                "name",
                name,
                "the proxy resolves the master's name",
            ));
        }
        let reached = addresses
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().ok().copied())
            .min();
        for (address, outcome) in &addresses {
            self.journal.enter(connection(
                *address,
                outcome,
                reached.is_some(),
                &host,
                port,
            ));
        }
        match reached {
            Some(took) => Ok(Some(took).filter(|_| peer == Peer::Master)),
            None => Err("tcp"),
        }
    }

    /// A layer holds.
    fn passed(
        &mut self,
        Passage {
            peer,
            layer,
            took,
            sights,
        }: &Passage,
        proxy: Option<&ChosenProxy>,
    ) {
        match (layer, peer) {
            // The survey has said so.
            (Layer::Name | Layer::Tcp, _) => {}
            (Layer::Proxy, _) => {
                if let Some(proxy) = proxy {
                    self.journal.enter(Step::ok(
                        "proxy",
                        proxy.address.to_string(),
                        *took,
                        through(proxy, sights),
                    ));
                }
            }
            (Layer::Tls, peer) => {
                let subject = match (peer, proxy) {
                    (Peer::Proxy, Some(proxy)) => proxy.address.to_string(),
                    _ => self.master.to_owned(),
                };
                for sight in sights {
                    if let Sight::Tls(session) = sight {
                        self.journal.enter(tls(&subject, *took, session));
                    }
                }
            }
            (Layer::Http, _) => {
                for sight in sights {
                    if let Sight::Answered(answered) = sight {
                        self.journal.enter(Step::ok(
                            "upgrade",
                            self.master,
                            *took,
                            upgraded(answered),
                        ));
                    }
                }
            }
        }
    }

    fn failed<T>(&mut self, error: &DialError, took: Duration) -> Result<T, FailedStep> {
        let (peer, layer) = error.layer();
        let name = match layer {
            Layer::Name => "name",
            Layer::Tcp => "tcp",
            Layer::Proxy => "proxy",
            Layer::Tls => "tls",
            Layer::Http => "upgrade",
        };
        let subject = match error {
            DialError::Name { host, .. } => host.clone(),
            DialError::Proxy { proxy, .. } => proxy.to_string(),
            DialError::Environment(error) => error.name.to_owned(),
            DialError::Deadline { whom, .. } => whom.clone(),
            DialError::Tls { host, .. } if peer == Peer::Proxy => host.clone(),
            _ => self.master.to_owned(),
        };
        self.journal
            .enter(Step::failed(name, subject, took, error.reason()));
        Err(name)
    }
}

fn rank(layer: Layer) -> usize {
    match layer {
        Layer::Name => 0,
        Layer::Tcp => 1,
        Layer::Proxy => 2,
        Layer::Tls => 3,
        Layer::Http => 4,
    }
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

/// One address of the host; when another one was reached, a dial gets around this one.
fn connection(
    address: SocketAddr,
    outcome: &Result<Duration, String>,
    is_reached: bool,
    host: &str,
    port: u16,
) -> Step {
    match outcome {
        Ok(took) => Step::ok("tcp", address.to_string(), *took, "connected"),
        Err(why) => {
            let cause = match why.as_str() {
                "refused" => "nobody listens there",
                _ => "the machine is down, or a firewall drops what is sent to it",
            };
            let remedy = format!(
                "is it running, does a firewall let port {port} through, and is this still an address of {host}?"
            );
            let reason = Reason::new(why.clone(), cause, remedy);
            let told = if is_reached {
                Step::warning
            } else {
                Step::failed
            };
            told("tcp", address.to_string(), Duration::ZERO, reason)
        }
    }
}

fn through(proxy: &ChosenProxy, sights: &[Sight]) -> String {
    let mut text = format!("gives a way to the master; named by {}", proxy.named_by);
    let scheme = sights.iter().rev().find_map(|sight| match sight {
        Sight::Scheme(scheme) => Some(scheme.as_str()),
        _ => None,
    });
    match (&proxy.address.user, scheme) {
        (Some(user), Some(scheme)) => {
            text.push_str(&format!("; told that \"{}\" asks, by {scheme}", user.name))
        }
        (Some(user), None)
            if matches!(proxy.address.kind, ProxyKind::Socks5 | ProxyKind::Socks5h) =>
        {
            text.push_str(&format!("; told that \"{}\" asks", user.name))
        }
        (Some(user), None) => text.push_str(&format!(
            "; it did not want to know that \"{}\" asks",
            user.name
        )),
        (None, _) => text.push_str("; it does not want to know who asks"),
    }
    text
}

fn tls(subject: &str, took: Duration, session: &TlsSession) -> Step {
    let mut text = match &session.agreed {
        Some((version, cipher)) => format!("{version}, {cipher}"),
        None => "not agreed".to_owned(),
    };
    if let Some(own) = session.chain.first() {
        text.push_str(&format!("; {}", described(own)));
    }
    if session.chain.len() > 1 {
        let issuers: Vec<String> = session
            .chain
            .iter()
            .skip(1)
            .map(|above| format!("\"{}\"", above.subject))
            .collect();
        text.push_str(&format!("; chain: {}", issuers.join(", ")));
    }
    match judge::certificate(&session.chain) {
        None => Step::ok("tls", subject, took, text),
        Some(reason) => {
            let evidence = format!("{}; {text}", reason.evidence);
            Step::warning("tls", subject, took, Reason { evidence, ..reason })
        }
    }
}

/// A certificate in a line.
pub(super) fn described(own: &Certificate) -> String {
    format!(
        "certificate of \"{}\" for {}, signed by \"{}\", until {} ({} days), SHA-256 {}",
        own.subject,
        own.names_shown(),
        own.issuer,
        moment(own.not_after),
        own.days_left(),
        own.fingerprint()
    )
}

fn upgraded(answered: &Answered) -> String {
    let telling: Vec<String> = answered
        .telling
        .iter()
        .map(|(name, value)| format!("{name} {value:?}"))
        .collect();
    match (answered.middlebox, telling.is_empty()) {
        (Some(name), _) => format!("101, through {name} ({})", telling.join(", ")),
        (None, false) => format!("101 ({})", telling.join(", ")),
        (None, true) => "101; no proxy names itself".to_owned(),
    }
}

/// The answer to the request, if there was one.
fn answered(passages: &[Passage]) -> Option<&Answered> {
    passages
        .iter()
        .flat_map(|passage| &passage.sights)
        .find_map(|sight| match sight {
            Sight::Answered(answered) => Some(answered),
            _ => None,
        })
}

/// Compares the clocks; asks once more where the answer does not say what time it is there, as a stranger does.
async fn clock(dialer: &Dialer, said: &Answered) -> Step {
    let (begun, master) = (Instant::now(), dialer.address().to_string());
    let there = match said.date {
        Some(there) => Some(there),
        None => {
            answered(&dialer.at(STRANGERS_PATH).dial_watched().await.1).and_then(|said| said.date)
        }
    };
    let Some(there) = there else {
        return Step::skipped("clock", master, "no answer says what time it is there");
    };
    match judge::clocks(SystemTime::now(), there) {
        Ok(evidence) => Step::ok("clock", master, begun.elapsed(), evidence),
        Err(reason) => Step::warning("clock", master, begun.elapsed(), reason),
    }
}

/// Joins the master over the socket, and says whether it took the role in.
async fn admitted(
    traveller: &Traveller,
    master: &str,
    mut socket: MessageSocket,
    connection: Option<Duration>,
    journal: &mut Journal<'_>,
) -> bool {
    let begun = Instant::now();
    let joined = join(&mut socket, traveller.role, &traveller.key, 0).await;
    let step = match &joined {
        Ok(_) if traveller.role == Role::Server => {
            "joined as a server: the master holds the same key, and nothing was registered"
        }
        Ok(_) => "a client needs none: the master took it in",
        Err(error) => {
            journal.enter(Step::failed(
                "master_key",
                master,
                begun.elapsed(),
                error.reason(),
            ));
            journal.enter(Step::skipped(
                "small_messages",
                master,
                "the step master_key failed",
            ));
            return false;
        }
    };
    journal.enter(Step::ok("master_key", master, begun.elapsed(), step));
    let step = small_messages(master, &mut socket, connection).await;
    let are_answered = step.outcome != Outcome::Failed;
    journal.enter(step);
    if are_answered && let Some(lost) = large_message(master, &mut socket).await {
        journal.enter(lost);
    }
    socket.close(CLOSE_DEADLINE).await;
    true
}

/// Joins as an instance of the doctor's own, with nothing to register and nothing to attach to, at a master that is asked to say nothing by itself for so
/// many seconds.
pub(super) async fn join(
    socket: &mut MessageSocket,
    role: Role,
    key: &LinkKey,
    quiet_seconds: u32,
) -> Result<Terms, JoinError> {
    let introduction = Introduction {
        role,
        instance: Id(random::bytes()),
        epoch: 1,
        moves: false,
        agent: AGENT.to_owned(),
    };
    authenticate::join_quietly(socket, key, &introduction, &[], quiet_seconds).await
}

async fn small_messages(
    master: &str,
    socket: &mut MessageSocket,
    connection: Option<Duration>,
) -> Step {
    let begun = Instant::now();
    let mut round_trips = Vec::new();
    for token in 0..SMALL_MESSAGES {
        match timeout(SMALL_MESSAGE_PATIENCE, ping(socket, token)).await {
            Ok(Ok(took)) => round_trips.push(took),
            Ok(Err(why)) => return small_message_lost(master, begun.elapsed(), why),
            Err(_) => {
                let why = format!(
                    "a small message was not answered within {}",
                    milliseconds(SMALL_MESSAGE_PATIENCE)
                );
                return small_message_lost(master, begun.elapsed(), why);
            }
        }
    }
    match judge::small_messages(&round_trips, connection) {
        Ok(evidence) => Step::ok("small_messages", master, begun.elapsed(), evidence),
        Err(reason) => Step::warning("small_messages", master, begun.elapsed(), reason),
    }
}

/// Sends a message of several packets, which every master ignores, and asks for an answer behind it. A step when that does not come.
async fn large_message(master: &str, socket: &mut MessageSocket) -> Option<Step> {
    let begun = Instant::now();
    // A frame of a type that no version knows.
    let sent = socket.feed(vec![0xff; LARGE_MESSAGE].into()).await;
    if sent.is_ok()
        && timeout(LARGE_MESSAGE_PATIENCE, ping(socket, LARGE_TOKEN))
            .await
            .is_ok()
    {
        return None;
    }
    let evidence = format!(
        "the master answered small messages, and none within {} after one of {LARGE_MESSAGE} bytes",
        milliseconds(LARGE_MESSAGE_PATIENCE)
    );
    let reason = Reason::new(evidence, tcp::BLACK_HOLE_CAUSE, tcp::BLACK_HOLE_REMEDY);
    Some(Step::failed(
        "large_messages",
        master,
        begun.elapsed(),
        reason,
    ))
}

fn small_message_lost(master: &str, took: Duration, why: String) -> Step {
    let cause = "something on the way keeps messages until there are more of them, or cuts WebSockets right away";
    let remedy = "take wss:// in `master`, another port or another network; in nginx turn `proxy_buffering` off";
    Step::failed(
        "small_messages",
        master,
        took,
        Reason::new(why, cause, remedy),
    )
}

/// Asks the master for an answer, and waits for it. Answers what it asks meanwhile.
pub(super) async fn ping(socket: &mut MessageSocket, token: u64) -> Result<Duration, String> {
    let sent = Instant::now();
    let failed = |error: crate::link::SocketError| format!("the link was lost: {error}");
    socket
        .feed(Frame::Ping(token).to_message())
        .await
        .map_err(failed)?;
    socket.flush().await.map_err(failed)?;
    loop {
        let Some(message) = socket.receive().await.map_err(failed)? else {
            return Err("the master closed the link".to_owned());
        };
        match Frame::decode(message.freeze()) {
            Ok(Frame::Pong(answered)) if answered == token => return Ok(sent.elapsed()),
            Ok(Frame::Ping(asked)) => {
                socket
                    .feed(Frame::Pong(asked).to_message())
                    .await
                    .map_err(failed)?;
                socket.flush().await.map_err(failed)?;
            }
            Ok(Frame::Error(notice)) => return Err(format!("the master ended the link: {notice}")),
            Ok(_) => {}
            Err(error) => return Err(format!("what came is no frame of rePort: {error}")),
        }
    }
}
