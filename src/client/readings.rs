//! Which reads a replica must not serve because of what the relations are that they name: see [`crate::sql::readings`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::client::catalog::{LookUp, Planned};
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::task::Client;
use crate::clock;
use crate::config::{Fallback, PoolMode};
use crate::error::{Error, SqlState};
use crate::health::breaker::Admission;
use crate::id::WorkerId;
use crate::route::decide::{self, Freshness, Request};
use crate::server;
use crate::sql::catalog::Name;
use crate::sql::facts::{Access, RouteHint};
use crate::sql::readings::Found;

impl Client {
    /// Weighs what the segment reads, if a replica might serve it, or if it might be tried again.
    pub(super) fn weigh(&self, planned: Planned) -> Planned {
        let (mut need, begins) = match planned {
            Planned::Need(need) if need.hint != RouteHint::Replica && need.access <= Access::Read => {
                let begins = need.begin_read_only || self.held_begin.as_ref().is_some_and(|block| block.read_only);
                (need, begins)
            }
            other => return other,
        };
        if (need.access != Access::Read && !begins) || self.pools.mode == PoolMode::Session || !self.has_replicas() {
            return Planned::Need(need);
        }
        let mut readings = self.pools.readings.lock();
        readings.follow(self.database.catalog_epoch.load(Ordering::Acquire));
        let (settings, now) = (self.session.settings(), clock::now());
        for facts in self.segment.items.iter().filter_map(|(intake, _)| intake.facts()) {
            match readings.access(facts, settings.get("search_path"), now) {
                Ok(access) => need.access = need.access.max(access),
                Err(names) => return Planned::Weigh(names),
            }
        }
        if settings.get("default_transaction_isolation").is_none() {
            match readings.is_serializable(now) {
                // No standby runs a serializable transaction.
                Some(true) => need.access = need.access.max(Access::Local),
                Some(false) => {}
                // A block cannot be moved unseen once the standby has refused its first statement.
                None if begins => return Planned::Weigh(Vec::new()),
                None => {}
            }
        }
        Planned::Need(need)
    }

    /// Asks what must be known to weigh. It never fails: what cannot be found out is a table's read.
    pub(super) fn look_up_readings(&self, names: Vec<Name>) -> LookUp {
        let (database, pools) = (Arc::clone(&self.database), Arc::clone(&self.pools));
        let worker = self.cx.id;
        Box::pin(async move {
            look_up(&database, &pools, worker, names).await;
            Ok(())
        })
    }
}

async fn look_up(database: &LiveDatabase, pools: &UserPools, worker: WorkerId, names: Vec<Name>) {
    // One at a time for each user: what many clients want to know at once is mostly the same.
    let _turn = pools.weighing.lock().await;
    let epoch = database.catalog_epoch.load(Ordering::Acquire);
    let names = {
        let mut readings = pools.readings.lock();
        readings.follow(epoch);
        let now = clock::now();
        let names = readings.due(names, now);
        if names.is_empty() && readings.is_serializable(now).is_some() {
            return;
        }
        names
    };
    let answers = ask(database, pools, worker, &names).await;
    if let Err(error) = &answers {
        tracing::warn!(database = database.config.name, %error, "views are taken for tables: the catalog cannot be asked");
    }
    let mut readings = pools.readings.lock();
    readings.follow(epoch);
    readings.learn(names, answers.as_ref().ok(), clock::now());
}

/// Asks the primary of the default shard, which knows the newest; while it is away, one of its replicas.
async fn ask(database: &LiveDatabase, pools: &UserPools, worker: WorkerId, names: &[Name]) -> Result<Found, Error> {
    let internal = || Error::us(SqlState::INTERNAL_ERROR, "the route names no server");
    let shard = database.config.map.default_shard;
    let health = database.health.get(usize::from(shard.0)).ok_or_else(internal)?;
    let now = clock::now();
    let mut views = Vec::new();
    health.views(now, &mut views);
    let is_up = |server| {
        let seen = views.iter().find(|v| v.index == server);
        seen.is_some_and(|v| !v.suspect && v.admission != Admission::Refused)
            && health.server(server).is_some_and(|s| !s.is_unreachable(now))
    };
    let mut away: Vec<_> = health.acting_primary(now).into_iter().filter(|s| !is_up(*s)).collect();
    let mut access = if away.is_empty() { Access::Local } else { Access::Read };
    loop {
        let request = Request {
            access,
            hint: RouteHint::Auto,
            begin_read_only: false,
            balance: database.config.health.balance,
            fallback: Fallback::Primary,
            fresh: Freshness::default(),
            turn: 0,
        };
        let route = decide::decide(&request, &views, &away, &mut rand::rng())?;
        let pool = database.pool(pools, shard, route.server).ok_or_else(internal)?;
        match server::readings::ask(&pool.target, &pool.login_settings(), worker, names).await {
            Err(_) if access == Access::Local => {
                away.push(route.server);
                access = Access::Read;
            }
            answer => return answer,
        }
    }
}
