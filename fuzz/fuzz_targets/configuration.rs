//! Any text as a configuration file: it is valid or it says what is wrong.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = report::config::parse(text, Path::new("config.json"), &|_| None) {
        assert!(!error.to_string().is_empty());
    }
});
