//! EXPLAIN of a statement for several shards: the route, and what each shard says of what it is sent.

use std::time::Instant;

use super::leg::Leg;
use super::prepare::{self, Prepared};
use super::{Extended, request};
use crate::client::task::{Client, End, Stopped};
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::pool::Verdict;
use crate::shard::explain;
use crate::shard::plan::Scatter;
use crate::sql::scatter::Explain;
use crate::sql::touch::Explains;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// The one column of the answer, and its type.
const COLUMN: (&str, u32) = ("QUERY PLAN", 25);

/// The numbers of json and xml.
const JSON: u32 = 114;
const XML: u32 = 142;

/// Where a statement goes, why, and what is done.
pub(super) struct Route<'a> {
    pub(super) shards: &'a [ShardIndex],
    pub(super) proof: &'a [String],
    pub(super) steps: Vec<String>,
    /// How that is told.
    pub(super) format: Explains,
}

impl<'a> Route<'a> {
    /// That of a read.
    pub(super) fn of(scatter: &'a Scatter, explain: &Explain) -> Self {
        Self { shards: &scatter.shards, proof: &scatter.proof, steps: scatter.steps(), format: explain.format }
    }
}

/// What a shard that answers with a plan is sent.
pub(super) fn request_plan(explain: &Explain, prepared: &Prepared) -> Vec<u8> {
    let sql = [explain.prefix.as_bytes(), &prepared.sql].concat();
    request(&sql, &prepared.types, &prepare::with_formats(&prepared.bound, &[]).unwrap_or_default())
}

impl Client {
    /// Asks each shard for its plan by its request, and answers. With ANALYZE the statement runs on one shard after the other.
    pub(super) async fn explain(
        &mut self,
        mut legs: Vec<Leg>,
        (route, requests): (Route<'_>, Vec<Vec<u8>>),
        extended: Option<&Extended>,
        (verdict, since): (Verdict, Instant),
    ) -> Result<(), End> {
        let mut plans = Vec::with_capacity(legs.len());
        for (leg, request) in legs.iter_mut().zip(&requests) {
            let silence = leg.watch();
            // With ANALYZE the statement runs, and its code, also if it fails later.
            leg.is_used();
            let asked = self.within_limits(silence, ask(leg, request), since).await;
            match asked.and_then(|plan| plan.map_err(Stopped::Refused)) {
                Ok(plan) => plans.push(plan),
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
        let told =
            if route.format == Explains::Text { Some(self.lines(&route, plans)) } else { self.value(&route, &plans) };
        let Some(told) = told else { return self.refuse(unread()).await };
        let segment = self.segment.take();
        self.input.consume(segment.len);
        self.note_prepared();
        self.tell_plan(&told, route.format, extended);
        Ok(())
    }

    /// The route and all plans, line by line.
    fn lines(&self, route: &Route<'_>, plans: Vec<Vec<String>>) -> Vec<String> {
        let name = |shard: &ShardIndex| self.database.config.map.name(*shard);
        let shards: Vec<&str> = route.shards.iter().map(name).collect();
        let mut lines = vec![format!("Several shards: {}", shards.join(", "))];
        lines.extend(route.proof.iter().map(|proof| format!("  Proof: {proof}")));
        lines.extend(route.steps.iter().map(|step| format!("  Step: {step}")));
        for (shard, plan) in route.shards.iter().zip(plans) {
            lines.push(format!("Shard {}:", name(shard)));
            lines.extend(plan.into_iter().map(|line| format!("  {line}")));
        }
        lines
    }

    /// The plans as one value, each with the shard and the route among its properties; none: they are not of the form that is known.
    fn value(&self, route: &Route<'_>, plans: &[Vec<String>]) -> Option<Vec<String>> {
        let (proof, steps) = (route.proof.join("; "), route.steps.join("; "));
        let plan = |(shard, plan): (&ShardIndex, &Vec<String>)| {
            let properties = [("Shard", self.database.config.map.name(*shard)), ("Route", &proof), ("Steps", &steps)];
            explain::with(route.format, &plan.concat(), &properties)
        };
        let plans = route.shards.iter().zip(plans).map(plan).collect::<Option<Vec<_>>>()?;
        explain::joined(route.format, &plans).map(|all| vec![all])
    }

    fn tell_plan(&mut self, lines: &[String], format: Explains, extended: Option<&Extended>) {
        let out = self.output.tail();
        if let Some(extended) = extended {
            extended.tell_closed(out);
            if extended.parse {
                out.extend_from_slice(encode::PARSE_COMPLETE);
            }
            out.extend_from_slice(encode::BIND_COMPLETE);
        }
        if extended.is_none_or(|extended| extended.describe) {
            let type_oid = match format {
                Explains::Text | Explains::Yaml => COLUMN.1,
                Explains::Json => JSON,
                Explains::Xml => XML,
            };
            encode::row_description(out, &[(COLUMN.0, type_oid)]);
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

fn unread() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the plans of several shards cannot be made one value: they are not of the form that is known",
    )
    .hint("Leave FORMAT out, or choose one shard with SET pgweir.shard = 'name'.")
    .because("explain_format")
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
