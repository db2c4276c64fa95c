//! Links that nothing is sent on, side by side, each for another time: which of them the path has forgotten afterwards.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Journal, MasterWay, Step, Traveller,
    judge::{self, Silence, milliseconds, seconds},
    way,
};
use crate::{
    crypto::LinkKey,
    frame::Role,
    link::{MessageSocket, Reason, dial::Dialer},
};

/// How long a link may take to show that it still works.
const PROOF: Duration = Duration::from_secs(10);

/// What a link came to that was left silent.
enum Tried {
    /// What the path did.
    Silent(Silence),
    /// The master spoke before the time was over.
    Broken(Duration),
    /// There was no link.
    NoLink(String),
}

/// Tries all silences at a time.
pub(super) async fn try_all(traveller: &Traveller, way: &MasterWay, journal: &mut Journal<'_>) {
    let master = way.dialer.address().to_string();
    let longest = traveller.silences.iter().max().copied().unwrap_or_default();
    journal.doing(&format!(
        "{} links to {master} are silent, for up to {}",
        traveller.silences.len(),
        seconds(longest)
    ));
    let begun = Instant::now();
    let mut links = JoinSet::new();
    for &time in &traveller.silences {
        let dialer = way.dialer.clone();
        links.spawn(async move { (time, be_silent(&dialer, time).await) });
    }
    let mut tried: Vec<(Duration, Tried)> = links.join_all().await;
    tried.sort_by_key(|(time, _)| *time);
    let silences: Vec<(Duration, Silence)> = tried
        .iter()
        .filter_map(|(time, tried)| match tried {
            Tried::Silent(silence) => Some((*time, *silence)),
            Tried::Broken(_) | Tried::NoLink(_) => None,
        })
        .collect();
    let note = note(&tried);
    journal.enter(match judge::silences(&silences, traveller.heartbeat) {
        _ if silences.is_empty() => Step::skipped(
            "silence",
            master,
            format!("no link was silent for long enough{note}"),
        ),
        Ok(evidence) => Step::ok("silence", master, begun.elapsed(), evidence + &note),
        Err(reason) => {
            let evidence = reason.evidence + &note;
            Step::warning(
                "silence",
                master,
                begun.elapsed(),
                Reason { evidence, ..reason },
            )
        }
    });
}

/// Why some of the times were not tried.
fn note(tried: &[(Duration, Tried)]) -> String {
    let broken = tried.iter().find_map(|(_, tried)| match tried {
        Tried::Broken(after) => Some(*after),
        _ => None,
    });
    let unlinked = tried.iter().find_map(|(_, tried)| match tried {
        Tried::NoLink(why) => Some(why.as_str()),
        _ => None,
    });
    let mut note = String::new();
    if let Some(after) = broken {
        note.push_str(&format!("; longer ones could not be tried: the master's heartbeat came after {}, since its version does not know how to be silent", milliseconds(after)));
    }
    if let Some(why) = unlinked {
        note.push_str(&format!("; some of the links did not come about: {why}"));
    }
    note
}

async fn be_silent(dialer: &Dialer, time: Duration) -> Tried {
    let mut socket = match dialer.dial().await {
        Ok(socket) => socket,
        Err(error) => return Tried::NoLink(error.to_string()),
    };
    // Until it has shown that it still works, too.
    let quiet = u32::try_from((time + PROOF).as_secs().saturating_add(1)).unwrap_or(u32::MAX);
    // A client's link, whatever the role: the path cannot tell them apart.
    if let Err(error) = way::join(&mut socket, Role::Client, &LinkKey::derive(None), quiet).await {
        return Tried::NoLink(error.to_string());
    }
    let begun = Instant::now();
    match timeout_at(begun + time, socket.receive()).await {
        // Nothing came: now it must still carry something.
        Err(_) => Tried::Silent(proof(socket).await),
        Ok(Ok(Some(_))) => Tried::Broken(begun.elapsed()),
        Ok(Ok(None) | Err(_)) => Tried::Silent(Silence::Cut),
    }
}

async fn proof(mut socket: MessageSocket) -> Silence {
    let silence = match timeout(PROOF, way::ping(&mut socket, 0)).await {
        Ok(Ok(_)) => Silence::Survived,
        Ok(Err(_)) | Err(_) => Silence::Cut,
    };
    socket.close(Duration::from_secs(1)).await;
    silence
}
