//! EXPLAIN of a write on several shards: each explains its part, and none is done.

use super::write::{Fan, Parts};
use super::{PlanContext, ShardPlan, StatementFacts, Stop, plan_statement, refusal};
use crate::sql::parse;
use crate::sql::scatter::explained;

/// Plans an EXPLAIN that is `refused` as it stands: by what it explains.
///
/// # Errors
/// The same, or it would run what it explains.
pub(super) fn plan(refused: Stop, statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    let Some(Ok(explain)) = cx.text.map(explained) else { return Err(refused) };
    let facts = parse::facts(explain.statement.as_bytes());
    let [asked] = facts.statements.as_slice() else { return Err(refused) };
    if asked.shape.tables() != statement.shape.tables() {
        // Never: it is the same statement.
        return Err(refused);
    }
    match plan_statement(asked, &PlanContext { text: Some(&explain.statement), ..*cx }) {
        ShardPlan::Fan(_) if explain.analyze => Err(refusal::analyzes_writes().into()),
        ShardPlan::Fan(fan) => {
            let Fan { shards, parts, mode, proof } = *fan;
            let parts = Parts::Explain { explain, of: Box::new(parts) };
            Ok(ShardPlan::Fan(Box::new(Fan { shards, parts, mode, proof })))
        }
        ShardPlan::Reject(error) => Err(error.into()),
        ShardPlan::Single { .. }
        | ShardPlan::AnyShard { .. }
        | ShardPlan::NeedsParameter { .. }
        | ShardPlan::Scatter(_) => Err(refused),
    }
}
