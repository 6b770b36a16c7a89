//! Holds the imports of `src/` to the table of layers in ARCHITECTURE.md.
//!
//! The source is read as text: comments, literals and `#[cfg(test)]` items are blanked out, and what is left is searched
//! for `crate::` and `super::` paths and, in pure modules, for words that have no place there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Debug)]
struct Row {
    /// The module's path below `src/`: `["health", "breaker"]`.
    module: Vec<String>,
    pure: bool,
    imports: BTreeSet<String>,
}

/// What a pure module may not name, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "no runtime"),
    ("Instant::now", "no clock: take `now` as a parameter"),
    ("SystemTime", "no clock: take the time as a parameter"),
    ("TcpStream", "no sockets"),
    ("TcpListener", "no sockets"),
    ("UdpSocket", "no sockets"),
    ("UnixStream", "no sockets"),
    ("UnixListener", "no sockets"),
    ("UnixDatagram", "no sockets"),
    ("ToSocketAddrs", "no name look-ups"),
    ("socket2", "no sockets"),
    ("hyper", "no sockets"),
    ("tokio_postgres", "no servers"),
    ("rand::rng", "no global random numbers: take a generator as a parameter"),
    ("rand::random", "no global random numbers: take a generator as a parameter"),
    ("thread_rng", "no global random numbers: take a generator as a parameter"),
    ("OsRng", "no global random numbers: take a generator as a parameter"),
    ("thread::sleep", "no clock"),
    ("thread::spawn", "no threads"),
];

/// What marks an item as a test's.
const MARK: &str = "#[cfg(test)]";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display())).expect("a readable file")
}

/// The rows of the fenced block marked `layers`.
fn parse_table(document: &str) -> Vec<Row> {
    let block = document.split_once("```layers\n").expect("a block marked `layers`").1;
    let block = block.split_once("```").expect("the end of the block").0;
    let mut rows = Vec::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace().peekable();
        let module = words.next().expect("a module").split('/').map(str::to_owned).collect();
        let pure = words.next_if_eq(&"[P]").is_some();
        rows.push(Row { module, pure, imports: words.map(str::to_owned).collect() });
    }
    rows
}

fn table() -> Vec<Row> {
    parse_table(&read(&root().join("ARCHITECTURE.md")))
}

/// The most exact row for a file's module path.
fn row_of<'r>(rows: &'r [Row], module: &[String]) -> Option<&'r Row> {
    rows.iter().filter(|row| module.starts_with(&row.module)).max_by_key(|row| row.module.len())
}

/// Every module file under `src/`, with its module path; modules declared under `#[cfg(test)]` are left out.
fn sources() -> Vec<(PathBuf, Vec<String>)> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut directories = vec![src.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&src).expect("below src").with_extension("");
                let mut module: Vec<String> =
                    relative.iter().map(|part| part.to_str().expect("UTF-8").to_owned()).collect();
                if module.last().is_some_and(|last| last == "mod") {
                    module.pop();
                }
                if module != ["lib"] && module != ["main"] {
                    found.push((path, module));
                }
            }
        }
    }
    let tests: Vec<Vec<String>> = found.iter().flat_map(|(path, module)| test_modules(&read(path), module)).collect();
    found.retain(|(_, module)| !tests.iter().any(|test| module.starts_with(test)));
    found.sort();
    found
}

/// The modules that a file declares under `#[cfg(test)]`, by their paths.
fn test_modules(source: &str, module: &[String]) -> Vec<Vec<String>> {
    let code = without_comments_and_literals(source);
    let declared = code.split(MARK).skip(1).filter_map(|rest| {
        let item = rest.trim_start().strip_prefix("pub ").unwrap_or(rest.trim_start());
        let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
        let name: String = item.strip_prefix("mod ")?.chars().take_while(|c| is_word(*c)).collect();
        Some(module.iter().cloned().chain([name]).collect())
    });
    declared.collect()
}

/// Blanks out comments, string and character literals, keeping lines.
fn without_comments_and_literals(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !ends_in_word(&out)) {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.push(' ');
        out.extend(rest[..taken].chars().filter(|c| *c == '\n'));
        rest = &rest[taken..];
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the (nested) block comment at the start.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Length of the string literal at the start.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string literal (`r"..."`, `br#"..."#`) at the start, if one is there.
fn raw_string(text: &str) -> Option<usize> {
    let after_prefix = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let body = after_prefix.trim_start_matches('#');
    let hashes = &after_prefix[..after_prefix.len() - body.len()];
    let body = body.strip_prefix('"')?;
    let end = format!("\"{hashes}");
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

/// Length of the character literal at the start; 1 for the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

/// Blanks out what stands under `#[cfg(test)]`: up to the end of its braces, or to the semicolon when it has none.
fn without_tests(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let mut depth = 0_usize;
        let end = rest.char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(at + 1)
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out.push_str(rest);
    out
}

/// Top-level modules that the paths of a file name. `module` is the file's own path.
fn imports(source: &str, module: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in source.match_indices("crate::") {
        if !ends_in_word(&source[..at]) {
            heads(&source[at + "crate::".len()..], &mut found);
        }
    }
    for (at, _) in source.match_indices("super::") {
        // A chain counts once, from its first link.
        if ends_in_word(&source[..at]) || source[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &source[at..];
        let mut up = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            up += 1;
        }
        if up == module.len() {
            heads(rest, &mut found);
        }
    }
    found
}

/// The first segments of the path, or of each path of the group, at the start of `text`.
fn heads(text: &str, found: &mut BTreeSet<String>) {
    let word = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = text.strip_prefix('{') else {
        found.insert(word(text));
        return;
    };
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.insert(word(group[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.remove("");
}

/// Words of [`IMPURE`] that the source names.
fn impurities(source: &str) -> Vec<&'static (&'static str, &'static str)> {
    let named = |word: &str| {
        source.match_indices(word).any(|(at, _)| {
            let after = source[at + word.len()..].chars().next();
            !ends_in_word(&source[..at]) && !after.is_some_and(is_word)
        })
    };
    IMPURE.iter().filter(|(word, _)| named(word)).collect()
}

fn code_of(path: &Path) -> String {
    without_tests(&without_comments_and_literals(&read(path)))
}

#[test]
fn rows_name_only_rows_above_them() {
    let rows = table();
    let mut above = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let name = row.module.join("/");
        let unknown: Vec<_> = row.imports.iter().filter(|import| !above.contains(*import)).collect();
        if !unknown.is_empty() {
            wrong.push(format!("{name} imports {unknown:?}, which no row above it names"));
        }
        if row.pure && row.imports.contains("clock") {
            wrong.push(format!("{name} is pure, and asks for the time"));
        }
        if let [top, _, ..] = row.module.as_slice() {
            let parent = rows.iter().find(|row| row.module == [top.clone()]).expect("a row for the whole module");
            if !row.imports.is_subset(&parent.imports) {
                wrong.push(format!("{name} may import more than {top}"));
            }
        }
        assert!(above.insert(name.clone()), "{name} has two rows");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_and_the_source_name_the_same_modules() {
    let rows = table();
    let declared: Vec<String> = without_comments_and_literals(&read(&root().join("src/lib.rs")))
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    let listed: Vec<String> =
        rows.iter().filter(|row| row.module.len() == 1).map(|row| row.module[0].clone()).collect();
    assert_eq!(declared, listed, "src/lib.rs (left) and ARCHITECTURE.md (right) list the modules in the same order");

    let modules: Vec<_> = sources().into_iter().map(|(_, module)| module).collect();
    let gone: Vec<_> =
        rows.iter().map(|row| &row.module).filter(|row| !modules.iter().any(|m| m.starts_with(row))).collect();
    assert!(gone.is_empty(), "rows without a module: {gone:?}");
}

#[test]
fn imports_keep_to_the_table() {
    let rows = table();
    let mut wrong = Vec::new();
    for (path, module) in sources() {
        let row = row_of(&rows, &module).unwrap_or_else(|| panic!("{} has no row", path.display()));
        for import in imports(&code_of(&path), &module) {
            if import != row.module[0] && !row.imports.contains(&import) {
                wrong.push(format!("{}: {} may not import {import}", path.display(), row.module.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "not in ARCHITECTURE.md's table of layers:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_are_pure() {
    let rows = table();
    let mut wrong = Vec::new();
    for (path, module) in sources() {
        if row_of(&rows, &module).is_some_and(|row| row.pure) {
            for (word, why) in impurities(&code_of(&path)) {
                wrong.push(format!("{}: {word} ({why})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The scanner itself: what it must see, and what it must not take for an import.
#[test]
fn the_scanner_sees_paths_and_nothing_else() {
    let source = r##"
        use crate::wire::Frame; // use crate::comment::X;
        use crate::{auth, error::{Error, Result}, id::ClientId as C};
        /* crate::block /* crate::nested */ crate::block */
        fn f<'a>(x: &'a str) -> crate::sql::Facts { g("crate::text \" crate::more", '"', 'x', '\''); r#"crate::raw "x""#; }
        use super::{sibling, other}; use super::super::top::T; pub(in crate::shard) struct X;
        mycrate::nothing();
        #[cfg(test)]
        mod tests { use crate::pool::P; fn t() { { } } }
        #[cfg(test)]
        use crate::net::Net;
        use crate::route;
    "##;
    let module = ["health".to_owned(), "lsn".to_owned()];
    let code = without_tests(&without_comments_and_literals(source));
    let found: Vec<String> = imports(&code, &module).into_iter().collect();
    assert_eq!(found, ["auth", "error", "id", "route", "shard", "sql", "top", "wire"]);
    let found: Vec<String> = imports(&code, &module[..1]).into_iter().collect();
    assert!(found.contains(&"sibling".to_owned()) && found.contains(&"other".to_owned()));
}

#[test]
fn test_only_files_are_known_by_their_declaration() {
    let source = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\npub(crate) mod c { fn f() {} }\n#[cfg(test)]\nuse x;";
    assert_eq!(test_modules(source, &["m".to_owned()]), [["m", "b"], ["m", "c"]]);
}

#[test]
fn the_scanner_sees_impure_words() {
    let words = |source: &str| impurities(&without_comments_and_literals(source)).len();
    assert_eq!(words("use tokio::io; let x = Instant::now(); rand::rng().random()"), 3);
    assert_eq!(words("// tokio\n let s = \"tokio\"; mytokio(); Instant::nowhere; rand::rngs::StdRng"), 0);
}

#[test]
fn the_most_exact_row_counts() {
    let rows = parse_table("x\n```layers\nclock\nhealth clock\nhealth/lsn [P]\n```\n");
    let module = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let lsn = row_of(&rows, &module("health/lsn/deep")).unwrap();
    assert!(lsn.pure && lsn.imports.is_empty());
    let probe = row_of(&rows, &module("health/probe")).unwrap();
    assert!(!probe.pure && probe.imports.contains("clock"));
    assert!(row_of(&rows, &module("healthy")).is_none());
}
