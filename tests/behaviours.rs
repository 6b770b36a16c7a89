//! `docs/behaviours.md` and `docs/sharding.md` speak of tests that exist.
//!
//! A row of its tables names files and, behind each, functions in it. `not yet` stands where there is none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a table that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A row: its behaviour, and what is named as its proof.
struct Row {
    section: String,
    behaviour: String,
    proof: String,
}

fn rows(document: &str) -> Vec<Row> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let (mut rows, mut section) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", behaviour, proof, ""] = cells[..]
            && !proof.starts_with("shown by")
            && !proof.starts_with("---")
        {
            let (behaviour, proof) = (behaviour.to_owned(), proof.to_owned());
            rows.push(Row { section: section.clone(), behaviour, proof });
        }
    }
    rows
}

/// The files and functions that a proof names: a file stands before its functions, a fuzz target alone.
fn named(proof: &str) -> Vec<(String, Option<String>)> {
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    let mut file = String::new();
    for word in proof.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            word.clone_into(&mut file);
            if word.starts_with("fuzz/") {
                found.push((file.clone(), None));
            }
        } else {
            found.push((file.clone(), Some(word.to_owned())));
        }
    }
    found
}

/// Whether `source` has a test of that name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let attributes =
            lines[..at].iter().rev().take_while(|above| above.starts_with("#[") || above.starts_with("//"));
        begins(line) && attributes.into_iter().any(|above| matches!(*above, "#[test]" | "#[tokio::test]"))
    })
}

fn source(files: &mut BTreeMap<String, String>, file: &str) -> String {
    let read = || fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    files.entry(file.to_owned()).or_insert_with(read).clone()
}

#[test]
fn every_behaviour_names_tests_that_exist() {
    names_tests_that_exist("docs/behaviours.md", 100);
}

#[test]
fn every_mistake_of_sharding_names_tests_that_exist() {
    names_tests_that_exist("docs/sharding.md", 34);
}

/// The document has more rows than `least`, so that its tables were read.
#[track_caller]
fn names_tests_that_exist(document: &str, least: usize) {
    let mut files = BTreeMap::new();
    let mut wrong = Vec::new();
    let rows = rows(document);
    assert!(rows.len() > least, "the tables are read: {}", rows.len());
    for Row { behaviour, proof, .. } in &rows {
        if proof.starts_with("not yet") {
            continue;
        }
        let named = named(proof);
        if named.is_empty() {
            wrong.push(format!("{behaviour}: no test is named"));
        }
        for (file, test) in named {
            let source = source(&mut files, &file);
            match test {
                _ if source.is_empty() => wrong.push(format!("{behaviour}: there is no file {file}")),
                Some(test) if !has_test(&source, &test) => {
                    wrong.push(format!("{behaviour}: {file} has no test {test}"))
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{document}:\n{}", wrong.join("\n"));
}

/// Whoever reads such a test learns what it guards against.
#[test]
fn every_class_of_vulnerabilities_is_named_where_it_is_tested() {
    let mut files = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in rows("docs/behaviours.md").iter().filter(|row| row.section.starts_with("Classes")) {
        let comment = format!("CVE class: {}", row.behaviour);
        let told = named(&row.proof).iter().any(|(file, _)| source(&mut files, file).contains(&comment));
        if !told {
            wrong.push(format!("none of the files has the comment {comment:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_sees_what_is_written() {
    let proof = "`tests/a.rs`: `one`, `two`; `src/b.rs`: `three`; `fuzz/fuzz_targets/c.rs`";
    let found: Vec<String> =
        named(proof).into_iter().map(|(file, test)| format!("{file} {}", test.unwrap_or_default())).collect();
    assert_eq!(found, ["tests/a.rs one", "tests/a.rs two", "src/b.rs three", "fuzz/fuzz_targets/c.rs "]);
    let source = "#[test]\n/// Says so.\nfn one() {}\n\nfn two() {}\n    #[test]\n    fn three(x in any()) {}\n";
    assert!(has_test(source, "one") && has_test(source, "three"));
    assert!(!has_test(source, "two") && !has_test(source, "thre") && !has_test(source, "four"));
}
