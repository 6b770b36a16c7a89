//! A snapshot with something in every list, for the tests of the console, the metrics and the health pages.

use std::time::Duration;

use super::counters::{Counts, Histogram, HistogramSnapshot};
use super::report::{Doing, PinReport, Report, Settings, SocketReport};
use super::snapshot::*;
use crate::config::{PoolMode, Role};
use crate::id::{ClientId, ConnectionId, PeerId};
use crate::shard::check::{Check, Effect, Finding};

/// 2026-11-20 10:00:00 UTC.
pub(crate) const MOMENT: Duration = Duration::from_secs(1_795_168_800);

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        taken_at: MOMENT,
        uptime: Duration::from_secs(3600),
        version: "0.1.0".to_owned(),
        databases: vec![database("shop"), DatabaseSnapshot { force_user: Some("svc".to_owned()), ..database("logs") }],
        pools: vec![
            PoolSnapshot {
                max_wait: Duration::from_micros(2_500_001),
                ..pool("shop", "alice", "p1:5432", Role::Primary)
            },
            pool("shop", "alice", "r1:5432", Role::Replica),
            pool("shop", "bob", "p1:5432", Role::Primary),
            pool("logs", "svc", "p2:5433", Role::Primary),
        ],
        logins: vec![
            login("shop", "alice", 10),
            login("shop", "bob", 3),
            login("shop", "new", 1),
            // To the database's own user.
            login("logs", "ann", 2),
        ],
        clients_logging_in: 2,
        clients: vec![ClientSnapshot {
            id: ClientId(7),
            state: ClientState::Waiting,
            wait: Duration::from_micros(3_000_004),
            server: Some(ConnectionId(42)),
            pid: 1234,
            report: Some(report()),
            connection: connection("alice", "10.0.0.9", 40_000),
        }],
        console: ConsoleSnapshot {
            clients: 1,
            port: 6432,
            cancels: 1,
            totals: Counts { query_count: 9, xact_count: 9, ..Counts::default() },
            averages: Counts { query_count: 1, ..Counts::default() },
        },
        visitors: vec![visitor(8, ClientState::Idle, "admin", "pgbouncer")],
        cancels: vec![visitor(9, ClientState::ActiveCancel, "(nouser)", "shop")],
        listeners: vec![ListenerSnapshot {
            descriptor: 11,
            local: Endpoint { addr: "0.0.0.0".to_owned(), port: 6432 },
        }],
        memory: vec![MemorySnapshot::of("client_cache", 1_500, 3)],
        statements: vec![StatementSnapshot {
            name: "pgweir_5".to_owned(),
            uses: 2,
            types: vec![23, 25],
            text: "SELECT $1, $2".to_owned(),
        }],
        servers: vec![ServerConnectionSnapshot {
            id: ConnectionId(42),
            state: ServerState::Active,
            client: Some(ClientId(7)),
            socket: report().server,
            connection: ConnectionSnapshot { remote_pid: Some(4711), ..connection("alice", "10.0.0.1", 5432) },
        }],
        users: vec![
            UserSnapshot { name: "alice".to_owned(), pool_size: Some(5), ..UserSnapshot::default() },
            UserSnapshot { name: "svc".to_owned(), pool_mode: Some(PoolMode::Session), ..UserSnapshot::default() },
        ],
        replicas: vec![
            server("shop", "p1", 5432, Role::Primary),
            ReplicaSnapshot {
                latency: Some(Duration::from_micros(1500)),
                lag_bytes: Some(8192),
                lag: Some(Duration::from_millis(250)),
                effective_weight: Some(1.75),
                breaker: BreakerState::HalfOpen,
                last_error: Some("connection refused".to_owned()),
                last_error_age: Some(Duration::from_secs(5)),
                patroni: Some("sync_standby"),
                ..server("shop", "r1", 5432, Role::Replica)
            },
            server("logs", "p2", 5433, Role::Primary),
        ],
        shards: vec![shard("shop", "p1:5432"), shard("logs", "p2:5433")],
        stats: vec![stats("shop", 100), stats("logs", 200)],
        overall_averages: Counts { query_count: 77, ..Counts::default() },
        settings: vec![
            Setting { key: "workers", value: "0".to_owned(), default: "0".to_owned(), changeable: false },
            Setting { key: "max_client_conn", value: "50".to_owned(), default: "100".to_owned(), changeable: true },
        ],
        refused: vec![("cross_shard", 3), ("ddl", 0)],
        retried: vec![("elsewhere", 2)],
        recovered: vec![("commit", 1)],
        routes: vec![("shop".to_owned(), "own_writes_not_replayed", 6)],
        plans: vec![("shop".to_owned(), "scatter", 5)],
        tables: vec![TableSnapshot {
            database: "shop".to_owned(),
            schema: "public".to_owned(),
            name: "orders".to_owned(),
            kind: TableKind::Sharded,
            key: Some(("customer_id".to_owned(), "bigint".to_owned())),
            found_on: vec!["s0".to_owned(), "s1".to_owned()],
            missing_on: vec!["s2".to_owned()],
            not_asked: Vec::new(),
        }],
        pins: vec![("temp_object", 4, 1)],
        listening: (9, 4),
        prepared_statements: 12,
        cancel_requests: 5,
        failed_logins: vec![("password", 2)],
        turned_away: vec![("max_client_conn", 1)],
        timeouts: vec![("query_timeout", 8)],
        peers: vec![
            PeerSnapshot { requests: None, ..peer(1) },
            PeerSnapshot { requests: Some(PeerRequests { waiting: 1, connecting: 2, sent: 3 }), ..peer(2) },
        ],
        peer_cancel_requests: vec![("passed_on", 7)],
        reloads: Reloads { succeeded: 2, failed: 1, loaded_at: MOMENT },
        dns: DnsSnapshot {
            hosts: vec![
                DnsHost {
                    name: "p1.example.com".to_owned(),
                    ttl: Duration::from_millis(14_900),
                    addresses: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
                },
                DnsHost { name: "p2".to_owned(), ttl: Duration::ZERO, addresses: Vec::new() },
            ],
            zones: vec![DnsZone { name: "example.com".to_owned(), serial: Some(2_026_112_001), names: 1 }],
            queries: 1,
            pending: 0,
            lookups: [("found", 7), ("no_name", 2), ("trouble", 1)],
            gone: 3,
        },
        ..Snapshot::default()
    }
}

fn peer(id: u16) -> PeerSnapshot {
    PeerSnapshot { id: PeerId(id), host: format!("/run/p{id}"), port: 6432, pool_size: 20, requests: None }
}

/// What a client tells that is in the middle of a statement.
pub(crate) fn report() -> Report {
    let socket = |descriptor, unread| SocketReport {
        descriptor: Some(descriptor),
        received: 100 + unread,
        looked_at: 100,
        to_come: 3,
        sent: 40,
        unread,
        unsent: 60,
        memory: 4096,
        settings: Settings { client_encoding: Some("UTF8".to_owned()), ..Settings::default() },
    };
    Report {
        client: socket(21, 5),
        server: Some(socket(31, 0)),
        doing: Doing::Active,
        since: Some(MOMENT - Duration::from_millis(1500)),
        text: Some("SELECT pg_sleep(?)".to_owned()),
        pins: vec![PinReport { reason: "temp_object", statement: Some("CREATE TEMP TABLE t ()".to_owned()) }],
        pinned_since: Some(MOMENT - Duration::from_secs(60)),
    }
}

fn visitor(id: u64, state: ClientState, user: &str, database: &str) -> ClientSnapshot {
    ClientSnapshot {
        id: ClientId(id),
        state,
        wait: Duration::ZERO,
        server: None,
        pid: 0,
        report: None,
        connection: ConnectionSnapshot { database: database.to_owned(), ..connection(user, "10.0.0.8", 40_001) },
    }
}

fn database(name: &str) -> DatabaseSnapshot {
    DatabaseSnapshot {
        name: name.to_owned(),
        host: Some("p1".to_owned()),
        port: 5432,
        dbname: format!("{name}_prod"),
        force_user: None,
        pool_size: 20,
        min_pool_size: 1,
        reserve_pool_size: 0,
        server_lifetime: Duration::from_secs(3600),
        pool_mode: PoolMode::Transaction,
        load_balance_hosts: None,
        max_connections: 0,
        max_client_connections: 0,
        paused: name == "logs",
        disabled: false,
    }
}

fn pool(database: &str, user: &str, server: &str, role: Role) -> PoolSnapshot {
    PoolSnapshot {
        database: database.to_owned(),
        user: user.to_owned(),
        shard: "default".to_owned(),
        server: server.to_owned(),
        role,
        pool_mode: PoolMode::Transaction,
        servers: ServerStates { active: 1, active_cancel: 2, being_canceled: 3, idle: 4, used: 5, tested: 6, login: 7 },
        clients: ClientStates { active: 1, waiting: 2, active_cancel_req: 3, waiting_cancel_req: 4 },
        max_wait: Duration::from_millis(10),
        totals: Counts { query_count: 30, xact_count: 20, received: 1000, sent: 2000, ..Counts::default() },
        query_time: times(&[50, 300, 70_000_000]),
        resets: 3,
        wait_time: times(&[0]),
        prepared_statements: 3,
    }
}

fn times(us: &[u64]) -> HistogramSnapshot {
    let h = Histogram::new();
    us.iter().for_each(|us| h.record(Duration::from_micros(*us)));
    h.snapshot()
}

fn login(database: &str, user: &str, clients: u32) -> LoginSnapshot {
    LoginSnapshot { database: database.to_owned(), user: user.to_owned(), clients }
}

fn connection(user: &str, addr: &str, port: u16) -> ConnectionSnapshot {
    ConnectionSnapshot {
        user: user.to_owned(),
        database: "shop".to_owned(),
        remote: Endpoint { addr: addr.to_owned(), port },
        local: Endpoint { addr: "10.0.0.2".to_owned(), port: 6432 },
        connected_at: MOMENT,
        requested_at: MOMENT + Duration::from_secs(86_400),
        close_needed: false,
        remote_pid: None,
        tls: String::new(),
        application_name: "psql".to_owned(),
        replication: None,
        prepared_statements: 3,
    }
}

fn server(database: &str, host: &str, port: u16, role: Role) -> ReplicaSnapshot {
    ReplicaSnapshot {
        database: database.to_owned(),
        shard: "default".to_owned(),
        host: host.to_owned(),
        port,
        role,
        state: "up",
        timeline: Some(7),
        patroni: None,
        weight: 1.0,
        effective_weight: (role == Role::Replica).then_some(1.0),
        latency: None,
        lag_bytes: None,
        lag: None,
        in_flight: 1,
        breaker: BreakerState::Closed,
        last_error: None,
        last_error_age: None,
        reads: 9,
        unreachable: false,
        writes: 8,
    }
}

fn shard(database: &str, server: &str) -> ShardSnapshot {
    ShardSnapshot {
        database: database.to_owned(),
        name: "default".to_owned(),
        slots: vec![0..=99, 200..=16383],
        servers: vec![server.to_owned(), "r1:5432".to_owned()],
        is_default: true,
        check: Some(Check::Done(vec![Finding {
            effect: Effect::Warning,
            message: "table \"public.t\" is listed but does not exist".to_owned(),
            advice: "Create it.",
        }])),
    }
}

fn stats(database: &str, base: u64) -> StatsSnapshot {
    let figures = |from: u64| Counts::from_order(std::array::from_fn(|i| from + i as u64));
    StatsSnapshot { database: database.to_owned(), totals: figures(base), averages: figures(base / 10) }
}
