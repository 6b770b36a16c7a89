//! COPY of a query TO STDOUT: it goes where the query does.
//!
//! Where several shards answer the query and nothing is left to do with their rows, each writes its own, and these make one stream. What
//! must be brought together (an order, a limit, groups) comes as rows, which no COPY takes.

use super::write::{self, Fan, Parts};
use super::{PlanContext, ShardPlan, StatementFacts, Stop, plan_statement, refusal};
use crate::error::Error;
use crate::shard::commit::Mode;
use crate::sql::parse;
use crate::sql::scatter::{Unfit, copied_query};

/// Plans a COPY of a query that names the listed table `table`.
///
/// # Errors
/// The query is refused, or its rows do not make one stream.
pub(super) fn plan(statement: &StatementFacts, table: &str, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    let refuse = || refusal::other("COPY", table);
    let Some(text) = cx.text else { return Err(write::alone(refuse()).into()) };
    let (read, query) = copied_query(text).map_err(|unfit| unread(&unfit))?;
    let facts = parse::facts(query.as_bytes());
    let [asked] = facts.statements.as_slice() else { return Err(refuse().into()) };
    if asked.shape.tables() != statement.shape.tables() {
        // Never: it is the same query.
        return Err(refuse().into());
    }
    match plan_statement(asked, &PlanContext { text: Some(&query), ..*cx }) {
        ShardPlan::Scatter(scatter) if scatter.select.plain => {
            let (parts, mode) = (Parts::CopyOut(write::layout(&read)), Mode::BestEffort);
            Ok(ShardPlan::Fan(Box::new(Fan { shards: scatter.shards, parts, mode, proof: scatter.proof })))
        }
        ShardPlan::Scatter(_) => Err(refusal::copies_merged().into()),
        ShardPlan::Fan(_) => Err(refusal::copies_writes().into()),
        ShardPlan::Reject(error) => Err(error.into()),
        plan @ (ShardPlan::Single { .. } | ShardPlan::AnyShard { .. } | ShardPlan::NeedsParameter { .. }) => Ok(plan),
    }
}

fn unread(unfit: &Unfit) -> Error {
    refusal::unfit(&unfit.why, unfit.hint).because(unfit.construct)
}
