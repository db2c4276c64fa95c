//! The examples of docs/keys.md: their commands print what the page shows, and their files are valid.

use std::{fs, path::Path, process::Command};

use crate::support::{
    programs::{self, ProgramOutput},
    tunnel::REPORT,
};

/// A block of docs/keys.md.
enum Block {
    /// The name and the text of a file.
    File(String, String),
    /// Commands, and what they print if the page shows it.
    Commands(String, Option<String>),
}

/// Returns the examples of a page: their titles and blocks.
fn examples(page: &str) -> Vec<(&str, Vec<Block>)> {
    let sections = page
        .split("\n## ")
        .filter(|section| section.starts_with("Example: "));
    sections
        .map(|section| {
            let title = section.lines().next().unwrap_or_default();
            (title, blocks(section))
        })
        .collect()
}

fn blocks(section: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            if !line.is_empty() {
                before = line;
            }
            continue;
        };
        let body = lines.by_ref().take_while(|line| *line != "```");
        let text: String = body.flat_map(|line| [line, "\n"]).collect();
        match language {
            "json" => {
                let name = before.split('`').find(|part| part.ends_with(".json"));
                let name =
                    name.unwrap_or_else(|| panic!("the line before a file names it: {before}"));
                blocks.push(Block::File(name.to_owned(), text));
            }
            "sh" => blocks.push(Block::Commands(text, None)),
            "text" => match blocks.last_mut() {
                Some(Block::Commands(_, output)) => *output = Some(text),
                _ => panic!("an output without commands: {text}"),
            },
            other => panic!("unknown block {other}"),
        }
    }
    blocks
}

/// Whether a line has the parts around the ellipses of the expected one, in this order.
fn fits(line: &str, expected: &str) -> bool {
    let Some((first, others)) = expected.split_once('…') else {
        return line == expected;
    };
    let Some(mut rest) = line.strip_prefix(first.trim_end()) else {
        return false;
    };
    for part in others.split('…').map(str::trim) {
        match rest.split_once(part) {
            // An ellipsis at the end stands for the rest.
            _ if part.is_empty() => {}
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// Runs the commands of a block in a folder.
fn run_in(folder: &Path, commands: &str) -> ProgramOutput {
    let path = std::env::var("PATH").expect("a path");
    let mut shell = Command::new("timeout");
    shell
        .args(["--kill-after=5", "120", "sh", "-eu", "-c", commands])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.join("bin").display()))
        .env("TZ", "UTC");
    programs::run(&mut shell)
}

#[test]
fn the_examples_of_the_page_work_as_shown() {
    let page = include_str!("../../docs/keys.md");
    let examples = examples(page);
    assert_eq!(examples.len(), 3);
    for (title, blocks) in examples {
        let folder = tempfile::tempdir().expect("a folder for the example");
        let folder = folder.path();
        fs::create_dir(folder.join("bin")).expect("a folder");
        std::os::unix::fs::symlink(REPORT, folder.join("bin/report")).expect("a link");
        let mut files = Vec::new();
        for block in blocks {
            match block {
                Block::File(name, text) => {
                    fs::write(folder.join(&name), text).expect("written");
                    files.push(name);
                }
                Block::Commands(commands, expected) => {
                    let output = run_in(folder, &commands).succeeded().text();
                    let Some(expected) = expected else { continue };
                    let lines: Vec<&str> = output.lines().collect();
                    let expected: Vec<&str> = expected.lines().collect();
                    assert_eq!(lines.len(), expected.len(), "{title}: {output}");
                    for (line, expected) in lines.into_iter().zip(expected) {
                        assert!(
                            fits(line, expected),
                            "{title}: {line:?} is not {expected:?}"
                        );
                    }
                }
            }
        }
        for file in files {
            run_in(folder, &format!("report check --config {file}")).succeeded();
        }
    }
}

#[test]
fn outputs_are_compared_part_by_part() {
    assert!(fits("added account 2 \"a\"", "added account 2 \"a\""));
    assert!(fits("key 00ff valid -", "key … valid …"));
    assert!(!fits("key 00ff revoked -", "key … valid …"));
    assert!(!fits("added account 2 \"a\" x", "added account 2 \"a\""));
    assert!(!fits("x key", "key …"));
}
