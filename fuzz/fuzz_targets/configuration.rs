//! Parses arbitrary text as a configuration file: it is valid, or the error has a message.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = report::config::parse(text, Path::new("config.json"), &|_| None) {
        assert!(!error.to_string().is_empty());
    }
});
