//! `pgweir.causal_token`: how far a session has written, for another session, or another proxy, to read behind.
//!
//! SHOW gives a point of the WAL that has every write of the session: one of the prober's samples of the primary, taken after the last
//! write was acknowledged, so that nothing is asked per commit. SHOW waits for the next sample if need be, and has the probers hurry. SET
//! has reads go to replicas that have replayed so far, or to the primary. Of a sharded database there is a point for each shard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::catalog::LookUp;
use crate::client::relay::Link;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::health::lsn::WalPoint;
use crate::health::shard::ShardHealth;

/// The setting.
pub const NAME: &str = "pgweir.causal_token";

/// How long SHOW waits for a sample.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it has the probers hurry meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Reads a token: a point or `-` for each shard; empty: none.
///
/// # Errors
/// 22023.
pub fn parse(text: &str, shards: usize) -> Result<Vec<Option<WalPoint>>, Error> {
    if text.is_empty() {
        return Ok(vec![None; shards]);
    }
    let point = |part: &str| if part == "-" { Ok(None) } else { part.parse().map(Some) };
    let points: Result<Vec<_>, _> = text.split(',').map(point).collect();
    points.ok().filter(|points| points.len() == shards).ok_or_else(|| {
        Error::us(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"{NAME}\": \"{text}\""))
            .hint("It is what SHOW pgweir.causal_token gave in a session of the same database.")
    })
}

/// What a token that was checked says of a shard.
#[must_use]
pub fn of_shard(text: &str, shard: usize) -> Option<WalPoint> {
    text.split(',').nth(shard)?.parse().ok()
}

/// The token of these points.
fn written(points: &[Option<WalPoint>]) -> String {
    if points.iter().all(Option::is_none) {
        return String::new();
    }
    let parts: Vec<_> = points.iter().map(|p| p.map_or_else(|| "-".to_owned(), |point| point.to_string())).collect();
    parts.join(",")
}

impl Client {
    /// Answers with the token.
    pub(super) async fn show_token(&mut self) -> Result<(), End> {
        let points = match Box::pin(self.points()).await {
            Ok(points) => points,
            Err(Stopped::End(end)) => return Err(end),
            Err(Stopped::Refused(error)) => {
                self.refuse_here(&error);
                return Ok(());
            }
        };
        self.answer_show(NAME, &written(&points), self.idle_status());
        Ok(())
    }

    /// The token, while a server is linked; or what is to be waited for before it is asked for again.
    pub(super) fn token_within(&self, link: &mut Link) -> Result<String, LookUp> {
        // Of a transaction that has ended on this server nobody has noted when.
        let write =
            if link.wrote() { Some(*link.asks_since.get_or_insert_with(clock::now)) } else { self.last_write() };
        let shards = &self.database.health;
        let told = self.session.settings().get(NAME).unwrap_or_default();
        let mut points = parse(told, shards.len()).unwrap_or_else(|_| vec![None; shards.len()]);
        if let Some(write) = write {
            for (point, health) in points.iter_mut().zip(shards) {
                let Some(after) = health.point_after(write) else { return Err(samples_after(shards.clone(), write)) };
                *point = Some(point.map_or(after, |told| told.later(after)));
            }
        }
        link.asks_since = None;
        Ok(written(&points))
    }

    /// What the session was told, and what it has written, by shard.
    async fn points(&mut self) -> Result<Vec<Option<WalPoint>>, Stopped> {
        let shards: Vec<Arc<ShardHealth>> = self.database.health.clone();
        let told = self.session.settings().get(NAME).unwrap_or_default();
        let mut points = parse(told, shards.len()).map_err(Stopped::Refused)?;
        let Some(write) = self.last_write() else { return Ok(points) };
        for (point, health) in points.iter_mut().zip(&shards) {
            let after = self.attend(sample_after(health, write), PATIENCE).await?;
            let after = after.ok_or_else(|| Stopped::Refused(no_sample()))?;
            *point = Some(point.map_or(after, |told| told.later(after)));
        }
        Ok(points)
    }
}

/// A point that has everything acknowledged before `write`, as soon as one is known.
async fn sample_after(health: &ShardHealth, write: Instant) -> WalPoint {
    loop {
        if let Some(point) = health.point_after(write) {
            return point;
        }
        health.hurry();
        tokio::select! {
            () = health.sampled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Completes when one is known of every shard.
fn samples_after(shards: Vec<Arc<ShardHealth>>, write: Instant) -> LookUp {
    Box::pin(async move {
        let all = async {
            for health in &shards {
                sample_after(health, write).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.map_err(|_| no_sample())
    })
}

fn no_sample() -> Error {
    Error::us(
        SqlState::OBJECT_NOT_IN_STATE,
        format!("the position of the primary has not been learnt within {} s", PATIENCE.as_secs()),
    )
    .hint(
        "A token takes a prober: probe_user, or user with a password in clear text. SHOW REPLICAS tells how it fares.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_written() {
        for (text, shards) in [("", 1), ("", 3), ("1-0/10", 1), ("1-0/10,-,7-16/B374D848", 3)] {
            let points = parse(text, shards).unwrap();
            assert_eq!((points.len(), written(&points).as_str()), (shards, text));
        }
        for (text, shards) in [("x", 1), ("1-0/10", 2), ("1-0/10,1-0/10", 1), ("1-0/10 ", 1), (",", 2)] {
            assert_eq!(parse(text, shards).unwrap_err().sqlstate, SqlState::INVALID_PARAMETER_VALUE, "{text}");
        }
        assert_eq!(of_shard("1-0/10,-", 0), "1-0/10".parse().ok());
        assert_eq!((of_shard("1-0/10,-", 1), of_shard("", 0)), (None, None));
    }
}
