//! Encodes metric families. Wraps the encoder of the library, so that roles only name their values.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{histogram::HistogramCounts, refusals::RefusalCounts};

/// The labels of a sample: names and values.
pub type Labels = Vec<(&'static str, String)>;

/// One value of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<V> {
    labels: Labels,
    value: V,
}

impl<V> Sample<V> {
    /// Creates the only sample of a family.
    pub fn of(value: V) -> Self {
        Sample {
            labels: Vec::new(),
            value,
        }
    }

    /// Creates a sample with labels.
    pub fn labelled(labels: impl Into<Labels>, value: V) -> Self {
        Sample {
            labels: labels.into(),
            value,
        }
    }
}

/// Writes the metric families of a role. Each name may occur once. A name that ends with a unit gets
/// the metadata of that unit.
#[derive(Debug)]
pub struct MetricFamilies<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl<'e> MetricFamilies<'e> {
    pub(super) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        MetricFamilies { encoder }
    }

    /// Writes counters. The text has the suffix `_total` after `name`.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<u64>>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, |metric, value| {
            metric.encode_counter::<NoLabelSet, u64, f64>(value, None)
        })
    }

    /// Writes gauges.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<V>>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples, |metric, value| {
            metric.encode_gauge(value)
        })
    }

    /// Writes a family with several samples.
    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<V>>,
        encode: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let (name, unit) = split_unit(name);
        let mut family = self
            .encoder
            .encode_descriptor(name, help, unit.as_ref(), kind)?;
        for Sample { labels, value } in samples {
            with_labels(&mut family, labels, |metric| encode(metric, &value))?;
        }
        Ok(())
    }

    /// Writes gauges of numbers of things.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn gauge_of_counts(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<usize>>,
    ) -> fmt::Result {
        let samples = samples.into_iter().map(|Sample { labels, value }| Sample {
            labels,
            value: i64::try_from(value).unwrap_or(i64::MAX),
        });
        self.gauge(name, help, samples)
    }

    /// Writes constant facts as labels. The text has the suffix `_info` after `name`.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn info(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&'static str, String)],
    ) -> fmt::Result {
        self.encoder
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&escaped(labels.to_vec()))
    }

    /// Writes a histogram of durations in seconds.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn histogram(&mut self, name: &str, help: &str, counts: &HistogramCounts) -> fmt::Result {
        let (name, unit) = split_unit(name);
        self.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(
                counts.sum_seconds,
                counts.count(),
                &counts.buckets,
                None,
            )
    }

    /// Writes the links of a server or client: those that are up, and all that were established.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn links_to_masters(&mut self, up: usize, established: u64) -> fmt::Result {
        let peer = || [("peer", "master".to_owned())];
        self.gauge_of_counts(
            "report_links",
            "Links that are up.",
            [Sample::labelled(peer(), up)],
        )?;
        self.counter(
            "report_established_links",
            "Links that were established.",
            [Sample::labelled(peer(), established)],
        )
    }

    /// Writes the number of ports of a server or client.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn configured_ports(&mut self, ports: usize) -> fmt::Result {
        self.gauge_of_counts("report_ports", "Configured ports.", [Sample::of(ports)])
    }

    /// Writes the bytes that wait for slow peers, and their limit.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn queue_memory(&mut self, used: u64, limit: u64) -> fmt::Result {
        for (name, help, bytes) in [
            (
                "report_queue_memory_bytes",
                "Data that waits for slow peers.",
                used,
            ),
            (
                "report_queue_memory_limit_bytes",
                "The limit of waiting data (limits.memory).",
                limit,
            ),
        ] {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.gauge(name, help, [Sample::of(bytes)])?;
        }
        Ok(())
    }

    /// Writes the refusals of a role.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn refusals(&mut self, refusals: &RefusalCounts) -> fmt::Result {
        let samples = refusals.all().into_iter().map(|((stage, reason), count)| {
            let labels = [("stage", stage.to_owned()), ("reason", reason.to_owned())];
            Sample::labelled(labels, count)
        });
        self.counter("report_refusals", "Refusals, by stage and reason.", samples)
    }
}

/// Splits the unit from the end of a name. The encoder appends it again.
fn split_unit(name: &str) -> (&str, Option<Unit>) {
    for unit in [Unit::Bytes, Unit::Seconds] {
        let stem = name.strip_suffix(unit.as_str());
        if let Some(stem) = stem.and_then(|stem| stem.strip_suffix('_')) {
            return (stem, Some(unit));
        }
    }
    (name, None)
}

/// Encodes a sample of a family with its labels.
fn with_labels(
    family: &mut MetricEncoder<'_>,
    labels: Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() {
        return encode(family);
    }
    let labels = escaped(labels);
    let mut metric = family.encode_family(&labels)?;
    encode(&mut metric)
}

/// Escapes the values of labels as the text format requires. The library writes them as they are.
fn escaped(labels: Labels) -> Labels {
    let escape = |value: String| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    labels
        .into_iter()
        .map(|(name, value)| (name, escape(value)))
        .collect()
}
