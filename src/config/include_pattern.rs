//! Finds the files that an element of `include` names: a path, or a pattern with wildcards.

use std::path::{Path, PathBuf};

use glob::Pattern;

/// Why a pattern finds no files, and what to do.
#[derive(Debug)]
pub(super) struct PatternError {
    pub problem: String,
    pub remedy: &'static str,
}

/// Returns the path, or the files that match the pattern, sorted by name. Both start at `folder`.
/// Stops after more than `max` files.
pub(super) fn find(folder: &Path, text: &str, max: usize) -> Result<Vec<PathBuf>, PatternError> {
    if !text.contains(['*', '?', '[']) {
        return Ok(vec![folder.join(text)]);
    }
    let start = folder.to_str().ok_or_else(|| PatternError {
        problem: "is a pattern, but the name of this file's folder is not UTF-8".to_owned(),
        remedy: "write the path of each file",
    })?;
    let pattern = Path::new(&Pattern::escape(start)).join(text);
    let found = glob::glob(&pattern.to_string_lossy());
    let found = found.map_err(|error| PatternError {
        problem: format!("is not a pattern: {}", error.msg),
        remedy: "write * for characters of a name, ? for one, [ab] for one of several, and ** for folders",
    })?;
    let takes_hidden = is_hidden(Path::new(text));
    let mut paths = Vec::new();
    for path in found {
        let path = path.map_err(|error| PatternError {
            problem: format!(
                "needs the folder {}, which cannot be read ({})",
                error.path().display(),
                error.error()
            ),
            remedy: "allow this user to read it, or correct the pattern",
        })?;
        if !path.is_dir() && (takes_hidden || !is_hidden(&path)) {
            paths.push(path);
        }
        if paths.len() > max {
            break;
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Whether the name starts with a dot. The option of the library for such names panics at a name
/// that is not UTF-8.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn patterns_match_visible_files_in_the_order_of_their_names() {
        let home = tempfile::tempdir().expect("a folder");
        // The name of the folder is not a pattern.
        let folder = home.path().join("a[b]");
        for name in ["d/sub", "e"] {
            fs::create_dir_all(folder.join(name)).expect("created");
        }
        for name in [
            "d/2.json",
            "d/1.json",
            "d/3.toml",
            "d/.4.json",
            "d/sub/5.json",
            "e/6.json",
        ] {
            fs::write(folder.join(name), "{}").expect("written");
        }
        for (pattern, expected) in [
            ("d/*.json", &["d/1.json", "d/2.json"][..]),
            ("d/*", &["d/1.json", "d/2.json", "d/3.toml"]),
            ("d/?.toml", &["d/3.toml"]),
            ("d/.*", &["d/.4.json"]),
            ("d/[23].*", &["d/2.json", "d/3.toml"]),
            ("*/6.json", &["e/6.json"]),
            ("d/**/*.json", &["d/1.json", "d/2.json", "d/sub/5.json"]),
            ("none/*.json", &[]),
            ("none/a.json", &["none/a.json"]),
        ] {
            let expected: Vec<PathBuf> = expected.iter().map(|name| folder.join(name)).collect();
            assert_eq!(
                find(&folder, pattern, 10).expect(pattern),
                expected,
                "{pattern}"
            );
        }
        let absolute = Pattern::escape(&folder.join("e").display().to_string()) + "/*";
        let found = find(Path::new("elsewhere"), &absolute, 10).expect("a pattern");
        assert_eq!(found, [folder.join("e/6.json")]);
        assert_eq!(find(&folder, "d/*", 1).expect("a pattern").len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf_8_are_skipped() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let home = tempfile::tempdir().expect("a folder");
        let other = OsStr::from_bytes(b"\xff.json");
        // Some file systems refuse the name.
        if fs::write(home.path().join(other), "{}").is_ok() {
            fs::write(home.path().join("a.json"), "{}").expect("written");
            let found = find(home.path(), "*.json", 10).expect("a pattern");
            assert_eq!(found, [home.path().join("a.json")]);
            let folder = home.path().join(OsStr::from_bytes(b"\xff"));
            let error = find(&folder, "*.json", 10).expect_err("the folder");
            assert!(error.problem.contains("is not UTF-8"), "{}", error.problem);
        }
    }

    #[test]
    fn an_invalid_pattern_is_an_error() {
        for pattern in ["[", "d/a**", "***"] {
            let error = find(Path::new(""), pattern, 10).expect_err(pattern);
            assert!(
                error.problem.starts_with("is not a pattern: "),
                "{}",
                error.problem
            );
        }
    }
}
