//! COPY of a query TO STDOUT: it goes where the query does; on a shard that the user has chosen it is held against the query's keys, as a
//! cursor is.
//!
//! Where several shards answer the query and nothing is left to do with their rows, each writes its own, and these make one stream. What
//! must be brought together (an order, a limit, groups) comes as rows, which no COPY takes.

use super::write::{self, Copied, CopyRead, Fan, Parts};
use super::{PlanContext, ShardPlan, StatementFacts, Stop, plan_statement, refusal};
use crate::error::Error;
use crate::shard::commit::Mode;
use crate::sql::parse;
use crate::sql::scatter::{Unfit, copied_query, inner_query};

/// Plans a COPY of a query that names the listed table `table`.
///
/// # Errors
/// The query is refused, or its rows do not make one stream.
pub(super) fn plan(statement: &StatementFacts, table: &str, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    let refuse = || refusal::other("COPY", table);
    let Some(text) = cx.text else { return Err(write::alone(refuse()).into()) };
    let (read, query) = copied_query(text).map_err(|unfit| unread(&unfit))?;
    match plan_query(&query, statement, cx).ok_or_else(refuse)? {
        ShardPlan::Scatter(scatter) if scatter.select.plain => {
            let read = CopyRead { layout: write::layout(&read), of: Copied::Query(query) };
            let (parts, mode) = (Parts::CopyOut(read), Mode::BestEffort);
            Ok(ShardPlan::Fan(Box::new(Fan { shards: scatter.shards, parts, mode, proof: scatter.proof })))
        }
        ShardPlan::Scatter(_) => Err(refusal::copies_merged().into()),
        ShardPlan::Fan(_) => Err(refusal::copies_writes().into()),
        // What would let the write pass by itself does not let its rows be copied.
        ShardPlan::Reject(error) if write::wants_setting(&error) => Err(refusal::copies_writes().into()),
        ShardPlan::Reject(error) => Err(error.into()),
        plan @ (ShardPlan::Single { .. } | ShardPlan::AnyShard { .. } | ShardPlan::NeedsParameter { .. }) => Ok(plan),
    }
}

/// Plans a COPY or DECLARE CURSOR, `what`, on the shard that the user has chosen, as its query is planned there: by the keys that it names.
/// None: it is a COPY of a table.
///
/// # Errors
/// The query is refused there.
pub(super) fn plan_chosen(
    statement: &StatementFacts,
    (what, table): (&str, &str),
    cx: &PlanContext<'_>,
) -> Result<Option<ShardPlan>, Stop> {
    let refuse = || refusal::other(what, table);
    let Some((text, at)) = cx.text.map(|text| (text, 0)).or(cx.among) else {
        return Err(write::alone(refuse()).into());
    };
    let Some(query) = inner_query(text, at).map_err(|unfit| unread(&unfit))? else { return Ok(None) };
    match plan_query(&query, statement, cx).ok_or_else(refuse)? {
        ShardPlan::Reject(error) => Err(error.into()),
        plan => Ok(Some(plan)),
    }
}

/// The plan of the query by itself; none, which is never: it is another than the statement's.
fn plan_query(query: &str, statement: &StatementFacts, cx: &PlanContext<'_>) -> Option<ShardPlan> {
    let facts = parse::facts(query.as_bytes());
    let [asked] = facts.statements.as_slice() else { return None };
    if asked.shape.tables() != statement.shape.tables() {
        return None;
    }
    Some(plan_statement(asked, &PlanContext { text: Some(query), among: None, ..*cx }))
}

fn unread(unfit: &Unfit) -> Error {
    refusal::unfit(&unfit.why, unfit.hint).because(unfit.construct)
}
