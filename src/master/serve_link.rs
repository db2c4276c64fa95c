//! Serves one link of the master, from its WebSocket to its end: authenticates it, registers it,
//! runs it and cleans up. Knows the roles, but not their frames or how the socket was accepted.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tracing::{Span, debug, field::display, info, warn};

use super::{
    admission::{AdmissionError, ConnectionPermit},
    auth::AuthError,
    connection_settings::ConnectionSettings,
    events::{EventKind, EventPeer},
    handshakes::HandshakePermit,
    identity::Identity,
    limits::{LinkNumber, RETRY_AFTER},
    link_handler::LinkHandler,
    link_registration::Registration,
    policies::{DeniedRequest, denied_notice},
    registry::Superseded,
    router::{LinkPeer, LinkRef},
    shared::{MasterShared, shutdown_notice},
};
use crate::{
    link::{
        EndReason, Link,
        authenticate::{self, Hello},
    },
    net::websocket::MessageSocket,
};
use report_proto::{
    crypto::LinkKey,
    frame::{self, Claims, Code, Frame, Notice, Terms},
};

/// The time that the master adds to the advised range for each of its links. 200 roles a second then
/// return to a master that was down.
const RETRY_TIME_PER_LINK: Duration = Duration::from_millis(5);

/// The longest advised range (PROTOCOL 12, `RETRY_WITHIN_MAX`).
const MAX_RETRY_WITHIN: Duration = Duration::from_secs(60);

/// The most characters of a peer's agent string in a log line.
const MAX_AGENT_CHARS: usize = 64;

/// Serves a link of `visitor` until it ends, with the settings of its connection. Its `handshake`
/// ends with WELCOME.
///
/// # Cancel safety
/// Dropping the future aborts the link and removes it from the registry.
pub(super) async fn serve_link(
    shared: Arc<MasterShared>,
    settings: Arc<ConnectionSettings>,
    socket: MessageSocket,
    number: LinkNumber,
    visitor: IpAddr,
    permit: &ConnectionPermit,
    handshake: HandshakePermit,
) {
    // Boxed, so that the future of an idle link does not keep the state of the handshake.
    let established = Box::pin(handshake.run(establish(
        &shared, &settings, socket, number, visitor, permit,
    )))
    .await;
    drop(handshake);
    let Some(EstablishedLink {
        socket,
        hello,
        link,
        registration,
    }) = established
    else {
        return;
    };
    let is_logged = log_up(&shared, &hello, &link);
    let (role, keep_alive) = (
        hello.claims.role,
        settings
            .keep_alive
            .with_quiet_period(hello.claims.quiet_seconds),
    );
    drop((hello, settings));
    let session = Link::new(socket, Arc::clone(&link.outbox), keep_alive);
    let mut handler = LinkHandler {
        router: Arc::clone(&shared.router),
        link: Arc::clone(&link),
        role,
    };
    let started = Instant::now();
    // Boxed separately for the same reason. Links end through their outboxes, which tell the peer the reason.
    let ended = Box::pin(session.run(&mut handler, std::future::pending())).await;
    drop(registration);
    report_ended(&shared, &link, || ended.reason.to_string());
    let log = |left_out| log_ended(&link, &ended.reason, started, left_out);
    if is_logged {
        log(None);
    } else if link.is_proven() {
        log_link(&shared, link.peer.identity, log);
    }
}

/// A link that is ready to run.
struct EstablishedLink {
    socket: MessageSocket,
    hello: Hello,
    link: Arc<LinkRef>,
    registration: Registration,
}

/// Authenticates a peer, registers its link and welcomes it. Returns `None` if it was refused or has
/// left.
async fn establish(
    shared: &MasterShared,
    settings: &ConnectionSettings,
    mut socket: MessageSocket,
    number: LinkNumber,
    visitor: IpAddr,
    permit: &ConnectionPermit,
) -> Option<EstablishedLink> {
    let authenticated = shared.authenticator.authenticate(&mut socket, visitor);
    let (hello, identity, welcome_key) = match authenticated.await {
        Ok(proven) => (proven.hello, proven.identity, proven.welcome_key),
        Err(refused) => {
            shared.router.refusals.count("link", refused.reason());
            refuse(shared, socket, visitor, &refused).await;
            return None;
        }
    };
    let peer = LinkPeer {
        number,
        role: hello.claims.role,
        identity,
        instance: hello.claims.instance,
        slot: hello.claims.slot,
        visitor,
    };
    Span::current().record("role", display(peer.role));
    let (link, registration) = match enter(shared, peer, &hello, permit) {
        Ok(entered) => entered,
        Err(notice) => {
            authenticate::refuse(socket, &notice).await;
            return None;
        }
    };
    if shared.draining.is_cancelled() {
        link.outbox.control(&Frame::GoAway(shutdown_notice()));
    }
    if !welcome(shared, settings, &mut socket, &hello, &welcome_key).await {
        return None;
    }
    link.mark_established();
    Some(EstablishedLink {
        socket,
        hello,
        link,
        registration,
    })
}

/// Admits and registers a link.
///
/// # Errors
/// The notice for the peer.
fn enter(
    shared: &MasterShared,
    peer: LinkPeer,
    hello: &Hello,
    permit: &ConnectionPermit,
) -> Result<(Arc<LinkRef>, Registration), Notice> {
    let router = &shared.router;
    let link = admit(shared, peer, permit)?;
    let registration = Registration::enter(shared, &link, hello).map_err(|superseded| {
        router.refusals.count("link", "superseded");
        log_superseded(shared, &hello.claims, superseded);
        Notice::new(Code::Superseded, superseded.to_string())
    })?;
    // A policy may have changed after the decision and before the link was entered.
    if let Err(denied) = router.policies.admit_link(&peer) {
        router.end_denied(&link, denied);
    }
    Ok((link, registration))
}

/// Decides whether the policies admit a link and whether there is a place for it.
///
/// # Errors
/// The notice for the peer.
fn admit(
    shared: &MasterShared,
    peer: LinkPeer,
    permit: &ConnectionPermit,
) -> Result<Arc<LinkRef>, Notice> {
    let router = &shared.router;
    let entry = router.policies.admit_link(&peer).map_err(|denied| {
        router.report_denied(&peer, DeniedRequest::Link, denied);
        denied_notice(denied)
    })?;
    let link = router.new_link(peer);
    link.set_slot_entry(entry);
    let place = permit.become_link(peer.role, &link.outbox);
    place.map(|place| link.set_place(place)).map_err(|error| {
        router.refusals.count("link", error.reason());
        log_over_limit(shared, &error);
        over_limit(&error)
    })?;
    Ok(link)
}

/// Returns the notice for a client for which there is no place. The master learns only from HELLO that
/// the peer is a client, so it cannot answer 503.
fn over_limit(error: &AdmissionError) -> Notice {
    Notice::new(Code::Limit, error.to_string()).with_retry_after(RETRY_AFTER)
}

fn log_over_limit(shared: &MasterShared, error: &AdmissionError) {
    shared
        .log_limit
        .log(|left_out| warn!(left_out, "link refused: {error}"));
}

fn log_superseded(shared: &MasterShared, claims: &Claims, superseded: Superseded) {
    let Claims {
        instance,
        slot,
        epoch,
        ..
    } = claims;
    shared
        .log_limit
        .log(|left_out| info!(%instance, %slot, epoch, left_out, "link refused: {superseded}"));
}

/// Logs and reports that a link is up. Returns whether the limit admitted the line.
fn log_up(shared: &MasterShared, hello: &Hello, link: &LinkRef) -> bool {
    let (policies, identity) = (&shared.router.policies, link.peer.identity);
    policies.events.send(link.since, || EventKind::LinkUp {
        peer: EventPeer::of(&link.peer),
    });
    let log_up = |left_out: Option<u64>| {
        let (claims, agent) = (&hello.claims, agent(hello));
        let credential = identity.credential().map(display);
        // The account of the master key is the same for all its links.
        let account = credential
            .as_ref()
            .and_then(|_| policies.account_name(identity));
        info!(instance = %claims.instance, slot = %claims.slot, epoch = claims.epoch, moves = claims.moves, credential, account, %agent, left_out, "link up");
    };
    log_link(shared, identity, log_up)
}

/// Logs a line about a link of this identity. Passes the number of lines left out before it. Returns
/// whether the line was logged: servers with the master key have no limit, each account with
/// credentials has one, and anonymous clients share one.
pub(super) fn log_link(
    shared: &MasterShared,
    identity: Identity,
    line: impl FnOnce(Option<u64>),
) -> bool {
    match identity {
        Identity::MasterKey => {
            line(None);
            true
        }
        Identity::Credential { account, .. } => shared.account_log_limits.log(account, line),
        Identity::Anonymous => shared.log_limit.log(line),
    }
}

/// Logs that a link has ended.
fn log_ended(link: &LinkRef, why: &EndReason, started: Instant, left_out: Option<u64>) {
    info!(
        %why,
        seconds = started.elapsed().as_secs(),
        received_bytes = link.received_bytes.load(Relaxed),
        sent_bytes = link.sent_bytes.load(Relaxed),
        left_out,
        "link ended"
    );
}

/// Reports that a link has ended.
fn report_ended(shared: &MasterShared, link: &LinkRef, reason: impl FnOnce() -> String) {
    let policies = &shared.router.policies;
    let at = policies.clock().seconds();
    policies.events.send(at, || EventKind::LinkEnded {
        peer: EventPeer::of(&link.peer),
        reason: reason(),
    });
}

async fn welcome(
    shared: &MasterShared,
    settings: &ConnectionSettings,
    socket: &mut MessageSocket,
    hello: &Hello,
    key: &LinkKey,
) -> bool {
    let links = shared.router.registry().links();
    let terms = Terms {
        version: frame::VERSION,
        heartbeat_seconds: u32::try_from(settings.keep_alive.interval.as_secs().max(1))
            .unwrap_or(u32::MAX),
        max_channels: settings.limits.channels_per_link,
        max_ports: settings.limits.ports_per_link,
        retry_within_ms: retry_within_ms(links),
    };
    let welcomed = authenticate::welcome(socket, key, hello, &terms);
    match tokio::time::timeout(authenticate::AUTHENTICATION_TIMEOUT, welcomed).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            debug!(%error, "connection failed before the link was up");
            false
        }
        Err(_) => {
            debug!("WELCOME timed out: the peer does not read");
            false
        }
    }
}

/// Returns the range, in milliseconds, from which the roles of a master with this number of links
/// should draw their waits.
fn retry_within_ms(links: usize) -> u32 {
    let range = RETRY_TIME_PER_LINK
        .saturating_mul(u32::try_from(links).unwrap_or(u32::MAX))
        .min(MAX_RETRY_WITHIN);
    u32::try_from(range.as_millis()).unwrap_or(u32::MAX)
}

async fn refuse(
    shared: &MasterShared,
    socket: MessageSocket,
    visitor: IpAddr,
    refused: &AuthError,
) {
    // Events are as many as log lines, so that strangers cannot fill the audit log.
    if refused.log(&shared.log_limit) {
        let policies = &shared.router.policies;
        let at = policies.clock().seconds();
        policies.events.send(at, || EventKind::LinkRefused {
            address: visitor,
            reason: refused.to_string(),
        });
    }
    match refused.notice() {
        Some(notice) => authenticate::refuse(socket, &notice).await,
        None => socket.close(Duration::ZERO).await,
    }
}

/// Returns the peer's agent string, sanitized for a log line.
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
        .take(MAX_AGENT_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advised_range_grows_with_the_links_up_to_its_bound() {
        for (links, expected) in [
            (0, 0),
            (10, 50),
            (200, 1_000),
            (1_000, 5_000),
            (12_000, 60_000),
            (usize::MAX, 60_000),
        ] {
            assert_eq!(retry_within_ms(links), expected, "{links} links");
        }
    }
}
