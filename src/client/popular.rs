//! `prepare_unnamed` on the way of a segment: unnamed statements that servers keep ([`crate::session::popular`]).
//!
//! The client must not notice. A plan that a server keeps fails when the statement's rows have other types than they had ("cached plan
//! must not change result type"), and when a parameter's type was inferred from a column that has another one by now; one made anew
//! would not. So the segment is held back until it has begun to answer, and is sent again as it came. Where that cannot be done (in a
//! transaction block, behind something else) a statement stays unnamed if it returns rows or has parameters without types.

use std::sync::Arc;

use crate::client::relay::{Leave, Link, Replay};
use crate::client::segment::Segment;
use crate::client::task::Client;
use crate::config::{General, PoolMode};
use crate::error::SqlState;
use crate::session::Intake;
use crate::session::prepared::Statement;
use crate::sql::facts::Plan;
use crate::wire::message::{self, TransactionStatus};

/// The function of PostgreSQL that finds a kept plan to be of no use any more: `ErrorResponse` names it in every language.
const REVALIDATION: &[u8] = b"RevalidateCachedQuery";

/// How often an unnamed statement must come, and how many are kept: half of what a server keeps, so that named ones have room.
pub(super) fn limits(general: &General, mode: PoolMode) -> Option<(u32, usize)> {
    let on = general.prepare_unnamed > 0 && mode != PoolMode::Session;
    on.then_some((general.prepare_unnamed, general.max_prepared_statements as usize / 2))
}

/// Whether an error may be due to a kept plan, which one made anew would not give: the plan is of no use any more, or, before the statement
/// was bound, a parameter has another type by now than PostgreSQL once inferred (`bound`: it was).
pub(super) fn is_stale(error: &[u8], bound: bool) -> bool {
    let state = SqlState::from_bytes(message::error_field(error, b'C').unwrap_or_default());
    let is_unfit = state == SqlState::FEATURE_NOT_SUPPORTED && message::error_field(error, b'R') == Some(REVALIDATION);
    is_unfit || (!bound && (matches!(state.class(), "22" | "42") || state == SqlState::PROTOCOL_VIOLATION))
}

/// Whether the segment can be sent again as long as nothing of its answer was passed on, if a kept plan fails in it: it runs one thing.
fn is_one_run(segment: &Segment) -> bool {
    let runs = |intake: &Intake| matches!(intake, Intake::Bind { .. } | Intake::Query(_) | Intake::FunctionCall);
    segment.ends_with_sync() && segment.items.iter().filter(|(intake, _)| runs(intake)).count() <= 1
}

impl Client {
    /// Before the segment is sent on: those of its unnamed statements stay unnamed whose plans might fail where it shows. `first`: it is
    /// what the server was lent for.
    pub(super) fn settle_popular(&mut self, link: &mut Link, first: bool) {
        let may_fail = |intake: &Intake| {
            intake.popular().is_some_and(|statement| statement.facts.plan() == Plan::Rows || statement.infers_types())
        };
        if !self.segment.items.iter().any(|(intake, _)| may_fail(intake)) {
            return;
        }
        let begins = first && self.session.status() == TransactionStatus::Idle && !self.session.is_mid_exchange();
        if begins && self.session.is_drained() && self.output.is_empty() && is_one_run(&self.segment) {
            let popular: Vec<Arc<Statement>> =
                self.segment.items.iter().filter_map(|(intake, _)| intake.popular().cloned()).collect();
            let replay = link.replay_mut().get_or_insert_with(|| self.replay(Leave::Never));
            replay.popular = popular;
            return;
        }
        for (intake, _) in &mut self.segment.items {
            if may_fail(intake) {
                intake.leave_unnamed();
            }
        }
    }

    /// What brings the segment back.
    pub(super) fn replay(&self, leave: Leave) -> Replay {
        // What was written anew is read and written anew once more: what it does beside its text would be lost else.
        let bytes = self.segment.as_it_came(self.input.bytes());
        let names = self.segment.items.iter().filter_map(|(intake, _)| intake.names_undo().cloned()).collect();
        let ends =
            matches!(self.segment.items.last(), Some((Intake::Sync | Intake::Query(_) | Intake::FunctionCall, _)));
        Replay { bytes, names, leave, ends, popular: Vec::new(), bound: false, held: None }
    }

    /// Plans of these statements have failed: from now on they are made anew.
    pub(super) fn renounce(&self, statements: &[Arc<Statement>]) {
        for statement in statements {
            statement.set_outdated();
            self.cx.popular.borrow_mut().forget(statement);
        }
    }
}
