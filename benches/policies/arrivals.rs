//! The rate of a download.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::{task::JoinSet, time::timeout_at};

use crate::streams::Download;

/// Arrivals within this time of the first one belong to it.
const SAME_ARRIVAL: Duration = Duration::from_millis(1);

/// Returns the bytes per second of a download that arrive in `length`, after `warm_up`.
///
/// The time runs from the first arrival to the last one, because a slow download arrives in few and
/// large pieces.
pub(crate) async fn rate(
    download: &mut Download,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<f64> {
    let begin = Instant::now() + warm_up;
    let end = begin + length;
    let (mut first, mut last, mut bytes) = (None, begin, 0);
    // A timeout does not end a receipt that never waits.
    while Instant::now() < end {
        let Ok(received) = timeout_at(end.into(), download.receive()).await else {
            break;
        };
        let (received, now) = (received?, Instant::now());
        if now >= begin {
            let first = *first.get_or_insert(now);
            if now.duration_since(first) > SAME_ARRIVAL {
                bytes += received;
                last = now;
            }
        }
    }
    let first = first
        .filter(|first| last > *first)
        .with_context(|| format!("less than two pieces have arrived in {length:?}"))?;
    Ok(bytes as f64 / last.duration_since(first).as_secs_f64())
}

/// Returns the rates of several downloads that run at the same time.
pub(crate) async fn rates(
    downloads: Vec<Download>,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut running = JoinSet::new();
    for (index, mut download) in downloads.into_iter().enumerate() {
        running
            .spawn(async move { anyhow::Ok((index, rate(&mut download, warm_up, length).await?)) });
    }
    let mut rates = vec![0.0; running.len()];
    while let Some(joined) = running.join_next().await {
        let (index, rate) = joined??;
        rates[index] = rate;
    }
    Ok(rates)
}

/// Returns how much a rate differs from its limit, in percent of the limit.
pub(crate) fn deviation(rate: f64, limit: u64) -> f64 {
    (rate / limit as f64 - 1.0).abs() * 100.0
}
