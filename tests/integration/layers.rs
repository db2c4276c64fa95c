//! Holds the source to the table of layers at the top of src/lib.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Layers without a runtime, sockets, a clock and random numbers of their own.
const PURE: [&str; 4] = ["frame", "crypto", "compress", "mux"];

/// What a pure layer would have to name to be none. The handshake's random numbers are arguments; only snow's own resolver may have them.
const IMPURE: [&str; 7] = ["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime", "fastrand", "crate::random"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// For each module the paths that it may use; absent when it may use everything.
fn table() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! |")).filter(|row| row.contains("[`"));
    let mut table = BTreeMap::new();
    for row in rows {
        let columns: Vec<&str> = row.split('|').collect();
        let (modules, uses) = (quoted(columns[0]), columns[2]);
        let mut allowed: BTreeSet<String> = quoted(uses);
        if uses.contains("the layers above") {
            allowed.extend(table.keys().cloned());
        }
        for module in modules {
            table.insert(module, (!uses.contains("everything")).then(|| allowed.clone()));
        }
    }
    table
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The Rust files of a module, those that are compiled for tests alone left out.
fn files(module: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_owned());
        }
    }
    let mut found = Vec::new();
    let folder = source().join(module);
    walk(&if folder.is_dir() { folder } else { folder.with_extension("rs") }, &mut found);
    assert!(!found.is_empty(), "the module {module} has files");
    let tests: BTreeSet<String> = found.iter().flat_map(|file| tests_declared_in(&fs::read_to_string(file).unwrap())).collect();
    let is_test = |stem: &str| tests.contains(stem) || stem.ends_with("_tests");
    found.retain(|file| !file.file_stem().is_some_and(|stem| is_test(&stem.to_string_lossy())));
    found
}

/// What stands behind each `#[cfg(test)] mod`, to the next line.
fn test_modules(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("#[cfg(test)]\n").filter_map(|(at, found)| {
        // An attribute that names the file may stand between.
        let behind = text[at + found.len()..].lines().find(|line| !line.starts_with("#["))?;
        behind.starts_with("mod ").then_some((at, behind))
    })
}

fn tests_declared_in(text: &str) -> Vec<String> {
    test_modules(text).filter_map(|(_, line)| line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)).collect()
}

/// The code of a file without comments and without its tests at the end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = test_modules(&text).find(|(_, line)| line.ends_with('{')).map_or(text.len(), |(at, _)| at);
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What stands behind each `crate::`, groups in braces taken apart.
fn uses(code: &str) -> BTreeSet<String> {
    let path = |text: &str| text.chars().take_while(|sign| sign.is_alphanumeric() || "_:".contains(*sign)).collect::<String>();
    let mut found = BTreeSet::new();
    for behind in code.split("crate::").skip(1) {
        let Some(group) = behind.strip_prefix('{') else {
            found.insert(path(behind));
            continue;
        };
        let (mut depth, mut first) = (0, true);
        for (at, sign) in group.char_indices() {
            if first && depth == 0 && sign.is_alphabetic() {
                found.insert(path(&group[at..]));
                first = false;
            }
            match sign {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => first = true,
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_module_uses_only_what_its_row_allows() {
    let table = table();
    let declared = fs::read_to_string(source().join("lib.rs")).unwrap();
    let declared = declared.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned));
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), declared.collect(), "every module has a row");
    for (module, allowed) in table.iter().filter_map(|(module, allowed)| Some((module, allowed.as_ref()?))) {
        for file in files(module) {
            for used in uses(&code(&file)) {
                let within = |name: &String| used == *name || used.starts_with(&format!("{name}::"));
                assert!(within(module) || allowed.iter().any(within), "{} uses {used}", file.display());
            }
        }
    }
}

#[test]
fn pure_layers_have_no_runtime_no_sockets_no_clock_and_no_random_numbers() {
    for file in PURE.iter().flat_map(|layer| files(layer)) {
        let code = code(&file);
        for impure in IMPURE {
            assert!(!code.contains(impure), "{} names {impure}", file.display());
        }
    }
}

#[test]
fn uses_are_found_in_every_form() {
    let code =
        "use crate::{frame::{Code, Notice}, id::Id,\n crypto};\npub use crate::mux::Mux; fn f() { crate::random::bytes() }";
    let expected = ["crypto", "frame::", "id::Id", "mux::Mux", "random::bytes"];
    assert_eq!(uses(code).into_iter().collect::<Vec<_>>(), expected);
}
