//! How shards come to take part in a block, and what they are asked while it goes on.

use std::time::Duration;

use super::refusal::{fault, never_came, no_snapshot, no_two_phase, second_writer};
use super::{Part, cell, limit_locks, run_on, wrote};
use crate::client::hidden::Judged;
use crate::client::scatter::leg::{Leg, State};
use crate::client::shared::Activity;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::config::Role;
use crate::error::Error;
use crate::id::ShardIndex;
use crate::pool::Verdict;
use crate::shard::map::CrossShardWrites;

/// How long a block that holds connections waits for that of another shard.
const ENLISTED_WITHIN: Duration = Duration::from_secs(10);
/// The same where whoever holds that one may wait for one of these: the shard comes before one that it holds in the order in which
/// connections are taken, or a limit that all share keeps no order.
const BACKWARDS_WITHIN: Duration = Duration::from_secs(3);

const ISOLATION_SQL: &str = "SELECT pg_catalog.current_setting('transaction_isolation')";

impl Client {
    /// Has these shards take part in the block, if they do not yet.
    ///
    /// # Errors
    /// They cannot, and the block has failed; those that have begun are parts of it all the same.
    pub(super) async fn enlist(&mut self, shards: &[ShardIndex]) -> Result<(), Stopped> {
        let Some(spread) = &self.spread else { return Err(Stopped::Refused(fault())) };
        let missing: Vec<ShardIndex> = shards.iter().copied().filter(|shard| !spread.has(*shard)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !spread.sees_commits {
            self.ask_isolation().await?;
        }
        let need = self.need_of_any();
        let (since, limit) = (clock::now(), self.may_wait_for(&missing));
        let due = self.limits.statement(since, self.begun_at());
        let deadline = limit.map(|limit| since + limit);
        let deadline = due.map(|(at, _)| deadline.map_or(at, |deadline| at.min(deadline))).or(deadline);
        let acquired = Box::pin(self.acquire_until(deadline, &missing, &need, None)).await;
        self.handle().cancel_is_done();
        self.handle().set_activity(Activity::Idle);
        let legs = match (acquired?, due) {
            (Some(legs), _) => legs,
            (None, Some((at, overdue))) if Some(at) == deadline => {
                return Err(Stopped::End(End::Told(self.time_is_up(overdue))));
            }
            (None, _) => {
                return Err(Stopped::Refused(never_came(&self.names(&missing), limit.unwrap_or_default())));
            }
        };
        let Some(spread) = &self.spread else { return Err(Stopped::Refused(fault())) };
        let texts = spread.prologue.texts();
        let mut begun = Ok(());
        for leg in legs {
            if begun.is_ok() {
                begun = self.begin_on(leg, &texts).await;
            } else {
                // It was asked nothing.
                leg.give_back();
            }
        }
        begun
    }

    /// How long the block may wait for connections to these shards, while it holds others; as long as anybody, if it holds none.
    fn may_wait_for(&self, missing: &[ShardIndex]) -> Option<Duration> {
        let held = self.spread.iter().flat_map(|spread| &spread.parts).map(|part| part.shard).max()?;
        let backwards = missing.first().is_some_and(|first| *first < held);
        Some(if backwards || !self.pools.turns().is_empty() { BACKWARDS_WITHIN } else { ENLISTED_WITHIN })
    }

    /// Begins the block on one more shard.
    async fn begin_on(&mut self, mut leg: Leg, texts: &[Vec<u8>]) -> Result<(), Stopped> {
        let silence = leg.watch();
        let beginning = async {
            for text in texts {
                run_on(&mut leg, text).await?;
            }
            limit_locks(&mut leg).await?;
            cell(&mut leg, ISOLATION_SQL).await
        };
        let begun = self.within_limits(silence, Box::pin(beginning), clock::now()).await;
        let (shard, server) = (leg.shard, leg.server);
        if leg.state != State::Lost {
            leg.state = State::Ready;
        }
        // Whatever comes of it, a transaction may be open there: it is ended with the others.
        let part = Part {
            shard,
            leg: Some(leg),
            role: Role::Primary,
            server,
            wrote: false,
            has_written: false,
            changes_catalog: false,
            notifies: false,
            judged: Judged::default(),
            leaves: if begun.is_err() { Verdict::Dirty } else { Verdict::Clean },
        };
        if let Some(spread) = &mut self.spread {
            spread.put(part);
        }
        let level = begun?.map_err(Stopped::Refused)?;
        if sees_commits(&level) { Ok(()) } else { Err(Stopped::Refused(no_snapshot(&level))) }
    }

    /// Makes sure that the shard where the block began runs it READ COMMITTED, and has it wait for no lock without end from now on.
    async fn ask_isolation(&mut self) -> Result<(), Stopped> {
        let home = self.home();
        let Some(mut part) = self.spread.as_mut().and_then(|spread| spread.take(home)) else {
            return Err(Stopped::Refused(fault()));
        };
        let silence = part.leg.as_ref().and_then(Leg::watch);
        let asking = async {
            let leg = part.leg.as_mut().ok_or_else(fault)?;
            let level = cell(leg, ISOLATION_SQL).await?;
            limit_locks(leg).await?;
            Ok::<_, Error>(level)
        };
        let asked = self.within_limits(silence, Box::pin(asking), clock::now()).await;
        if let Some(spread) = &mut self.spread {
            spread.put(part);
        }
        let level = asked?.map_err(Stopped::Refused)?;
        if !sees_commits(&level) {
            return Err(Stopped::Refused(no_snapshot(&level)));
        }
        if let Some(spread) = &mut self.spread {
            spread.sees_commits = true;
        }
        Ok(())
    }

    /// Whether its shards may wait for locks without end until [`Self::limit_again`].
    pub(in crate::client) fn is_unlimited(&self) -> bool {
        self.spread.as_ref().is_some_and(|spread| spread.unlimited)
    }

    /// Has its shards wait for no lock without end again, after ROLLBACK TO.
    pub(super) async fn limit_again(&mut self) -> Result<(), Stopped> {
        if !self.is_unlimited() {
            return Ok(());
        }
        self.ask_parts(|_| true, limit_locks).await?;
        if let Some(spread) = &mut self.spread {
            spread.unlimited = false;
        }
        Ok(())
    }

    /// Whether a block may write on one shard at most.
    pub(in crate::client) fn may_write_one(&self) -> bool {
        match self.database.config.map.writes.cross {
            CrossShardWrites::BestEffort => false,
            CrossShardWrites::Refuse => true,
            CrossShardWrites::TwoPhase => self.database.distrust.load().two_phase.is_some(),
        }
    }

    /// Whether these shards may be written: another has not been, or several may.
    pub(super) async fn may_write_on(&mut self, shards: &[ShardIndex]) -> Result<(), Stopped> {
        if !self.may_write_one() {
            return Ok(());
        }
        let distrusted = self.database.distrust.load().two_phase.clone();
        match (self.writes_elsewhere(shards).await?, distrusted) {
            (None, _) => Ok(()),
            (Some(_), Some(why)) => Err(Stopped::Refused(no_two_phase(&why))),
            (Some(first), None) => Err(Stopped::Refused(second_writer(&self.names(&[first]), &self.names(shards)))),
        }
    }

    /// Another shard than these that the block has written on.
    async fn writes_elsewhere(&mut self, shards: &[ShardIndex]) -> Result<Option<ShardIndex>, Stopped> {
        let found = self.ask_parts(|shard| !shards.contains(&shard), wrote).await?;
        Ok(found.into_iter().find(|(_, (wrote, _))| *wrote).map(|(shard, _)| shard))
    }

    /// Asks those of its shards in their order, until one cannot answer.
    pub(super) async fn ask_parts<T>(
        &mut self,
        of: impl Fn(ShardIndex) -> bool,
        ask: impl AsyncFn(&mut Leg) -> Result<T, Error>,
    ) -> Result<Vec<(ShardIndex, T)>, Stopped> {
        // All together have the time of one statement.
        let since = clock::now();
        let Some(spread) = &mut self.spread else { return Err(Stopped::Refused(fault())) };
        let mut parts = std::mem::take(&mut spread.parts);
        let mut found = Ok(Vec::with_capacity(parts.len()));
        for part in parts.iter_mut().filter(|part| of(part.shard)) {
            let Ok(answers) = &mut found else { break };
            let asked = match part.leg.as_mut() {
                Some(leg) => self.within_limits(leg.watch(), Box::pin(ask(leg)), since).await,
                None => Ok(Err(fault())),
            };
            match asked.and_then(|answer| answer.map_err(Stopped::Refused)) {
                Ok(answer) => answers.push((part.shard, answer)),
                Err(stopped) => found = Err(stopped),
            }
        }
        if let Some(spread) = &mut self.spread {
            spread.parts = parts;
        }
        found
    }
}

/// Whether each statement sees what was committed before it, so that several shards are as good as one.
fn sees_commits(level: &str) -> bool {
    matches!(level, "read committed" | "read uncommitted")
}
