//! What a segment means to a block of several shards.

use crate::client::task::Client;
use crate::session::Intake;
use crate::sql::facts::{QueryFacts, ShardShape, StatementFacts, TransactionEffect};
use crate::wire::message;

/// What a segment means to a block of several shards.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Means<'a> {
    /// It ends it.
    Exit(TransactionEffect),
    /// This text is for all of its shards, also those that come later.
    Control(&'a [u8], Back),
    /// It leaves nothing in the transaction but what it does to data.
    Plain,
    /// Something of it is for all shards, and cannot be told them as it stands.
    Mixed,
}

/// Whether a text goes back to a savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Back {
    /// It does not.
    No,
    /// By its first statement, so that it ends a failure.
    First,
    /// By a later one.
    Later,
}

impl Back {
    fn of(facts: &QueryFacts) -> Self {
        match facts.statements.iter().position(|s| s.transaction == TransactionEffect::RollbackTo) {
            None => Self::No,
            Some(0) => Self::First,
            Some(_) => Self::Later,
        }
    }
}

impl Client {
    /// What the segment means to a block of several shards.
    pub(in crate::client) fn means(&self) -> Means<'_> {
        if let Some(exit) = self.leaves_block() {
            return Means::Exit(exit);
        }
        let mut texts: Vec<(&[u8], &QueryFacts)> = Vec::new();
        let mut at = 0_usize;
        for (intake, len) in &self.segment.items {
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            match intake {
                Intake::Query(facts) => {
                    texts.push((message::query(frame.get(5..).unwrap_or_default()).unwrap_or_default(), facts));
                }
                Intake::Bind { statement: Some(statement), .. } => texts.push((&statement.sql, &statement.facts)),
                // The server says that there is no such statement, and that is all of it.
                Intake::Bind { statement: None, .. } if self.spread.is_some() => {}
                Intake::Bind { statement: None, .. } | Intake::FunctionCall => return Means::Mixed,
                _ => {}
            }
        }
        let alone = texts.len() == 1 && self.segment.runs_once() && self.segment.ends_with_sync_or_query();
        match texts.iter().map(|(text, facts)| of_text(text, facts)).max() {
            None | Some(Kind::Plain) => Means::Plain,
            Some(Kind::Control) if alone => {
                texts.first().map_or(Means::Mixed, |(text, facts)| Means::Control(text, Back::of(facts)))
            }
            Some(Kind::Control | Kind::Mixed) => Means::Mixed,
        }
    }
}

impl Client {
    /// Whether the segment opens a cursor by SQL.
    pub(in crate::client) fn declares_cursor(&self) -> bool {
        self.runs(|facts| {
            let is_cursor = |s: &StatementFacts| matches!(s.shape, ShardShape::Other { what: "DECLARE CURSOR", .. });
            facts.statements.iter().any(is_cursor)
        })
    }

    /// Whether the segment asks what this session did to sequences. To prepare that does not.
    pub(super) fn asks_sequences(&self) -> bool {
        self.runs(QueryFacts::asks_sequences)
    }

    /// Whether a text that the segment runs is so.
    fn runs(&self, is: impl Fn(&QueryFacts) -> bool) -> bool {
        self.segment.items.iter().any(|(intake, _)| match intake {
            Intake::Query(facts) => is(facts),
            Intake::Bind { statement: Some(statement), .. } => is(&statement.facts),
            _ => false,
        })
    }
}

/// Whether all savepoints that the statements of a block go back to or release, one after the other, are there.
pub(in crate::client) fn has_savepoints<'a>(statements: impl Iterator<Item = &'a StatementFacts>) -> bool {
    let mut open: Vec<&str> = Vec::new();
    for statement in statements {
        let Some(name) = statement.savepoint.as_deref() else { continue };
        let place = open.iter().rposition(|open| *open == name);
        match (statement.transaction, place) {
            (TransactionEffect::Savepoint, _) => open.push(name),
            (TransactionEffect::Release, Some(at)) => open.truncate(at),
            (TransactionEffect::RollbackTo, Some(at)) => open.truncate(at + 1),
            (TransactionEffect::Release | TransactionEffect::RollbackTo, None) => return false,
            _ => {}
        }
    }
    true
}

/// Whether a text leaves nothing in its transaction but what it does to data.
pub(in crate::client) fn is_plain(text: &[u8], facts: &QueryFacts) -> bool {
    of_text(text, facts) == Kind::Plain
}

/// What a text does to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    Control,
    Mixed,
}

fn of_text(text: &[u8], facts: &QueryFacts) -> Kind {
    // A call of it may set something for the transaction, wherever it stands.
    let sets = text.windows(10).any(|word| word.eq_ignore_ascii_case(b"set_config"));
    let kind = |statement: &StatementFacts| match statement.transaction {
        _ if !statement.effects.is_empty() || statement.listens || statement.name_use.is_some() => Kind::Mixed,
        TransactionEffect::Savepoint | TransactionEffect::Release | TransactionEffect::RollbackTo => Kind::Control,
        TransactionEffect::None if matches!(statement.why, "SET" | "RESET" | "SET CONSTRAINTS") => Kind::Control,
        TransactionEffect::None if sets || statement.calls_set_config => {
            if statement.touch.constant {
                Kind::Control
            } else {
                Kind::Mixed
            }
        }
        TransactionEffect::None => Kind::Plain,
        // What begins it is its prologue already.
        TransactionEffect::Begin { .. } => Kind::Mixed,
        TransactionEffect::Commit { .. }
        | TransactionEffect::Rollback { .. }
        | TransactionEffect::PrepareTransaction
        | TransactionEffect::FinishPrepared => Kind::Mixed,
    };
    if facts.unparsed.is_some() {
        return Kind::Mixed;
    }
    let kinds: Vec<Kind> = facts.statements.iter().map(kind).collect();
    match (kinds.iter().min(), kinds.iter().max()) {
        (Some(Kind::Control), Some(Kind::Control)) => Kind::Control,
        (Some(Kind::Plain), Some(Kind::Plain)) | (None, _) => Kind::Plain,
        _ => Kind::Mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn savepoints_are_found_as_postgresql_finds_them() {
        for (text, found) in [
            ("SAVEPOINT a; SAVEPOINT b; ROLLBACK TO a; RELEASE a", true),
            ("SAVEPOINT a; SAVEPOINT a; RELEASE a; ROLLBACK TO A; ROLLBACK TO a", true),
            ("SAVEPOINT \"A\"; ROLLBACK TO a", false),
            ("SAVEPOINT a; SAVEPOINT b; ROLLBACK TO a; RELEASE b", false),
            ("SAVEPOINT a; RELEASE a; ROLLBACK TO a", false),
            ("ROLLBACK TO nothing", false),
            ("SET LOCAL work_mem = '1MB'", true),
        ] {
            assert_eq!(has_savepoints(parse::facts(text.as_bytes()).statements.iter()), found, "{text}");
        }
    }

    #[test]
    fn what_is_told_to_all_shards_is_told_from_what_concerns_data() {
        let kind = |text: &str| of_text(text.as_bytes(), &parse::facts(text.as_bytes()));
        for text in ["SELECT * FROM t", "INSERT INTO t VALUES (1)", "SELECT 1", "SELECT now()", "SHOW search_path", ""]
        {
            assert_eq!(kind(text), Kind::Plain, "{text}");
        }
        for text in [
            "SAVEPOINT a",
            "RELEASE SAVEPOINT a",
            "ROLLBACK TO a",
            "SAVEPOINT a; SET LOCAL work_mem = '1MB'",
            "SET LOCAL statement_timeout = '5s'",
            "SET CONSTRAINTS ALL DEFERRED",
            "SELECT set_config('app.tenant', '1', true)",
            "SELECT U&\"set\\005Fconfig\"('app.tenant', '1', true)",
        ] {
            assert_eq!(kind(text), Kind::Control, "{text}");
        }
        for text in [
            "SELECT set_config('app.tenant', '1', true) FROM t",
            "SELECT U&\"set\\005Fconfig\"('app.tenant', '1', true) FROM t",
            "WITH a AS (SELECT U&\"set!005Fconfig\" UESCAPE '!' ('app.tenant', '1', true)) SELECT * FROM a",
            "SELECT set_config('app.tenant', '1', false)",
            "SET work_mem = '1MB'",
            "SAVEPOINT a; SELECT * FROM t",
            "CREATE TEMP TABLE x (a int)",
            "COMMIT AND CHAIN",
            "BEGIN",
            "PREPARE TRANSACTION 'x'",
            "LISTEN x",
            "PREPARE p AS SELECT 1",
            "no sql",
        ] {
            assert_eq!(kind(text), Kind::Mixed, "{text}");
        }
    }
}
