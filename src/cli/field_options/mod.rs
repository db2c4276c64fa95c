//! Options of the command line that stand for fields of the configuration, for roles without a file.
//! `table` lists them. `config_fields` makes a configuration of them, which the reader of files
//! validates. Its errors name the option in place of the field.

mod config_fields;
mod table;

use std::{fmt, marker::PhantomData};

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};
use serde_json::{Map, Number, Value, json};

pub(super) use self::{
    config_fields::{ConfigFields, OptionNames},
    table::{ConnectFields, ExposeFields, ForwardFields},
};

/// An option for a field.
#[derive(Debug)]
pub(super) struct FieldOption {
    /// The name, without the dashes in front.
    name: &'static str,
    /// The path of the field, with `ports.` in front of a field of the only port.
    field: &'static str,
    kind: ValueKind,
    /// The name of the value in the help.
    value_name: &'static str,
    help: &'static str,
}

/// How the text of an option becomes the value of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    /// Any text.
    Text,
    /// A number, or text with a unit.
    Quantity,
    /// A list. Each occurrence of the option adds an element.
    List,
    /// Header fields, as `NAME: VALUE`. Each occurrence adds one.
    Headers,
    /// A secret. Other users of the machine see it in the list of processes.
    Secret,
    /// The file that contains a secret. The name ends with `-file`.
    SecretFile,
    /// Turns a field on. The option has no value.
    On,
    /// Turns a field off. The option has no value.
    Off,
}

/// Options under one heading of the help.
#[derive(Debug)]
pub(super) struct OptionTable {
    heading: &'static str,
    options: &'static [FieldOption],
}

/// The options of a command.
pub(super) trait OptionSet: 'static {
    /// Its tables, in the order of the help.
    const TABLES: &'static [&'static OptionTable];

    /// Returns all options.
    fn options() -> impl Iterator<Item = &'static FieldOption> {
        Self::TABLES.iter().flat_map(|table| table.options)
    }
}

/// The given options of the set `S`, with the values of their fields.
pub(super) struct FieldOptions<S> {
    given: Vec<(&'static FieldOption, Value)>,
    set: PhantomData<fn() -> S>,
}

impl<S> FieldOptions<S> {
    /// Returns the first option that is given, with the path of its field.
    pub(super) fn first(&self) -> Option<(&'static str, &'static str)> {
        let (option, _) = self.given.first()?;
        Some((option.name, option.field))
    }
}

impl<S> fmt::Debug for FieldOptions<S> {
    /// Hides the values, because some are secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.given.iter().map(|(option, _)| option.name);
        formatter.debug_list().entries(names).finish()
    }
}

impl FieldOption {
    fn arg(&'static self, heading: &'static str) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .help(self.help)
            .help_heading(heading);
        match self.kind {
            ValueKind::On | ValueKind::Off => arg.action(ArgAction::SetTrue),
            ValueKind::List | ValueKind::Headers => {
                arg.action(ArgAction::Append).value_name(self.value_name)
            }
            // A key may begin with a dash.
            ValueKind::Secret => arg
                .action(ArgAction::Set)
                .value_name(self.value_name)
                .allow_hyphen_values(true),
            ValueKind::SecretFile => arg
                .action(ArgAction::Set)
                .value_name(self.value_name)
                .conflicts_with(self.name.strip_suffix("-file").unwrap_or(self.name)),
            ValueKind::Text | ValueKind::Quantity => {
                arg.action(ArgAction::Set).value_name(self.value_name)
            }
        }
    }

    /// Returns the value of the field, or `None` if the option is not given.
    fn value(&self, matches: &ArgMatches) -> Result<Option<Value>, clap::Error> {
        if matches!(self.kind, ValueKind::On | ValueKind::Off) {
            let is_given = matches.get_flag(self.name);
            return Ok(is_given.then_some(Value::Bool(self.kind == ValueKind::On)));
        }
        let Some(texts) = matches.get_many::<String>(self.name) else {
            return Ok(None);
        };
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let text = texts.last().copied().unwrap_or_default();
        Ok(Some(match self.kind {
            ValueKind::List => Value::from(texts),
            ValueKind::Headers => Value::Object(self.headers(&texts)?),
            ValueKind::Quantity => quantity(text),
            ValueKind::SecretFile => json!({"file": text}),
            ValueKind::Text | ValueKind::Secret | ValueKind::On | ValueKind::Off => {
                Value::from(text)
            }
        }))
    }

    fn headers(&self, texts: &[&str]) -> Result<Map<String, Value>, clap::Error> {
        let mut headers = Map::new();
        for text in texts {
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| self.invalid("write \"NAME: VALUE\""))?;
            let earlier = headers.insert(name.trim().to_owned(), Value::from(value.trim()));
            if earlier.is_some() {
                return Err(self.invalid("write each header once"));
            }
        }
        Ok(headers)
    }

    /// Returns an error without the value, which may be a secret.
    fn invalid(&self, remedy: &str) -> clap::Error {
        let message = format!("invalid value for '--{}': {remedy}\n", self.name);
        clap::Error::raw(ErrorKind::ValueValidation, message)
    }
}

/// Returns a number as such. The reader of the configuration accepts or refuses other text.
fn quantity(text: &str) -> Value {
    let number = serde_json::from_str::<Number>(text);
    number.map_or_else(|_| Value::from(text), Value::Number)
}

impl<S: OptionSet> clap::FromArgMatches for FieldOptions<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for option in S::options() {
            if let Some(value) = option.value(matches)? {
                given.push((option, value));
            }
        }
        Ok(Self {
            given,
            set: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<S: OptionSet> clap::Args for FieldOptions<S> {
    fn augment_args(command: Command) -> Command {
        let tables = S::TABLES.iter();
        let args = tables.flat_map(|table| {
            let (heading, options) = (table.heading, table.options.iter());
            options.map(move |option| option.arg(heading))
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests;
