//! Which probers run: one for each server of each database at work that says as whom to probe.
//!
//! A database that a reload has replaced is probed for as long as somebody is with it: its clients are to hear of a failover as well. What
//! databases know of their servers in common (see `LiveDatabase::health`) is found out once.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::auth::secret::Secret;
use crate::client::database::{Live, LiveDatabase};
use crate::client::shared::Shared;
use crate::config::Database;
use crate::health::patroni;
use crate::health::probe::{self, Credentials};
use crate::health::shard::ShardHealth;
use crate::id::ServerIndex;
use crate::net::dns::Dns;
use crate::net::tls::ServerTls;

/// So many databases are named in one line of the log.
const NAMED: usize = 5;

/// The probers that run; dropping it stops them.
#[derive(Debug, Default)]
pub struct Probers {
    running: Vec<Running>,
    /// The databases that nobody is known to probe as, as the log was told last.
    unprobed: BTreeSet<String>,
}

/// The probers of one database's servers.
#[derive(Debug)]
struct Running {
    /// Those that use what they find out. They are not to live for their sake.
    databases: Vec<Weak<LiveDatabase>>,
    /// What they find out.
    health: Vec<Arc<ShardHealth>>,
    credentials: Credentials,
    /// Dropping it stops them.
    stop: watch::Sender<bool>,
}

impl Running {
    fn is_used(&mut self) -> bool {
        self.databases.retain(|database| database.strong_count() > 0);
        !self.databases.is_empty()
    }

    fn is_of(&self, database: &LiveDatabase) -> bool {
        let same = |(a, b): (&Arc<ShardHealth>, &Arc<ShardHealth>)| Arc::ptr_eq(a, b);
        self.health.len() == database.health.len() && self.health.iter().zip(&database.health).all(same)
    }
}

impl Probers {
    /// Stops the probers of databases that are no more, and starts those of new ones. Needs the runtime that they are to run on.
    pub fn follow(&mut self, live: &Live, shared: &Arc<Shared>) {
        self.running.retain_mut(|running| match live.databases.values().find(|database| running.is_of(database)) {
            Some(database) => {
                if !running.databases.iter().any(|known| known.as_ptr() == Arc::as_ptr(database)) {
                    running.databases.push(Arc::downgrade(database));
                }
                credentials_of(&database.config, live).as_ref() == Some(&running.credentials)
            }
            None => running.is_used() && !running.stop.is_closed(),
        });
        let mut unprobed = BTreeSet::new();
        for database in live.databases.values() {
            if self.running.iter().any(|running| running.is_of(database)) {
                continue;
            }
            match credentials_of(&database.config, live) {
                Some(credentials) => self.start(database, credentials, (&live.server_tls, &live.dns), shared),
                None => _ = unprobed.insert(database.config.name.clone()),
            }
        }
        self.tell(unprobed);
    }

    /// Tells the log of databases whose servers are not probed, when these are others than before.
    fn tell(&mut self, unprobed: BTreeSet<String>) {
        if !unprobed.is_empty() && unprobed != self.unprobed {
            let some: Vec<_> = unprobed.iter().take(NAMED).map(String::as_str).collect();
            let more = if unprobed.len() > some.len() { ", ..." } else { "" };
            tracing::warn!(
                count = unprobed.len(),
                databases = some.join(", ") + more,
                "servers are not probed: probe_user is not set, and neither is user with a password in clear text; \
                 lag and failovers are not seen"
            );
        }
        self.unprobed = unprobed;
    }

    /// Stops those of databases that a reload has replaced and nobody uses any more.
    pub fn leave_unused(&mut self) {
        self.running.retain_mut(|running| running.is_used());
    }

    fn start(
        &mut self,
        database: &Arc<LiveDatabase>,
        credentials: Credentials,
        (tls, dns): (&Arc<ServerTls>, &Arc<Dns>),
        shared: &Arc<Shared>,
    ) {
        let (stop, stopped) = watch::channel(false);
        for (shard, health) in database.config.shards.iter().zip(&database.health) {
            tokio::task::spawn_local(wake_at_silence(Arc::clone(health), Arc::clone(shared), stopped.clone()));
            let (told, settings) = (Arc::clone(health), database.config.health.clone());
            let means = (Arc::clone(tls), Arc::clone(dns));
            let asks = patroni::run(shard.clone(), told, settings, means, stopped.clone());
            tokio::task::spawn_local(async move { Box::pin(asks).await });
            for (index, server) in (0_u16..).map(ServerIndex).zip(&shard.servers) {
                let (server, health) = (server.clone(), Arc::clone(health));
                let (credentials, settings) = (credentials.clone(), database.config.health.clone());
                let (means, stopped) = ((Arc::clone(tls), Arc::clone(dns)), stopped.clone());
                tokio::task::spawn_local(async move {
                    Box::pin(probe::run(index, server, credentials, health, settings, means, stopped)).await;
                });
            }
        }
        let (health, databases) = (database.health.clone(), vec![Arc::downgrade(database)]);
        self.running.push(Running { databases, health, credentials, stop });
    }
}

/// Wakes those who wait for a server of which a probe brought nothing; until `stop`.
async fn wake_at_silence(health: Arc<ShardHealth>, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = health.silenced() => shared.wake_users_of(health.servers()),
            // An error: the sender is gone.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// As whom a database's servers are probed: `probe_user`; or else `user`, if its password is known in clear text.
pub(super) fn credentials_of(database: &Database, live: &Live) -> Option<Credentials> {
    if let Some(user) = &database.probe_user {
        return Some(Credentials { user: user.clone(), password: database.probe_password.clone() });
    }
    let user = database.user.as_ref()?;
    let own = database.password.as_deref().and_then(|p| Secret::parse(p).ok());
    let secret = own.as_ref().or_else(|| live.users.get(user).map(|c| c.secret()))?;
    let password = match secret {
        Secret::Clear(password) => Some(String::from_utf8(password.as_bytes().to_vec()).ok()?),
        // An empty entry: the servers trust this user.
        Secret::Absent => None,
        Secret::Md5(_) | Secret::Scram(_) => return None,
    };
    Some(Credentials { user: user.clone(), password })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::app::live;

    fn found(keys: &str, users: &str) -> Option<(String, Option<String>)> {
        let text = format!(
            "[pgweir]\nauth_type = \"trust\"\n[databases.a]\nprimary = \"postgres://127.0.0.1:1/a\"\n{keys}\n\
             [users.someone]\n{users}"
        );
        let config = crate::config::parse(&text, Path::new("t.toml")).unwrap();
        let live = live::build(config, None, [0; 32]).unwrap();
        credentials_of(&live.databases["a"].config, &live).map(|c| (c.user, c.password))
    }

    #[test]
    fn a_prober_is_who_the_configuration_says() {
        let some = |user: &str, password: Option<&str>| Some((user.to_owned(), password.map(str::to_owned)));
        assert_eq!(found("", ""), None);
        assert_eq!(found("probe_user = \"p\"\nprobe_password = \"x\"\nuser = \"u\"", ""), some("p", Some("x")));
        assert_eq!(found("probe_user = \"p\"", ""), some("p", None));
        assert_eq!(found("user = \"u\"\npassword = \"y\"", ""), some("u", Some("y")));
        assert_eq!(found("user = \"u\"", "[users.u]\npassword = \"z\""), some("u", Some("z")));
        let hashed = "[users.u]\npassword = \"md50123456789abcdef0123456789abcdef\"";
        assert_eq!(found("user = \"u\"", hashed), None, "a hash does not log in");
        assert_eq!(found("user = \"u\"", ""), None, "an unknown password is not guessed");
    }
}
