//! Writes on several shards: which shards, what each is sent, and why that is what one server would have done.
//!
//! They are begun on each shard in a transaction of its own, and these end together as `cross_shard_writes` says
//! ([`crate::shard::commit`]). Without that setting they are refused.

use std::collections::BTreeMap;

use super::{PlanContext, ShardPlan, Stop};
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::shard::commit::Mode;
use crate::shard::map::CrossShardWrites;
use crate::sql::scatter::{Rows, Unfit, rows};

/// A write on several shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fan {
    /// Which, in ascending order.
    pub shards: Vec<ShardIndex>,
    /// What each is sent.
    pub parts: Parts,
    /// How the shards commit.
    pub mode: Mode,
    /// Why the shards together do what one server would.
    pub proof: Vec<String>,
}

/// What the shards are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// Rows of an INSERT: of each shard the numbers of its own.
    Rows {
        /// The statement.
        insert: Rows,
        /// By shard.
        of: Vec<Vec<usize>>,
    },
}

impl Fan {
    /// What is done, in words.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        match &self.parts {
            Parts::Rows { of, .. } => {
                let counts: Vec<String> = of.iter().map(|rows| rows.len().to_string()).collect();
                steps.push(format!("each shard is sent its own rows, in a transaction: {}", counts.join(", ")));
            }
        }
        steps.push(match self.mode {
            Mode::BestEffort => "the shards commit one after the other (cross_shard_writes = best_effort)".to_owned(),
            Mode::TwoPhase => "the shards that wrote commit by two-phase commit, one alone by COMMIT".to_owned(),
        });
        steps
    }
}

/// How several shards commit.
///
/// # Errors
/// They do not: `refusal` says what cannot be done, and the hint how it can be.
pub(super) fn mode(refusal: Error, cx: &PlanContext<'_>) -> Result<Mode, Stop> {
    match cx.map.writes.cross {
        CrossShardWrites::Refuse => Err(with_setting(refusal).into()),
        CrossShardWrites::BestEffort => Ok(Mode::BestEffort),
        CrossShardWrites::TwoPhase => match &cx.distrust.two_phase {
            Some(why) => Err(no_two_phase(why).into()),
            None => Ok(Mode::TwoPhase),
        },
    }
}

/// Plans an INSERT whose rows belong to these shards; `refusal` says that they differ.
///
/// # Errors
/// It is not split.
pub(super) fn insert(
    shard_of: &[ShardIndex],
    key: &str,
    refusal: Error,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    let mode = mode(refusal.clone(), cx)?;
    let Some(text) = cx.text else { return Err(Stop::Refuse(alone(refusal))) };
    if cx.changed_role && cx.catalog.is_none() {
        return Err(refusal.into());
    }
    let insert = rows(text, key).map_err(refuse)?;
    if insert.len() != shard_of.len() {
        return Err(refuse(Unfit::new("syntax", "whose rows cannot be told apart")));
    }
    let mut of: BTreeMap<ShardIndex, Vec<usize>> = BTreeMap::new();
    for (row, shard) in shard_of.iter().enumerate() {
        of.entry(*shard).or_default().push(row);
    }
    let proof = vec![format!("each of its {} rows goes to the shard of its sharding key", shard_of.len())];
    let (shards, of) = of.into_iter().unzip();
    Ok(ShardPlan::Fan(Box::new(Fan { shards, parts: Parts::Rows { insert, of }, mode, proof })))
}

fn refuse(unfit: Unfit) -> Stop {
    let hint = unfit.hint.unwrap_or("Send one statement for each shard.");
    Stop::Refuse(
        Error::us(SqlState::FEATURE_NOT_SUPPORTED, format!("a statement {} cannot write on several shards", unfit.why))
            .hint(hint)
            .because(unfit.construct),
    )
}

/// The same refusal, with the setting that allows it.
fn with_setting(error: Error) -> Error {
    let hint = error.hint.clone().unwrap_or_default();
    let setting =
        "Or set cross_shard_writes = \"two_phase\" or \"best_effort\" for the database in pgweir's configuration.";
    error.hint(format!("{hint} {setting}").trim().to_owned()).because("cross_shard_write")
}

fn alone(error: Error) -> Error {
    error.hint("Send it by itself, not together with other statements in one text.")
}

fn no_two_phase(why: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("a statement cannot write on several shards: two-phase commit is not possible, as {why}"),
    )
    .hint("SHOW SHARDS on the console tells more. When that is mended, RELOAD has the shards checked again at once.")
    .because("no_two_phase")
}
