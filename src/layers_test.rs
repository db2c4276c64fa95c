//! Checks the source against the table of layers in the crate documentation. No module uses a
//! module outside its row. The pure modules use no runtime, sockets, clock or random source.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Modules without I/O, followed by the names and paths that they must not use.
const PURE: [&str; 4] = ["frame", "crypto", "compress", "mux"];
const IMPURE_NAMES: [&str; 8] = [
    "tokio",
    "rand",
    "fastrand",
    "getrandom",
    "socket2",
    "hyper",
    "SystemTime",
    "spawn",
];
const IMPURE_PATHS: [&str; 6] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::io::stdin",
    "crate::random",
];

#[test]
fn every_module_uses_only_what_its_row_allows() {
    let table = table();
    let mut broken = Vec::new();
    for (module, file, source) in sources() {
        let Some(allowed) = table.get(module.as_str()) else {
            panic!(
                "{module} ({}) has no row in the table of src/lib.rs",
                file.display()
            );
        };
        for path in paths(&source, "crate") {
            let used = path.split("::").next().unwrap_or_default().to_owned();
            let is_module = table.contains_key(used.as_str());
            if is_module && used != module && !allowed.iter().any(|allowed| within(&path, allowed))
            {
                broken.push(format!(
                    "{}: crate::{path}, which `{module}` may not use",
                    file.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn pure_layers_use_no_runtime_sockets_clock_or_random_source() {
    let mut broken = Vec::new();
    for (module, file, source) in sources() {
        if !PURE.contains(&module.as_str()) {
            continue;
        }
        for name in names(&source).filter(|name| IMPURE_NAMES.contains(name)) {
            broken.push(format!("{}: {name}", file.display()));
        }
        let of_std = paths(&source, "std")
            .into_iter()
            .map(|path| format!("std::{path}"));
        let ours = paths(&source, "crate")
            .into_iter()
            .map(|path| format!("crate::{path}"));
        for path in of_std
            .chain(ours)
            .filter(|path| IMPURE_PATHS.iter().any(|impure| within(path, impure)))
        {
            broken.push(format!("{}: {path}", file.display()));
        }
        if squeezed(&source).contains("Instant::now") {
            broken.push(format!("{}: Instant::now", file.display()));
        }
    }
    assert!(
        broken.is_empty(),
        "a pure layer takes these as arguments:\n{}",
        broken.join("\n")
    );
}

#[test]
fn paths_finds_all_import_forms() {
    let source = without_tests_and_comments(
        "use crate::{frame::{Frame, Code}, id::Id as Name, random};\n// crate::master\n/* crate::client */ let a = crate :: mux::Stream::new();\n\
         let text = \"crate::server\"; let b = r#\"crate::tunnel \"\"#; let c = '\"'; crate::config::load();\n#[cfg(test)]\nmod tests { use crate::cli; }",
    );
    assert_eq!(
        paths(&source, "crate"),
        [
            "frame::Frame",
            "frame::Code",
            "id::Id",
            "random",
            "mux::Stream::new",
            "config::load"
        ]
    );
    assert!(
        within("link::channel::Lane", "link::channel")
            && !within("link::channels", "link::channel")
    );
    assert!(
        names("a.tokio::b").any(|name| name == "tokio")
            && !names("tokio_util").any(|name| name == "tokio")
    );
}

#[test]
fn the_table_parses() {
    let table = table();
    assert_eq!(table["frame"], ["id"]);
    assert!(
        table["tunnel"].contains(&"link::channel".to_owned())
            && !table["tunnel"].contains(&"link".to_owned())
    );
    assert!(
        table["server"].contains(&"tunnel".to_owned())
            && !table["server"].contains(&"client".to_owned())
    );
    assert!(
        table["bench"].contains(&"tunnel".to_owned())
            && !table["bench"].contains(&"link".to_owned())
    );
    assert!(table["cli"].contains(&"master".to_owned()) && table["id"].is_empty());
}

/// Returns the allowed paths of each module.
fn table() -> BTreeMap<String, Vec<String>> {
    let mut table = BTreeMap::new();
    let mut above: Vec<String> = Vec::new();
    for line in include_str!("lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[modules, _, uses, ..] = cells.as_slice() else {
            panic!("a row of another shape: {line}")
        };
        let modules: Vec<String> = modules
            .split(", ")
            .map(|name| name.trim_matches(['[', ']', '`']).to_owned())
            .collect();
        let mut allowed: Vec<String> = uses
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        if uses.contains("the layers above") || uses == "everything" {
            allowed.extend(above.iter().cloned());
        }
        above.extend(modules.iter().cloned());
        table.extend(modules.into_iter().map(|module| (module, allowed.clone())));
    }
    table
}

/// Returns every source file with its module and its code, without tests, comments and literals.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut found = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("below the root").to_owned();
        let first = inside
            .iter()
            .next()
            .and_then(|name| name.to_str())
            .expect("a name")
            .trim_end_matches(".rs")
            .to_owned();
        if !["lib", "main"].contains(&first.as_str()) && !is_test(&root, &inside) {
            let source = without_tests_and_comments(&fs::read_to_string(&file).expect("readable"));
            found.push((first, inside, source));
        }
    }
    assert!(found.len() > 30, "the source has been found");
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether the file or one of its folders is declared for tests only: `#[cfg(test)] mod NAME;`.
fn is_test(root: &Path, inside: &Path) -> bool {
    let declared_for_tests = |item: &Path| {
        let folder = root.join(item.parent().unwrap_or(Path::new("")));
        let name = item
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        ["mod.rs", "lib.rs"]
            .iter()
            .filter_map(|parent| fs::read_to_string(folder.join(parent)).ok())
            .any(|parent| {
                let parent = squeezed(&parent);
                ["", "pub", "pub(super)", "pub(crate)"]
                    .iter()
                    .any(|seen| parent.contains(&format!("#[cfg(test)]{seen}mod{name};")))
            })
    };
    inside
        .ancestors()
        .filter(|item| item.file_name().is_some())
        .any(declared_for_tests)
}

/// Removes comments, literals and the test module. The test module is the last item of each file.
fn without_tests_and_comments(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(letter) = rest.chars().next() {
        let skipped = literal_or_comment(rest);
        if skipped == 0 {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    let tests = code.match_indices("#[cfg(test)]").find(|(start, _)| {
        let item = code[*start..]
            .trim_start_matches("#[cfg(test)]")
            .trim_start();
        item.starts_with("mod ")
            && item.find('{').unwrap_or(usize::MAX) < item.find(';').unwrap_or(usize::MAX)
    });
    match tests {
        Some((start, _)) => code[..start].to_owned(),
        None => code,
    }
}

/// Returns the length of the comment, string or character literal at the start, or 0.
fn literal_or_comment(rest: &str) -> usize {
    let until = |from: usize, end: &str| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |found| from + found + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    if let Some(raw) = rest
        .strip_prefix('r')
        .filter(|raw| raw.starts_with("#\"") || raw.starts_with('"'))
    {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        return until(hashes + 2, &format!("\"{}", "#".repeat(hashes)));
    }
    if let Some(text) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = text.char_indices().find(|(_, letter)| {
            let ends = *letter == '"' && !escaped;
            escaped = *letter == '\\' && !escaped;
            ends
        });
        return end.map_or(rest.len(), |(end, _)| end + 2);
    }
    // A quote right after one character or an escape ends a character literal. Otherwise this is a
    // lifetime.
    let mut letters = rest.char_indices();
    if letters.next().is_some_and(|(_, letter)| letter == '\'') {
        match letters.next() {
            Some((_, '\\')) => return until(3, "'"),
            Some(_) if letters.next().is_some_and(|(_, letter)| letter == '\'') => {
                return letters.next().map_or(rest.len(), |(end, _)| end);
            }
            _ => {}
        }
    }
    0
}

fn names(source: &str) -> impl Iterator<Item = &str> {
    source.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

fn squeezed(source: &str) -> String {
    source
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect()
}

/// Returns every path that starts with `root::`, without that prefix. Groups in braces are
/// expanded.
fn paths(source: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find(root) {
        let is_whole_word =
            !rest[..start].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        rest = &rest[start + root.len()..];
        if let Some(path) = rest
            .trim_start()
            .strip_prefix("::")
            .filter(|_| is_whole_word)
        {
            spread(path.trim_start(), "", &mut found);
        }
    }
    found
}

/// Parses one path or group that continues `prefix`. Returns the text after it.
fn spread<'a>(source: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    if let Some(mut group) = source.strip_prefix('{') {
        loop {
            group =
                group.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
            if group.is_empty() {
                return group;
            }
            if let Some(rest) = group.strip_prefix('}') {
                return rest;
            }
            let rest = spread(group, prefix, found);
            // Skip what follows the path, as in `Id as Name`.
            let next = rest.find([',', '}']).unwrap_or(rest.len());
            group = &rest[next..];
        }
    }
    let end = source
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '*')
        .unwrap_or(source.len());
    let path = if prefix.is_empty() {
        source[..end].to_owned()
    } else {
        format!("{prefix}::{}", &source[..end])
    };
    let rest = &source[end..];
    match rest.trim_start().strip_prefix("::") {
        // A turbofish ends the path.
        Some(next) if !next.trim_start().starts_with('<') => {
            spread(next.trim_start(), &path, found)
        }
        _ => {
            found.push(path);
            rest
        }
    }
}

fn within(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
