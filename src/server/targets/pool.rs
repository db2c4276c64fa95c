//! Several addresses of one service: chooses the one of each connection, and logs their health.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{
    TargetReport,
    health_check::{CheckError, check_target},
    states::{CheckThresholds, HealthChange, TargetStates},
};
use crate::{
    config::{HealthCheck, Target, TargetChoice},
    diagnosis::DiagnosisCode,
    net::{connect::ConnectError, local_stream::LocalStream},
    server::dial::connect_target,
};

/// The least time for one of several targets, as far as the limit of the connection allows it: two
/// round trips across a continent.
const SHARE_MIN: Duration = Duration::from_millis(500);

/// Several addresses of one service.
#[derive(Debug)]
pub(super) struct TargetPool {
    targets: Vec<Target>,
    health_check: Option<HealthCheck>,
    states: Mutex<TargetStates>,
}

impl TargetPool {
    /// Creates a pool of healthy targets.
    pub(super) fn new(
        targets: Vec<Target>,
        choice: TargetChoice,
        health_check: Option<HealthCheck>,
    ) -> Self {
        // Without checks, the thresholds have no effect.
        let thresholds = health_check.clone().unwrap_or_default();
        let thresholds = CheckThresholds {
            healthy_after: *thresholds.healthy_after,
            unhealthy_after: *thresholds.unhealthy_after,
        };
        TargetPool {
            states: Mutex::new(TargetStates::new(targets.len(), choice, thresholds)),
            targets,
            health_check,
        }
    }

    /// Connects to the first target that accepts. Healthy targets come first. Each target has a share
    /// of `limit`, so that a silent one leaves time for the others.
    ///
    /// # Errors
    /// If none accepts a connection in time. If this process has no free descriptor, the error says
    /// nothing about the targets.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections made so far. A target that had not answered for
    /// [`SHARE_MIN`] then counts as one that did not accept.
    pub(super) async fn connect(&self, limit: Duration) -> Result<LocalStream, ConnectError> {
        let started = Instant::now();
        let order = self.states().order(started);
        let (mut left, mut errors) = (order.len(), Vec::new());
        for index in order {
            let share = share(limit.saturating_sub(started.elapsed()), left);
            left = left.saturating_sub(1);
            let Some(target) = self.targets.get(index).filter(|_| !share.is_zero()) else {
                break;
            };
            let mut attempt = Attempt::begin(self, index, target);
            let connected = connect_target(target, share).await;
            attempt.has_ended = true;
            match connected {
                Ok(stream) => {
                    self.on_connected(index, target);
                    return Ok(stream);
                }
                Err(ConnectError::OutOfFiles(out)) => return Err(ConnectError::OutOfFiles(out)),
                Err(error) => {
                    self.on_connect_failed(index, target, &error);
                    errors.push(error);
                }
            }
        }
        Err(ConnectError::Targets(errors))
    }

    /// Returns all targets in the order in which something new tries them.
    pub(super) fn candidates(&self) -> Vec<Target> {
        let order = self.states().order(Instant::now());
        let targets = order.iter().filter_map(|index| self.targets.get(*index));
        targets.cloned().collect()
    }

    /// Records that a target has answered datagrams.
    pub(super) fn on_answered(&self, target: &Target) {
        if let Some(index) = self.index_of(target) {
            self.on_connected(index, target);
        }
    }

    /// Records that a target has refused datagrams.
    pub(super) fn on_refused(&self, target: &Target, error: &ConnectError) {
        if let Some(index) = self.index_of(target) {
            self.on_connect_failed(index, target, error);
        }
    }

    fn index_of(&self, target: &Target) -> Option<usize> {
        self.targets.iter().position(|one| one == target)
    }

    /// Returns whether the configuration has a health check.
    pub(super) fn has_health_check(&self) -> bool {
        self.health_check.is_some()
    }

    /// Checks all targets at intervals, the first time at once. `proxy_protocol` tells whether the
    /// service expects a header of the PROXY protocol. Returns only if there is no health check.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connections of the checks.
    pub(super) async fn check_health(&self, proxy_protocol: bool) {
        let Some(check) = &self.health_check else {
            return;
        };
        let mut ticks = interval(*check.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let targets = self.targets.iter().enumerate();
            let checks = targets.map(|(index, target)| async move {
                let result = check_target(target, check, proxy_protocol).await;
                self.on_checked(index, target, result);
            });
            join_all(checks).await;
        }
    }

    /// Returns the state of each target.
    pub(super) fn reports(&self) -> Vec<TargetReport> {
        let states: Vec<(bool, u64)> = self.states().report().collect();
        let reports = self.targets.iter().zip(states);
        reports
            .map(|(target, (is_healthy, failures))| TargetReport {
                target: target.to_string(),
                is_healthy,
                failures,
            })
            .collect()
    }

    fn on_connected(&self, index: usize, target: &Target) {
        let is_news = self.states().on_connected(index);
        if is_news {
            info!(address = %target, "target accepts connections again");
        }
    }

    fn on_connect_failed(&self, index: usize, target: &Target, error: &ConnectError) {
        let is_news = self.states().on_connect_failed(index, Instant::now());
        if is_news {
            warn!(address = %target, code = %error.code(), "target avoided: {error}");
        }
    }

    fn on_abandoned(&self, index: usize, target: &Target) {
        let is_news = self.states().on_connect_failed(index, Instant::now());
        if is_news {
            let code = DiagnosisCode::ServiceTimeout;
            warn!(address = %target, %code, "target avoided: no answer before the application gave up");
        }
    }

    fn on_checked(&self, index: usize, target: &Target, result: Result<(), CheckError>) {
        // A check that this machine could not make says nothing about the target.
        if matches!(
            result,
            Err(CheckError::Connect(ConnectError::OutOfFiles(_)))
        ) {
            return;
        }
        let change = self.states().on_checked(index, result.is_ok());
        match (change, result) {
            (Some(HealthChange::Healthy), _) => info!(address = %target, "target is healthy"),
            (Some(HealthChange::Unhealthy), Err(error)) => {
                warn!(address = %target, "target is unhealthy: {error}");
            }
            (Some(HealthChange::Unhealthy), Ok(())) | (None, _) => {}
        }
    }

    fn states(&self) -> MutexGuard<'_, TargetStates> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for TargetPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.targets.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{target}")?;
        }
        Ok(())
    }
}

/// A connection to a target that is being made. An application that gives up drops it. If that had no
/// effect, and all applications had less patience than the server, a silent target would stay the first
/// choice.
struct Attempt<'a> {
    pool: &'a TargetPool,
    index: usize,
    target: &'a Target,
    began: Instant,
    has_ended: bool,
}

impl<'a> Attempt<'a> {
    fn begin(pool: &'a TargetPool, index: usize, target: &'a Target) -> Self {
        Attempt {
            pool,
            index,
            target,
            began: Instant::now(),
            has_ended: false,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.began.elapsed() >= SHARE_MIN {
            self.pool.on_abandoned(self.index, self.target);
        }
    }
}

/// Returns the time for the next of `left` targets, out of the time that is left for all of them.
fn share(time: Duration, left: usize) -> Duration {
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    (time / left).max(SHARE_MIN).min(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_silent_target_is_avoided_although_no_application_waits_for_its_share() {
        use socket2::{Domain, SockAddr, Socket, Type};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent.sock");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
            queued.push(stream);
        }
        let silent: Target = format!("unix:{}", path.display()).parse().unwrap();
        let pool = TargetPool::new(vec![silent.clone(), silent], TargetChoice::Ordered, None);
        let limit = Duration::from_secs(60);
        let give_up_after = async |patience| {
            let connected = tokio::time::timeout(patience, pool.connect(limit)).await;
            assert!(connected.is_err(), "the backlog is full");
            pool.reports()
                .iter()
                .map(|report| report.failures)
                .collect::<Vec<_>>()
        };
        assert_eq!(give_up_after(SHARE_MIN / 2).await, [0, 0], "too early");
        assert_eq!(give_up_after(SHARE_MIN * 2).await, [1, 0]);
        assert_eq!(give_up_after(SHARE_MIN * 2).await, [1, 1], "the next one");
    }

    #[test]
    fn a_target_leaves_time_for_the_others_and_has_time_itself() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(10), 1), seconds(10));
        assert_eq!(share(seconds(10), 4), Duration::from_millis(2_500));
        assert_eq!(share(seconds(10), 64), SHARE_MIN);
        let short = Duration::from_millis(100);
        assert_eq!(share(short, 3), short);
        assert_eq!(share(Duration::ZERO, 3), Duration::ZERO);
        assert_eq!(share(seconds(1), 0), seconds(1));
    }
}
