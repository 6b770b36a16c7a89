//! A block of ours: a pipeline outside of a block is one transaction up to its Sync, and has statements of several shards.

use super::refusal::{fault, lost_state};
use super::{Prologue, Spread};
use crate::client::block::Block;
use crate::client::lost::Lost;
use crate::client::scatter::run;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::id::ShardIndex;
use crate::wire::encode;
use crate::wire::message::TransactionStatus;

const BEGIN: &[u8] = b"BEGIN";

impl Client {
    /// Begins one on these shards, in their order, so that nobody waits in a circle for their connections. Whether it has begun; else the
    /// client has been told why not.
    pub(in crate::client) async fn begin_implicit(&mut self, shards: &[ShardIndex]) -> Result<bool, End> {
        let facts = self.cx.facts.borrow_mut().get(BEGIN);
        let default = [self.database.config.map.default_shard];
        let shards = if shards.is_empty() { &default } else { shards };
        let (Some(block), Some(home)) = (Block::begin(BEGIN, facts), shards.first()) else { return Ok(false) };
        let mut spread = Spread::new(Vec::new(), Prologue::from(&block), *home, clock::now());
        // Each is asked when it begins.
        spread.sees_commits = true;
        self.spread = Some(Box::new(spread));
        self.session.on_begun();
        match self.enlist(shards).await {
            Ok(()) => Ok(true),
            Err(Stopped::Refused(error)) => {
                self.cx.shared.count_refusal(error.reason.unwrap_or("pipeline"));
                self.end_spread().await;
                self.refuse_here(&error);
                Ok(false)
            }
            Err(Stopped::End(end)) => Err(end),
        }
    }

    /// The client's Sync ends it: all of its shards commit, or none.
    pub(in crate::client) async fn end_implicit(&mut self) -> Result<(), End> {
        let failed = std::mem::take(&mut self.skipping) || self.session.status() == TransactionStatus::Failed;
        self.pieces = None;
        if self.spread.is_some() {
            if !failed {
                return Box::pin(self.commit_spread()).await;
            }
            self.lose_spread().await;
        }
        match self.take_lost() {
            Some(Lost::Untold(error)) => self.answer_exit(Err(&run::encoded(&error))),
            None if !failed => self.answer_exit(Err(&run::encoded(&fault()))),
            lost => {
                if matches!(lost, Some(Lost::Spread { kept: true })) {
                    // An error has come before, and none comes behind one.
                    encode::notice(self.output.tail(), "WARNING", &lost_state());
                }
                self.answer_exit(Ok(""));
            }
        }
        Ok(())
    }
}
