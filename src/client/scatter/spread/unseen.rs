//! What code that no text shows does to a block of several shards: it may set something for the transaction on its shard alone.

use super::refusal::{code_unknown, made_state, sets_unseen};
use super::{Part, Spread};
use crate::client::hidden::Until;
use crate::client::plan::Need;
use crate::client::task::{Client, Stopped};
use crate::config::Role;
use crate::error::Error;
use crate::id::ShardIndex;
use crate::session::Intake;
use crate::shard::plan::ShardPlan;
use crate::sql::facts::QueryFacts;

/// DDL that runs what it names, for the rows that are there.
const RUNS: [&str; 3] = ["ALTER TABLE", "CREATE INDEX", "REFRESH MATERIALIZED VIEW"];

impl Spread {
    fn part(&self, shard: ShardIndex) -> Option<&Part> {
        self.parts.iter().find(|part| part.shard == shard)
    }

    /// Whether code has perhaps set something on the shard; none: that is not known yet.
    fn has_set(&self, shard: ShardIndex) -> Option<bool> {
        self.part(shard).map_or(Some(false), |part| part.judged.has_set())
    }
}

impl Client {
    /// Whether everything that was set for the block so far is known on all of its shards, and none of them has what the session would
    /// have to keep its server for.
    ///
    /// # Errors
    /// It need not be; or one has: COMMIT would be refused, and until then the others would answer without it.
    pub(super) async fn all_is_told(&mut self, until: Until) -> Result<(), Stopped> {
        let shards: Vec<_> = self.spread.iter().flat_map(|spread| &spread.parts).map(|part| part.shard).collect();
        for shard in shards {
            let has_set = |client: &Self| client.spread.as_ref().map_or(Some(false), |spread| spread.has_set(shard));
            self.refuse_settings(shard, until, has_set).await?;
        }
        self.settle_parts();
        if self.session.pins().is_empty() { Ok(()) } else { Err(Stopped::Refused(made_state())) }
    }

    /// Makes up its mind about what was sent while no census counted. Where none does in time, the servers are reset, as one would be.
    pub(super) async fn settle_all(&mut self) -> Result<(), Stopped> {
        let until = self.known_until();
        let undecided = |part: &&Part| part.judged.is_undecided();
        let parts = self.spread.iter().flat_map(|spread| &spread.parts).filter(undecided);
        let shards: Vec<_> = parts.map(|part| part.shard).collect();
        for shard in shards {
            let has_set = |client: &Self| client.spread.as_ref().map_or(Some(false), |spread| spread.has_set(shard));
            self.known_in_time(shard, until, has_set).await?;
        }
        self.settle_parts();
        Ok(())
    }

    /// The same, as far as censuses count now.
    pub(super) fn settle_parts(&mut self) {
        let Some(mut spread) = self.spread.take() else { return };
        spread.parts.iter_mut().for_each(|part| self.settle_within(&mut part.judged));
        self.spread = Some(spread);
    }

    /// Whether the segment sets nothing for the block but what its text says; it goes where `need` says, or to `shard`.
    ///
    /// # Errors
    /// It may.
    pub(super) async fn sets_nothing_unseen(
        &mut self,
        need: &Need,
        shard: ShardIndex,
        until: Until,
    ) -> Result<(), Stopped> {
        let all = self.database.config.map.names.len();
        let shards = match &need.plan {
            ShardPlan::Scatter(scatter) => scatter.shards.clone(),
            ShardPlan::Fan(fan) => fan.shards.clone(),
            ShardPlan::Single { .. }
            | ShardPlan::AnyShard { .. }
            | ShardPlan::NeedsParameter { .. }
            | ShardPlan::Reject(_) => vec![shard],
        };
        // Of what is defined on all shards, all are set the same.
        let alike = need.changes_catalog && matches!(&need.plan, ShardPlan::Fan(fan) if fan.shards.len() == all);
        for shard in shards.iter().filter(|_| !alike) {
            let may_set = |client: &Self| {
                let part = client.spread.as_ref().and_then(|spread| spread.part(*shard));
                let replica = part.is_some_and(|part| part.role == Role::Replica);
                client.sets_unseen(part.map(|part| &part.judged), *shard, replica)
            };
            self.refuse_settings(*shard, until, may_set).await?;
        }
        let several = matches!(need.plan, ShardPlan::Scatter(_) | ShardPlan::Fan(_));
        if several && self.makes_state(&shards, alike) { Err(Stopped::Refused(made_state())) } else { Ok(()) }
    }

    /// Whether what the segment runs on one of these shards, unseen, plainly makes what only a server has: of several it is not followed.
    /// `defines`: of what is only defined nothing runs.
    fn makes_state(&self, shards: &[ShardIndex], defines: bool) -> bool {
        let runs = |facts: &QueryFacts| !defines || facts.statements.iter().any(|s| RUNS.contains(&s.why));
        self.segment.items.iter().any(|(intake, _)| {
            let (facts, own_types) = match intake {
                Intake::Query(facts) => (facts, false),
                Intake::Bind { statement: Some(statement), .. } => (&statement.facts, statement.has_foreign_types()),
                _ => return false,
            };
            runs(facts) && shards.iter().any(|shard| self.hidden_pin(facts, own_types, *shard, false).is_some())
        })
    }

    /// `sets`: whether code sets something on the shard; none: that is not known yet.
    async fn refuse_settings(
        &mut self,
        shard: ShardIndex,
        until: Until,
        sets: impl Fn(&Self) -> Option<bool>,
    ) -> Result<(), Stopped> {
        let refuse = |error: fn(&str) -> Error, client: &Self| Err(Stopped::Refused(error(&client.names(&[shard]))));
        match self.known_in_time(shard, until, sets).await? {
            Some(false) => Ok(()),
            Some(true) => refuse(sets_unseen, self),
            None => refuse(code_unknown, self),
        }
    }
}
