//! What was measured, beside what was aimed at: a table (which is Markdown) and JSON.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::{Value, json};

use crate::table::{heading, print_table, short};

/// Everything that was measured, in order.
#[derive(Default)]
pub struct Results(Vec<Measured>);

struct Measured {
    /// For JSON; ends in the unit.
    name: &'static str,
    /// For the table.
    what: String,
    value: f64,
    unit: &'static str,
    /// The value is to be this at most.
    goal: Option<f64>,
}

impl Results {
    /// A value that tells something, without a goal.
    pub fn note(
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

    /// A value that is to be `goal` at most.
    pub fn judge(
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
    pub fn print(&self) {
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

    /// Writes every value.
    pub fn write_json(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let values: Vec<Value> = self.0.iter().map(Measured::to_json).collect();
        let text = serde_json::to_string_pretty(&json!({ "what": heading(), "values": values }))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Measured {
    fn is_held(&self) -> Option<bool> {
        // A ratio to what was too short to be measured says nothing.
        self.goal
            .filter(|_| self.value.is_finite())
            .map(|goal| self.value <= goal)
    }

    fn verdict(&self) -> &'static str {
        match self.is_held() {
            Some(true) => "held",
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
        json!({ "name": name, "what": what, "value": value, "unit": unit, "goal": goal, "held": self.is_held() })
    }
}

/// The middle one, or the mean of the two in the middle; nothing of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((upper + values.get(middle - 1)?) / 2.0)
    }
}
