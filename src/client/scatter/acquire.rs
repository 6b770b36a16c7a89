//! The connections for a statement that several shards answer.
//!
//! They are taken one after the other in the order of the shards. Who holds one and waits for the next therefore waits only for clients
//! that hold the same or later shards, and the one with the latest waits for nobody: there is no circle, and each pool's queue is fair.
//! Two things could close a circle nevertheless. A limit that pools of several shards share is no order, so that one statement at a
//! time takes connections under one. And PAUSE waits for all that are lent, while whoever waits in a queue waits for its end: what is
//! held is given back then, and taken anew after RESUME.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::leg::Leg;
use crate::client::database::LiveDatabase;
use crate::client::plan::Need;
use crate::client::task::{Attempt, Client, Stopped};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;

/// How often it is looked whether the database is paused.
const LOOK: Duration = Duration::from_millis(50);
/// A wait without a limit.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

impl Client {
    /// A connection to each of the shards, with the client's settings.
    pub(super) async fn acquire(&mut self, shards: &[ShardIndex], need: &Need) -> Result<Vec<Leg>, Stopped> {
        let most = self.pools.shared_limit();
        if let Some(most) = most.filter(|most| *most < shards.len()) {
            return Err(Stopped::Refused(too_few(shards.len(), most)));
        }
        let turn = match most {
            None => None,
            Some(_) => {
                let limit = self.live.config.general.query_wait_timeout;
                let limit = if limit.is_zero() { FOR_EVER } else { limit };
                let turn = Arc::clone(&self.cx.shared.scatter_turn).lock_owned();
                let turn = self.attend(turn, limit).await?;
                Some(turn.ok_or_else(|| Stopped::Refused(turn_never_came(limit)))?)
            }
        };
        let legs = loop {
            if let Some(legs) = self.acquire_all(shards, need).await? {
                break legs;
            }
        };
        drop(turn);
        self.count_scatter(legs.len());
        Ok(legs)
    }

    /// None: the database was paused meanwhile.
    async fn acquire_all(&mut self, shards: &[ShardIndex], need: &Need) -> Result<Option<Vec<Leg>>, Stopped> {
        let mut legs: Vec<Leg> = Vec::with_capacity(shards.len());
        let database = Arc::clone(&self.database);
        for shard in shards {
            let mut attempt = Attempt::new();
            let (_, request) = self.request(need, &attempt);
            let asked = clock::now();
            let lending = self.lend(*shard, &request, &mut attempt);
            let lent = if legs.is_empty() { Some(lending.await) } else { unless_paused(lending, &database).await };
            match lent {
                Some(Ok(lent)) => legs.push(Leg::new(lent, *shard, asked)),
                Some(Err(stopped)) => {
                    legs.into_iter().for_each(Leg::give_back);
                    return Err(stopped);
                }
                None => {
                    legs.into_iter().for_each(Leg::give_back);
                    return Ok(None);
                }
            }
        }
        Ok(Some(legs))
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

fn turn_never_came(limit: Duration) -> Error {
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!(
            "other statements for several shards waited for connections for {} s (query_wait_timeout), and this one behind them",
            limit.as_secs_f64()
        ),
    )
    .hint("Raise max_db_connections or max_user_connections.")
}
