//! One link of the master, from its WebSocket to its end: lets it in, enters it, runs it, and clears up behind it. Knows roles and which
//! frames are theirs; not how the socket came about.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tracing::{Span, debug, info, warn};

use super::{
    Shared,
    admission::Permit,
    auth::Refused,
    limits::party,
    registry::{LinkNumber, Newcomer, Superseded},
    relay::{Line, Switch, now},
};
use crate::{
    frame::{self, Claims, Code, Frame, Notice, Ports, Role, Terms},
    link::{
        Handler, Link, MessageSocket,
        authenticate::{self, Hello},
    },
};

/// Characters of a peer's own name that are logged.
const AGENT_LENGTH: usize = 64;

/// Attends to a link of `visitor` until it ends.
///
/// # Cancel safety
/// Dropping the future cuts the link and clears up.
pub(super) async fn attend(
    shared: Arc<Shared>,
    mut socket: MessageSocket,
    number: LinkNumber,
    visitor: IpAddr,
    permit: &Permit,
) {
    let admitted = Box::pin(shared.gate.admit(&mut socket, visitor)).await;
    let hello = match admitted {
        Ok(hello) => hello,
        Err(refused) => return Box::pin(turn_away(&shared, socket, &refused)).await,
    };
    Span::current().record("role", tracing::field::display(hello.claims.role));
    let line = shared
        .switch
        .line(number, party(visitor), hello.claims.role == Role::Server);
    match permit.stand(hello.claims.role, &line.outbox) {
        Ok(seat) => line.is_seated(seat),
        Err(full) => {
            shared
                .log_limit
                .log(|left_out| warn!(left_out, "refused: {full}"));
            return Box::pin(authenticate::refuse(
                socket,
                &Notice::new(Code::Limit, full.to_string()),
            ))
            .await;
        }
    }
    let entered = match Entered::enter(&shared.switch, &line, &hello) {
        Ok(entered) => entered,
        Err(superseded) => {
            let Claims {
                instance, epoch, ..
            } = &hello.claims;
            shared
                .log_limit
                .log(|left_out| info!(%instance, epoch, left_out, "refused: {superseded}"));
            let notice = Notice::new(Code::Superseded, superseded.to_string());
            return Box::pin(authenticate::refuse(socket, &notice)).await;
        }
    };
    if shared.draining.is_cancelled() {
        line.outbox.control(&Frame::GoAway(super::going_down()));
    }
    if !Box::pin(welcome(&shared, &mut socket, &hello)).await {
        return;
    }
    let log_up = |left_out: Option<u64>| {
        let (claims, agent) = (&hello.claims, agent(&hello));
        info!(instance = %claims.instance, epoch = claims.epoch, moves = claims.moves, %agent, left_out, "link up");
    };
    // Servers have shown a key: their lines are never left out.
    let is_logged = match hello.claims.role {
        Role::Server => {
            log_up(None);
            true
        }
        Role::Client => shared.log_limit.log(log_up),
    };
    let (role, heartbeat) = (
        hello.claims.role,
        shared.heartbeat.quiet(hello.claims.quiet_seconds),
    );
    drop(hello);
    let link = Link::new(socket, Arc::clone(&line.outbox), heartbeat);
    let mut attendant = Attendant {
        switch: Arc::clone(&shared.switch),
        line: Arc::clone(&line),
        role,
    };
    let since = Instant::now();
    // In a box of its own, so that the future of a link at rest holds nothing of what came before it.
    // Links end through their outboxes, which tell the peer why.
    let ended = Box::pin(link.run(&mut attendant, std::future::pending())).await;
    drop(entered);
    if is_logged || line.is_proven() {
        info!(
            why = %ended.why,
            seconds = since.elapsed().as_secs(),
            received_bytes = line.received_bytes.load(Relaxed),
            sent_bytes = line.sent_bytes.load(Relaxed),
            "link ended"
        );
    }
}

async fn welcome(shared: &Shared, socket: &mut MessageSocket, hello: &Hello) -> bool {
    let terms = Terms {
        version: frame::VERSION,
        heartbeat_seconds: u32::try_from(shared.heartbeat.interval.as_secs().max(1))
            .unwrap_or(u32::MAX),
        max_channels: shared.limits.channels_per_link,
        max_ports: shared.limits.ports_per_link,
    };
    let welcomed = authenticate::welcome(socket, shared.gate.key(hello.claims.role), hello, &terms);
    match tokio::time::timeout(authenticate::AUTHENTICATION_TIMEOUT, welcomed).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!(%error, "the connection failed before the link was up");
            false
        }
        Err(_) => {
            debug!("the peer does not read its WELCOME");
            false
        }
    }
}

async fn turn_away(shared: &Shared, socket: MessageSocket, refused: &Refused) {
    match refused {
        Refused::Unauthorized { throttled } => {
            let advice = if *throttled {
                "this address is throttled from now on"
            } else {
                "compare `master_key`"
            };
            shared
                .log_limit
                .log(|left_out| warn!(left_out, "refused: {refused}; {advice}"));
        }
        // Strangers come by the thousand: what they do is no news.
        Refused::NoHello(_) | Refused::Throttled | Refused::Garbled => debug!("refused: {refused}"),
    }
    match refused.notice() {
        Some(notice) => authenticate::refuse(socket, &notice).await,
        None => socket.close(std::time::Duration::ZERO).await,
    }
}

/// What the peer calls itself, fit for a log line.
fn agent(hello: &Hello) -> String {
    hello
        .claims
        .agent
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(AGENT_LENGTH)
        .collect()
}

/// A link's place in the tables; dropping it clears up.
struct Entered {
    switch: Arc<Switch>,
    number: LinkNumber,
}

impl Entered {
    fn enter(switch: &Arc<Switch>, line: &Arc<Line>, hello: &Hello) -> Result<Self, Superseded> {
        let claims = &hello.claims;
        let mut registry = switch.registry();
        let ended = registry.enter(Newcomer {
            link: line.number,
            party: line.party(),
            role: claims.role,
            instance: claims.instance,
            epoch: claims.epoch,
            moves: claims.moves,
            handle: Arc::clone(line),
        })?;
        drop(registry);
        for old in ended {
            match claims.role {
                Role::Server => info!(
                    old = old.number,
                    "takes over from an older link of its instance"
                ),
                // Clients need no key to make that happen as often as they like.
                Role::Client => debug!(
                    old = old.number,
                    "takes over from an older link of its instance"
                ),
            }
            old.outbox.end(Notice::new(
                Code::Superseded,
                "a newer link of this instance took over",
            ));
        }
        Ok(Entered {
            switch: Arc::clone(switch),
            number: line.number,
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (left, next) = self.switch.registry().leave(self.number, now());
        drop(left);
        self.switch.lead(next);
    }
}

/// Takes the frames that a role may send to its master.
struct Attendant {
    switch: Arc<Switch>,
    line: Arc<Line>,
    role: Role,
}

impl Handler for Attendant {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        match (self.role, frame) {
            (Role::Server, Frame::Register(Ports { ports })) => {
                let standing = self.switch.register(&self.line, &ports);
                info!(asked = ports.len(), standing = standing.len(), "registered");
                self.line
                    .outbox
                    .control(&Frame::Registered(Ports { ports: standing }));
                Ok(())
            }
            (Role::Server, Frame::Unregister(Ports { ports })) => {
                self.switch.registry().unregister(self.line.number, &ports);
                info!(ports = ports.len(), "unregistered");
                Ok(())
            }
            (
                Role::Client,
                Frame::Attach {
                    channel,
                    header,
                    message,
                },
            ) => self.switch.attach(&self.line, channel, header, message),
            (_, Frame::GoAway(notice)) => {
                debug!(%notice, "the role is about to go");
                Ok(())
            }
            (role, other) => Err(Notice::new(
                Code::Protocol,
                format!("{} from a {role}", other.name()),
            )),
        }
    }
}
