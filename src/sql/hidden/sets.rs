//! What code sets for the transaction that it runs in: settings by SET LOCAL or `set_config(..., true)`, when constraints are checked, how
//! the transaction goes on. Whoever runs next on the same server meets nothing of that; but the other shards of a transaction do not
//! know of it. Nor do they know of what it sets for its session, which counts here as well.
//!
//! See <https://www.postgresql.org/docs/current/sql-set.html>.

use std::collections::HashMap;

use super::body::{self, Token};
use super::{Census, Traces, is_plain, runs_unseen};
use crate::sql::facts::{QueryFacts, StatementFacts};

impl Census {
    /// Whether a text may run somebody's code that sets something for the transaction. What its statements set by themselves is not
    /// meant. `own_types`: it has parameters of types that are not PostgreSQL's own.
    #[must_use]
    pub fn may_set(&self, facts: &QueryFacts, own_types: bool) -> bool {
        let unseen = || self.functions.values().any(|traces| traces.may_set());
        let sets = |statement: &StatementFacts| {
            let of_block = || statement.block.as_ref().is_some_and(|block| block.traces.may_set());
            !is_plain(statement)
                && (statement.functions.iter().any(|function| function.runs_text)
                    || of_block()
                    || self.of_named(statement).may_set()
                    || (runs_unseen(statement) && statement.block.is_none() && unseen()))
        };
        facts.unparsed.is_some() || (own_types && self.anybody.may_set()) || facts.statements.iter().any(sets)
    }

    /// Whether what a text of DDL makes may run code that is there already and that sets something: whether it names such.
    #[must_use]
    pub fn may_let(&self, text: &str) -> bool {
        let sets = |known: &HashMap<String, Traces>, name: &str| known.get(name).is_some_and(|traces| traces.may_set());
        let named = |token: &Token| match token {
            Token::Word(name) | Token::Quoted(name) => {
                [&self.functions, &self.reads, &self.writes].into_iter().any(|known| sets(known, name))
            }
            Token::Text(_) | Token::Number | Token::Symbol(_) => false,
        };
        let operated = |tokens: &[Token]| {
            let runs = body::operators(tokens);
            let sets = self.operators.iter().filter(|(_, traces)| traces.may_set());
            sets.into_iter().any(|(operator, _)| runs.iter().any(|run| run.contains(operator)))
        };
        let in_tokens = |tokens: &[Token]| tokens.iter().any(named) || operated(tokens);
        let tokens = body::tokens(text);
        // Bodies are texts in it.
        let in_body = |token: &Token| matches!(token, Token::Text(text) if in_tokens(&body::tokens(text)));
        in_tokens(&tokens) || tokens.iter().any(in_body)
    }

    /// Whether no code of the database's sets anything for a transaction, whoever runs it.
    #[must_use]
    pub fn sets_nothing(&self) -> bool {
        let all = [&self.functions, &self.reads, &self.writes, &self.operators].into_iter().flat_map(HashMap::values);
        !all.chain([&self.anybody, &self.ddl]).any(|traces| traces.may_set())
    }
}

/// Whether code that a text of DDL makes may set something for the transaction, beside what it calls that is there already.
#[must_use]
pub fn may_define(text: &str) -> bool {
    let tokens = body::tokens(text);
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word) | Token::Text(word)) => word.to_ascii_lowercase(),
        _ => String::new(),
    };
    let words = |wanted: &str| tokens.iter().enumerate().filter(|(_, t)| t.is_word(wanted)).map(|(at, _)| at).collect();
    let languages: Vec<usize> = words("language");
    if !words("extension").is_empty() || languages.iter().any(|at| !matches!(&*word(at + 1), "sql" | "plpgsql")) {
        return true;
    }
    let named = tokens.iter().any(|token| matches!(token, Token::Word(n) | Token::Quoted(n) if n == "set_config"));
    let mut bodies = tokens.iter().filter_map(|token| match token {
        Token::Text(text) => Some(text),
        _ => None,
    });
    let language = languages.first().map_or_else(String::new, |at| word(at + 1));
    let sets = |traces: Traces| traces.may_set() || traces.kinds().next().is_some();
    named || bodies.any(|text| *text != language && !language.is_empty() && sets(body::read(&language, text).traces))
}

#[cfg(test)]
mod tests {
    use super::super::{Row, Runner, Volatility};
    use super::*;
    use crate::sql::parse::facts;

    fn function(name: &str, text: &str) -> Row {
        let (name, language, text) = (name.to_owned(), "plpgsql".to_owned(), text.to_owned());
        Row::Function { name, language, volatility: Volatility::Volatile, text, extension: String::new() }
    }

    #[test]
    fn what_sets_for_the_transaction_leaves_nothing_and_is_known_all_the_same() {
        let runs = |runner: Runner| Row::Runs(runner, "tenant".to_owned());
        let census = Census::of([
            function("tenant", "BEGIN PERFORM set_config('a.b', '1', true); END"),
            function("calls", "BEGIN PERFORM tenant(); END"),
            function("deferred", "BEGIN SET CONSTRAINTS ALL DEFERRED; END"),
            function("clean", "BEGIN INSERT INTO t VALUES (1); END"),
            runs(Runner::Write("audited".to_owned())),
            runs(Runner::Read("seen".to_owned())),
        ]);
        for (text, sets) in [
            ("SELECT tenant()", true),
            ("SELECT calls()", true),
            ("CALL deferred()", true),
            ("UPDATE audited SET a = 1", true),
            ("SELECT * FROM seen", true),
            ("SELECT * FROM audited", false),
            ("SELECT clean(), now()", false),
            ("INSERT INTO t VALUES (1)", false),
            ("CREATE TABLE x (a int)", false),
            ("DO 'BEGIN PERFORM clean(); END'", false),
            ("DO 'BEGIN SET LOCAL a.b = 1; END'", true),
            ("DO 'BEGIN PERFORM calls(); END'", true),
            ("DO 'BEGIN EXECUTE x; END'", true),
            ("SELECT query_to_xml('', true, true, '')", true),
            ("NO SQL", true),
        ] {
            assert_eq!(census.may_set(&facts(text.as_bytes()), false), sets, "{text}");
        }
        assert!(census.of_text(&facts(b"SELECT tenant()")).is_none(), "nobody who comes later meets it");
        assert!(census.of_text(&facts(b"ANALYZE t")).is_none());
        assert!(!census.sets_nothing());
        for (text, lets) in [
            ("ALTER TABLE t ADD a int DEFAULT 1", false),
            ("ALTER TABLE t ADD a text DEFAULT calls()", true),
            ("ALTER FUNCTION tenant() RENAME TO x", true),
            ("ALTER TABLE \"audited\" RENAME TO x", true),
            ("CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tenant()", true),
            ("CREATE FUNCTION x() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM tenant(); END$$", true),
            ("CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'", false),
        ] {
            assert_eq!(census.may_let(text), lets, "{text}");
        }
        assert!(Census::of([function("clean", "BEGIN END")]).sets_nothing());
        assert!(!Census::of([function("open", "BEGIN EXECUTE x; END")]).sets_nothing());
    }

    #[test]
    fn what_sets_for_the_session_sets_for_the_transaction_as_well() {
        let sets = |runner: Runner| Row::Runs(runner, "set_config".to_owned());
        let census = Census::of([
            function("of_session", "BEGIN SET a.b = 1; END"),
            function("another", "BEGIN SET ROLE other; END"),
            function("by_argument", "BEGIN PERFORM set_config('a.b', '1', is_local); END"),
            function("locks", "BEGIN PERFORM pg_advisory_lock(1); END"),
            sets(Runner::Function("atomic".to_owned())),
            sets(Runner::Write("defaulted".to_owned())),
            sets(Runner::Read("guarded".to_owned())),
        ]);
        for (text, sets) in [
            ("SELECT of_session()", true),
            ("SELECT another()", true),
            ("SELECT by_argument()", true),
            ("SELECT atomic()", true),
            ("INSERT INTO defaulted VALUES (1)", true),
            ("SELECT * FROM guarded", true),
            ("DO 'BEGIN SET a.b = 1; END'", true),
            ("SELECT locks()", false),
            ("SELECT * FROM defaulted", false),
        ] {
            assert_eq!(census.may_set(&facts(text.as_bytes()), false), sets, "{text}");
        }
        assert!(Census::of([function("locks", "BEGIN PERFORM pg_advisory_lock(1); END")]).sets_nothing());
    }

    #[test]
    fn new_code_is_read_in_the_text_that_makes_it() {
        for (text, sets) in [
            ("CREATE TABLE x (a int DEFAULT 1, b text CHECK (b <> 'set'))", false),
            ("CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f('a b')", false),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", false),
            ("CREATE FUNCTION f() RETURNS int RETURN 1", false),
            ("CREATE FUNCTION f() RETURNS trigger AS $$BEGIN NEW.a := 1; RETURN NEW; END$$ LANGUAGE plpgsql", false),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT set_config(''a.b'', ''1'', true)'", true),
            ("CREATE FUNCTION f() RETURNS text RETURN set_config('a.b', '1', true)", true),
            ("CREATE FUNCTION f() RETURNS void AS $$BEGIN SET LOCAL a.b = 1; END$$ LANGUAGE plpgsql", true),
            ("CREATE FUNCTION f() RETURNS void AS $$BEGIN SET a.b = 1; END$$ LANGUAGE 'plpgsql'", true),
            ("CREATE FUNCTION f() RETURNS void AS $$BEGIN EXECUTE x; END$$ LANGUAGE plpgsql", true),
            ("CREATE FUNCTION f() RETURNS void AS 'pass' LANGUAGE plpython3u", true),
            ("CREATE EXTENSION tablefunc", true),
        ] {
            assert_eq!(may_define(text), sets, "{text}");
        }
    }
}
