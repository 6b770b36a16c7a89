//! The parts of a snapshot that follow from the configuration alone. Passwords stay behind.

use super::snapshot::{DatabaseSnapshot, ShardSnapshot, UserSnapshot, slot_ranges};
use crate::config::{Database, Host, Role, Server, User};

/// A configured database, neither paused nor disabled.
#[must_use]
pub fn database(db: &Database) -> DatabaseSnapshot {
    let mut hosts: Vec<String> = Vec::new();
    for host in primaries(db).map(|p| host(&p.host)) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let first = primaries(db).next();
    let balanced = primaries(db).any(|p| matches!(p.host, Host::Several(_)));
    DatabaseSnapshot {
        name: db.name.clone(),
        host: Some(hosts.join(",")),
        port: first.map_or(0, |p| p.port),
        dbname: first.map_or(&db.name, |p| &p.dbname).clone(),
        force_user: db.user.clone(),
        pool_size: db.pool_size,
        min_pool_size: db.min_pool_size,
        reserve_pool_size: db.reserve_pool_size,
        server_lifetime: db.server_lifetime,
        pool_mode: db.pool_mode,
        load_balance_hosts: balanced.then_some(db.load_balance_hosts),
        max_connections: db.max_db_connections,
        max_client_connections: db.max_db_client_connections,
        paused: false,
        disabled: false,
    }
}

fn primaries(db: &Database) -> impl Iterator<Item = &Server> {
    db.shards.iter().flat_map(|s| &s.servers).filter(|s| s.role == Role::Primary)
}

/// The shards of a database.
#[must_use]
pub fn shards(db: &Database) -> Vec<ShardSnapshot> {
    let mut slots = slot_ranges(&db.map);
    let shards = db.shards.iter().enumerate().map(|(index, shard)| ShardSnapshot {
        database: db.name.clone(),
        name: shard.name.clone(),
        slots: slots.get_mut(index).map(std::mem::take).unwrap_or_default(),
        servers: shard.servers.iter().map(address).collect(),
        is_default: usize::from(db.map.default_shard.0) == index,
        check: None,
    });
    shards.collect()
}

/// A user of `[users]`.
#[must_use]
pub fn user(name: &str, user: &User) -> UserSnapshot {
    UserSnapshot {
        name: name.to_owned(),
        pool_size: user.pool_size,
        pool_mode: user.pool_mode,
        reserve_pool_size: user.reserve_pool_size,
        max_connections: user.max_user_connections.unwrap_or(0),
        max_client_connections: user.max_user_client_connections.unwrap_or(0),
    }
}

/// A server as `host:port`, for [`super::snapshot::PoolSnapshot::server`].
#[must_use]
pub fn address(server: &Server) -> String {
    format!("{}:{}", host(&server.host), server.port)
}

/// A host as text: the name, or the socket's directory.
#[must_use]
pub fn host(host: &Host) -> String {
    host.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::{HealthSettings, LoadBalance, PoolMode, ReadBalance, Shard, StartupSettings};
    use crate::id::ShardIndex;
    use crate::metrics::families;
    use crate::metrics::snapshot::Snapshot;
    use crate::shard::map::{SLOTS, ShardMap};
    use crate::sql::facts::RouteHint;

    const SECRET: &str = "hunter2";

    fn server(host: &str, role: Role) -> Server {
        Server {
            host: Host::Tcp(host.to_owned()),
            port: 5433,
            dbname: "shop_prod".to_owned(),
            role,
            weight: 1.0,
            zone: None,
        }
    }

    fn sharded() -> Database {
        let mut owners = vec![ShardIndex(0); usize::from(SLOTS)];
        owners[8192..].fill(ShardIndex(1));
        let shard = |name: &str, host: &str| Shard {
            name: name.to_owned(),
            servers: vec![server(host, Role::Primary), server("r1", Role::Replica)],
            patroni: Vec::new(),
        };
        Database {
            name: "shop".to_owned(),
            pool_mode: PoolMode::Transaction,
            pool_size: 20,
            min_pool_size: 2,
            reserve_pool_size: 1,
            user: Some("svc".to_owned()),
            password: Some(SECRET.to_owned()),
            auth_user: None,
            auth_query: String::new(),
            auth_dbname: None,
            probe_user: Some("probe".to_owned()),
            probe_password: Some(SECRET.to_owned()),
            connect_query: None,
            server_lifetime: Duration::from_secs(60),
            query_wait_timeout: None,
            max_db_client_connections: 7,
            max_db_connections: 0,
            load_balance_hosts: LoadBalance::RoundRobin,
            startup: StartupSettings::default(),
            route: RouteHint::Auto,
            partial_results: false,
            pinning: crate::config::Pinning::default(),
            health: HealthSettings {
                probe_interval: Duration::from_secs(1),
                probe_timeout: Duration::from_secs(2),
                breaker_failures: 5,
                breaker_cooldown: Duration::from_secs(60),
                max_lag: Duration::ZERO,
                max_lag_bytes: 0,
                consistency: crate::config::Consistency::Session,
                max_staleness: Duration::ZERO,
                fallback: crate::config::Fallback::Primary,
                zone: None,
                failover_timeout: Duration::from_secs(30),
                patroni_interval: Duration::from_secs(1),
                balance: ReadBalance::WeightedRandom,
            },
            shards: vec![shard("a", "p1"), shard("b", "p2")],
            map: ShardMap {
                epoch: 1,
                owners,
                names: vec!["a".to_owned(), "b".to_owned()],
                tables: BTreeMap::new(),
                default_shard: ShardIndex(1),
                writes: crate::shard::map::Writes::default(),
            },
            writes: crate::shard::map::Writes::default(),
        }
    }

    #[test]
    fn a_sharded_database() {
        let db = database(&sharded());
        assert_eq!((db.host.as_deref(), db.port, db.dbname.as_str()), (Some("p1,p2"), 5433, "shop_prod"));
        assert_eq!((db.force_user.as_deref(), db.pool_size, db.min_pool_size), (Some("svc"), 20, 2));
        assert_eq!((db.max_client_connections, db.load_balance_hosts), (7, None));
        let mut several = sharded();
        several.shards[0].servers[0].host = Host::Several(vec![Host::Tcp("x".to_owned()), Host::Tcp("y".to_owned())]);
        let db = database(&several);
        assert_eq!((db.host.as_deref(), db.load_balance_hosts), (Some("x,y,p2"), Some(LoadBalance::RoundRobin)));
        let shards = shards(&sharded());
        assert_eq!(shards[0].slots, [0..=8191]);
        assert_eq!((&shards[1].slots[..], shards[1].is_default), (&[8192..=16383][..], true));
        assert_eq!(shards[1].servers, ["p2:5433", "r1:5433"]);
        let over = user("alice", &User { pool_size: Some(3), ..User::default() });
        assert_eq!((over.name.as_str(), over.pool_size), ("alice", Some(3)));
        assert_eq!(host(&Host::Unix("/run/pg".into())), "/run/pg");
    }

    #[test]
    fn no_password_gets_into_a_snapshot() {
        let secret_user = User { password: Some(SECRET.to_owned()), ..User::default() };
        let snapshot = Snapshot {
            databases: vec![database(&sharded())],
            shards: shards(&sharded()),
            users: vec![user("alice", &secret_user)],
            ..Snapshot::default()
        };
        let shown = format!("{snapshot:?}{}", families::text(&snapshot).unwrap());
        assert!(shown.contains("alice") && shown.contains("shop_prod"), "it shows the rest");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
