//! The channels that a session listens to, as its transactions change them.
//!
//! LISTEN and UNLISTEN take effect when their transaction commits, in the order in which they were given, and not at all where it is rolled
//! back, to a savepoint before them too: <https://www.postgresql.org/docs/current/sql-listen.html>.

use std::collections::BTreeSet;

use crate::sql::facts::{ListenChange, StatementFacts, TransactionEffect};

/// The channels.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Listening {
    channels: BTreeSet<String>,
    /// What the open transaction has done.
    block: Vec<Entry>,
    /// It can only be rolled back, to a savepoint or as a whole.
    doomed: bool,
    changed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Change(ListenChange),
    Savepoint(String),
}

impl Listening {
    /// The channels that it listens to.
    #[must_use]
    pub fn channels(&self) -> &BTreeSet<String> {
        &self.channels
    }

    /// Whether its transaction has changed them, for when it commits.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.block.iter().any(|entry| matches!(entry, Entry::Change(_)))
    }

    /// Whether they have changed since this was asked last.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A LISTEN or UNLISTEN has completed.
    pub fn change(&mut self, change: &ListenChange) {
        self.block.push(Entry::Change(change.clone()));
    }

    /// A statement has completed: what it does to the transaction.
    pub fn complete(&mut self, statement: &StatementFacts) {
        let name = statement.savepoint.as_deref().unwrap_or_default();
        match statement.transaction {
            TransactionEffect::Savepoint => self.block.push(Entry::Savepoint(name.to_owned())),
            TransactionEffect::RollbackTo => {
                // One that is not known was set before anything was noted.
                let at = self.find(name);
                self.block.truncate(at.map_or(0, |at| at + 1));
                self.doomed = false;
            }
            TransactionEffect::Release => {
                // Those within it go with it.
                let from = self.find(name).unwrap_or(0);
                let mut at = 0;
                self.block.retain(|entry| {
                    at += 1;
                    at <= from || !matches!(entry, Entry::Savepoint(_))
                });
            }
            TransactionEffect::Commit { .. } => self.end(),
            // With LISTEN or UNLISTEN in it no transaction is prepared.
            TransactionEffect::Rollback { .. } | TransactionEffect::PrepareTransaction => self.abandon(),
            TransactionEffect::None | TransactionEffect::Begin { .. } | TransactionEffect::FinishPrepared => {}
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.block.iter().rposition(|entry| matches!(entry, Entry::Savepoint(known) if known == name))
    }

    /// A statement has failed.
    pub fn fail(&mut self) {
        self.doomed = true;
    }

    /// The transaction is over, as far as it was not rolled back.
    pub fn end(&mut self) {
        if self.doomed {
            return self.abandon();
        }
        for entry in std::mem::take(&mut self.block) {
            let changed = match entry {
                Entry::Change(ListenChange::Listen(channel)) => self.channels.insert(channel),
                Entry::Change(ListenChange::Unlisten(channel)) => self.channels.remove(&channel),
                Entry::Change(ListenChange::UnlistenAll) => !std::mem::take(&mut self.channels).is_empty(),
                Entry::Savepoint(_) => false,
            };
            self.changed |= changed;
        }
    }

    /// The transaction was rolled back.
    pub fn abandon(&mut self) {
        self.block = Vec::new();
        self.doomed = false;
    }

    /// DISCARD ALL.
    pub fn forget(&mut self) {
        self.abandon();
        self.changed |= !std::mem::take(&mut self.channels).is_empty();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::parse;

    /// What a session does, as SQL and as a server would keep it: a copy of the channels for each savepoint.
    #[derive(Debug, Clone)]
    enum Act {
        Sql(&'static str),
        Error,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let sql = prop::sample::select(vec![
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "SAVEPOINT b",
            "ROLLBACK TO a",
            "ROLLBACK TO b",
            "RELEASE a",
            "RELEASE b",
            "LISTEN x",
            "LISTEN y",
            "LISTEN z",
            "UNLISTEN x",
            "UNLISTEN y",
            "UNLISTEN *",
        ]);
        prop::collection::vec(prop_oneof![12 => sql.prop_map(Act::Sql), 1 => Just(Act::Error)], 0..40)
    }

    /// A server's session.
    #[derive(Default)]
    struct Model {
        now: BTreeSet<String>,
        /// The open block: what it would be, by savepoint, the block's own first.
        block: Option<Vec<(String, BTreeSet<String>)>>,
        failed: bool,
    }

    impl Model {
        /// Whether the statement succeeds.
        fn run(&mut self, sql: &str) -> bool {
            let (verb, name) = sql.rsplit_once(' ').unwrap_or((sql, ""));
            let ends = matches!(sql, "COMMIT" | "ROLLBACK");
            if self.failed && !ends && verb != "ROLLBACK TO" {
                return false;
            }
            let Some(block) = &mut self.block else {
                match verb {
                    "BEGIN" => self.block = Some(vec![(String::new(), self.now.clone())]),
                    "LISTEN" | "UNLISTEN" => change(&mut self.now, verb, name),
                    _ => return ends,
                }
                return true;
            };
            let known = block.iter().rposition(|(n, _)| !n.is_empty() && n == name);
            match verb {
                "BEGIN" => {}
                "COMMIT" | "ROLLBACK" => {
                    let last = block.last().unwrap().1.clone();
                    if verb == "COMMIT" && !self.failed {
                        self.now = last;
                    }
                    (self.block, self.failed) = (None, false);
                }
                "SAVEPOINT" => {
                    let last = block.last().unwrap().1.clone();
                    block.push((name.to_owned(), last));
                }
                "ROLLBACK TO" | "RELEASE" => {
                    let Some(at) = known else {
                        self.failed = true;
                        return false;
                    };
                    if verb == "RELEASE" {
                        let last = block.last().unwrap().1.clone();
                        block.truncate(at);
                        block.last_mut().unwrap().1 = last;
                    } else {
                        block.truncate(at + 1);
                        block[at].1 = block[at - 1].1.clone();
                        self.failed = false;
                    }
                }
                _ => change(&mut block.last_mut().unwrap().1, verb, name),
            }
            true
        }
    }

    fn change(channels: &mut BTreeSet<String>, verb: &str, name: &str) {
        match (verb, name) {
            ("LISTEN", name) => {
                channels.insert(name.to_owned());
            }
            (_, "*") => channels.clear(),
            (_, name) => {
                channels.remove(name);
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_what_a_server_would_make_of_it(acts in acts()) {
            let (mut listening, mut model) = (Listening::default(), Model::default());
            for act in acts {
                let sql = match act {
                    Act::Sql(sql) => sql,
                    Act::Error => {
                        model.failed |= model.block.is_some();
                        listening.fail();
                        if model.block.is_none() {
                            listening.end();
                        }
                        continue;
                    }
                };
                let in_block = model.block.is_some();
                if model.run(sql) {
                    let facts = parse::facts(sql.as_bytes());
                    for place in crate::sql::listens::uses(sql.as_bytes()) {
                        if let crate::sql::listens::What::Change(change) = place.what {
                            listening.change(&change);
                        }
                    }
                    listening.complete(&facts.statements[0]);
                    if !in_block && model.block.is_none() {
                        listening.end();
                    }
                } else {
                    listening.fail();
                    if model.block.is_none() {
                        listening.end();
                    }
                }
                prop_assert_eq!(listening.channels(), &model.now, "after {}", sql);
            }
        }
    }
}
