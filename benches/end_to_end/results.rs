//! What was measured, and what follows from it: medians over the rounds, of values and of what is computed from the values of one round.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde_json::json;

use crate::{
    connections::Sustained, machine, options::Options, systems::System, variants::Variant,
};

/// Names and numbers; the name ends in the unit.
pub type Values = Vec<(&'static str, f64)>;

/// Of all systems.
pub struct Results {
    /// How it was measured, in a line.
    pub heading: String,
    /// In the order in which they take turns: the floor is the first.
    pub systems: Vec<Measured>,
}

/// Of one system.
pub struct Measured {
    pub variant: Variant,
    /// One number for each round.
    values: BTreeMap<&'static str, Vec<f64>>,
    pub sustained: Option<Sustained>,
}

impl Results {
    /// Nothing yet.
    pub fn new(options: &Options, systems: &[System]) -> Self {
        let heading = format!(
            "{} MiB for each transfer, {}, on {}",
            options.transfer_bytes >> 20,
            if options.rounds == 1 {
                "one round".to_owned()
            } else {
                format!("medians of {} rounds in turns", options.rounds)
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

    /// Takes what a turn measured.
    pub fn add(&mut self, system: &System, values: &Values) {
        if let Some(measured) = self.find_mut(system.name()) {
            for &(name, value) in values {
                measured.values.entry(name).or_default().push(value);
            }
        }
    }

    /// Takes what came of making connections for a while.
    pub fn add_sustained(&mut self, system: &System, sustained: Sustained) {
        if let Some(measured) = self.find_mut(system.name()) {
            measured.sustained = Some(sustained);
        }
    }

    /// The system of this name, if it was measured.
    pub fn find(&self, system: &str) -> Option<&Measured> {
        self.systems
            .iter()
            .find(|measured| measured.variant.name == system)
    }

    /// The median over the rounds.
    pub fn median(&self, system: &str, name: &str) -> Option<f64> {
        median(self.find(system)?.values.get(name)?)
    }

    /// The median of what is computed from values of the same round: of a machine that changes its pace all of them tell alike.
    pub fn computed<const COUNT: usize>(
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

    /// What it is of the chain's.
    pub fn of_the_chain(&self, system: &str, name: &str) -> Option<f64> {
        self.computed([(system, name), ("chain", name)], |[ours, theirs]| {
            ours / theirs
        })
    }

    /// Every value of every round.
    pub fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
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
    /// Whether there is any value of this name.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((upper + values.get(middle - 1)?) / 2.0)
    }
}
