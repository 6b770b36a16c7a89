//! Ends what is left of transactions over several shards whose proxy or servers went away: one task for each database with
//! `cross_shard_writes = "two_phase"`, at the start and from then on all the time. Every proxy of a fleet may do it, and all may at once:
//! [`crate::shard::commit::recovery`] says what is asked and why nothing is guessed.
//!
//! A task has one connection to each shard's primary, as `probe_user`, or as the first user who comes. A prepared transaction can only be
//! ended by its own user or a superuser: where the pools of that user are known, it is ended as that user.

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
use crate::server::login::{self, LoginSettings};
use crate::server::{Connection, Target};
use crate::shard::commit::gid::Gid;
use crate::shard::commit::recovery::{self, Found};
use crate::shard::map::CrossShardWrites;

/// How long after the start it begins.
const FIRST: Duration = Duration::from_secs(1);
/// How long it rests.
const PERIOD: Duration = Duration::from_secs(3);
/// What was prepared so long ago, in seconds, is taken for left behind. Being wrong costs a transaction, not its atomicity.
const LEFT_BEHIND: u64 = 5;
/// How long a shard may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

type Rows = Vec<Vec<Option<String>>>;

/// The tasks that run; dropping it stops them.
#[derive(Debug, Default)]
pub(super) struct Janitors {
    stop: Option<watch::Sender<bool>>,
}

impl Janitors {
    /// Stops those of before and starts one for each database that commits by two phases. Needs the runtime that they are to run on.
    pub(super) fn follow(&mut self, live: &Live, shared: &Arc<Shared>) {
        let (stop, stopped) = watch::channel(false);
        let two_phase = |database: &&Arc<LiveDatabase>| database.config.map.writes.cross == CrossShardWrites::TwoPhase;
        for database in live.databases.values().filter(two_phase) {
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
    connection: Box<Connection>,
}

struct Janitor {
    database: Arc<LiveDatabase>,
    credentials: Option<Credentials>,
    shared: Arc<Shared>,
    /// By shard.
    links: Vec<Option<Link>>,
    /// What the log was told last of what could not be done, by shard.
    said: BTreeMap<ShardIndex, String>,
}

impl Janitor {
    fn new(database: &Arc<LiveDatabase>, credentials: Option<Credentials>, shared: &Arc<Shared>) -> Self {
        let links = database.config.shards.iter().map(|_| None).collect();
        let (database, shared) = (Arc::clone(database), Arc::clone(shared));
        Self { database, credentials, shared, links, said: BTreeMap::new() }
    }

    async fn run(&mut self) {
        // The checks make the table first.
        tokio::time::sleep(FIRST).await;
        loop {
            self.sweep().await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    fn shards(&self) -> Vec<ShardIndex> {
        (0..u16::try_from(self.links.len()).unwrap_or(u16::MAX)).map(ShardIndex).collect()
    }

    /// One round over all shards.
    async fn sweep(&mut self) {
        let name = self.database.config.name.clone();
        let mut decided: Vec<(ShardIndex, Rows)> = Vec::new();
        for shard in self.shards() {
            if let Some(rows) = self.ask(shard, &recovery::decisions_sql(&name)).await {
                decided.push((shard, rows));
            }
        }
        // After what was decided: a part that is not there now needs no decision any more.
        let (mut waiting, mut complete) = (BTreeSet::new(), true);
        for shard in self.shards() {
            let map = &self.database.config.map;
            let on = map.name(shard).to_owned();
            match self.ask(shard, &recovery::parts_sql(&name, 0)).await {
                None => complete = false,
                Some(rows) => waiting.extend(recovery::found(&name, &on, &rows).into_iter().map(|part| part.gid)),
            }
            let Some(rows) = self.ask(shard, &recovery::parts_sql(&name, LEFT_BEHIND)).await else { continue };
            for part in recovery::found(&name, &on, &rows) {
                self.end(shard, &part).await;
            }
        }
        if complete {
            for (shard, rows) in decided {
                let gids = recovery::forgettable(&rows, &waiting);
                if !gids.is_empty() {
                    self.ask(shard, &recovery::forget_sql(&gids)).await;
                }
            }
        }
    }

    /// Ends a part as the shard that decides says.
    async fn end(&mut self, shard: ShardIndex, part: &Found) {
        let Some(decides) = self.database.config.map.shard_by_name(&part.gid.decides) else {
            let why = format!("prepared transaction {} names a shard that is not there", part.name);
            return self.failed(shard, &why);
        };
        let Some(commits) = self.decision(decides, &part.gid, &part.owner).await else { return };
        let verb = if commits { "COMMIT" } else { "ROLLBACK" };
        match self.finish(shard, part, &format!("{verb} PREPARED '{}'", part.name)).await {
            Ok(()) => {
                self.shared.count_recovered(if commits { "commit" } else { "rollback" });
                let (database, on) = (&self.database.config.name, self.database.config.map.name(shard));
                tracing::info!(database, shard = on, gid = %part.gid.whole(), commits, "a prepared transaction that was left behind is ended");
            }
            Err(why) => self.failed(shard, &format!("{verb} PREPARED of {}: {why}", part.name)),
        }
    }

    /// Whether it was decided to commit; none if the shard cannot be asked.
    async fn decision(&mut self, decides: ShardIndex, gid: &Gid, owner: &str) -> Option<bool> {
        self.ask(decides, &recovery::abort_sql(gid)).await?;
        let rows = self.ask(decides, &recovery::decision_sql(gid)).await?;
        recovery::commits(&rows, owner)
    }

    /// Runs the statement that ends a part, as its user if that is possible.
    async fn finish(&mut self, shard: ShardIndex, part: &Found, sql: &str) -> Result<(), String> {
        let own = |target: &Target| target.user == part.owner;
        let as_user = self.users(shard).into_iter().find(|(target, _)| own(target));
        let done = match as_user {
            Some((target, settings)) => once(&target, &settings, sql).await?,
            None => match self.link(shard).await {
                Ok(link) => match tokio::time::timeout(PATIENCE, link.connection.run(sql)).await {
                    Ok(Ok(done)) => done,
                    Ok(Err(error)) => return Err(self.broken(shard, error.to_string())),
                    Err(_) => return Err(self.broken(shard, late())),
                },
                Err(why) => return Err(why),
            },
        };
        match done {
            // Another has done it.
            Err(error) if error.sqlstate == SqlState::UNDEFINED_OBJECT => Ok(()),
            done => done.map_err(|error| error.message),
        }
    }

    /// As whom the shard's primary is known to be asked: every user with pools.
    fn users(&self, shard: ShardIndex) -> Vec<(Target, LoginSettings)> {
        let Some(primary) = primary_of(&self.database, shard) else { return Vec::new() };
        let pools = self.database.users().into_iter().filter_map(|user| self.database.pool(&user, shard, primary));
        pools.map(|pool| (pool.target.clone(), pool.settings.login.clone())).collect()
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
        let answer = tokio::time::timeout(PATIENCE, link.connection.rows(sql)).await;
        let why = match answer {
            Ok(Ok(Ok(rows))) => {
                self.said.remove(&shard);
                return Some(rows);
            }
            Ok(Ok(Err(error))) => error.message,
            Ok(Err(error)) => self.broken(shard, error.to_string()),
            Err(_) => self.broken(shard, late()),
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
                match connect(&target, &settings).await {
                    Ok(connection) => {
                        if let Some(link) = self.links.get_mut(place) {
                            *link = Some(Link { server: primary, connection });
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

    /// Tells the log, once.
    fn failed(&mut self, shard: ShardIndex, why: &str) {
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

/// A connection to a server that is no standby: those have no prepared transactions to show.
async fn connect(target: &Target, settings: &LoginSettings) -> Result<Box<Connection>, String> {
    let mut connection = login::login(target, settings, WorkerId(0)).await.map_err(|error| error.message)?;
    let asked = tokio::time::timeout(PATIENCE, connection.rows("SELECT pg_catalog.pg_is_in_recovery()")).await;
    let rows = asked.map_err(|_| late())?.map_err(|error| error.to_string())?.map_err(|error| error.message)?;
    match rows.into_iter().flatten().flatten().next().as_deref() {
        Some("f") => Ok(connection),
        _ => Err("the server is a standby".to_owned()),
    }
}

/// Runs one statement on a connection of its own.
async fn once(target: &Target, settings: &LoginSettings, sql: &str) -> Result<Result<(), Error>, String> {
    let mut connection = connect(target, settings).await?;
    tokio::time::timeout(PATIENCE, connection.run(sql)).await.map_err(|_| late())?.map_err(|error| error.to_string())
}

fn late() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}
