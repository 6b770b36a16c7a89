//! What a client is still to be told when its server is lost.
//!
//! The server says how transactions stand at ReadyForQuery alone, and much may be behind that: a transaction of a pipeline's own commits
//! at its Sync, after all of its statements were answered, and a queue may leave one block, work outside of any, and begin another.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING>

use super::pipeline::{Answer, Kind};
use super::{Session, TransactionStatus};
use crate::sql::facts::{QueryFacts, StatementFacts, TransactionEffect};

/// What is unanswered, and what it would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent answers to questions about what is under way")]
pub struct Owed {
    /// ReadyForQuery messages that the client waits for.
    pub readies: usize,
    /// Messages of the extended protocol were sent whose Sync has not come yet.
    pub open: bool,
    /// The client has been told an error of these already.
    pub skipping: bool,
    /// How its transaction stands after all that was answered.
    pub status: TransactionStatus,
    /// The end of that transaction block is under way.
    pub ends_block: bool,
    /// It may have been done all the same: a COMMIT, or a write that is a transaction of its own.
    pub in_doubt: bool,
    /// Some of it stands outside of any block, so that it has been done if it wrote.
    pub alone: bool,
    /// A COPY is or may be under way: the client does not wait for an answer.
    pub copies: bool,
}

/// How transactions stand after one statement and another, as far as their texts tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each tells another thing that has happened on the way")]
pub(super) struct Course {
    status: TransactionStatus,
    /// The block in which it began is over.
    left: bool,
    /// Something commits a block.
    commits: bool,
    /// Something may have written outside of a block.
    wrote: bool,
    /// Something stands outside of a block.
    alone: bool,
    /// What was answered last does.
    last_alone: bool,
}

impl Course {
    /// From a ReadyForQuery on.
    pub(super) fn new(status: TransactionStatus) -> Self {
        Self { status, left: false, commits: false, wrote: false, alone: false, last_alone: false }
    }

    /// One statement more.
    fn take(&mut self, statement: &StatementFacts) {
        use TransactionStatus::{Failed, Idle, InTransaction};
        let after = |chain| if chain { InTransaction } else { Idle };
        match (statement.transaction, self.status) {
            (TransactionEffect::Begin { .. }, Idle) => self.status = InTransaction,
            (TransactionEffect::Commit { chain }, Failed) | (TransactionEffect::Rollback { chain }, _) => {
                self.leave(after(chain));
            }
            (TransactionEffect::PrepareTransaction, Failed) => self.leave(Idle),
            (TransactionEffect::Commit { chain }, _) => {
                self.commits = true;
                self.leave(after(chain));
            }
            (TransactionEffect::PrepareTransaction, _) => {
                self.commits = true;
                self.leave(Idle);
            }
            (TransactionEffect::FinishPrepared, Idle) => self.commits = true,
            (TransactionEffect::RollbackTo, Failed) => self.status = InTransaction,
            (TransactionEffect::None, Idle) => {
                self.alone = true;
                self.wrote |= !statement.plainly_reads;
            }
            _ => {}
        }
    }

    fn leave(&mut self, status: TransactionStatus) {
        self.left |= self.status != TransactionStatus::Idle;
        self.status = status;
    }

    /// Something that may be anything.
    fn take_unknown(&mut self) {
        (self.left, self.commits, self.wrote) = (true, true, true);
    }

    fn take_text(&mut self, facts: &QueryFacts, from: usize) {
        if facts.unparsed.is_some() {
            self.take_unknown();
        }
        facts.statements.iter().skip(from).for_each(|statement| self.take(statement));
    }

    /// The statement `index` of a text was answered.
    pub(super) fn answered(&mut self, facts: &QueryFacts, index: usize) {
        self.last_alone = self.status == TransactionStatus::Idle;
        match facts.statements.get(index) {
            Some(statement) => self.take(statement),
            None if facts.unparsed.is_some() => self.take_unknown(),
            None => {}
        }
        if std::mem::take(&mut self.commits) && facts.unparsed.is_none() {
            // With what stood before it, if it was in no block.
            self.wrote = false;
        }
    }

    /// Whether what was answered last stood outside of any block.
    pub(super) fn stood_alone(&self) -> bool {
        self.last_alone
    }

    /// An error was answered: what is in no block, or in this one, is undone.
    pub(super) fn failed(&mut self) {
        self.wrote = false;
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }
}

impl Session {
    /// What the client is owed.
    #[must_use]
    pub fn owed(&self) -> Owed {
        let copies = self.pipeline.copy_in() || self.pipeline.may_copy_in() || self.held_sync;
        let mut course = Course { left: false, ..self.course };
        let mut readies = 0;
        // What has a Sync of ours behind it is open to the client.
        let mut open = false;
        for request in self.pipeline.requests() {
            let ready = matches!(request.kind, Kind::Query { .. } | Kind::Sync | Kind::FunctionCall { .. });
            if request.answer == Answer::Forward {
                readies += usize::from(ready);
                open = !ready;
            }
            match &request.kind {
                Kind::Query { facts, done } => course.take_text(facts, *done),
                Kind::Execute(Some(facts)) => course.take_text(facts, 0),
                Kind::Execute(None) => course.take_unknown(),
                Kind::FunctionCall { .. } => course.wrote |= course.status == TransactionStatus::Idle,
                _ => {}
            }
        }
        Owed {
            readies,
            open: self.unsynced || open,
            skipping: self.skipping,
            status: self.course.status,
            ends_block: course.left,
            in_doubt: course.commits || course.wrote,
            alone: course.alone,
            copies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse::facts;
    use TransactionStatus::{Failed, Idle, InTransaction};

    /// What becomes of what is under way: whether it is in doubt, and whether the block ends.
    fn fate(status: TransactionStatus, answered: &[&str], under_way: &[&str]) -> (bool, bool) {
        let mut course = Course::new(status);
        for text in answered {
            let facts = facts(text.as_bytes());
            (0..facts.statements.len()).for_each(|index| course.answered(&facts, index));
        }
        let mut course = Course { left: false, ..course };
        under_way.iter().for_each(|text| course.take_text(&facts(text.as_bytes()), 0));
        (course.commits || course.wrote, course.left)
    }

    #[test]
    fn what_may_have_been_committed_is_in_doubt() {
        const INSERT: &str = "INSERT INTO t VALUES (1)";
        const SELECT: &str = "SELECT 1";
        for (status, answered, under_way, expected) in [
            (Idle, &[][..], &[SELECT][..], (false, false)),
            (Idle, &[], &[INSERT], (true, false)),
            (Idle, &[], &["SELECT 1 @#@ 2"], (true, false)),
            // Its transaction is over at Sync, and no sooner.
            (Idle, &[INSERT], &[SELECT], (true, false)),
            (Idle, &["BEGIN", INSERT], &[SELECT], (false, false)),
            (InTransaction, &[INSERT], &[INSERT, SELECT], (false, false)),
            (InTransaction, &[], &["COMMIT"], (true, true)),
            (InTransaction, &[], &["PREPARE TRANSACTION 'x'"], (true, true)),
            (InTransaction, &["COMMIT"], &[SELECT], (false, false)),
            (InTransaction, &["COMMIT", INSERT], &[SELECT], (true, false)),
            (InTransaction, &[], &["ROLLBACK", SELECT], (false, true)),
            (InTransaction, &[], &["ROLLBACK", INSERT], (true, true)),
            (InTransaction, &[], &["ROLLBACK AND CHAIN", INSERT], (false, true)),
            (Failed, &[], &[INSERT, "COMMIT"], (false, true)),
            (Failed, &[], &["ROLLBACK", INSERT], (true, true)),
            (Failed, &[], &["ROLLBACK TO s", "COMMIT"], (true, true)),
            (Failed, &["ROLLBACK TO s"], &["COMMIT"], (true, true)),
            (Idle, &[], &["COMMIT PREPARED 'x'"], (true, false)),
            (Idle, &[], &["no SQL"], (true, true)),
        ] {
            assert_eq!(fate(status, answered, under_way), expected, "{status:?} {answered:?} {under_way:?}");
        }
    }

    #[test]
    fn an_error_undoes_what_stands_alone() {
        let mut course = Course::new(Idle);
        course.answered(&facts(b"INSERT INTO t VALUES (1)"), 0);
        course.failed();
        assert_eq!((course.wrote, course.status), (false, Idle));
        course.answered(&facts(b"BEGIN"), 0);
        course.failed();
        assert_eq!(course.status, Failed);
    }
}
