//! Hints in comments: `/* pgweir: primary */`, `/* pgweir: sharding_key=42, shard=s0 */`.
//!
//! Only block comments outside of literals count, so a value that an application writes into a string cannot steer its
//! statement; `scan` knows where literals end.

use super::facts::{Hints, RouteHint};
use super::scan::Lexer;

/// What a comment must start with, after white space, to be a hint.
const PREFIX: &[u8] = b"pgweir:";

/// The words of a hint.
const WORDS: &[&str] = &["primary", "replica", "sharding_key", "shard"];

/// Reads the hints of a text. Several comments add up; two that contradict each other are an error.
#[must_use]
pub fn read(text: &[u8]) -> Hints {
    let mut hints = Hints::default();
    // Most texts have no block comment at all.
    if !text.windows(2).any(|pair| pair == b"/*") {
        return hints;
    }
    let mut lexer = Lexer::new(text);
    while let Some(comment) = lexer.next_comment() {
        let comment = comment.trim_ascii();
        let Some((prefix, words)) = comment.split_at_checked(PREFIX.len()) else { continue };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            continue;
        }
        if let Err(error) = read_words(words, &mut hints) {
            hints.error.get_or_insert(error);
        }
    }
    hints
}

fn read_words(words: &[u8], hints: &mut Hints) -> Result<(), String> {
    let words = std::str::from_utf8(words).map_err(|_| "a pgweir hint is not valid UTF-8".to_owned())?;
    let items = split(words)?;
    for item in items {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquote(value.trim()))),
            None => (item.trim(), None),
        };
        match (name.to_ascii_lowercase().as_str(), value) {
            ("primary", None) => set(&mut hints.route, RouteHint::Primary, "route")?,
            ("replica", None) => set(&mut hints.route, RouteHint::Replica, "route")?,
            ("primary" | "replica", Some(_)) => return Err(format!("pgweir hint \"{name}\" takes no value")),
            ("sharding_key" | "shard", None) => return Err(format!("pgweir hint \"{name}\" needs a value")),
            ("shard", Some(value)) if value.is_empty() => return Err("pgweir hint \"shard\" needs a value".to_owned()),
            ("sharding_key", Some(value)) => set(&mut hints.sharding_key, value, "sharding_key")?,
            ("shard", Some(value)) => set(&mut hints.shard, value, "shard")?,
            ("", _) => return Err(format!("a pgweir hint is empty: one of {} is needed", WORDS.join(", "))),
            (unknown, _) => return Err(unknown_word(unknown)),
        }
    }
    Ok(())
}

fn set<T: PartialEq>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    match slot {
        Some(old) if *old != value => Err(format!("pgweir hints contradict each other about {name}")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn unknown_word(word: &str) -> String {
    let short: String = word.chars().take(40).collect();
    let nearest = WORDS
        .iter()
        .map(|known| (strsim::jaro_winkler(&short, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("unknown pgweir hint \"{short}\": did you mean \"{known}\"?"),
        None => format!("unknown pgweir hint \"{short}\": known are {}", WORDS.join(", ")),
    }
}

/// Splits at commas outside of single quotes, and of the row that a value is: `sharding_key=(1,a)`.
fn split(words: &str) -> Result<Vec<&str>, String> {
    let mut items = Vec::new();
    let (mut from, mut quoted, mut in_row) = (0, false, false);
    for (at, c) in words.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => in_row |= words[from..at].trim_end().ends_with('='),
            ')' if !quoted => in_row = false,
            ',' if !quoted && !in_row => {
                items.push(&words[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err("a quote in a pgweir hint is not closed".to_owned());
    }
    if in_row {
        return Err("a parenthesis in a pgweir hint is not closed".to_owned());
    }
    items.push(&words[from..]);
    Ok(items)
}

fn unquote(value: &str) -> String {
    match value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Option<RouteHint> {
        let hints = read(text.as_bytes());
        assert_eq!(hints.error, None, "{text}");
        hints.route
    }

    #[test]
    fn words_and_values() {
        let hints = read(b"/* pgweir: sharding_key=42, shard = s0 ,Replica */ SELECT 1");
        assert_eq!(hints.sharding_key.as_deref(), Some("42"));
        assert_eq!(hints.shard.as_deref(), Some("s0"));
        assert_eq!(hints.route, Some(RouteHint::Replica));
        assert_eq!(hints.error, None);
        let hints = read(b"/*PGWEIR:sharding_key='a, ''b'' = c'*/");
        assert_eq!(hints.sharding_key.as_deref(), Some("a, 'b' = c"));
        for text in ["/* pgweir: sharding_key=(1,a b), primary */", "/* pgweir: primary, sharding_key = '(1,a b)' */"] {
            let hints = read(text.as_bytes());
            assert_eq!((hints.sharding_key.as_deref(), hints.error), (Some("(1,a b)"), None), "{text}");
            assert_eq!(hints.route, Some(RouteHint::Primary), "{text}");
        }
        let hints = read(b"/* pgweir: primary */ SELECT /* pgweir: shard=s1 */ 1");
        assert_eq!((hints.route, hints.shard.as_deref()), (Some(RouteHint::Primary), Some("s1")));
        assert_eq!(read(b"/* a comment */ SELECT 1 /* pgweir is nice */"), Hints::default());
    }

    #[test]
    fn only_comments_outside_of_literals_count() {
        let hint = "/* pgweir: primary */";
        for text in [
            format!("SELECT '{hint}'"),
            format!("SELECT 'it''s {hint}'"),
            format!("SELECT \"{hint}\""),
            format!("SELECT \"a\"\"{hint}\""),
            format!("SELECT E'\\'{hint}'"),
            format!("SELECT e'\\\\\\'{hint}'"),
            format!("SELECT E'a''\\'{hint}'"),
            format!("SELECT E'a'\n -- c\n 'b\\'{hint}'"),
            format!("SELECT $${hint}$$"),
            format!("SELECT $a$ $b$ {hint} $$ $a$"),
            format!("SELECT $é1$ {hint} $é1$"),
            format!("SELECT 1 -- {hint}"),
            format!("/* outer {hint} */ SELECT 1"),
            format!("SELECT 'open {hint}"),
            "SELECT /* pgweir: primary".to_owned(),
        ] {
            assert_eq!(route(&text), None, "{text}");
        }
    }

    #[test]
    fn literals_end_where_postgres_ends_them() {
        let hint = "/* pgweir: primary */";
        for text in [
            format!("SELECT 'a\\' {hint}"),
            format!("SELECT U&'\\' {hint}"),
            format!("SELECT nameE'\\' {hint}"),
            format!("SELECT E'\\\\' {hint}"),
            format!("SELECT a$b$ {hint} $b$"),
            format!("SELECT $1 {hint} , $1"),
            format!("SELECT $1$ {hint}"),
            format!("SELECT $a$x$a$ {hint}"),
            format!("SELECT E'a' 'b\\' {hint}"),
            format!("SELECT 1 -- it's\n {hint}"),
            format!("/* a /* b */ ' */ {hint}"),
            format!("SELECT $ {hint}"),
        ] {
            assert_eq!(route(&text), Some(RouteHint::Primary), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("/* pgweir: primry */", "did you mean \"primary\"?"),
            ("/* pgweir: sharding-key=1 */", "did you mean \"sharding_key\"?"),
            ("/* pgweir: xyzzy */", "known are primary, replica, sharding_key, shard"),
            ("/* pgweir: */", "is empty"),
            ("/* pgweir: primary, */", "is empty"),
            ("/* pgweir: primary=1 */", "takes no value"),
            ("/* pgweir: shard */", "needs a value"),
            ("/* pgweir: shard= */", "needs a value"),
            ("/* pgweir: shard='a */", "not closed"),
            ("/* pgweir: sharding_key=(1,a */", "not closed"),
            ("/* pgweir: primary, replica */", "contradict"),
            ("/* pgweir: shard=a */ /* pgweir: shard=b */", "contradict"),
        ] {
            let error = read(text.as_bytes()).error.unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(read(b"/* pgweir: \xff */").error.is_some());
        assert_eq!(read(b"/* pgweir: primary */ /* pgweir: primary */").error, None);
    }
}
