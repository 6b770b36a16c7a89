//! The file as a tree in which every key and value knows its line, and the list in which mistakes are collected.
//!
//! Nothing here knows a setting. Values may be secrets, so no message of this module quotes one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A value and the line where it begins, counted from 1.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) line: usize,
    pub(super) node: Node,
}

/// What a value is.
#[derive(Clone)]
pub(super) enum Node {
    /// A quoted string.
    Text(String),
    /// An integer or a float, in decimal (an integer that does not fit 128 bits keeps its own digits).
    Number(String),
    Bool(bool),
    /// A date or time: no setting takes one.
    Date,
    List(Vec<Value>),
    Table(Vec<Entry>),
}

/// A key, the line where it stands, and its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

impl Node {
    /// The kind, with its article, for "expected ..., not ...".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The mistakes found so far in one file.
pub(super) struct Mistakes {
    path: PathBuf,
    found: Vec<ConfigError>,
}

impl Mistakes {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), found: Vec::new() }
    }

    /// Notes a mistake; line 0 is the file as a whole.
    pub(super) fn add(&mut self, line: usize, message: impl Into<String>) {
        self.found.push(ConfigError { path: self.path.clone(), line, message: message.into() });
    }

    /// Notes syntax errors. Of a line that could not be read nothing else is said, and of what one line may do to others neither: that
    /// a section or a setting is missing.
    pub(super) fn add_syntax(&mut self, errors: Vec<(usize, String)>) {
        if errors.is_empty() {
            return;
        }
        self.found.retain(|found| found.line != 0 && !errors.iter().any(|(line, _)| *line == found.line));
        // One broken line makes the parser complain of what follows on it as well.
        let mut told = BTreeSet::new();
        for (line, message) in errors.into_iter().filter(|(line, _)| told.insert(*line)) {
            self.add(line, message);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether there is one that begins so.
    pub(super) fn has(&self, begin: &str) -> bool {
        self.found.iter().any(|mistake| mistake.message.starts_with(begin))
    }

    /// All of them, by line. What is wrong in several parts of a line is said once.
    pub(super) fn into_sorted(mut self) -> Vec<ConfigError> {
        self.found.sort_by_key(|error| error.line);
        let mut told = BTreeSet::new();
        self.found.retain(|error| told.insert((error.line, error.message.clone())));
        self.found
    }

    /// The entries of a table; a mistake and none when the value is something else.
    pub(super) fn table<'v>(&mut self, what: &str, value: &'v Value) -> Option<&'v [Entry]> {
        match &value.node {
            Node::Table(entries) => Some(entries),
            other => {
                self.add(value.line, format!("{what} must be a table, not {}", other.kind()));
                None
            }
        }
    }

    /// The items of a list; a mistake and none when the value is something else.
    pub(super) fn list<'v>(&mut self, what: &str, value: &'v Value) -> Option<&'v [Value]> {
        match &value.node {
            Node::List(items) => Some(items),
            other => {
                self.add(value.line, format!("{what} must be a list, not {}", other.kind()));
                None
            }
        }
    }

    /// A string; a mistake and none when the value is something else.
    pub(super) fn text<'v>(&mut self, what: &str, value: &'v Value) -> Option<&'v str> {
        match &value.node {
            Node::Text(text) => Some(text),
            other => {
                self.add(value.line, format!("{what} must be a string, not {}", other.kind()));
                None
            }
        }
    }
}

/// Reads TOML into a tree, of as much as can be understood, and every syntax error: its line and what is wrong.
pub(super) fn from_toml(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let told = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| lines.at(span.start));
        // `message` alone: the full form quotes the line, which may hold a password.
        let message = error.message().replace('\n', ", ");
        let bare = text.lines().nth(line.saturating_sub(1)).and_then(bare_word_of);
        (
            line,
            format!(
                "not valid TOML: {}",
                bare.map_or(message, |key| format!(
                    "the value of {key} is not in quotes; put strings in double quotes"
                ))
            ),
        )
    };
    (entries(root.get_ref(), &lines), errors.into_iter().map(told).collect())
}

/// The key of a line whose value is a word without quotes, which TOML has none of but these.
fn bare_word_of(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim_start());
    let word = value.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let is_word = value.starts_with(|c: char| c.is_ascii_alphabetic() || "/*".contains(c));
    let is_plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    (is_word && is_plain && !["true", "false", "inf", "nan"].contains(&word)).then_some(key)
}

/// The name nearest to a misspelt one, when it is near enough to be meant.
pub(super) fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let wrong = wrong.to_lowercase();
    // A third of the letters may differ: "listen_prot" is meant for "listen_port", "foo" for nothing.
    let most = (wrong.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean "x"?` when a name is near, the whole list when it is short, or nothing.
pub(super) fn suggest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match nearest(wrong, names.iter().copied()) {
        Some(name) => format!("; did you mean {name:?}?"),
        None if !names.is_empty() && names.len() <= 9 => {
            let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("; expected {}", quoted.join(", "))
        }
        None => String::new(),
    }
}

/// What is valid in the place of a word that is not, and the nearest of it: `; expected "a", "b" or "c"; did you mean "a"?`. For every
/// setting whose values are words.
pub(crate) fn expected<'n>(wrong: &str, words: impl IntoIterator<Item = &'n str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let list = match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => return String::new(),
    };
    let shortened = || {
        let mut longer = words.iter().filter(|word| wrong.len() >= 3 && word.starts_with(&wrong.to_lowercase()));
        longer.next().copied().filter(|_| longer.next().is_none())
    };
    let near = nearest(wrong, words.iter().copied()).or_else(shortened);
    let near = near.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
    format!("; expected {list}{near}")
}

/// Where lines begin, to turn a byte offset into a line.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte offset, counted from 1.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset).saturating_add(1)
    }
}

fn entries(table: &DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    table
        .iter()
        // A value that stands nowhere is the parser's, in the place of one that it could not read.
        .filter(|(_, found)| matches!(found.get_ref(), DeValue::Table(_)) || !found.span().is_empty())
        .map(|(key, found)| {
            let line = lines.at(key.span().start);
            Entry { key: key.get_ref().to_string(), line, value: value(found, line, lines) }
        })
        .collect()
}

/// `key_line` stands in for tables, whose own span may be empty or begin elsewhere.
fn value(found: &toml::Spanned<DeValue<'_>>, key_line: usize, lines: &Lines) -> Value {
    let line = lines.at(found.span().start);
    match found.get_ref() {
        DeValue::String(text) => Value { line, node: Node::Text(text.to_string()) },
        DeValue::Integer(number) => {
            let digits = number.as_str();
            let decimal = i128::from_str_radix(digits, number.radix()).map_or(digits.to_owned(), |n| n.to_string());
            Value { line, node: Node::Number(decimal) }
        }
        DeValue::Float(number) => Value { line, node: Node::Number(number.as_str().to_owned()) },
        DeValue::Boolean(flag) => Value { line, node: Node::Bool(*flag) },
        DeValue::Datetime(_) => Value { line, node: Node::Date },
        DeValue::Array(items) => {
            let list = items.iter().map(|item| value(item, lines.at(item.span().start), lines)).collect();
            Value { line: key_line, node: Node::List(list) }
        }
        DeValue::Table(table) => Value { line: key_line, node: Node::Table(entries(table, lines)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_lines() {
        let tree = from_toml("\n[a]\nx = 1\ny = [\n  true,\n]\n[[a.s]]\nn = 0x10\n[[a.s]]\n").0;
        assert_eq!((tree[0].key.as_str(), tree[0].line), ("a", 2));
        let Node::Table(a) = &tree[0].value.node else { panic!("a table") };
        let find = |key: &str| a.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(find("x").line, 3);
        let Node::List(y) = &find("y").value.node else { panic!("a list") };
        assert_eq!(y[0].line, 5);
        let Node::List(s) = &find("s").value.node else { panic!("a list") };
        assert_eq!((s[0].line, s[1].line), (7, 9));
        let Node::Table(first) = &s[0].node else { panic!("a table") };
        assert!(matches!(&first[0].value.node, Node::Number(n) if n == "16"));
    }

    #[test]
    fn a_word_without_quotes_is_told_by_its_key() {
        for (line, key) in [
            ("pool_mode = transaction", Some("pool_mode")),
            ("auth_file=/etc/userlist.txt", Some("auth_file")),
            ("listen_addr = *", Some("listen_addr")),
            ("so_reuseport = true", None),
            ("password = \"secret", None),
            ("workers = 4x", None),
            ("a word", None),
        ] {
            assert_eq!(bare_word_of(line), key, "{line}");
        }
        let (_, mistakes) = from_toml("[pgweir]\npool_mode = transaction\nworkers = 2\n");
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert_eq!(mistakes[0].0, 2);
        assert!(mistakes[0].1.ends_with("the value of pool_mode is not in quotes; put strings in double quotes"));
    }

    #[test]
    fn near_names_are_suggested() {
        let names = ["listen_port", "listen_addr", "workers"];
        assert_eq!(nearest("listen_prot", names), Some("listen_port"));
        assert_eq!(nearest("Workers", names), Some("workers"));
        assert_eq!(nearest("foo", names), None);
        assert_eq!(suggest("foo", ["a", "b"]), "; expected \"a\", \"b\"");
    }

    #[test]
    fn what_is_valid_is_told_with_the_nearest() {
        assert_eq!(expected("sesion", ["session", "x"]), "; expected \"session\" or \"x\"; did you mean \"session\"?");
        assert_eq!(expected("foo", ["bar", "b", "c"]), "; expected \"bar\", \"b\" or \"c\"");
        assert_eq!(
            expected("scram", ["scram-sha-256"]),
            "; expected \"scram-sha-256\"; did you mean \"scram-sha-256\"?"
        );
        assert_eq!(expected("foo", ["only"]), "; expected \"only\"");
    }
}
