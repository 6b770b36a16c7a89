//! Ends what is left of transactions over several shards whose proxy or servers went away: one task for each sharded database, at the
//! start and, with `cross_shard_writes = "two_phase"`, from then on all the time. Where that is not set (any more) it ends when it has found
//! nothing for a while. Every proxy of a fleet may do it, and all may at once: [`crate::shard::commit::recovery`] says what is asked
//! and why nothing is guessed.
//!
//! A task has one connection to each shard's primary, as `probe_user`, or as the first user who comes. A prepared transaction can only be
//! ended by its own user or a superuser. That user may be a role that never logs in: whoever may become it can end it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::checks::{primary_of, targets};
use super::probers::credentials_of;
use crate::client::database::{Live, LiveDatabase};
use crate::client::shared::Shared;
use crate::error::{Error, SqlState};
use crate::health::probe::Credentials;
use crate::id::{ServerIndex, ShardIndex, WorkerId};
use crate::server::Target;
use crate::server::asking::{Asking, Rows};
use crate::server::login::LoginSettings;
use crate::shard::commit::recovery::{self, Found, Owner};
use crate::shard::map::CrossShardWrites;

/// How long after the start it begins.
const FIRST: Duration = Duration::from_secs(1);
/// How long it rests.
const PERIOD: Duration = Duration::from_secs(3);
/// How long a shard may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many rounds without a finding are enough where nothing is committed by two phases.
const QUIET_ROUNDS: u32 = 5;
/// The longest rest there.
const LONGEST_PERIOD: Duration = Duration::from_secs(60);
/// So many users are tried in one round, when a part is of a role that nobody is known to log in as.
const TRIED_USERS: usize = 8;

/// The tasks that run; dropping it stops them.
#[derive(Debug, Default)]
pub(super) struct Janitors {
    stop: Option<watch::Sender<bool>>,
}

impl Janitors {
    /// Stops those of before and starts one for each sharded database. Needs the runtime that they are to run on.
    pub(super) fn follow(&mut self, live: &Live, shared: &Arc<Shared>) {
        let (stop, stopped) = watch::channel(false);
        for database in live.databases.values().filter(|database| database.config.map.is_sharded()) {
            let mut janitor = Janitor::new(database, credentials_of(&database.config, live), shared);
            let mut stopped = stopped.clone();
            tokio::task::spawn_local(async move {
                tokio::select! {
                    () = Box::pin(janitor.run()) => {}
                    // An error means that the sender is gone, which is an end too.
                    _ended = stopped.wait_for(|stop| *stop) => {}
                }
            });
        }
        self.stop = Some(stop);
    }
}

/// A connection to a shard's primary.
struct Link {
    server: ServerIndex,
    asking: Asking,
}

struct Janitor {
    database: Arc<LiveDatabase>,
    credentials: Option<Credentials>,
    shared: Arc<Shared>,
    /// By shard.
    links: Vec<Option<Link>>,
    /// What the log was told last of what could not be done, by shard.
    said: BTreeMap<ShardIndex, String>,
    /// Whether transactions are committed by two phases now, or only may have been.
    lasting: bool,
    /// Who is tried first of the users that are not the owner.
    turn: usize,
}

impl Janitor {
    fn new(database: &Arc<LiveDatabase>, credentials: Option<Credentials>, shared: &Arc<Shared>) -> Self {
        let links = database.config.shards.iter().map(|_| None).collect();
        let (database, shared) = (Arc::clone(database), Arc::clone(shared));
        let lasting = database.config.map.writes.cross == CrossShardWrites::TwoPhase;
        Self { database, credentials, shared, links, said: BTreeMap::new(), lasting, turn: 0 }
    }

    async fn run(&mut self) {
        // The checks make the table first.
        tokio::time::sleep(FIRST).await;
        let (mut quiet, mut period) = (0, PERIOD);
        loop {
            let clean = self.sweep().await;
            if !self.lasting {
                self.links.iter_mut().for_each(|link| *link = None);
                quiet = if clean { quiet + 1 } else { 0 };
                if quiet >= QUIET_ROUNDS {
                    return;
                }
            }
            tokio::time::sleep(period).await;
            if !self.lasting {
                period = period.saturating_mul(2).min(LONGEST_PERIOD);
            }
        }
    }

    fn shards(&self) -> Vec<ShardIndex> {
        (0..u16::try_from(self.links.len()).unwrap_or(u16::MAX)).map(ShardIndex).collect()
    }

    /// One round over all shards: whether all could be asked, and nothing is prepared.
    async fn sweep(&mut self) -> bool {
        let name = self.database.config.name.clone();
        let mut decided: Vec<(ShardIndex, Rows)> = Vec::new();
        for shard in self.shards() {
            if self.may_decide(shard).await
                && let Some(rows) = self.ask(shard, &recovery::decisions_sql(&name)).await
            {
                decided.push((shard, rows));
            }
        }
        // After what was decided: a part that is not there now needs no decision any more.
        let (mut waiting, mut asked) = (BTreeSet::new(), BTreeSet::new());
        for shard in self.shards() {
            let on = self.database.config.map.name(shard).to_owned();
            if let Some(rows) = self.ask(shard, &recovery::parts_sql(&name, 0)).await {
                waiting.extend(recovery::found(&name, &on, &rows).into_iter().map(|part| part.gid));
                asked.insert(on.clone());
            }
            let Some(rows) = self.ask(shard, &recovery::parts_sql(&name, recovery::LEFT_BEHIND)).await else {
                continue;
            };
            for part in recovery::found(&name, &on, &rows) {
                self.end(shard, &part).await;
            }
        }
        for (shard, rows) in decided {
            let gids = recovery::forgettable(&rows, &waiting, &asked);
            if !gids.is_empty() {
                self.ask(shard, &recovery::forget_sql(&gids)).await;
            }
        }
        waiting.is_empty() && asked.len() == self.links.len()
    }

    /// Ends a part as the shard that decides says.
    async fn end(&mut self, shard: ShardIndex, part: &Found) {
        let Some(decides) = self.database.config.map.shard_by_name(&part.gid.decides) else {
            let why = format!("prepared transaction {} names a shard that is not there", part.name);
            return self.unfinished(shard, &why);
        };
        let Some(commits) = self.decision(decides, part).await else { return };
        let verb = if commits { "COMMIT" } else { "ROLLBACK" };
        // What it has made of functions and tables is seen from now on.
        let changing = commits.then(|| self.database.hidden.change());
        let finished = self.finish(shard, part, &format!("{verb} PREPARED '{}'", part.name)).await;
        drop(changing);
        match finished {
            Ok(()) => {
                if commits {
                    self.database.catalog_is_changed(true);
                }
                self.shared.count_recovered(if commits { "commit" } else { "rollback" });
                let (database, on) = (&self.database.config.name, self.database.config.map.name(shard));
                tracing::info!(database, shard = on, gid = %part.gid.whole(), commits, "a prepared transaction that was left behind is ended");
            }
            Err(why) => self.unfinished(shard, &format!("{verb} PREPARED of {}: {why}", part.name)),
        }
    }

    /// Whether the shard can be asked what it has decided. Where transactions are committed by two phases, that the table is not there is an
    /// error, which the log is told.
    async fn may_decide(&mut self, shard: ShardIndex) -> bool {
        if self.lasting {
            return true;
        }
        let rows = self.ask(shard, recovery::DECIDES_SQL).await.unwrap_or_default();
        rows.first().and_then(|row| row.first()).is_some_and(|there| there.as_deref() == Some("t"))
    }

    /// Whether it was decided to commit; none if the shard cannot be asked, or whoever commits is still about it.
    async fn decision(&mut self, decides: ShardIndex, part: &Found) -> Option<bool> {
        let (gid, owner) = (&part.gid, Owner::Name(&part.owner));
        if !self.may_decide(decides).await {
            return None;
        }
        let rows = self.ask(decides, &recovery::decision_sql(gid)).await?;
        if let Some(commits) = recovery::commits(&rows, owner) {
            return Some(commits);
        }
        let unheld = self.ask(decides, &recovery::unheld_sql(gid)).await?;
        let lives = unheld.first().and_then(|row| row.first()).is_some_and(|unheld| unheld.as_deref() == Some("f"));
        if lives && !part.overdue {
            return None;
        }
        self.ask(decides, &recovery::abort_sql(gid)).await?;
        let rows = self.ask(decides, &recovery::decision_sql(gid)).await?;
        recovery::commits(&rows, owner)
    }

    /// Runs the statement that ends a part: as its user, else by whoever may become that.
    async fn finish(&mut self, shard: ShardIndex, part: &Found, sql: &str) -> Result<(), String> {
        let (own, others): (Vec<_>, Vec<_>) =
            self.users(shard).into_iter().partition(|(target, _)| target.user == part.owner);
        let mut first: Option<String> = None;
        for (target, settings) in &own {
            match once(target, settings, &part.owner, sql).await {
                Ok(()) => return Ok(()),
                Err(why) => drop(first.get_or_insert(why)),
            }
        }
        match self.finish_by_link(shard, &part.owner, sql).await {
            Ok(()) => return Ok(()),
            Err(why) => drop(first.get_or_insert(why)),
        }
        let count = others.len().min(TRIED_USERS);
        let turn = self.turn.checked_rem(others.len()).unwrap_or(0);
        self.turn = turn.saturating_add(count);
        for (target, settings) in others.iter().cycle().skip(turn).take(count) {
            if once(target, settings, &part.owner, sql).await.is_ok() {
                return Ok(());
            }
        }
        Err(first.unwrap_or_default())
    }

    async fn finish_by_link(&mut self, shard: ShardIndex, owner: &str, sql: &str) -> Result<(), String> {
        let link = self.link(shard).await?;
        match end_as(&mut link.asking, owner, sql).await {
            Ok(done) => done.map_err(|error| error.message),
            Err(why) => Err(self.broken(shard, why)),
        }
    }

    /// As whom the shard's primary is known to be asked: every user with pools.
    fn users(&self, shard: ShardIndex) -> Vec<(Target, LoginSettings)> {
        let Some(primary) = primary_of(&self.database, shard) else { return Vec::new() };
        let pools = self.database.users().into_iter().filter_map(|user| self.database.pool(&user, shard, primary));
        pools.map(|pool| (pool.target.clone(), pool.login_settings())).collect()
    }

    /// The rows that a shard answers; none, and a word to the log, if it does not.
    async fn ask(&mut self, shard: ShardIndex, sql: &str) -> Option<Rows> {
        let link = match self.link(shard).await {
            Ok(link) => link,
            Err(why) => {
                self.failed(shard, &why);
                return None;
            }
        };
        let why = match link.asking.rows(sql).await {
            Ok(Ok(rows)) => {
                self.said.remove(&shard);
                return Some(rows);
            }
            Ok(Err(error)) => error.message,
            Err(why) => self.broken(shard, why),
        };
        self.failed(shard, &why);
        None
    }

    /// The connection to a shard's primary, made anew if there is none or another server is the primary now.
    async fn link(&mut self, shard: ShardIndex) -> Result<&mut Link, String> {
        let nobody = || "nobody is known to log in as; set probe_user".to_owned();
        let place = usize::from(shard.0);
        let primary = primary_of(&self.database, shard).ok_or_else(|| "there is no primary".to_owned())?;
        let there = self.links.get(place).and_then(Option::as_ref).is_some_and(|link| link.server == primary);
        if !there {
            let mut why = nobody();
            for (target, settings) in targets(&self.database, shard, self.credentials.as_ref()) {
                match Asking::open(&target, &settings, WorkerId(0), PATIENCE).await {
                    Ok(asking) => {
                        if let Some(link) = self.links.get_mut(place) {
                            *link = Some(Link { server: primary, asking });
                        }
                        break;
                    }
                    Err(error) => why = error,
                }
            }
            let there = self.links.get(place).and_then(Option::as_ref).is_some_and(|link| link.server == primary);
            if !there {
                return Err(why);
            }
        }
        self.links.get_mut(place).and_then(Option::as_mut).ok_or_else(nobody)
    }

    /// The connection is of no more use: why.
    fn broken(&mut self, shard: ShardIndex, why: String) -> String {
        if let Some(link) = self.links.get_mut(usize::from(shard.0)) {
            *link = None;
        }
        why
    }

    /// Tells the log, once, that a shard cannot be asked.
    fn failed(&mut self, shard: ShardIndex, why: &str) {
        if !self.lasting {
            let (database, on) = (&self.database.config.name, self.database.config.map.name(shard));
            tracing::debug!(
                database,
                shard = on,
                error = why,
                "it cannot be seen whether prepared transactions are left"
            );
            return;
        }
        self.unfinished(shard, why);
    }

    /// Tells the log, once, what could not be done.
    fn unfinished(&mut self, shard: ShardIndex, why: &str) {
        if self.said.get(&shard).is_none_or(|said| said != why) {
            let (database, on) = (&self.database.config.name, self.database.config.map.name(shard));
            tracing::warn!(
                database,
                shard = on,
                error = why,
                "prepared transactions cannot be looked after; it is tried again"
            );
            self.said.insert(shard, why.to_owned());
        }
    }
}

/// Ends a part on a connection of its own.
async fn once(target: &Target, settings: &LoginSettings, owner: &str, sql: &str) -> Result<(), String> {
    let mut asking = Asking::open(target, settings, WorkerId(0), PATIENCE).await?;
    end_as(&mut asking, owner, sql).await?.map_err(|error| error.message)
}

/// Ends a part as its owner, or as who has logged in if that may not become the owner.
async fn end_as(asking: &mut Asking, owner: &str, sql: &str) -> Result<Result<(), Error>, String> {
    let role = format!("SET ROLE \"{}\"", owner.replace('"', "\"\""));
    let became = asking.run(&role).await?.is_ok();
    let done = asking.run(sql).await?;
    if became {
        asking.run("RESET ROLE").await?.map_err(|error| error.message)?;
    }
    Ok(match done {
        // Another has done it.
        Err(error) if error.sqlstate == SqlState::UNDEFINED_OBJECT => Ok(()),
        done => done,
    })
}
