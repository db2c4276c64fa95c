//! The readiness of a role, and its metrics in the OpenMetrics text format.
//! Knows numbers and their names, but not the inside of a role, nor how the text is served.
//!
//! ```text
//!  role ──implements──► ObservedRole ──describe──► MetricFamilies ──► Exposition ──► text
//! ```
//!
//! The data path only adds to relaxed atomics. The metrics are summed up when they are read.

mod families;
mod histogram;
mod refusals;
mod role_observer;

use std::{fmt, sync::Arc, time::Instant};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

pub use self::{
    families::{Labels, MetricFamilies, Sample},
    histogram::{DurationHistogram, HistogramCounts},
    refusals::RefusalCounts,
    role_observer::{RoleObserver, RunningRole},
};

/// The media type of [`Exposition::text`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A role as its admin address reports it.
pub trait ObservedRole: Send + Sync + 'static {
    /// Returns the name of the role, as in `mode` of the configuration.
    fn name(&self) -> &'static str;

    /// Returns what is missing until the role can work, in words. Nothing is missing from a role
    /// that is ready.
    fn missing(&self) -> Vec<String>;

    /// Returns what works less well than it should, although the role is ready.
    fn degraded(&self) -> Vec<Degradation> {
        Vec::new()
    }

    /// Writes the metrics of the role, except those that all roles share.
    ///
    /// # Errors
    /// When the encoder fails.
    fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result;
}

/// Something that works less well than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degradation {
    /// Its description, in words.
    pub what: String,
    /// The time at which it began, in Unix seconds.
    pub since: i64,
}

/// The metrics of a role as text.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    /// Creates the exposition of a role that starts now.
    #[must_use]
    pub fn new(role: Arc<dyn ObservedRole>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(RoleCollector {
            role,
            started: Instant::now(),
        }));
        Exposition(registry)
    }

    /// Returns the current values in the OpenMetrics text format.
    ///
    /// # Errors
    /// When a value cannot be encoded.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Reads the role at each scrape.
struct RoleCollector {
    role: Arc<dyn ObservedRole>,
    started: Instant,
}

impl fmt::Debug for RoleCollector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RoleCollector")
            .field("role", &self.role.name())
            .finish_non_exhaustive()
    }
}

impl Collector for RoleCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = MetricFamilies::new(encoder);
        families.info(
            "report_build",
            "The version and the role of the process.",
            &[
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("role", self.role.name().to_owned()),
            ],
        )?;
        families.gauge(
            "report_uptime_seconds",
            "The time since the start of the process.",
            [Sample::of(self.started.elapsed().as_secs_f64())],
        )?;
        families.gauge(
            "report_ready",
            "Whether the role is ready, as /readyz reports it: 1 or 0.",
            [Sample::of(u32::from(self.role.missing().is_empty()))],
        )?;
        families.counter(
            "report_dropped_log_lines",
            "Log lines that were dropped, because the reader of standard error was too slow or its writes failed.",
            [Sample::of(crate::telemetry::dropped_lines())],
        )?;
        self.role.describe(&mut families)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A role with one metric of each kind.
    struct TestRole;

    impl ObservedRole for TestRole {
        fn name(&self) -> &'static str {
            "test"
        }

        fn missing(&self) -> Vec<String> {
            vec!["everything".to_owned()]
        }

        fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
            let histogram = DurationHistogram::default();
            histogram.record(std::time::Duration::from_millis(30));
            let refusals = RefusalCounts::default();
            refusals.count("attach", "limit");
            refusals.count("attach", "limit");
            let port = "a \"quoted\\\" name\nin two lines".to_owned();
            families.counter(
                "report_test_bytes",
                "Bytes.",
                [Sample::labelled([("port", port)], 7)],
            )?;
            families.histogram("report_test_seconds", "Pauses.", &histogram.counts())?;
            families.queue_memory(3, 4)?;
            families.refusals(&refusals)
        }
    }

    fn text() -> String {
        Exposition::new(Arc::new(TestRole))
            .text()
            .expect("it can be encoded")
    }

    #[test]
    fn every_family_has_one_help_and_one_type_and_the_text_ends_with_eof() {
        let text = text();
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let (mut helped, mut typed) = (Vec::new(), Vec::new());
        let mut current = "";
        for line in text.trim_end_matches("# EOF\n").lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap_or_default();
                assert!(rest.ends_with('.'), "{line}");
                helped.push(current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap_or_default();
                assert_eq!(name, current, "{line}");
                typed.push(name);
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap_or_default();
                assert_eq!(name, current, "{line}");
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
            } else {
                assert!(line.starts_with(current) && !current.is_empty(), "{line}");
                assert!(line.starts_with("report_"), "{line}");
            }
        }
        assert_eq!(helped, typed);
        let distinct: BTreeSet<_> = helped.iter().collect();
        assert_eq!(distinct.len(), helped.len(), "{helped:?}");
    }

    #[test]
    fn values_are_encoded_by_the_kind_of_their_family() {
        let text = text();
        let version = env!("CARGO_PKG_VERSION");
        let build = format!("report_build_info{{version=\"{version}\",role=\"test\"}} 1");
        for line in [
            build.as_str(),
            "report_ready 0",
            "report_test_seconds_count 1",
            "report_test_seconds_bucket{le=\"+Inf\"} 1",
            "report_refusals_total{stage=\"attach\",reason=\"limit\"} 2",
            "report_queue_memory_bytes 3",
            "report_queue_memory_limit_bytes 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn names_with_a_unit_have_its_metadata() {
        let text = text();
        for line in [
            "# TYPE report_uptime_seconds gauge",
            "# UNIT report_uptime_seconds seconds",
            "# UNIT report_test_bytes bytes",
            "# UNIT report_test_seconds seconds",
            "# UNIT report_queue_memory_bytes bytes",
            "# UNIT report_queue_memory_limit_bytes bytes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.matches("# UNIT ").count(), 5, "{text}");
    }

    #[test]
    fn label_values_are_escaped() {
        assert!(
            text()
                .contains(r#"report_test_bytes_total{port="a \"quoted\\\" name\nin two lines"} 7"#),
            "{}",
            text()
        );
    }
}
