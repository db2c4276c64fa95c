use std::collections::BTreeSet;

use super::*;

#[test]
fn display_joins_present_parts() {
    let code = DiagnosisCode::TcpRefused;
    assert_eq!(
        Diagnosis::new(code, "seen", "behind it", "do").to_string(),
        "seen; behind it; do"
    );
    assert_eq!(
        Diagnosis::new(code, "seen", "", "do").to_string(),
        "seen; do"
    );
}

#[test]
fn code_names_are_unique_words() {
    let names: BTreeSet<&str> = DiagnosisCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), DiagnosisCode::ALL.len());
    for code in DiagnosisCode::ALL {
        let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        assert!(code.name().chars().all(is_word), "{code}");
        let meaning = code.meaning();
        assert!(
            meaning.ends_with('.') && meaning.trim() == meaning,
            "{code}: {meaning:?}"
        );
        assert_eq!(
            serde_json::to_value(code).unwrap(),
            serde_json::json!(code.name())
        );
    }
}

/// A row of the table of codes in docs/diagnostics.md.
fn document_rows() -> Vec<[&'static str; 4]> {
    let document = include_str!("../../docs/diagnostics.md");
    let (_, table) = document
        .split_once("| code | layer | meaning | remedy |")
        .expect("the table of codes");
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            cells
                .try_into()
                .unwrap_or_else(|_| panic!("a row of four cells: {row}"))
        })
        .collect()
}

#[test]
fn document_lists_every_code_in_order() {
    let rows = document_rows();
    let documented: Vec<[String; 3]> = rows
        .iter()
        .map(|[code, layer, meaning, _]| [code, layer, meaning].map(|cell| cell.to_string()))
        .collect();
    let defined: Vec<[String; 3]> = DiagnosisCode::ALL
        .iter()
        .map(|code| {
            [
                format!("`{}`", code.name()),
                code.layer().name().to_owned(),
                code.meaning().trim_end_matches('.').to_owned(),
            ]
        })
        .collect();
    assert_eq!(documented, defined);
    for [code, _, _, remedy] in rows {
        assert!(!remedy.is_empty(), "{code} has no remedy");
    }
}
