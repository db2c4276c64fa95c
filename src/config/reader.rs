//! Reads single fields for `validate`: words, addresses, keys and quantities. Each method returns
//! `None` exactly when it recorded a problem.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use super::{
    ByteSize, Secret, SecretSources, Warning,
    document::ConfigDocument,
    error::{Fault, FieldPath, nearest},
    quantity::Quantity,
    raw::OneOrMore,
    secret::RawSecret,
};

/// A document with its warnings so far.
pub(super) struct FieldReader<'a> {
    pub document: ConfigDocument<'a>,
    pub sources: SecretSources<'a>,
    pub warnings: Vec<Warning>,
}

impl FieldReader<'_> {
    /// Reads one address or a list, all of them valid.
    pub(super) fn addresses<T: FromStr>(
        &mut self,
        path: &FieldPath,
        raw: Option<&OneOrMore>,
        missing: &'static str,
        fault: impl Fn(&str, T::Err) -> Fault,
    ) -> Option<Vec<T>> {
        let Some(raw) = raw.filter(|raw| !raw.texts().is_empty()) else {
            self.document.add_problem(path, Fault::Missing(missing));
            return None;
        };
        let parsed = raw.texts().iter().enumerate().map(|(index, text)| {
            let path = if raw.is_list() {
                path.index(index)
            } else {
                path.clone()
            };
            text.parse()
                .map_err(|error| self.document.add_problem(&path, fault(text, error)))
                .ok()
        });
        let parsed: Vec<Option<T>> = parsed.collect();
        parsed.into_iter().collect()
    }

    pub(super) fn secret(
        &mut self,
        path: &FieldPath,
        raw: Option<&RawSecret>,
        missing: &'static str,
    ) -> Option<Secret> {
        let Some(raw) = raw else {
            self.document.add_problem(path, Fault::Missing(missing));
            return None;
        };
        let noted = |error| self.document.add_problem(path, Fault::Secret(error));
        raw.fetch(self.sources).map_err(noted).ok()
    }

    /// Reads a word out of the texts of `all`.
    pub(super) fn word<T: Copy + fmt::Display>(
        &mut self,
        path: &FieldPath,
        written: Option<&str>,
        default: T,
        all: &[T],
    ) -> Option<T> {
        let Some(written) = written else {
            return Some(default);
        };
        let known: Vec<String> = all.iter().map(T::to_string).collect();
        let found = all
            .iter()
            .zip(&known)
            .find(|(_, word)| *word == written)
            .map(|(value, _)| *value);
        if found.is_none() {
            let nearest = nearest(written, known.iter().map(String::as_str));
            self.document.add_problem(
                path,
                Fault::UnknownWord {
                    found: written.to_owned(),
                    nearest,
                    known,
                },
            );
        }
        found
    }

    pub(super) fn duration(
        &mut self,
        path: &FieldPath,
        raw: Option<&Quantity>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let form = "seconds as a number, or text like \"500ms\", \"10s\" or \"2m\",";
        self.quantity(
            path,
            raw,
            default,
            &range,
            Quantity::duration,
            (form, |duration| format!("{duration:?}")),
        )
    }

    pub(super) fn size(
        &mut self,
        path: &FieldPath,
        raw: Option<&Quantity>,
        default: ByteSize,
        range: RangeInclusive<ByteSize>,
    ) -> Option<ByteSize> {
        let form = "bytes as a number, or text like \"64 KiB\" or \"8 MiB\",";
        self.quantity(
            path,
            raw,
            default,
            &range,
            Quantity::size,
            (form, |size| size.to_string()),
        )
    }

    pub(super) fn count(
        &mut self,
        path: &FieldPath,
        raw: Option<&Quantity>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let read = |raw: &Quantity| raw.count().and_then(|count| u32::try_from(count).ok());
        self.quantity(
            path,
            raw,
            default,
            &range,
            read,
            ("a whole number", |count| count.to_string()),
        )
    }

    pub(super) fn quantity<T: PartialOrd + Copy>(
        &mut self,
        path: &FieldPath,
        raw: Option<&Quantity>,
        default: T,
        range: &RangeInclusive<T>,
        read: impl Fn(&Quantity) -> Option<T>,
        (form, print): (&'static str, impl Fn(T) -> String),
    ) -> Option<T> {
        let Some(raw) = raw else { return Some(default) };
        let value = read(raw).filter(|value| range.contains(value));
        if value.is_none() {
            let (lowest, highest) = (print(*range.start()), print(*range.end()));
            self.document.add_problem(
                path,
                Fault::Quantity {
                    found: raw.to_string(),
                    form,
                    lowest,
                    highest,
                },
            );
        }
        value
    }
}
