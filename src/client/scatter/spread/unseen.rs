//! What code that no text shows does to a block of several shards: it may set something for the transaction on its shard alone.

use super::refusal::{code_unknown, sets_unseen};
use super::{Part, Spread};
use crate::client::plan::Need;
use crate::client::task::{Client, Stopped};
use crate::error::Error;
use crate::id::ShardIndex;
use crate::shard::plan::ShardPlan;

impl Spread {
    fn part(&self, shard: ShardIndex) -> Option<&Part> {
        self.parts.iter().find(|part| part.shard == shard)
    }
}

impl Client {
    /// Whether everything that was set for the block so far is known on all of its shards.
    ///
    /// # Errors
    /// It need not be.
    pub(super) async fn all_is_told(&mut self) -> Result<(), Stopped> {
        let shards: Vec<_> = self.spread.iter().flat_map(|spread| &spread.parts).map(|part| part.shard).collect();
        for shard in shards {
            let has_set = |client: &Self| {
                let part = client.spread.as_ref().and_then(|spread| spread.part(shard));
                part.map_or(Some(false), |part| part.judged.has_set())
            };
            self.refuse_settings(shard, has_set).await?;
        }
        Ok(())
    }

    /// Whether the segment sets nothing for the block but what its text says; it goes where `need` says, or to `shard`.
    ///
    /// # Errors
    /// It may.
    pub(super) async fn sets_nothing_unseen(&mut self, need: &Need, shard: ShardIndex) -> Result<(), Stopped> {
        let shards = match &need.plan {
            ShardPlan::Scatter(scatter) => scatter.shards.clone(),
            // Of what is defined on all shards, all are set the same.
            ShardPlan::Fan(_) if need.changes_catalog => return Ok(()),
            ShardPlan::Fan(fan) => fan.shards.clone(),
            ShardPlan::Single { .. }
            | ShardPlan::AnyShard { .. }
            | ShardPlan::NeedsParameter { .. }
            | ShardPlan::Reject(_) => vec![shard],
        };
        for shard in shards {
            let may_set = |client: &Self| {
                let part = client.spread.as_ref().and_then(|spread| spread.part(shard));
                client.sets_unseen(part.map(|part| &part.judged), shard)
            };
            self.refuse_settings(shard, may_set).await?;
        }
        Ok(())
    }

    /// `sets`: whether code sets something on the shard; none: that is not known yet.
    async fn refuse_settings(
        &mut self,
        shard: ShardIndex,
        sets: impl Fn(&Self) -> Option<bool>,
    ) -> Result<(), Stopped> {
        let refuse = |error: fn(&str) -> Error, client: &Self| Err(Stopped::Refused(error(&client.names(&[shard]))));
        match self.known_in_time(shard, sets).await? {
            Some(false) => Ok(()),
            Some(true) => refuse(sets_unseen, self),
            None => refuse(code_unknown, self),
        }
    }
}
