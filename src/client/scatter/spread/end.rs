//! The end of a block of several shards.

use std::sync::Arc;
use std::time::Duration;

use super::refusal::{
    another_role, lost_state, made_state, no_two_phase, notifies, read_only, replaced, second_writer,
};
use super::{Part, Spread, cell, row, wrote};
use crate::client::block::Block;
use crate::client::hidden::Judged;
use crate::client::lost::Lost;
use crate::client::scatter::fan::commit::Whole;
use crate::client::scatter::leg::Leg;
use crate::client::scatter::run;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::config::Consistency;
use crate::error::{Error, Severity};
use crate::id::ShardIndex;
use crate::pool::Verdict;
use crate::shard::commit::Mode;
use crate::shard::map::CrossShardWrites;

/// How long a failed block waits for its shards to roll back before the client is told; they go on after that.
const UNDONE_WITHIN: Duration = Duration::from_secs(2);

impl Client {
    /// COMMIT.
    pub(super) async fn commit_spread(&mut self) -> Result<(), End> {
        let mode = match self.database.config.map.writes.cross {
            CrossShardWrites::BestEffort => Mode::BestEffort,
            CrossShardWrites::Refuse | CrossShardWrites::TwoPhase => Mode::TwoPhase,
        };
        if let Some(shard) = self.replaced() {
            let error = replaced(&self.names(&[shard]));
            return self.refuse_commit(&error).await;
        }
        // What is deferred to COMMIT waits for locks as well.
        let asked = match self.limit_again().await {
            Ok(()) => self.ask_parts(|_| true, wrote).await,
            Err(stopped) => Err(stopped),
        };
        let found = match asked {
            Ok(found) => found,
            Err(Stopped::Refused(error)) => return self.refuse_commit(&error).await,
            Err(Stopped::End(end)) => return Err(end),
        };
        let (shards, found): (Vec<ShardIndex>, Vec<(bool, String)>) = found.into_iter().unzip();
        let (wrote, owners): (Vec<bool>, Vec<String>) = found.into_iter().unzip();
        let writers: Vec<ShardIndex> =
            shards.iter().zip(&wrote).filter(|(_, wrote)| **wrote).map(|(shard, _)| *shard).collect();
        let refused = match self.refuses_commit(mode, &writers).await {
            Ok(refused) => refused,
            Err(Stopped::Refused(error)) => Some(error),
            Err(Stopped::End(end)) => return Err(end),
        };
        if let Some(error) = refused {
            return self.refuse_commit(&error).await;
        }
        // It may have happened meanwhile.
        if let Some(shard) = self.replaced() {
            let error = replaced(&self.names(&[shard]));
            return self.refuse_commit(&error).await;
        }
        let Some(spread) = &mut self.spread else { return Ok(()) };
        let database = Arc::clone(&self.database);
        spread.parts.iter_mut().for_each(|part| part.judged.commits(&database));
        let mut legs: Vec<Leg> = spread.parts.iter_mut().filter_map(|part| part.leg.take()).collect();
        legs.iter_mut().for_each(Leg::renew);
        let committed = self.commit(&mut legs, &Whole { mode, shards, wrote, owners }).await;
        self.put_back(legs);
        if !writers.is_empty() {
            // Also if it is not known whether it was committed. What was written is seen elsewhere only later than now.
            self.has_written(clock::now());
        }
        let Some(mut spread) = self.spread.take() else { return Ok(()) };
        for part in &mut spread.parts {
            part.wrote |= writers.contains(&part.shard);
            if part.leg.as_ref().is_some_and(|leg| !leg.is_lost()) {
                // Else it is found out by the server's process whether it still goes on.
                part.judged.ended();
            }
        }
        for (leg, verdict, _) in self.leaves_spread(spread) {
            // Those that have not answered are closed.
            leg.finish(verdict);
        }
        match committed {
            Ok(()) => self.answer_exit(Ok("COMMIT")),
            Err(error) => self.answer_exit(Err(&error)),
        }
        Ok(())
    }

    /// Why what was written on these shards cannot be committed as it is.
    async fn refuses_commit(&mut self, mode: Mode, writers: &[ShardIndex]) -> Result<Option<Error>, Stopped> {
        self.settle_all().await?;
        if !self.session.pins().is_empty() {
            return Ok(Some(made_state()));
        }
        if let Some(shard) = self.notifies_apart(writers) {
            return Ok(Some(notifies(&self.names(&[shard]))));
        }
        let [first, others @ ..] = writers else { return Ok(None) };
        if others.is_empty() || mode == Mode::BestEffort {
            return Ok(None);
        }
        if self.database.config.map.writes.cross == CrossShardWrites::Refuse {
            return Ok(Some(second_writer(&self.names(&[*first]), &self.names(others))));
        }
        if let Some(why) = self.database.distrust.load().two_phase.as_deref() {
            return Ok(Some(no_two_phase(why)));
        }
        if self.is_read_only().await? {
            return Ok(Some(read_only()));
        }
        Ok(self.has_other_role().await?.then(another_role))
    }

    /// A shard whose listeners could hear of what others have not committed yet.
    fn notifies_apart(&self, writers: &[ShardIndex]) -> Option<ShardIndex> {
        let parts = || self.spread.iter().flat_map(|spread| &spread.parts);
        // Where nothing is written it is committed first. Triggers that tell of what they write are on time.
        let by_code = |part: &&Part| part.judged.notifies() && !writers.contains(&part.shard);
        if let Some(part) = parts().find(by_code).filter(|_| !writers.is_empty()) {
            return Some(part.shard);
        }
        let mut notifiers = parts().filter(|part| part.notifies);
        let first = notifiers.next()?.shard;
        let apart = notifiers.next().is_some() || writers.iter().any(|shard| *shard != first);
        apart.then_some(first)
    }

    /// Whether the transaction may write nothing any more, not even what it has decided.
    async fn is_read_only(&mut self) -> Result<bool, Stopped> {
        const READ_ONLY_SQL: &str = "SELECT pg_catalog.current_setting('transaction_read_only')";
        if !self.spread.as_ref().is_some_and(|spread| spread.prologue.may_name("read")) {
            return Ok(false);
        }
        let found = self.ask_parts(|_| true, async |leg: &mut Leg| cell(leg, READ_ONLY_SQL).await).await?;
        Ok(found.iter().any(|(_, is)| is == "on"))
    }

    /// Whether the transaction is another user's than its session will be when it is over: COMMIT PREPARED is not for everybody.
    async fn has_other_role(&mut self) -> Result<bool, Stopped> {
        const WHO_SQL: &str = "SELECT current_user::pg_catalog.text, session_user::pg_catalog.text";
        let Some(prologue) = self.spread.as_ref().map(|spread| &spread.prologue) else { return Ok(false) };
        if prologue.names("authorization") {
            return Ok(true);
        }
        if !prologue.may_name("role") {
            return Ok(false);
        }
        let role = self.session.settings().get("role").filter(|role| *role != "none").map(str::to_owned);
        let found = self.ask_parts(|_| true, async |leg: &mut Leg| row(leg, WHO_SQL).await).await?;
        Ok(found.into_iter().any(|(_, who)| {
            let mut who = who.into_iter().flatten();
            let (current, session) = (who.next(), who.next());
            current != role.clone().or(session)
        }))
    }

    /// A shard whose server another has taken the place of: what is committed there would be lost.
    fn replaced(&self) -> Option<ShardIndex> {
        let spread = self.spread.as_ref()?;
        let is_replaced = |part: &&Part| part.leg.as_ref().is_some_and(|leg| leg.in_flight.server().is_fenced());
        spread.parts.iter().find(is_replaced).map(|part| part.shard)
    }

    /// Rolls back instead of committing, and says why.
    pub(super) async fn refuse_commit(&mut self, error: &Error) -> Result<(), End> {
        self.cx.shared.count_refusal(error.reason.unwrap_or("commit"));
        self.end_spread().await;
        self.answer_exit(Err(&run::encoded(error)));
        Ok(())
    }

    /// ROLLBACK, or COMMIT of a block that has failed on one shard.
    pub(super) async fn roll_back_spread(&mut self) {
        let kept = self.keeps_over_rollback();
        self.end_spread().await;
        if kept {
            self.answer_lost_state();
        } else {
            self.answer_exit(Ok("ROLLBACK"));
        }
    }

    /// Whether one server would keep over ROLLBACK what the block has made: its client is not to believe that it has it still.
    fn keeps_over_rollback(&mut self) -> bool {
        self.settle_parts();
        self.session.pins().iter().any(|pin| pin.reason.outlives_rollback())
    }

    /// Answers what ends a block that has rolled back by what is lost with it.
    pub(in crate::client) fn answer_lost_state(&mut self) {
        let error = lost_state();
        self.cx.shared.count_refusal(error.reason.unwrap_or("rollback"));
        self.answer_exit(Err(&run::encoded(&error)));
    }

    /// Rolls back on all shards and gives them back; the session is outside of a transaction then.
    pub(super) async fn end_spread(&mut self) {
        let Some(spread) = self.spread.take() else { return };
        let legs = self.leaves_spread(spread);
        let undone: Vec<_> = legs.into_iter().map(|(leg, verdict, judged)| leg.undo(verdict, judged)).collect();
        let until = clock::now() + UNDONE_WITHIN;
        for undone in undone {
            // It goes on by itself when that takes longer.
            drop(tokio::time::timeout(until.saturating_duration_since(clock::now()), undone).await);
        }
    }

    /// The same after a failure, of which the client has been told: its block is a failed one.
    pub(super) async fn lose_spread(&mut self) {
        let kept = self.keeps_over_rollback();
        self.end_spread().await;
        self.hold_again(Some(Block::lost(Lost::Spread { kept })));
    }

    /// Refuses the segment, and the block fails with it.
    pub(super) async fn fail_spread(&mut self, error: Error) -> Result<(), End> {
        if self.live.config.general.log_pooler_errors {
            tracing::info!(client = %self.handle().id, %error, "statement refused within a block of several shards");
        }
        self.cx.shared.count_refusal(error.reason.unwrap_or("in_transaction"));
        if error.severity == Severity::Fatal {
            return Err(End::Told(error));
        }
        self.lose_spread().await;
        self.refuse_here(&error);
        Ok(())
    }

    /// The session is outside of the block: its connections, and how they are to be given back.
    fn leaves_spread(&mut self, mut spread: Box<Spread>) -> Vec<(Leg, Verdict, Judged)> {
        self.note_end(&spread);
        self.settle_ended(&mut spread);
        self.session.tell_settings_before(self.output.tail());
        let made_state = self.made_state();
        let mut legs = Vec::with_capacity(spread.parts.len());
        for part in spread.parts {
            let least = if made_state { Verdict::Dirty } else { Verdict::Clean };
            let verdict = part.leaves.max(part.judged.verdict()).max(least);
            let Some(mut leg) = part.leg else { continue };
            self.forget(&mut leg, part.has_written);
            legs.push((leg, verdict, part.judged));
        }
        self.session.on_moved();
        legs
    }

    /// Makes up its mind about what was sent while no census counted, as far as is known when its servers are given back.
    pub(super) fn settle_ended(&mut self, spread: &mut Spread) {
        for part in &mut spread.parts {
            self.settle_hidden(&mut part.judged, part.shard);
        }
        if self.session.spoils_server() {
            spread.is_spoilt();
        }
    }

    /// What others are to know of what it has done.
    fn note_end(&self, spread: &Spread) {
        if spread.changes_catalog() {
            self.database.catalog_is_changed(true);
        }
        for part in spread.parts.iter().filter(|part| part.wrote) {
            if self.database.config.health.consistency == Consistency::Strong
                && let Some(health) = self.database.health.get(usize::from(part.shard.0))
            {
                health.on_write(clock::now());
            }
        }
    }

    /// Whether its servers may keep something of the session; it is not known which. To be asked before the session forgets them.
    fn made_state(&self) -> bool {
        !self.session.pins().is_empty()
            || self.session.settings().is_changing()
            || self.live.config.general.server_reset_query_always
    }

    /// The session forgets what it had there.
    pub(super) fn forget(&mut self, leg: &mut Leg, has_written: bool) {
        if let Some(connection) = leg.connection() {
            if has_written {
                self.values.scatter(&mut connection.state.sequences);
            }
            self.session.on_server_lost(&mut connection.state);
        }
    }
}
