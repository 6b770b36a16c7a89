//! From a configuration to what works by it, at the start and at a reload.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files::{self, Content};
use crate::auth::secret::{Credential, Secret};
use crate::client::database::{Live, LiveDatabase, Made, stored_secret};
use crate::client::external::Outside;
use crate::client::peers::Peers;
use crate::config::{AuthType, Config, Database, General, Host, Server, Shard};
use crate::net::dns::cache::Times;
use crate::net::dns::{self, Dns};
use crate::net::tls::ServerTls;
use crate::pool::Shares;

/// Secret bytes that the salts shown to unknown users are made from.
pub type MockKey = [u8; 32];

/// The key where no other process has given one. Made of the private key that we show to clients, so that the processes that have the same
/// show the same salts, as they do of users who exist, also after a restart; random where there is none. Stored passwords are no such
/// source: with the salts as a measure they could be guessed.
#[must_use]
pub fn mock_key(general: &General) -> MockKey {
    let private = general.client_tls.key_file.as_ref().and_then(|file| std::fs::read(file).ok());
    private.map_or_else(rand::random, |private| {
        Sha256::new().chain_update(b"pgweir mock authentication\0").chain_update(private).finalize().into()
    })
}

/// Builds what works by `config`. What `old` has and the configuration leaves as it was is taken over: databases with their pools and
/// what is known of their servers, and credentials with what was derived from them.
///
/// # Errors
/// Every mistake of the files that it names (see [`files::read`]).
pub fn build(config: Config, old: Option<&Live>, key: MockKey) -> Result<Live, Vec<String>> {
    let Content { list, warnings, rules, maps, acceptor, connector, external, digests } = files::read(&config)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let outside = Outside::new(external, old.map(|old| &old.outside));
    let iterations = config.general.scram_iterations;
    let mock = list.mock(key, iterations);
    let users: BTreeMap<_, _> =
        list.iter().map(|(name, secret)| (name.to_owned(), credential(name, secret, iterations, old))).collect();
    // Until `derive_ahead` is done.
    mock.set_deriving(is_by_scram(&config.general) && users.values().any(|user| user.scram_is_costly()));
    let mock = Arc::new(mock);
    let config = Arc::new(config);
    // From here on nothing can fail: what is shared with the pools of before may change.
    let server_tls = match old {
        Some(old) => {
            old.server_tls.replace(connector);
            Arc::clone(&old.server_tls)
        }
        None => Arc::new(ServerTls::new(connector)),
    };
    let dns = resolver(&config, old);
    let shares = old.map_or_else(Arc::<Shares>::default, |old| Arc::clone(&old.shares));
    shares.logs.set(config.general.log_connections, config.general.log_disconnections);
    let fresh = |db: &Database, secret, known: Option<&Arc<LiveDatabase>>| {
        let means = (Arc::clone(&server_tls), Arc::clone(&dns));
        let known = known.map(AsRef::as_ref);
        LiveDatabase::after(known, db.clone(), Arc::clone(&config), secret, means, Arc::clone(&shares))
    };
    let own = |db: &Database| (db.name.clone(), database(db, &config, stored_secret(db, &users), old, fresh));
    let databases = config.databases.values().map(own).collect();
    let peers = Peers::new(&config, old.map(|old| &old.peers));
    Ok(Live {
        config,
        files: digests,
        users,
        rules,
        maps,
        outside,
        acceptor,
        server_tls,
        dns: Arc::clone(&dns),
        shares: Arc::clone(&shares),
        mock,
        databases,
        made: Made::after(old.map(|old| &old.made)),
        peers,
    })
}

/// `live`, which was built after `old`, takes its place: what of `old` is to serve nobody new. The pools of `old` are not to be used after
/// this.
#[must_use]
pub fn succeed(live: &Live, old: &Live) -> Vec<Arc<LiveDatabase>> {
    let alike = old.config.users == live.config.users && pools_alike(&old.config.general, &live.config.general);
    live.succeed(old, |database, new| {
        alike && *new == database.config && stored_secret(new, &live.users) == database.secret
    })
}

/// The settings whose files have another content than before. Of one that names another file the setting itself is told.
#[must_use]
pub fn read_anew(old: &Live, new: &Live) -> Vec<&'static str> {
    let same_path = |setting: &str, path: &PathBuf| old.files.get(setting).filter(|(known, _)| known == path);
    let anew = new
        .files
        .iter()
        .filter(|(setting, (path, digest))| same_path(setting, path).is_some_and(|(_, known)| known != digest));
    anew.map(|(setting, _)| *setting).collect()
}

/// The resolver: there is one for as long as the process lives.
fn resolver(config: &Config, old: Option<&Live>) -> Arc<Dns> {
    let General { dns_max_ttl, dns_nxdomain_ttl, dns_zone_check_period, resolv_conf, .. } = &config.general;
    let settings = dns::Settings {
        times: Times { found: *dns_max_ttl, failed: *dns_nxdomain_ttl },
        zone_period: *dns_zone_check_period,
        resolv_conf: resolv_conf.clone(),
    };
    let shards = || config.databases.values().chain(&config.wildcard).flat_map(|db| &db.shards);
    let names = |servers: &[Server]| -> Vec<String> {
        let hosts = servers.iter().flat_map(|server| server.host.each());
        let name = |host: &Host| match host {
            Host::Tcp(name) => Some(name.clone()),
            Host::Unix(_) | Host::Several(_) => None,
        };
        hosts.filter_map(name).collect()
    };
    let patroni = |shard: &Shard| shard.patroni.iter().map(|at| at.host.clone()).collect::<Vec<_>>();
    let used = shards().flat_map(|shard| [names(&shard.servers), patroni(shard)].concat()).collect();
    // What a replica has replayed is known of the one address that the prober asks.
    let replicated = shards().filter(|shard| shard.servers.len() > 1);
    let staying = replicated.flat_map(|shard| names(&shard.servers)).collect();
    let dns = old.map_or_else(|| Dns::new(settings.clone()), |old| Arc::clone(&old.dns));
    dns.configure(settings, used, staying);
    dns
}

fn credential(name: &str, secret: &Secret, iterations: u32, old: Option<&Live>) -> Arc<Credential> {
    let known = old.and_then(|live| live.users.get(name)).filter(|known| known.is_of(secret, iterations));
    known.map_or_else(|| Arc::new(Credential::new(secret.clone(), iterations)), Arc::clone)
}

fn database(
    new: &Database,
    config: &Config,
    secret: Option<Secret>,
    old: Option<&Live>,
    fresh: impl Fn(&Database, Option<Secret>, Option<&Arc<LiveDatabase>>) -> Arc<LiveDatabase>,
) -> Arc<LiveDatabase> {
    let known = old.and_then(|old| Some((old, old.databases.get(&new.name)?)));
    let Some((old, known)) = known else { return fresh(new, secret, None) };
    if known.config == *new
        && known.secret == secret
        && old.config.users == config.users
        && pools_alike(&old.config.general, &config.general)
    {
        return Arc::clone(known);
    }
    fresh(new, secret, Some(known))
}

/// Whether pools made by either would be the same; databases carry the rest of their settings themselves.
fn pools_alike(a: &General, b: &General) -> bool {
    let settings = |g: &General| {
        (
            g.server_round_robin,
            g.reserve_pool_timeout,
            g.max_user_connections,
            g.server_connect_timeout,
            g.tcp,
            g.max_prepared_statements,
            g.server_login_retry,
            g.server_idle_timeout,
            (g.server_reset_query.clone(), g.server_check_query.clone(), g.server_check_delay, g.cancel_wait_timeout),
            g.server_tls.clone(),
        )
    };
    settings(a) == settings(b)
}

/// Puts the settings that need a restart back to what is in force.
pub fn keep_fixed(new: &mut General, old: &General) {
    new.listen_addr.clone_from(&old.listen_addr);
    new.listen_port = old.listen_port;
    new.unix_socket_dir.clone_from(&old.unix_socket_dir);
    new.unix_socket_mode = old.unix_socket_mode;
    new.unix_socket_group.clone_from(&old.unix_socket_group);
    new.so_reuseport = old.so_reuseport;
    new.peer_id = old.peer_id;
    new.user.clone_from(&old.user);
    new.pidfile.clone_from(&old.pidfile);
    new.workers = old.workers;
    new.http_listen = old.http_listen;
    new.log_format = old.log_format;
    new.listen_backlog = old.listen_backlog;
}

/// Whether users with clear passwords may log in by SCRAM.
fn is_by_scram(general: &General) -> bool {
    matches!(general.auth_type, AuthType::ScramSha256 | AuthType::Hba)
}

/// Derives the verifiers of clear passwords ahead of the first logins, on a thread of its own: a first login that took longer than
/// one of a user who does not exist would tell them apart.
pub fn derive_ahead(live: &Arc<Live>) {
    if !is_by_scram(&live.config.general) {
        return;
    }
    let costly: BTreeMap<_, _> =
        live.users.iter().filter(|(_, c)| c.scram_is_costly()).map(|(n, c)| (n.clone(), Arc::clone(c))).collect();
    let mock = Arc::clone(&live.mock);
    if costly.is_empty() {
        // A reload may have come while they were derived for the configuration before.
        return mock.set_deriving(false);
    }
    let derive = move || {
        costly.iter().for_each(|(name, credential)| drop(credential.scram(name, &mock).cloned()));
        mock.set_deriving(false);
    };
    if let Err(error) = std::thread::Builder::new().name("derive".to_owned()).spawn(derive) {
        live.mock.set_deriving(false);
        tracing::warn!(%error, "no thread for deriving verifiers: first logins take longer");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::auth::login::{Login, LoginRandom};
    use crate::config::{diff, parse};

    const BASE: &str = "[pgweir]\nauth_type = \"trust\"\n[databases.a]\nprimary = \"postgres://127.0.0.1:1/a\"\n\
                        [databases.b]\nprimary = \"postgres://127.0.0.1:1/b\"\n[users.someone]\n";

    fn config(text: &str) -> Config {
        parse(text, Path::new("test.toml")).unwrap()
    }

    #[test]
    fn what_did_not_change_is_kept() {
        let key = [0; 32];
        let old = build(config(&format!("{BASE}[users.u]\npassword = \"x\"\n")), None, key).unwrap();
        old.databases["b"].paused.store(true, Ordering::Release);
        old.databases["b"].disabled.store(true, Ordering::Release);
        let same = build((*old.config).clone(), Some(&old), key).unwrap();
        assert!(Arc::ptr_eq(&old.databases["a"], &same.databases["a"]));
        assert!(Arc::ptr_eq(&old.users["u"], &same.users["u"]));
        let mut changed = (*old.config).clone();
        changed.databases.get_mut("b").unwrap().pool_size += 1;
        changed.users.get_mut("u").unwrap().password = Some("y".to_owned());
        changed.general.max_client_conn += 1;
        let new = build(changed.clone(), Some(&old), key).unwrap();
        assert!(!Arc::ptr_eq(&old.databases["b"], &new.databases["b"]));
        let names = |left: Vec<Arc<LiveDatabase>>| left.iter().map(|db| db.config.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(succeed(&new, &old)), ["a", "b"], "users may have settings for either");
        assert!(new.databases["b"].paused.load(Ordering::Acquire), "a reload is no RESUME");
        assert!(new.databases["b"].disabled.load(Ordering::Acquire), "and no ENABLE");
        assert!(!Arc::ptr_eq(&old.users["u"], &new.users["u"]));
        let mut counted = (*old.config).clone();
        counted.general.scram_iterations += 1;
        let new = build(counted, Some(&old), key).unwrap();
        assert!(!Arc::ptr_eq(&old.users["u"], &new.users["u"]), "its verifier is made anew");
        let mut only = (*old.config).clone();
        only.databases.get_mut("b").unwrap().pool_size += 1;
        let new = build(only.clone(), Some(&old), key).unwrap();
        assert!(
            Arc::ptr_eq(&old.databases["b"].health[0], &new.databases["b"].health[0]),
            "nor of what is known of servers"
        );
        assert!(Arc::ptr_eq(&old.databases["a"], &new.databases["a"]), "the other database keeps its pools");
        only.general.server_reset_query = "RESET ALL".to_owned();
        let new = build(only, Some(&old), key).unwrap();
        assert!(!Arc::ptr_eq(&old.databases["a"], &new.databases["a"]), "pools are made with the query");
    }

    #[test]
    fn what_operators_said_of_a_made_database_stays() {
        let wildcard = "[pgweir]\nauth_type = \"trust\"\nautodb_idle_timeout = 0.001\n[databases.\"*\"]\nhost = \"127.0.0.1\"\n\
                        [users.someone]\n";
        let old = build(config(wildcard), None, [0; 32]).unwrap();
        let of = |live: &Live, name: &str| {
            live.database(name).map(|db| (db.paused.load(Ordering::Acquire), db.disabled.load(Ordering::Acquire)))
        };
        for name in ["plain", "paused", "disabled", "later"] {
            drop(old.database_for_client(name).unwrap());
        }
        for (name, told) in [("paused", true), ("later", true), ("disabled", false)] {
            let database = old.database(name).unwrap();
            if told { &database.paused } else { &database.disabled }.store(true, Ordering::Release);
            old.forget_failed(&database);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        let _expired = old.expire_made();
        assert_eq!((of(&old, "plain"), of(&old, "paused")), (None, Some((true, false))));
        assert_eq!(of(&old, "disabled"), Some((false, true)));
        // Other pools than before, one of them of a database that is listed from now on.
        let text = format!("{wildcard}pool_size = 3\n[databases.later]\nprimary = \"postgres://127.0.0.1:1/b\"\n");
        let reload = |text: &str, old: &Live| {
            let new = build(config(text), Some(old), [0; 32]).unwrap();
            let left = succeed(&new, old);
            assert!(left.iter().all(|left| !new.all().iter().any(|new| Arc::ptr_eq(new, left))));
            new
        };
        let new = reload(&text, &old);
        assert_eq!((of(&new, "paused"), of(&new, "disabled")), (Some((true, false)), Some((false, true))));
        assert_eq!(of(&new, "later"), Some((true, false)));
        let again = reload(wildcard, &new);
        assert_eq!(of(&again, "later"), Some((true, false)), "and back");
    }

    #[test]
    fn who_comes_by_an_old_wildcard_leaves_nothing_in_the_new_one() {
        let text = |size| {
            format!(
                "[pgweir]\nauth_type = \"trust\"\n[databases.\"*\"]\nhost = \"127.0.0.1\"\npool_size = {size}\n\
                 [users.someone]\n"
            )
        };
        let old = build(config(&text(1)), None, [0; 32]).unwrap();
        let new = build(config(&text(2)), Some(&old), [0; 32]).unwrap();
        assert!(succeed(&new, &old).is_empty());
        let late = old.database_for_client("late").unwrap();
        assert!(late.retired.load(Ordering::Acquire), "its client goes over");
        assert!(new.database("late").is_none());
        assert_eq!(new.database_for_client("late").unwrap().config.pool_size, 2);
    }

    #[test]
    fn strangers_take_as_long_until_all_verifiers_are_made() {
        let text =
            BASE.replace("trust", "scram-sha-256").replace("[users.someone]", "[users.someone]\npassword = \"x\"");
        let live = Arc::new(build(config(&text), None, [0; 32]).unwrap());
        let is_costly = |live: &Live| {
            let random = LoginRandom { md5_salt: [0; 4], scram_nonce: [0; 18] };
            let mut login = Login::new(AuthType::ScramSha256, "ghost", None, Arc::clone(&live.mock), random);
            login.start();
            login.next_is_costly()
        };
        assert!(is_costly(&live));
        derive_ahead(&live);
        while live.users["someone"].scram_is_costly() || is_costly(&live) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let same = build((*live.config).clone(), Some(&live), [0; 32]).unwrap();
        assert!(!is_costly(&same), "nothing is to be made");
        let mut changed = (*live.config).clone();
        changed.users.get_mut("someone").unwrap().password = Some("y".to_owned());
        assert!(is_costly(&build(changed, Some(&live), [0; 32]).unwrap()));
    }

    #[test]
    fn salts_are_of_the_private_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = |text: Option<&str>| {
            let file = dir.path().join("key");
            let mut general = config(BASE).general;
            general.client_tls.key_file = text.map(|text| {
                std::fs::write(&file, text).unwrap();
                file
            });
            mock_key(&general)
        };
        assert_eq!(key(Some("a")), key(Some("a")));
        assert_ne!(key(Some("a")), key(Some("b")));
        assert_ne!(key(None), key(None));
    }

    #[test]
    fn mistakes_are_told_without_the_secret() {
        let wrong = config(&format!(
            "{BASE}[users.u]\npassword = \"SCRAM-SHA-256$hunter2\"\n[users.v]\npassword = \"SCRAM-SHA-256$hunter3\"\n"
        ));
        let mistakes = build(wrong, None, [0; 32]).unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(mistakes[0].contains("\"u\"") && !mistakes.concat().contains("hunter"), "{mistakes:?}");
        let mut missing = config(BASE);
        missing.general.auth_file = Some("/nowhere/userlist.txt".into());
        let mistakes = build(missing, None, [0; 32]).unwrap_err();
        assert!(
            mistakes[0].starts_with("test.toml: auth_file /nowhere/userlist.txt: cannot read the file"),
            "{mistakes:?}"
        );
    }

    #[test]
    fn every_setting_that_needs_a_restart_keeps_its_value() {
        let old = config(BASE);
        let mut new = config(
            "[pgweir]\nauth_type = \"trust\"\nlisten_addr = \"127.0.0.2\"\nlisten_port = 7000\nunix_socket_dir = \"/tmp\"\n\
             unix_socket_mode = \"0700\"\nworkers = 3\nhttp_listen = \"127.0.0.1:9\"\nlog_format = \"json\"\n\
             listen_backlog = 7\nunix_socket_group = \"g\"\nso_reuseport = 1\npeer_id = 1\nuser = \"u\"\n\
             pidfile = \"p\"\n[users.someone]\n",
        );
        let fixed = crate::config::settings::settings().filter(|s| !s.changeable).count();
        assert_eq!(diff::diff(&old, &new).needs_restart.len(), fixed, "the test changes all of them");
        keep_fixed(&mut new.general, &old.general);
        assert_eq!(diff::diff(&old, &new).needs_restart, []);
    }
}
