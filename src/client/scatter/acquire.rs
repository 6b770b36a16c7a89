//! The connections for a statement that several shards answer.
//!
//! They are taken one after the other in the order of the shards. Who holds one and waits for the next therefore waits only for clients
//! that hold the same or later shards, and the one with the latest waits for nobody: there is no circle, and each pool's queue is fair.
//! Three things could close a circle nevertheless. A limit that pools of several shards share is no order, so that one statement at a
//! time takes connections under one. A transaction block that takes part on one shard and comes to need another does not keep the order
//! either: it waits until a deadline, and gives back what it has taken meanwhile. And PAUSE waits for all that are lent, while whoever waits in a queue waits for its end: what is
//! held is given back then, and taken anew after RESUME. So it is while a shard has no primary: its failure is not that of the others,
//! whose connections would be held for nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use super::leg::Leg;
use crate::client::attempt::{Attempt, Stays};
use crate::client::database::LiveDatabase;
use crate::client::plan::Need;
use crate::client::shared::{Activity, ClientHandle};
use crate::client::task::{Client, Stopped, micros};
use crate::clock;
use crate::error::{Error, Origin, SqlState};
use crate::id::ShardIndex;

/// How often it is looked whether the database is paused.
const LOOK: Duration = Duration::from_millis(50);
/// A wait without a limit.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

/// How far it came.
enum Found {
    /// All are there.
    All(Vec<Leg>),
    /// The deadline is passed, and nothing is held any more.
    Late,
    /// The database was paused meanwhile, and nothing is held any more.
    Paused,
    /// This one of the shards has no primary to be asked; nothing is held any more either.
    NoPrimary(usize),
}

impl Client {
    /// A connection to each of the shards, with the client's settings. A shard that cannot be reached is put among `missing` if there is
    /// such a list, unless that are all.
    pub(super) async fn acquire(
        &mut self,
        shards: &[ShardIndex],
        need: &Need,
        missing: Option<&mut Vec<Missing>>,
    ) -> Result<Vec<Leg>, Stopped> {
        // Without a deadline there are always some.
        Ok(self.acquire_until(None, shards, need, missing).await?.unwrap_or_default())
    }

    /// The same, or none if the deadline is passed first: nothing is held then.
    pub(super) async fn acquire_until(
        &mut self,
        deadline: Option<Instant>,
        shards: &[ShardIndex],
        need: &Need,
        mut missing: Option<&mut Vec<Missing>>,
    ) -> Result<Option<Vec<Leg>>, Stopped> {
        if let Some(most) = self.pools.shared_limit().filter(|most| *most < shards.len()) {
            return Err(Stopped::Refused(too_few(shards.len(), most)));
        }
        let mut attempts = attempts(shards.len());
        loop {
            let Some(turns) = before(deadline, self.take_turns()).await else { return Ok(None) };
            let turns = turns?;
            let others = (!turns.is_empty(), missing.as_deref_mut());
            let found = self.acquire_all(shards, need, &mut attempts, others, deadline).await?;
            drop(turns);
            match found {
                Found::All(legs) => return Ok(Some(legs)),
                Found::Late => return Ok(None),
                Found::Paused => attempts = self::attempts(shards.len()),
                Found::NoPrimary(at) => {
                    // A place before others is for who goes on at once.
                    attempts.iter_mut().for_each(|attempt| attempt.place = None);
                    let (Some(shard), Some(attempt)) = (shards.get(at), attempts.get_mut(at)) else { continue };
                    attempt.stays = Stays::Leaves;
                    let (_, request) = self.request(need, attempt);
                    let waiting = Box::pin(self.await_primary(*shard, &request, attempt, None));
                    let Some(waited) = before(deadline, waiting).await else { return Ok(None) };
                    waited?;
                    if at > 0 || !self.pools.turns().is_empty() {
                        // Others are not to stand behind it for as long as it waits for something else first.
                        attempt.place = None;
                    }
                }
            }
        }
    }

    /// The turns for the limits that the pools share with others. Nobody has them who waits for the end of PAUSE, or for a primary.
    async fn take_turns(&mut self) -> Result<Vec<OwnedMutexGuard<()>>, Stopped> {
        let turns = self.pools.turns();
        if turns.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.live.config.general.query_wait_timeout;
        let limit = if limit.is_zero() { FOR_EVER } else { limit };
        let database = Arc::clone(&self.database);
        let taking = async {
            loop {
                while database.is_paused() {
                    tokio::time::sleep(LOOK).await;
                }
                let mut held = Vec::with_capacity(turns.len());
                for turn in &turns {
                    held.push(Arc::clone(turn).lock_owned().await);
                }
                if !database.is_paused() {
                    return held;
                }
            }
        };
        let handle = Arc::clone(self.handle());
        let waits = Rest(Arc::clone(&handle));
        // So that a cancel request finds it, and the console shows that it waits.
        let since = micros(clock::now().saturating_duration_since(self.cx.shared.started)).max(1);
        handle.set_activity(Activity::Waiting);
        handle.waits_since_us.store(since, Ordering::Relaxed);
        let taken = self.attend(taking, limit).await;
        handle.cancel_is_done();
        drop(waits);
        taken?.ok_or_else(|| Stopped::Refused(turn_never_came(limit, database.is_paused())))
    }

    /// One try; `has_turn`: others wait for what is held here.
    async fn acquire_all(
        &mut self,
        shards: &[ShardIndex],
        need: &Need,
        attempts: &mut [Attempt],
        (has_turn, mut missing): (bool, Option<&mut Vec<Missing>>),
        deadline: Option<Instant>,
    ) -> Result<Found, Stopped> {
        if let Some(missing) = &mut missing {
            missing.clear();
        }
        let mut legs: Vec<Leg> = Vec::with_capacity(shards.len());
        let database = Arc::clone(&self.database);
        // A wait that is broken off by PAUSE does not end itself.
        let _waits = Rest(Arc::clone(self.handle()));
        for (at, (shard, attempt)) in shards.iter().zip(attempts).enumerate() {
            let (_, request) = self.request(need, attempt);
            let asked = clock::now();
            let holds = has_turn || !legs.is_empty();
            let replaceable = self.has_several(*shard);
            let lending = self.lend(*shard, &request, attempt);
            let lending = async { if holds { unless_paused(lending, &database).await } else { Some(lending.await) } };
            let Some(lent) = before(deadline, lending).await else {
                legs.into_iter().for_each(Leg::give_back);
                return Ok(Found::Late);
            };
            let stopped = match lent {
                Some(Ok(lent)) => {
                    legs.push(Leg::new(lent, *shard, asked, replaceable));
                    continue;
                }
                Some(Err(Stopped::Refused(error))) if missing.is_some() && is_away(&error) => {
                    if let Some(missing) = &mut missing {
                        missing.push(Missing { shard: *shard, error });
                    }
                    continue;
                }
                Some(Err(_)) if attempt.stays == Stays::Left => Ok(Found::NoPrimary(at)),
                Some(Err(stopped)) => Err(stopped),
                None => Ok(Found::Paused),
            };
            legs.into_iter().for_each(Leg::give_back);
            return stopped;
        }
        match missing.and_then(|missing| missing.first()) {
            // Nothing is no part of an answer.
            Some(first) if legs.is_empty() => Err(Stopped::Refused(first.error.clone())),
            _ => Ok(Found::All(legs)),
        }
    }
}

/// A shard that a statement goes without.
pub(super) struct Missing {
    pub(super) shard: ShardIndex,
    /// Why it cannot be reached.
    pub(super) error: Error,
}

/// Whether the shard's servers are away: nobody answers there, or there is no primary.
fn is_away(error: &Error) -> bool {
    error.origin == Origin::Server
        && (error.sqlstate.class() == "08"
            || matches!(
                error.sqlstate,
                SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW
            ))
}

/// The first for each shard.
fn attempts(shards: usize) -> Vec<Attempt> {
    let attempt = || {
        let mut attempt = Attempt::new();
        attempt.stays = Stays::Leaves;
        attempt
    };
    (0..shards).map(|_| attempt()).collect()
}

/// The client waits no more when this is dropped.
struct Rest(Arc<ClientHandle>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.waits_since_us.store(0, Ordering::Relaxed);
        self.0.set_activity(Activity::Idle);
    }
}

/// The outcome of `waiting`, or none if the deadline is passed first.
async fn before<T>(deadline: Option<Instant>, waiting: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), waiting).await.ok(),
        None => Some(waiting.await),
    }
}

/// The outcome of `lending`, or none if the database is paused first.
async fn unless_paused<T>(lending: impl Future<Output = T>, database: &LiveDatabase) -> Option<T> {
    let mut lending = pin!(lending);
    let mut look = Box::pin(tokio::time::sleep(LOOK));
    poll_fn(|cx| {
        if let Poll::Ready(lent) = lending.as_mut().poll(cx) {
            return Poll::Ready(Some(lent));
        }
        loop {
            if database.is_paused() {
                return Poll::Ready(None);
            }
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            look = Box::pin(tokio::time::sleep(LOOK));
        }
    })
    .await
}

fn too_few(shards: usize, most: usize) -> Error {
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!("the statement needs a connection to each of {shards} shards at once, and max_db_connections or max_user_connections allows {most}"),
    )
    .hint("Raise that limit to the number of shards at least.")
}

fn turn_never_came(limit: Duration, paused: bool) -> Error {
    let limit = limit.as_secs_f64();
    if paused {
        let message = format!("the database was paused for {limit} s (query_wait_timeout)");
        return Error::us(SqlState::TOO_MANY_CONNECTIONS, message).hint("RESUME on the console ends that.");
    }
    let message = format!(
        "other statements for several shards waited for connections for {limit} s (query_wait_timeout), and this one behind them"
    );
    Error::us(SqlState::TOO_MANY_CONNECTIONS, message).hint("Raise max_db_connections or max_user_connections.")
}
