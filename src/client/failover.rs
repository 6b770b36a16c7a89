//! What happens while no server of a shard takes writes.
//!
//! A database with replicas can get another primary at any moment. Until it has, a statement that needs one waits, up to
//! `failover_timeout`, in a line that goes by arrival (`health/line.rs`); whoever reads from replicas goes on. The client sees a pause.
//! The first in line has the probers hurry, and tries the primary when it seems to be there (or when nothing but trying tells). Nothing of
//! a statement that waits has been sent to any server, so none can be done twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::attempt::Attempt;
use crate::client::shared::Activity;
use crate::client::task::{Client, Stopped, micros};
use crate::clock;
use crate::config::{Fallback, HealthSettings, Role};
use crate::error::{Error, SqlState};
use crate::health::line::{Arrival, Place};
use crate::health::server::ServerHealth;
use crate::health::shard::ShardHealth;
use crate::health::view::Duty;
use crate::id::ShardIndex;
use crate::route::decide::{Request, Route};
use crate::server::Connection;
use crate::sql::facts::{Access, RouteHint};

/// How often the first in line looks, and has the probers hurry.
const LOOK: Duration = Duration::from_millis(50);
/// A read looks for any server that may serve it this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long the first waits, after a try in vain or for what does not seem to be there, before it tries.
const RETRY: Duration = Duration::from_millis(500);

/// How long after the deadline of the first probes what they brought is known, at most.
const SETTLING: Duration = Duration::from_secs(5);

/// The wait of a statement for a primary.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    arrival: Arrival,
    tries: u32,
}

impl Client {
    /// The health of a shard of which another server may become the primary, if statements wait for that.
    pub(super) fn replicated(&self, shard: ShardIndex) -> Option<&Arc<ShardHealth>> {
        let waits = !self.database.config.health.failover_timeout.is_zero();
        self.database.health.get(usize::from(shard.0)).filter(|_| waits && self.has_several(shard))
    }

    /// Whether the shard has several servers: another may take the place of its primary, which then must be left, whether or not
    /// statements wait for that.
    pub(super) fn has_several(&self, shard: ShardIndex) -> bool {
        self.database.health.get(usize::from(shard.0)).is_some_and(|health| health.servers().len() > 1)
    }

    /// Whether the statement is to wait rather than to go where it was routed: the primary is not there, or others wait for it.
    pub(super) fn must_wait(
        &self,
        shard: ShardIndex,
        (route, server): (&Route, &ServerHealth),
        attempt: &Attempt,
        now: Instant,
    ) -> bool {
        route.role == Role::Primary
            && attempt.place.is_none()
            && self
                .replicated(shard)
                .is_some_and(|health| !health.line().is_empty() || !health.is_settled() || !server.may_take_writes(now))
    }

    /// Whether the statement may wait for a server, when there is none for it.
    pub(super) fn may_wait(&self, shard: ShardIndex, request: &Request) -> bool {
        let refused = is_read(request) && request.fallback == Fallback::Error;
        !refused && self.replicated(shard).is_some()
    }

    /// Waits until it is worth a try to find a server for the statement.
    ///
    /// # Errors
    /// When that takes too long, with the reason of the last try; and those of the wait.
    pub(super) async fn await_primary(
        &mut self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
        last: Option<&Error>,
    ) -> Result<(), Stopped> {
        self.follow_reload().map_err(Stopped::End)?;
        let Some(health) = self.replicated(shard).map(Arc::clone) else {
            // A reload has left nothing to wait for: the server that there is now is asked, and says what is wrong with it.
            attempt.excluded.clear();
            attempt.place = None;
            return Ok(());
        };
        // A database that the client cannot leave, for the one in its place is another, is waited at as ever.
        let stays = self.database.retired.load(Ordering::Acquire);
        let HealthSettings { failover_timeout, probe_timeout, .. } = self.database.config.health;
        // What is not yet known after a start is no failover: the first probes take their time.
        let limit = if health.is_settled() {
            failover_timeout
        } else {
            failover_timeout.max(probe_timeout.saturating_add(SETTLING))
        };
        let now = clock::now();
        let asked = attempt.asked;
        let waiting = attempt.waiting.get_or_insert_with(|| {
            self.cx.shared.count_retry("primary_awaited");
            Waiting { since: now, arrival: health.line().arrival(asked), tries: 0 }
        });
        let waited = now.saturating_duration_since(waiting.since);
        let (arrival, pause) = (waiting.arrival, if waiting.tries > 0 { RETRY } else { Duration::ZERO });
        waiting.tries += 1;
        attempt.excluded.clear();
        let handle = Arc::clone(self.handle());
        handle.set_activity(Activity::Waiting);
        let started = asked.saturating_duration_since(self.cx.shared.started);
        handle.waits_since_us.store(micros(started).max(1), Ordering::Relaxed);
        let left = limit.saturating_sub(waited);
        let database = Arc::clone(&self.database);
        let outcome = if is_read(request) {
            self.attend(tokio::time::sleep(LOOK_AGAIN.min(left)), left).await.map(|looked| looked.map(|()| None))
        } else {
            let place = Place::take(Arc::clone(health.line()), arrival);
            let turn = async {
                let leaves = || !stays && database.retired.load(Ordering::Acquire);
                turn(&place, &health, pause, leaves).await;
                // Else it comes back, to stand in the line of the database that has taken the place of this one.
                (!leaves()).then_some(place)
            };
            self.attend(turn, left).await
        };
        handle.waits_since_us.store(0, Ordering::Relaxed);
        handle.cancel_is_done();
        handle.set_activity(Activity::Idle);
        match outcome? {
            Some(place) if waited < limit => {
                attempt.place = place;
                Ok(())
            }
            _ => Err(Stopped::Refused(no_primary(limit, &health, last))),
        }
    }
}

/// Whether a replica would do.
fn is_read(request: &Request) -> bool {
    match request.hint {
        RouteHint::Primary => false,
        RouteHint::Replica => true,
        RouteHint::Auto => request.access < Access::Local,
    }
}

/// Completes when who stands at `place` is the first and there is a primary to be tried; not before `pause` is over.
///
/// Also when a reload has replaced the database: whoever is the first looks elsewhere then, and the next is the first.
async fn turn(place: &Place, health: &ShardHealth, pause: Duration, leaves: impl Fn() -> bool) {
    let began = clock::now();
    let mut first_since = None;
    loop {
        let now = clock::now();
        let rested = now.saturating_duration_since(began) >= pause;
        if place.is_first() {
            if leaves() {
                return;
            }
            let since = *first_since.get_or_insert(now);
            let patient = now.saturating_duration_since(since) >= RETRY;
            if rested && (health.has_primary(now) || (patient && health.may_try_primary(now))) {
                return;
            }
            health.hurry();
            tokio::select! {
                () = place.woken() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        } else {
            place.woken().await;
        }
    }
}

/// Whether the server is a standby, by what the connection was last told (`in_hot_standby`, which PostgreSQL reports since version 14). One
/// that was made when the server was a standby hears of its promotion with the answer to whatever is asked next.
///
/// See <https://www.postgresql.org/docs/current/runtime-config-preset.html#GUC-IN-HOT-STANDBY>.
pub(super) fn is_standby(connection: &Connection) -> Option<bool> {
    connection.state.settings.reported("in_hot_standby").map(|value| value == "on")
}

/// Whether the server takes writes, as far as the connection was told.
pub(super) fn takes_writes(connection: &Connection, server: &ServerHealth) -> bool {
    let standby = is_standby(connection);
    if let Some(standby) = standby
        && (standby || !server.is_probed())
    {
        server.on_recovery(standby);
    }
    standby != Some(true)
}

/// What a connection to a standby is worth to a write.
pub(super) fn is_a_standby(pool: &str) -> Error {
    Error::server(
        SqlState::CANNOT_CONNECT_NOW,
        format!("the server of pool {pool} is a standby, and the statement needs the primary"),
    )
}

fn no_primary(limit: Duration, health: &ShardHealth, last: Option<&Error>) -> Error {
    let now = clock::now();
    let seen = health.snapshots(now);
    let claims = seen.iter().filter(|s| s.discovered == Some(Role::Primary)).count();
    let acting = seen.iter().find(|s| s.duty == Duty::Primary).and_then(|s| Some((health.server(s.index)?, s)));
    let why = match (last, acting) {
        (Some(last), _) => last.message.clone(),
        (None, Some((server, seen))) => {
            let error = seen.last_error.as_ref().map_or("it is not known to be a primary", |(message, _)| message);
            format!("{}: {error}", server.address())
        }
        (None, None) if claims > 1 => format!("{claims} servers say that they are the primary"),
        (None, None) => "no server says that it is the primary".to_owned(),
    };
    let message = format!("no server has taken writes for {} s (failover_timeout): {why}", limit.as_secs_f64());
    Error::server(SqlState::CONNECTION_FAILURE, message)
        .detail("Nothing of the statement was sent to any server.")
        .hint("SHOW REPLICAS on the console shows the state of every server.")
}
