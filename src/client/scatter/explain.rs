//! EXPLAIN of a statement that several shards answer: the route, and what each shard says of what it is sent.

use std::time::Instant;

use super::leg::Leg;
use super::prepare::{self, Prepared};
use super::{Extended, request};
use crate::client::task::{Client, End, Stopped};
use crate::error::Error;
use crate::id::ShardIndex;
use crate::pool::Verdict;
use crate::shard::plan::Scatter;
use crate::sql::scatter::Explain;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// The one column of the answer, and its type.
const COLUMN: (&str, u32) = ("QUERY PLAN", 25);

impl Client {
    /// Asks each shard for its plan and answers. With ANALYZE the statement runs on one shard after the other.
    pub(super) async fn explain(
        &mut self,
        mut legs: Vec<Leg>,
        scatter: &Scatter,
        (explain, prepared): (&Explain, Prepared),
        extended: Option<&Extended>,
        (verdict, since): (Verdict, Instant),
    ) -> Result<(), End> {
        let mut lines = self.route(scatter);
        let sql = [explain.prefix.as_bytes(), &prepared.sql].concat();
        let request = request(&sql, &prepared.types, &prepare::with_formats(&prepared.bound, &[]).unwrap_or_default());
        for leg in &mut legs {
            lines.push(format!("Shard {}:", self.database.config.map.name(leg.shard)));
            let silence = leg.watch();
            let asked = self.within_limits(silence, ask(leg, &request), since).await;
            match asked.and_then(|plan| plan.map_err(Stopped::Refused)) {
                Ok(plan) => lines.extend(plan.into_iter().map(|line| format!("  {line}"))),
                Err(stopped) => {
                    legs.into_iter().for_each(|leg| leg.abandon(verdict));
                    return match stopped {
                        Stopped::Refused(error) => self.refuse(error).await,
                        Stopped::End(end) => Err(end),
                    };
                }
            }
        }
        for mut leg in legs {
            leg.is_ready();
            leg.finish(verdict);
        }
        let segment = self.segment.take();
        self.input.consume(segment.len);
        self.note_prepared();
        self.tell_plan(&lines, extended);
        Ok(())
    }

    /// Where it goes and why.
    fn route(&self, scatter: &Scatter) -> Vec<String> {
        let name = |shard: &ShardIndex| self.database.config.map.name(*shard);
        let shards: Vec<&str> = scatter.shards.iter().map(name).collect();
        let mut lines = vec![format!("Several shards: {}", shards.join(", "))];
        lines.extend(scatter.proof.iter().map(|proof| format!("  Proof: {proof}")));
        lines.extend(scatter.steps().into_iter().map(|step| format!("  Step: {step}")));
        lines
    }

    fn tell_plan(&mut self, lines: &[String], extended: Option<&Extended>) {
        let out = self.output.tail();
        if let Some(extended) = extended {
            extended.tell_closed(out);
            if extended.parse {
                out.extend_from_slice(encode::PARSE_COMPLETE);
            }
            out.extend_from_slice(encode::BIND_COMPLETE);
        }
        if extended.is_none_or(|extended| extended.describe) {
            encode::row_description(out, &[COLUMN]);
        }
        for line in lines {
            encode::data_row(out, &[Some(line.clone())]);
        }
        encode::command_complete(out, "EXPLAIN");
        if extended.is_some_and(|extended| extended.close) {
            out.extend_from_slice(encode::CLOSE_COMPLETE);
        }
        encode::ready_for_query(out, TransactionStatus::Idle);
    }
}

/// A shard's plan.
async fn ask(leg: &mut Leg, request: &[u8]) -> Result<Vec<String>, Error> {
    let mut plan = Vec::new();
    for (tag, body) in leg.converse(request).await.map_err(|e| prepare::lost(&e))? {
        match tag {
            b'E' => return Err(message::server_error(&body)),
            b'D' => plan.extend(message::data_row(&body).into_iter().flatten().flatten()),
            _ => {}
        }
    }
    Ok(plan)
}
