//! The arguments of a benchmark. Those of the environment variable `REPORT_BENCH`, which spaces
//! separate, follow those of the process.

use std::str::FromStr;

use anyhow::{Context, bail};

/// The arguments that are not parsed yet.
pub(crate) struct Arguments {
    rest: std::vec::IntoIter<String>,
}

impl Arguments {
    /// Adds the arguments of the environment variable to those of the process.
    pub(crate) fn new(of_process: impl IntoIterator<Item = String>) -> Self {
        let from_environment = std::env::var("REPORT_BENCH").unwrap_or_default();
        let arguments: Vec<String> = of_process
            .into_iter()
            .chain(from_environment.split_whitespace().map(str::to_owned))
            .collect();
        Arguments {
            rest: arguments.into_iter(),
        }
    }

    /// Returns whether an argument has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.rest.as_slice().iter().any(|argument| argument == name)
    }

    /// Returns the next option.
    pub(crate) fn next_option(&mut self) -> Option<String> {
        self.rest.next()
    }

    /// Returns the value of `option`, which is the last that [`Arguments::next_option`] returned.
    pub(crate) fn value(&mut self, option: &str) -> anyhow::Result<String> {
        let value = self.rest.next();
        value.with_context(|| format!("{option} needs a value"))
    }

    /// Returns the value of `option`, a positive number.
    pub(crate) fn number<N: FromStr + PartialOrd + From<u8>>(
        &mut self,
        option: &str,
    ) -> anyhow::Result<N> {
        let text = self.value(option)?;
        match text.parse::<N>() {
            Ok(number) if number > N::from(0_u8) => Ok(number),
            _ => bail!("{option} needs a positive number, not {text:?}"),
        }
    }
}
