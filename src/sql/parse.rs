//! From a text to its facts: the only caller of the parser.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Error, Node};

use super::facts::{PinReason, QueryFacts, SessionEffect};
use super::scan::{Lexer, MAX_WORK};
use super::{hints, statement};

/// The longest text that is parsed, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The longest INSERT that is parsed, in bytes: long literals are common in them.
const MAX_INSERT_BYTES: usize = 16 << 20;
/// How many commas, parentheses and operators a text may have. Each may cost the parser some hundred bytes of memory.
const MAX_SEPARATORS: usize = 1 << 20;

/// The facts of a text, as a Query or Parse message carries it (without its final NUL).
///
/// Never panics, never fails, and uses a bounded part of the stack whatever the text: what cannot be read is in
/// [`QueryFacts::unparsed`], and then a write. Texts are read as UTF-8 with `standard_conforming_strings` on.
#[must_use]
pub fn facts(text: &[u8]) -> QueryFacts {
    let mut facts = QueryFacts { hints: hints::read(text), ..QueryFacts::default() };
    match read(text, |statements| statements.map(|(at, node)| (at, statement::facts(node))).collect::<Vec<_>>()) {
        Ok(found) => {
            let ends: Vec<usize> = found.iter().skip(1).map(|(at, _)| *at).chain([text.len()]).collect();
            let mut statements = Vec::with_capacity(found.len());
            for ((begin, mut statement), end) in found.into_iter().zip(ends) {
                if statement.why == "DDL" && makes_foreign_temp(text.get(begin..end).unwrap_or(text)) {
                    statement.effects.push(SessionEffect::Pin(PinReason::TempObject));
                }
                statements.push(statement);
            }
            facts.pids = statements.iter().any(|statement| statement.pids);
            facts.listens = statements.iter().any(|statement| statement.listens);
            facts.statements = statements;
        }
        Err(why) => {
            facts.hides = hides(text);
            facts.may_change_code = may_change_code(text);
            facts.unparsed = Some((why, None));
        }
    }
    facts
}

/// Whether DDL makes foreign tables in the schema of temporary objects: CREATE FOREIGN TABLE, of which the parser's bindings show no name, and
/// IMPORT FOREIGN SCHEMA. The words are enough.
fn makes_foreign_temp(text: &[u8]) -> bool {
    let is_temp = |word: &[u8]| {
        let (start, rest) = word.split_at_checked(7).unwrap_or((word, &[]));
        start.eq_ignore_ascii_case(b"pg_temp") && (rest.is_empty() || rest.starts_with(b"_"))
    };
    has_word(text, b"foreign") && text.split(|c| !c.is_ascii_alphanumeric() && *c != b'_').any(is_temp)
}

/// Whether a text that could not be read may leave anything behind in its session, or speak of the transaction's savepoints. What is not
/// UTF-8 is in another encoding that has ASCII in it, so that its statements are known, if not their names: the second byte of a character
/// is never a quote in any of them, but may be a backslash.
fn hides(text: &[u8]) -> bool {
    if std::str::from_utf8(text).is_ok() || text.contains(&b'\\') {
        return true;
    }
    let leaves = |s: super::facts::StatementFacts| {
        !s.effects.is_empty() || s.name_use.is_some() || s.savepoint.is_some() || s.pids || s.listens
    };
    let seen = read(&ascii(text), |statements| statements.map(|(_, node)| statement::facts(node)).any(leaves));
    seen.unwrap_or(true)
}

/// Whether a text that could not be read may change what code runs.
fn may_change_code(text: &[u8]) -> bool {
    let in_ascii =
        || read(&ascii(text), |statements| statements.map(|(_, node)| statement::facts(node)).any(|s| s.changes_code));
    match std::str::from_utf8(text) {
        Ok(_) => has_word(text, b"create") || has_word(text, b"alter"),
        Err(_) => in_ascii().unwrap_or_else(|_| has_word(text, b"create") || has_word(text, b"alter")),
    }
}

/// The text with a letter in the place of everything beyond ASCII.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().map(|c| if c.is_ascii() { *c } else { b'x' }).collect()
}

/// Whether a word, given in lower case, occurs in a text.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    text.split(|c| !c.is_ascii_alphanumeric() && *c != b'_').any(|part| part.eq_ignore_ascii_case(word))
}

/// What `look` makes of the statements of a text, each with the byte that it begins at or before.
///
/// # Errors
/// Why the text cannot be read.
pub(super) fn read<T>(
    text: &[u8],
    look: impl FnOnce(&mut dyn Iterator<Item = (usize, Node<'_>)>) -> T,
) -> Result<T, String> {
    let text = check(text)?;
    // The parser's bindings assert what they believe of the tree. A belief that proves wrong costs one statement its
    // facts, not a worker its life.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let tree = pg_raw_parse::parse(text).map_err(|e| message(&e))?;
        Ok(look(&mut tree.iter().map(|raw| (usize::try_from(raw.stmt_location).unwrap_or(0), raw.stmt()))))
    }));
    parsed.unwrap_or_else(|_| Err("the parser failed on this text".to_owned()))
}

fn check(text: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "not valid UTF-8")?;
    if text.as_bytes().contains(&0) {
        return Err("contains a NUL byte");
    }
    if text.len() > MAX_BYTES {
        let insert = text.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("insert"));
        if !insert || text.len() > MAX_INSERT_BYTES {
            return Err("longer than is parsed");
        }
        let separators = text.bytes().filter(|c| matches!(c, b',' | b'(' | b'+' | b'-' | b'[')).count();
        if separators > MAX_SEPARATORS {
            return Err("more parts than are parsed");
        }
    }
    // In a short text, even the longest run of operators is cheap.
    if text.len() > 2048 && Lexer::new(text.as_bytes()).total_work() > MAX_WORK {
        return Err("has a run of operators too long to be parsed");
    }
    Ok(text)
}

fn message(error: &Error) -> String {
    match error {
        Error::Parse(inner) => inner.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_tables_may_be_temporary() {
        for (text, pins) in [
            ("CREATE FOREIGN TABLE pg_temp.t (a text) SERVER s", 1),
            ("CREATE FOREIGN TABLE IF NOT EXISTS \"pg_temp\".t (a text) SERVER s; CREATE TABLE x (a int)", 1),
            ("IMPORT FOREIGN SCHEMA far FROM SERVER s INTO pg_temp", 1),
            ("CREATE FOREIGN TABLE t (pg_template text) SERVER s", 0),
            ("CREATE FOREIGN TABLE t (a text) SERVER s; SELECT * FROM t", 0),
        ] {
            let facts = facts(text.as_bytes());
            assert!(facts.unparsed.is_none(), "{text}");
            let pin = SessionEffect::Pin(PinReason::TempObject);
            assert_eq!(facts.statements.iter().filter(|s| s.effects.contains(&pin)).count(), pins, "{text}");
        }
    }

    #[test]
    fn what_ddl_computes_has_its_effects() {
        for (text, effects) in [
            ("ALTER TABLE t ADD COLUMN c text DEFAULT set_config('a.b', 'c', false)", 1),
            ("ALTER TABLE t ADD COLUMN c text CHECK (set_config('a.b', 'c', false) <> '')", 1),
            ("ALTER TABLE t ALTER COLUMN a TYPE text USING set_config('a.b', 'c', false)", 1),
            ("ALTER TABLE t ADD CHECK (set_config('a.b', 'c', false) <> '')", 1),
            ("ALTER DOMAIN d ADD CHECK (set_config('a.b', VALUE, false) <> '')", 1),
            ("CREATE TABLE t PARTITION OF p FOR VALUES IN (set_config('a.b', 'c', false))", 1),
            ("CREATE TABLE t PARTITION OF p FOR VALUES FROM (set_config('a.b', 'c', false)) TO (MAXVALUE)", 1),
            ("ALTER TABLE p ATTACH PARTITION t FOR VALUES IN (set_config('a.b', 'c', false))", 1),
            ("CREATE SCHEMA s CREATE TABLE t PARTITION OF p FOR VALUES IN (set_config('a.b', 'c', false))", 1),
            ("ALTER TABLE t ADD COLUMN c bool DEFAULT pg_try_advisory_lock(1)", 1),
            ("ALTER TABLE t ALTER COLUMN a SET DEFAULT set_config('a.b', 'c', false)", 0),
            ("CREATE TABLE t (a text DEFAULT set_config('a.b', 'c', false))", 0),
            ("ALTER TABLE t ADD COLUMN c int DEFAULT 1 + length('a')", 0),
        ] {
            let facts = facts(text.as_bytes());
            assert_eq!(facts.statements[0].effects.len(), effects, "{text}: {:?}", facts.statements[0].effects);
        }
        let facts = facts(b"CREATE TABLE t PARTITION OF p FOR VALUES IN (own(1))");
        assert!(facts.statements[0].functions.is_empty() && facts.statements[0].mentions.functions == ["own"]);
    }

    #[test]
    fn what_cannot_be_read_may_change_code() {
        for (text, changes) in [
            (&b"CREATE TRIGGER of a later release"[..], true),
            (b"SELECT created_at FROM WHERE", false),
            (b"CREATE FUNCTION f\xe9() RETURNS int LANGUAGE sql AS 'SELECT 1'", true),
            (b"SELECT '\xe9', created_at FROM t", false),
        ] {
            assert_eq!(facts(text).changes_code(), changes, "{text:?}");
        }
    }
}
