//! The measured values, and medians over the rounds.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde_json::json;

use crate::{
    connections::Sustained, machine, median::median, options::Options, systems::System,
    variants::Variant,
};

/// Names and numbers. Each name ends in the unit.
pub(crate) type Values = Vec<(&'static str, f64)>;

/// The results of all systems.
pub(crate) struct Results {
    /// A line about the conditions of the measurement.
    pub heading: String,
    /// The systems in their order within a round. The chain is the first.
    pub systems: Vec<Measured>,
}

/// The results of one system.
pub(crate) struct Measured {
    pub variant: Variant,
    /// The values of all rounds, by name.
    values: BTreeMap<&'static str, Vec<f64>>,
    pub sustained: Option<Sustained>,
}

impl Results {
    /// Creates empty results.
    pub(crate) fn new(options: &Options, systems: &[System]) -> Self {
        let heading = format!(
            "{} MiB per transfer, {}, on {}",
            options.transfer_bytes >> 20,
            if options.rounds == 1 {
                "one round".to_owned()
            } else {
                format!("medians of {} interleaved rounds", options.rounds)
            },
            machine::network(),
        );
        let nothing = |system: &System| Measured {
            variant: system.variant().clone(),
            values: BTreeMap::new(),
            sustained: None,
        };
        Results {
            heading,
            systems: systems.iter().map(nothing).collect(),
        }
    }

    /// Adds the values of one measurement.
    pub(crate) fn add(&mut self, system: &System, values: &Values) {
        if let Some(measured) = self.find_mut(system.name()) {
            for &(name, value) in values {
                measured.values.entry(name).or_default().push(value);
            }
        }
    }

    /// Adds the result of the sustained run.
    pub(crate) fn add_sustained(&mut self, system: &System, sustained: Sustained) {
        if let Some(measured) = self.find_mut(system.name()) {
            measured.sustained = Some(sustained);
        }
    }

    /// Returns the system with this name, if measured.
    pub(crate) fn find(&self, system: &str) -> Option<&Measured> {
        self.systems
            .iter()
            .find(|measured| measured.variant.name == system)
    }

    /// Returns the median over the rounds.
    pub(crate) fn median(&self, system: &str, name: &str) -> Option<f64> {
        median(self.find(system)?.values.get(name)?)
    }

    /// Computes a number from the values of each round and returns the median over the rounds.
    ///
    /// A machine with varying speed affects all values of a round alike.
    pub(crate) fn computed<const COUNT: usize>(
        &self,
        from: [(&str, &str); COUNT],
        compute: impl Fn([f64; COUNT]) -> f64,
    ) -> Option<f64> {
        let mut series: [&[f64]; COUNT] = [&[]; COUNT];
        for ((system, name), series) in from.iter().zip(&mut series) {
            *series = self.find(system)?.values.get(name)?;
        }
        let rounds = series.iter().map(|series| series.len()).min()?;
        let values: Vec<f64> = (0..rounds)
            .map(|round| compute(series.map(|series| series[round])))
            .collect();
        median(&values)
    }

    /// Returns the median ratio of a system's value to the chain's.
    pub(crate) fn ratio_to_chain(&self, system: &str, name: &str) -> Option<f64> {
        self.computed([(system, name), ("chain", name)], |[ours, theirs]| {
            ours / theirs
        })
    }

    /// Writes the values of all rounds as JSON.
    pub(crate) fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let system = |measured: &Measured| {
            let values = json!({ "values": measured.values, "sustained": measured.sustained });
            (measured.variant.name.clone(), values)
        };
        let systems: serde_json::Map<_, _> = self.systems.iter().map(system).collect();
        let machine: serde_json::Map<_, _> = machine::facts()
            .into_iter()
            .map(|(name, fact)| (name.to_owned(), json!(fact)))
            .collect();
        let text = serde_json::to_string_pretty(
            &json!({ "what": self.heading, "machine": machine, "systems": systems }),
        )?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn find_mut(&mut self, system: &str) -> Option<&mut Measured> {
        self.systems
            .iter_mut()
            .find(|measured| measured.variant.name == system)
    }
}

impl Measured {
    /// Returns whether a value with this name was measured.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}
