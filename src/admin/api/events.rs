//! `/v1/events`: events of the master as server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::sse::{Event, Sse},
};
use futures_util::stream::{self, Stream};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{self, error::RecvError},
    },
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, refusal::Refusal};
use crate::{
    admin::connection::{AdminConnection, STREAM_LIFETIME},
    administration::Actor,
    master::MasterEvent,
};

/// The interval of comments in a stream without events. They keep proxies from closing it, and each
/// of them checks that the token is still valid.
const BEAT: Duration = Duration::from_secs(15);

/// The pause after which a place may be free.
const STREAM_RETRY: u64 = 30;

/// Returns the routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(stream_events))
}

/// The events of one stream.
struct EventFeed {
    api: Arc<Api>,
    actor: Actor,
    events: broadcast::Receiver<MasterEvent>,
    beat: Interval,
    end: Instant,
    /// Counts the stream until its end.
    _place: OwnedSemaphorePermit,
}

impl EventFeed {
    /// Returns the next event, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            received = self.events.recv() => match received {
                Ok(event) => Some(event_of(&event)),
                Err(RecvError::Lagged(missed)) => {
                    Some(Event::default().event("missed").data(missed.to_string()))
                }
                Err(RecvError::Closed) => None,
            },
            _ = self.beat.tick() => {
                let is_admitted = self.api.gate.still_admits(&self.actor).await;
                is_admitted.then(|| Event::default().comment("no event"))
            }
            () = sleep_until(self.end) => None,
        }
    }
}

/// Returns an event of the master as an event of the stream.
fn event_of(event: &MasterEvent) -> Event {
    // An event can always be written as JSON, which has no line breaks.
    Event::default().data(serde_json::to_string(event).unwrap_or_default())
}

/// Streams events from now on.
///
/// Each event is the JSON of a `MasterEvent`. An event named `missed` has the number of events that
/// a slow receiver has missed. The stream ends after an hour, when the token ends, and when the
/// receiver does not read. At most four streams exist at a time.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    responses(
        (status = 200, description = "Events", body = String, content_type = "text/event-stream")
    )
)]
async fn stream_events(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Extension(connection): Extension<AdminConnection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Ok(place) = Arc::clone(&api.streams).try_acquire_owned() else {
        let message = "too many streams of events exist (close one)";
        return Err(Refusal::busy(message, STREAM_RETRY));
    };
    connection.carry_events();
    let now = Instant::now();
    let mut beat = interval_at(now, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feed = EventFeed {
        events: api.master.events(),
        actor,
        beat,
        end: now.checked_add(STREAM_LIFETIME).unwrap_or(now),
        _place: place,
        api,
    };
    Ok(Sse::new(stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok(event), feed))
    })))
}
