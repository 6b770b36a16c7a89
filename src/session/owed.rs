//! What a client is still to be told when its server is lost.

use super::pipeline::{Answer, Kind};
use super::{Session, TransactionStatus};
use crate::sql::facts::{Access, QueryFacts, TransactionEffect};

/// What is unanswered, and what it would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent answers to questions about what is under way")]
pub struct Owed {
    /// ReadyForQuery messages that the client waits for.
    pub readies: usize,
    /// Messages of the extended protocol were sent whose Sync has not come yet.
    pub open: bool,
    /// The client has been told an error of these already.
    pub skipping: bool,
    /// The end of a transaction block is under way.
    pub ends_block: bool,
    /// It may have been done all the same: a COMMIT, or a write that is a transaction of its own.
    pub in_doubt: bool,
    /// A COPY is or may be under way: the client does not wait for an answer.
    pub copies: bool,
}

impl Session {
    /// What the client is owed.
    #[must_use]
    pub fn owed(&self) -> Owed {
        let mut owed = Owed { open: self.unsynced, skipping: self.skipping, ..Owed::default() };
        owed.copies = self.pipeline.copy_in() || self.pipeline.may_copy_in() || self.held_sync;
        let in_block = self.status == TransactionStatus::InTransaction;
        for request in self.pipeline.requests() {
            let ready = matches!(request.kind, Kind::Query { .. } | Kind::Sync | Kind::FunctionCall { .. });
            owed.readies += usize::from(ready && request.answer == Answer::Forward);
            match &request.kind {
                Kind::Query { facts, .. } | Kind::Execute(Some(facts)) => {
                    owed.ends_block |= ends_block(facts);
                    owed.in_doubt |= commits(facts) || (!in_block && facts.access() == Access::Write);
                }
                // It may be anything.
                Kind::Execute(None) => (owed.ends_block, owed.in_doubt) = (true, true),
                Kind::FunctionCall { .. } => owed.in_doubt |= !in_block,
                _ => {}
            }
        }
        // Nothing of a failed block is ever done.
        owed.in_doubt &= self.status != TransactionStatus::Failed;
        owed
    }
}

fn commits(facts: &QueryFacts) -> bool {
    let commit = |effect| {
        matches!(
            effect,
            TransactionEffect::Commit { .. }
                | TransactionEffect::PrepareTransaction
                | TransactionEffect::FinishPrepared
        )
    };
    facts.unparsed.is_some() || facts.statements.iter().any(|s| commit(s.transaction))
}

fn ends_block(facts: &QueryFacts) -> bool {
    commits(facts) || facts.statements.iter().any(|s| matches!(s.transaction, TransactionEffect::Rollback { .. }))
}
