//! The measured values and their goals, as a Markdown table and as JSON.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::{Value, json};

use crate::table::{heading, print_table, short};

/// All measured values, in order.
#[derive(Default)]
pub(crate) struct Results(Vec<Measured>);

struct Measured {
    /// The name in JSON, which ends in the unit.
    name: &'static str,
    /// The label in the table.
    what: String,
    value: f64,
    unit: &'static str,
    /// The maximum for the value.
    goal: Option<f64>,
}

impl Results {
    /// Adds a value without a goal.
    pub(crate) fn record(
        &mut self,
        name: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.0.push(Measured {
            name,
            what: what.into(),
            value,
            unit,
            goal: None,
        });
    }

    /// Adds a value that should be at most `goal`.
    pub(crate) fn record_with_goal(
        &mut self,
        name: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: f64,
    ) {
        self.0.push(Measured {
            name,
            what: what.into(),
            value,
            unit,
            goal: Some(goal),
        });
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!("\n{}\n", heading());
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let mut rows = vec![row(["", "measured", "goal", ""])];
        rows.extend(self.0.iter().map(|measured| {
            let goal = measured.goal.map_or_else(String::new, |goal| {
                format!("≤ {} {}", short(goal), measured.unit)
            });
            let value = format!("{} {}", short(measured.value), measured.unit);
            row([
                &measured.what,
                value.trim_end(),
                goal.trim_end(),
                measured.verdict(),
            ])
        }));
        print_table(&rows);
    }

    /// Writes all values as JSON.
    pub(crate) fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let values: Vec<Value> = self.0.iter().map(Measured::to_json).collect();
        let text = serde_json::to_string_pretty(&json!({ "what": heading(), "values": values }))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Measured {
    fn is_met(&self) -> Option<bool> {
        // A ratio to a value that was too small to measure is not meaningful.
        self.goal
            .filter(|_| self.value.is_finite())
            .map(|goal| self.value <= goal)
    }

    fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }

    fn to_json(&self) -> Value {
        let Measured {
            name,
            what,
            value,
            unit,
            goal,
        } = self;
        json!({ "name": name, "what": what, "value": value, "unit": unit, "goal": goal, "held": self.is_met() })
    }
}
