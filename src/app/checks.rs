//! Checks of sharded databases, from the start on: are the servers as the configuration says?
//!
//! One task a shard asks its primary: see `check`. It logs in as the prober does; where that is not
//! configured, as the first user who comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::probers::credentials_of;
use crate::auth::login::PassThrough;
use crate::auth::secret::{Password, Secret};
use crate::auth::server_login::ServerCredential;
use crate::client::database::{Live, LiveDatabase};
use crate::clock;
use crate::config::Role;
use crate::health::probe::Credentials;
use crate::id::{ServerIndex, ShardIndex};
use crate::server::check::Answer;
use crate::server::login::LoginSettings;
use crate::server::{self, Derived, Target};
use crate::shard::check::{Check, Effect};

/// The first wait before the server is asked again; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The wait after a change.
const AFTER_CHANGE: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The checks that run; dropping it stops them.
#[derive(Debug, Default)]
pub struct Checks {
    stop: Option<watch::Sender<bool>>,
}

impl Checks {
    /// Stops those of before and checks every sharded database. Needs the runtime that they are to run on.
    pub fn follow(&mut self, live: &Live) {
        let (stop, stopped) = watch::channel(false);
        for database in live.databases.values().filter(|database| database.config.map.is_sharded()) {
            let credentials = credentials_of(&database.config, live);
            for shard in (0..u16::try_from(database.config.shards.len()).unwrap_or(u16::MAX)).map(ShardIndex) {
                let (database, credentials) = (Arc::clone(database), credentials.clone());
                let mut stopped = stopped.clone();
                tokio::task::spawn_local(async move {
                    tokio::select! {
                        () = Box::pin(check(&database, shard, credentials.as_ref())) => {}
                        // An error means that the sender is gone, which is an end too.
                        _ended = stopped.wait_for(|stop| *stop) => {}
                    }
                });
            }
        }
        self.stop = Some(stop);
    }
}

/// Checks one shard, again and again: what is mended must be believed, and what differs since must not. After a change that passed
/// through pgweir that is at once.
async fn check(database: &LiveDatabase, shard: ShardIndex, credentials: Option<&Credentials>) {
    let mut wait = FIRST_WAIT;
    loop {
        let epoch = database.catalog_epoch.load(Ordering::Acquire);
        let asked = ask(database, shard, credentials).await;
        let (check, portrait, waits_for_user) = match asked {
            Asked::Answer((findings, portrait)) => (Check::Done(findings), Some(portrait), false),
            Asked::Failed(why) => (Check::Pending(Some(why)), None, false),
            Asked::NobodyYet => (Check::Pending(None), None, true),
        };
        for (shard, check) in database.set_check(shard, check, portrait) {
            tell(database, shard, &check);
        }
        database.note_checked(shard, epoch);
        let clean = database.checks().iter().all(|check| *check == Check::Done(Vec::new()));
        let changed = wait_for_change(database, epoch);
        if tokio::time::timeout(if clean { LONGEST_WAIT } else { wait }, changed).await.is_ok() || clean {
            wait = FIRST_WAIT;
        } else if !waits_for_user {
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }
}

/// Waits until the catalog is of another epoch, and for a little while, as one change is often followed by more.
async fn wait_for_change(database: &LiveDatabase, epoch: u64) {
    loop {
        let changed = database.catalog_changed.notified();
        if database.catalog_epoch.load(Ordering::Acquire) != epoch {
            return tokio::time::sleep(AFTER_CHANGE).await;
        }
        changed.await;
    }
}

enum Asked {
    Answer(Answer),
    Failed(String),
    /// It is not known as whom to log in.
    NobodyYet,
}

async fn ask(database: &LiveDatabase, shard: ShardIndex, credentials: Option<&Credentials>) -> Asked {
    let mut outcome = Asked::NobodyYet;
    for (target, settings) in targets(database, shard, credentials) {
        match server::check::run(&target, &settings, &database.config.map).await {
            Ok(answer) => return Asked::Answer(answer),
            // The first is the one configured: its failure says more.
            Err(why) if matches!(outcome, Asked::NobodyYet) => outcome = Asked::Failed(why),
            Err(_) => {}
        }
    }
    outcome
}

/// As whom the shard's primary can be asked: the prober, else a user with pools.
pub(super) fn targets(
    database: &LiveDatabase,
    shard: ShardIndex,
    credentials: Option<&Credentials>,
) -> Vec<(Target, LoginSettings)> {
    let Some(config) = database.config.shards.get(usize::from(shard.0)) else { return Vec::new() };
    let primary = primary_of(database, shard).unwrap_or(ServerIndex(0));
    let own = config.servers.get(usize::from(primary.0)).zip(credentials).map(|(server, credentials)| {
        let secret = credentials.password.as_ref().map(|password| Secret::Clear(Password::new(password.as_bytes())));
        let target = Target {
            host: server.host.clone(),
            port: server.port,
            dbname: server.dbname.clone(),
            user: credentials.user.clone(),
            credential: ServerCredential::new(secret.as_ref(), &PassThrough::Nothing),
            derived: Derived::default(),
            parameters: Vec::new(),
            connect_query: None,
        };
        (target, database.login_settings())
    });
    let user = || {
        let pools = database.users().into_iter().next()?;
        let pool = database.pool(&pools, shard, primary)?;
        Some((pool.target.clone(), pool.login_settings()))
    };
    own.into_iter().chain(user()).collect()
}

/// The shard's primary, as far as is known.
pub(super) fn primary_of(database: &LiveDatabase, shard: ShardIndex) -> Option<ServerIndex> {
    let place = usize::from(shard.0);
    let (config, health) = (database.config.shards.get(place)?, database.health.get(place)?);
    let configured =
        || config.servers.iter().position(|s| s.role == Role::Primary).and_then(|at| u16::try_from(at).ok());
    health.acting_primary(clock::now()).or_else(|| configured().map(ServerIndex))
}

/// Tells the log of a check that came out otherwise than the one before.
fn tell(database: &LiveDatabase, shard: ShardIndex, check: &Check) {
    let (database, shard) = (&database.config.name, database.config.map.name(shard));
    match check {
        Check::Pending(None) => {}
        Check::Pending(Some(why)) => {
            tracing::warn!(database, shard, error = why, "the shard could not be checked yet; it is tried again");
        }
        Check::Done(findings) if findings.is_empty() => tracing::info!(database, shard, "the shard is as configured"),
        Check::Done(findings) => {
            for finding in findings {
                let (found, advice) = (&finding.message, finding.advice);
                match &finding.effect {
                    Effect::Warning | Effect::LooselyUnique(..) | Effect::OtherwiseUnique(..) => {
                        tracing::warn!(database, shard, advice, "shard check: {found}")
                    }
                    Effect::NoKeys => {
                        tracing::error!(database, shard, advice, "shard check: {found}; statements by key are refused");
                    }
                    Effect::NoTextBeyondAscii => {
                        tracing::error!(database, shard, advice, "shard check: {found}; they are refused");
                    }
                    Effect::NoScatter | Effect::NoScatterOf(..) => {
                        tracing::error!(
                            database,
                            shard,
                            advice,
                            "shard check: {found}; what several shards would have to answer is refused"
                        );
                    }
                    Effect::NoTwoPhase => {
                        tracing::error!(
                            database,
                            shard,
                            advice,
                            "shard check: {found}; statements that write on several shards are refused"
                        );
                    }
                    Effect::NoWriteOf(..) => {
                        tracing::error!(
                            database,
                            shard,
                            advice,
                            "shard check: {found}; statements that write the table are refused"
                        );
                    }
                    Effect::NoUpdateOf(..) | Effect::NoDeleteOf(..) => {
                        tracing::error!(database, shard, advice, "shard check: {found}; it is refused");
                    }
                    Effect::NotByKeyOf(..) => {
                        tracing::error!(
                            database,
                            shard,
                            advice,
                            "shard check: {found}; statements by its key are refused"
                        );
                    }
                }
            }
        }
    }
}
