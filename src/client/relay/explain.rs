//! EXPLAIN of a statement that one shard answers: the first row of its answer tells the route as well.

use crate::client::plan::Need;
use crate::client::task::Client;
use crate::id::ShardIndex;
use crate::session::Intake;
use crate::shard::explain;
use crate::shard::plan::ShardPlan;
use crate::sql::touch::Explains;
use crate::wire::{encode, frame, message};

/// Where the statement goes that is explained.
#[derive(Debug)]
pub(super) struct Route {
    format: Explains,
    shard: String,
    why: String,
}

impl Client {
    /// The route of the segment on this shard, if it is one EXPLAIN and no more.
    pub(super) fn told_route(&self, need: &Need, shard: ShardIndex) -> Option<Box<Route>> {
        let map = &self.database.config.map;
        if !map.is_sharded() || !self.segment.runs_once() {
            return None;
        }
        let mut runs = self.segment.items.iter().filter_map(|(intake, _)| match intake {
            Intake::Query(facts) => Some(facts),
            Intake::Bind { statement: Some(statement), .. } => Some(&statement.facts),
            _ => None,
        });
        let (Some(facts), None) = (runs.next(), runs.next()) else { return None };
        let [statement] = facts.statements.as_slice() else { return None };
        let format = statement.touch.explains?;
        // Lines of ours would be more rows than were asked for.
        if format == Explains::Text && self.has_row_limit() {
            return None;
        }
        let why = match &need.plan {
            ShardPlan::Single { why, .. } => why.to_string(),
            ShardPlan::AnyShard { why } => format!("any shard would do, for {why}"),
            ShardPlan::NeedsParameter { .. } | ShardPlan::Scatter(_) | ShardPlan::Fan(_) | ShardPlan::Reject(_) => {
                return None;
            }
        };
        Some(Box::new(Route { format, shard: map.name(shard).to_owned(), why }))
    }

    /// Whether the segment asks for so many rows at most.
    fn has_row_limit(&self) -> bool {
        let mut at = 0_usize;
        for (intake, len) in &self.segment.items {
            let end = at.saturating_add(*len);
            if matches!(intake, Intake::Execute { .. }) {
                let body = self.input.bytes().get(at..end).and_then(|message| message.get(frame::HEADER_LEN..));
                return body.and_then(message::execute).is_none_or(|execute| execute.max_rows > 0);
            }
            at = end;
        }
        false
    }
}

impl Route {
    /// What the client gets in the place of the first row, whose body this is; none: it stays as it is.
    pub(super) fn onto(&self, body: &[u8]) -> Option<Vec<u8>> {
        let cells = message::data_row(body)?;
        // What is not written in UTF8 has been read with replacements.
        let [Some(first)] = cells.as_slice() else { return None };
        if first.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        let mut out = Vec::with_capacity(body.len() + 256);
        if self.format == Explains::Text {
            encode::data_row(&mut out, &[Some(format!("One shard: {}", self.shard))]);
            encode::data_row(&mut out, &[Some(format!("  Why: {}", self.why))]);
            encode::frame(&mut out, b'D', |b| b.extend_from_slice(body));
        } else {
            let properties = [("Shard", self.shard.as_str()), ("Route", self.why.as_str())];
            encode::data_row(&mut out, &[Some(explain::with(self.format, first, &properties)?)]);
        }
        Some(out)
    }
}
