//! A configuration without a file: its fields by their paths, and its errors by their options.

use std::{ffi::OsString, path::Path};

use serde_json::{Map, Value, json};

use super::{FieldOptions, OptionSet};
use crate::config::{self, FieldPath, Invite, LoadedConfig, PathSegment, Warning};

/// Looks up an environment variable.
type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The fields of a configuration with one port. A path has dots between its names, and `ports.` in
/// front of a field of the port.
#[derive(Debug)]
pub(in crate::cli) struct ConfigFields(Map<String, Value>);

impl ConfigFields {
    /// Creates the configuration of a role without other fields.
    pub(in crate::cli) fn new(mode: &str) -> Self {
        let mut fields = Self(Map::new());
        fields.set("mode", mode);
        fields
    }

    /// Creates the configuration of a client for an invitation.
    pub(in crate::cli) fn of_invite(invite: &Invite) -> Self {
        let mut fields = Self::new("client");
        let masters = invite.masters.iter().map(ToString::to_string);
        fields.set("master", masters.collect::<Vec<_>>());
        if !invite.pins.is_empty() {
            let pins = invite.pins.iter().map(ToString::to_string);
            fields.set("tls.pin_sha256", pins.collect::<Vec<_>>());
        }
        fields.set("ports.mark", invite.mark.as_str());
        fields.set("ports.protocol", invite.protocol.name());
        fields.set("ports.encrypt_method", invite.encrypt.name());
        fields.set("ports.compress_method", invite.compress.name());
        fields.set("ports.port_key", invite.port_key.expose());
        fields
    }

    /// Sets a field, or replaces its value.
    pub(in crate::cli) fn set(&mut self, field: &str, value: impl Into<Value>) {
        insert(&mut self.0, field, value.into());
    }

    /// Sets the fields of the given options.
    pub(in crate::cli) fn set_options<S>(&mut self, options: &FieldOptions<S>) {
        for (option, value) in &options.given {
            self.set(option.field, value.clone());
        }
    }

    /// Takes a secret from the first environment variable that is set, unless one of the fields has a
    /// value. `secrets` are fields, each with its variable.
    pub(in crate::cli) fn set_from_environment(
        &mut self,
        secrets: &[(&str, &str)],
        variables: Variables<'_>,
    ) {
        if secrets.iter().any(|(field, _)| self.has(field)) {
            return;
        }
        let mut secrets = secrets.iter();
        if let Some((field, name)) = secrets.find(|(_, name)| variables(name).is_some()) {
            self.set(field, json!({"env": name}));
        }
    }

    fn has(&self, field: &str) -> bool {
        let mut names = field.split('.');
        let first = names.next().and_then(|name| self.0.get(name));
        names
            .try_fold(first, |value, name| Some(value?.get(name)))
            .flatten()
            .is_some()
    }

    /// Reads the configuration like a file in the working directory. Its texts contain no variables.
    ///
    /// # Errors
    /// Returns a line for each problem. It begins with the name of the option.
    pub(in crate::cli) fn read(
        self,
        names: &OptionNames,
        variables: Variables<'_>,
    ) -> Result<LoadedConfig, String> {
        let mut root = self.0;
        let port = root.remove("ports");
        let port = port.unwrap_or_else(|| Value::Object(Map::new()));
        root.insert("ports".to_owned(), Value::Array(vec![port]));
        let mut root = Value::Object(root);
        escape_variables(&mut root);
        let text = root.to_string();
        config::parse(&text, Path::new(""), variables).map_err(|error| {
            let problems = error.problems.iter();
            let lines = problems.map(|problem| {
                let option = names.option(&problem.field);
                format!("{option} {}", problem.fault)
            });
            lines.collect::<Vec<_>>().join("\n")
        })
    }
}

/// Escapes the characters `${` in all texts. In a file they begin an environment variable. An
/// invitation may come from a stranger, and must not send variables of this process anywhere.
fn escape_variables(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace("${", "$${"),
        Value::Array(elements) => elements.iter_mut().for_each(escape_variables),
        Value::Object(fields) => fields.values_mut().for_each(escape_variables),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Sets the value at a path. Creates the objects on the way to it.
fn insert(object: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((name, rest)) = path.split_once('.') else {
        object.insert(path.to_owned(), value);
        return;
    };
    let inner = object
        .entry(name)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

/// The options of a command, by their fields.
#[derive(Debug)]
pub(in crate::cli) struct OptionNames(Vec<(&'static str, &'static str)>);

impl OptionNames {
    /// Collects the options of a set. `arguments` are further fields, each with its option. Of
    /// several options for a field, the given one counts.
    pub(in crate::cli) fn new<S: OptionSet>(
        options: &FieldOptions<S>,
        arguments: &[(&'static str, &'static str)],
    ) -> Self {
        let given = options.given.iter().map(|(option, _)| *option);
        let known = given.chain(S::options());
        let known = known.map(|option| (option.field, option.name));
        Self(arguments.iter().copied().chain(known).collect())
    }

    /// Returns the option of a field, as `--NAME`, or the path of a field without an option.
    pub(in crate::cli) fn option(&self, field: &FieldPath) -> String {
        let names = field.0.iter().filter_map(|segment| match segment {
            PathSegment::Field(name) => Some(name.as_str()),
            PathSegment::Index(_) => None,
        });
        let path = names.collect::<Vec<_>>().join(".");
        let mut path = path.as_str();
        // The field may be an object whose fields have options.
        let is_inside = |known: &str| {
            let inner = known.strip_prefix(path);
            inner.is_some_and(|inner| inner.starts_with('.'))
        };
        let inside = self.0.iter().find(|(known, _)| is_inside(known));
        loop {
            let exact = self.0.iter().find(|(known, _)| *known == path);
            if let Some((_, name)) = exact.or(inside) {
                return format!("--{name}");
            }
            // An option may stand for an object or a list around the field.
            match path.rsplit_once('.') {
                Some((around, _)) => path = around,
                None => return format!("`{field}`"),
            }
        }
    }

    /// Returns a warning that names the option.
    pub(in crate::cli) fn warning(&self, warning: &Warning) -> String {
        format!("{} {}", self.option(&warning.field), warning.message)
    }
}
