use super::*;
use crate::metrics::example;
use crate::metrics::snapshot::State;

/// PgBouncer 1.25's columns: `name type`, s = text, i = int4, q = int8, N = numeric.
const GOLDEN: &[(Show, &str)] = &[
    (
        Show::Stats,
        "database s; total_server_assignment_count N, total_xact_count N, total_query_count N, total_received N, \
         total_sent N, total_xact_time N, total_query_time N, total_wait_time N, total_client_parse_count N, \
         total_server_parse_count N, total_bind_count N, avg_server_assignment_count N, avg_xact_count N, \
         avg_query_count N, avg_recv N, avg_sent N, avg_xact_time N, avg_query_time N, avg_wait_time N, \
         avg_client_parse_count N, avg_server_parse_count N, avg_bind_count N",
    ),
    (
        Show::StatsTotals,
        "database s; server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, \
         xact_time N, query_time N, wait_time N, client_parse_count N, server_parse_count N, bind_count N",
    ),
    (
        Show::StatsAverages,
        "database s; server_assignment_count N, xact_count N, query_count N, bytes_received N, bytes_sent N, \
         xact_time N, query_time N, wait_time N, avg_client_parse_count N, avg_server_parse_count N, avg_bind_count N",
    ),
    (Show::Totals, "name s, value N"),
    (
        Show::Pools,
        "database s, user s, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active i, \
         sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, \
         maxwait_us i, pool_mode s, load_balance_hosts s",
    ),
    (Show::Clients, CONNECTIONS),
    (Show::Servers, CONNECTIONS),
    (
        Show::Databases,
        "name s, host s, port i, database s, force_user s, pool_size i, min_pool_size i, reserve_pool_size i, \
         server_lifetime i, pool_mode s, load_balance_hosts s, max_connections i, current_connections i, \
         max_client_connections i, current_client_connections i, paused i, disabled i",
    ),
    (
        Show::Users,
        "name s, pool_size s, reserve_pool_size s, pool_mode s, max_user_connections i, current_connections i, \
         max_user_client_connections i, current_client_connections i",
    ),
    (Show::Lists, "list s, items i"),
    (Show::Config, "key s, value s, default s, changeable s"),
    (Show::State, "key s, value s"),
    (Show::DnsHosts, "hostname s, ttl q, addrs s"),
    (Show::DnsZones, "zonename s, serial q, count i"),
    (Show::Version, "version s"),
    (Show::Peers, "peer_id i, host s, port i, pool_size i"),
    (Show::PeerPools, "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i"),
];

const CONNECTIONS: &str = "type s, user s, database s, replication s, state s, addr s, port i, local_addr s, \
     local_port i, connect_time s, request_time s, wait i, wait_us i, close_needed i, ptr s, link s, remote_pid i, \
     tls s, application_name s, prepared_statements i, id i";

const BUFFERS: &str = ", recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i";

fn table(show: Show, s: &Snapshot) -> Table {
    match super::show(show, s) {
        Answer::Table(table) => table,
        other => panic!("{show:?}: {other:?}"),
    }
}

fn columns(table: &Table) -> Vec<String> {
    let letter = |oid| match oid {
        25 => 's',
        23 => 'i',
        20 => 'q',
        1700 => 'N',
        oid => panic!("type {oid}"),
    };
    table.columns.iter().map(|c| format!("{} {}", c.name, letter(c.type_oid))).collect()
}

/// A row's cells by column, NULL as `-`.
fn row(table: &Table, at: usize) -> String {
    table.rows[at].iter().map(|c| c.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
}

#[test]
fn columns_are_pgbouncers() {
    let s = example::snapshot();
    let sockets = format!("{CONNECTIONS}{BUFFERS}");
    let sockets = [(Show::Sockets, sockets.as_str()), (Show::ActiveSockets, sockets.as_str())];
    for (show, expected) in GOLDEN.iter().copied().chain(sockets) {
        let expected: Vec<_> = expected.split([',', ';']).map(str::trim).collect();
        assert_eq!(columns(&table(show, &s)), expected, "{show:?}");
    }
}

/// What a driver does with a cell of the declared type.
#[test]
fn every_cell_is_of_its_columns_type() {
    let mut huge = example::snapshot();
    huge.clients[0].id = crate::id::ClientId(u64::MAX);
    huge.stats[0].totals.received = u64::MAX;
    huge.pools[0].max_wait = std::time::Duration::MAX;
    huge.replicas[0].latency = Some(std::time::Duration::MAX);
    huge.databases[0].server_lifetime = std::time::Duration::MAX;
    for s in [example::snapshot(), Snapshot::default(), huge] {
        for show in Show::ALL.iter().copied().filter(|s| *s != Show::Help) {
            let table = table(show, &s);
            for row in &table.rows {
                assert_eq!(row.len(), table.columns.len(), "{show:?}");
                for (cell, column) in row.iter().zip(&table.columns) {
                    let Some(cell) = cell else { continue };
                    let fits = match column.type_oid {
                        INT4 => cell.parse::<i32>().is_ok(),
                        INT8 => cell.parse::<i64>().is_ok(),
                        NUMERIC => cell.parse::<f64>().is_ok_and(f64::is_finite),
                        _ => true,
                    };
                    assert!(fits, "{show:?}.{} = {cell}", column.name);
                }
            }
        }
    }
}

#[test]
fn pools_are_summed_over_the_servers_behind_a_user() {
    let mut s = example::snapshot();
    let pools = table(Show::Pools, &s);
    let rows: Vec<_> = (0..pools.rows.len()).map(|i| row(&pools, i)).collect();
    assert_eq!(
        rows,
        [
            "logs svc 1 2 3 4 1 2 3 4 5 6 7 0 10000 transaction -",
            "pgbouncer pgbouncer 1 0 0 0 0 0 0 0 0 0 0 0 0 statement -",
            // Two servers: 10 clients of which 4 wait; the longest wait is 2.500001 s.
            "shop alice 6 4 6 8 2 4 6 8 10 12 14 2 500001 transaction -",
            "shop bob 1 2 3 4 1 2 3 4 5 6 7 0 10000 transaction -",
            "shop new 1 0 0 0 0 0 0 0 0 0 0 0 0 transaction -",
        ]
    );
    s.databases[0].load_balance_hosts = Some(crate::config::LoadBalance::RoundRobin);
    let pools = table(Show::Pools, &s);
    assert!(row(&pools, 3).ends_with("round-robin") && row(&pools, 0).ends_with(" -"), "where there are several hosts");
}

#[test]
fn databases_and_users_count_their_connections() {
    let s = example::snapshot();
    let databases = table(Show::Databases, &s);
    assert_eq!(row(&databases, 2), "shop p1 5432 shop_prod - 20 1 0 3600 transaction - 0 84 0 14 0 0");
    assert_eq!(row(&databases, 1), "pgbouncer - 6432 pgbouncer pgbouncer 2 0 0 0 statement - 0 0 0 1 0 0");
    assert_eq!(row(&databases, 0), "logs p1 5432 logs_prod svc 20 1 0 3600 transaction - 0 28 0 2 1 0");
    let users = table(Show::Users, &s);
    assert_eq!(row(&users, 0), "alice 5  - 0 56 0 10");
    assert_eq!(row(&users, 1), "pgbouncer   - 0 0 0 0");
    assert_eq!(row(&users, 2), "svc   session 0 28 0 0");
}

#[test]
fn clients_and_servers_point_at_each_other() {
    let s = example::snapshot();
    let clients = table(Show::Clients, &s);
    assert_eq!(
        row(&clients, 0),
        "C alice shop none waiting 10.0.0.9 40000 10.0.0.2 6432 2026-11-20 10:00:00 UTC 2026-11-21 10:00:00 UTC 3 4 0 \
         c7 s42 0  psql 3 7"
    );
    let rest = |at| row(&clients, at).split(' ').take(5).collect::<Vec<_>>().join(" ");
    assert_eq!(rest(1), "C admin pgbouncer none idle", "who is at the console");
    assert_eq!(rest(2), "C (nouser) shop none active_cancel_req");
    let servers = table(Show::Servers, &s);
    assert_eq!(
        row(&servers, 0),
        "S alice shop none active 10.0.0.1 5432 10.0.0.2 6432 2026-11-20 10:00:00 UTC 2026-11-21 10:00:00 UTC 0 0 0 \
         s42 c7 4711  psql 3 42"
    );
}

#[test]
fn active_sockets_leave_the_idle_out() {
    let mut s = example::snapshot();
    let buffers = |table: &Table, at: usize| row(table, at).split(' ').rev().take(7).collect::<Vec<_>>().join(" ");
    let sockets = table(Show::Sockets, &s);
    assert_eq!(sockets.rows.len(), 3, "a cancel request has no buffers");
    assert_eq!(buffers(&sockets, 0), "60 5 0 40 3 100 105", "from the last column to the first");
    assert_eq!(buffers(&sockets, 1), "0 0 0 0 0 0 0");
    let state = |at: usize| sockets.rows[at][4].clone().unwrap();
    assert_eq!([state(0), state(1), state(2)], ["cl_waiting", "cl_active", "sv_active"]);
    s.clients[0].report = Some(crate::metrics::report::Report::default());
    let active = table(Show::ActiveSockets, &s);
    assert_eq!(active.rows.len(), 1);
    assert!(row(&active, 0).starts_with("S alice"));
}

#[test]
fn stats_stand_under_their_names() {
    let s = example::snapshot();
    let by_name = |show, name: &str| {
        let table = table(show, &s);
        let at = table.columns.iter().position(|c| c.name == name).unwrap();
        let row = table.rows.iter().find(|row| row[0].as_deref() == Some("shop")).unwrap();
        row[at].clone().unwrap()
    };
    let console = table(Show::StatsTotals, &s);
    assert_eq!(row(&console, 1), "pgbouncer 0 9 9 0 0 0 0 0 0 0 0", "in the order of the names");
    assert_eq!(by_name(Show::Stats, "database"), "shop");
    assert_eq!(by_name(Show::Stats, "total_received"), "103");
    assert_eq!(by_name(Show::Stats, "avg_recv"), "13");
    assert_eq!(by_name(Show::Stats, "avg_bind_count"), "20");
    assert_eq!(by_name(Show::StatsTotals, "wait_time"), "107");
    assert_eq!(by_name(Show::StatsAverages, "query_time"), "16");
    assert_eq!(by_name(Show::StatsAverages, "avg_client_parse_count"), "18");
}

#[test]
fn totals_have_pgbouncers_rows() {
    let totals = table(Show::Totals, &example::snapshot());
    let names: Vec<_> = totals.rows.iter().map(|r| r[0].clone().unwrap()).collect();
    let expected = "server_assignment_count, xact_count, query_count, client_bytes, server_bytes, xact_time, \
                    query_time, wait_time, ps_client_parse_count, ps_server_parse_count, ps_bind_count";
    let expected: Vec<_> =
        ["total_", "avg_"].iter().flat_map(|p| expected.split(", ").map(move |n| format!("{p}{n}"))).collect();
    assert_eq!(names, expected);
    assert_eq!(row(&totals, 2), "total_query_count 313", "102 of shop, 202 of logs and 9 of the console");
    assert_eq!(row(&totals, 13), "avg_query_count 77");
}

#[test]
fn lists_have_pgbouncers_rows() {
    let lists = table(Show::Lists, &example::snapshot());
    let rows: Vec<_> = (0..lists.rows.len()).map(|i| row(&lists, i)).collect();
    assert_eq!(
        rows,
        [
            "databases 3",
            "users 3",
            "peers 2",
            "pools 5",
            "peer_pools 1",
            "free_clients 0",
            "used_clients 20",
            "login_clients 2",
            "free_servers 0",
            "used_servers 112",
            "dns_names 2",
            "dns_zones 1",
            "dns_queries 1",
            "dns_pending 0",
        ]
    );
}

#[test]
fn names_of_servers() {
    let (hosts, zones) = (table(Show::DnsHosts, &example::snapshot()), table(Show::DnsZones, &example::snapshot()));
    assert_eq!(row(&hosts, 0), "p1.example.com 14 10.0.0.1:0,10.0.0.2:0");
    assert_eq!(row(&hosts, 1), "p2 0 ");
    assert_eq!(row(&zones, 0), "example.com 2026112001 1");
}

#[test]
fn config_is_sorted_and_state_and_version_are_said() {
    let mut s = example::snapshot();
    let config = table(Show::Config, &s);
    assert_eq!((row(&config, 0), row(&config, 1)), ("max_client_conn 50 100 yes".into(), "workers 0 0 no".into()));
    assert_eq!(row(&table(Show::Version, &s), 0), "pgweir 0.1.0");
    for (state, expected) in [
        (State::Active, ["active yes", "paused no", "suspended no"]),
        (State::Paused, ["active no", "paused yes", "suspended no"]),
        (State::Suspended, ["active no", "paused no", "suspended yes"]),
        (State::Draining, ["active yes", "paused no", "suspended no"]),
    ] {
        s.state = state;
        let table = table(Show::State, &s);
        assert_eq!([row(&table, 0), row(&table, 1), row(&table, 2)], expected, "{state:?}");
    }
}

#[test]
fn replicas_and_shards() {
    let s = example::snapshot();
    let replicas = table(Show::Replicas, &s);
    assert_eq!(
        row(&replicas, 1),
        "shop default r1 5432 replica 1 1.750 1500 8192 250000 1 half_open 9 8 connection refused 5000000 up 7 sync_standby"
    );
    assert_eq!(row(&replicas, 0), "shop default p1 5432 primary 1 - - - - 1 closed 9 8 - - up 7 -");
    let shards = table(Show::Shards, &s);
    assert_eq!(
        row(&shards, 0),
        "shop default 0-99,200-16383 16284 1 p1:5432,r1:5432 60 90 3000 6000 warning: table \"public.t\" is listed but does not exist \
         up p1:5432 primary up,r1:5432 replica up 18 16",
        "three pools of the shard"
    );
}

#[test]
fn tables_show_where_they_were_found() {
    let tables = table(Show::Tables, &example::snapshot());
    assert_eq!(row(&tables, 0), "shop public orders sharded customer_id bigint s0,s1 s2 ");
}

#[test]
fn peers_and_the_requests_for_them() {
    let s = example::snapshot();
    let peers = table(Show::Peers, &s);
    assert_eq!([row(&peers, 0), row(&peers, 1)], ["1 /run/p1 6432 20", "2 /run/p2 6432 20"]);
    let pools = table(Show::PeerPools, &s);
    assert_eq!((pools.rows.len(), row(&pools, 0).as_str()), (1, "2 3 3 3 2"), "none for ourselves");
}

#[test]
fn what_clients_tell_stands_in_its_tables() {
    let s = example::snapshot();
    assert_eq!(row(&table(Show::Mem, &s), 0), "client_cache 1500 3 0 4500");
    let fds = table(Show::Fds, &s);
    let rows: Vec<_> = (0..fds.rows.len()).map(|i| row(&fds, i)).collect();
    assert_eq!(
        rows,
        [
            "11 pooler - - 0.0.0.0 6432 0 0 - - - -",
            "21 client alice shop 10.0.0.9 40000 1234 31 UTF8 - - -",
            "31 server alice shop 10.0.0.1 5432 4711 21 UTF8 - - -",
        ]
    );
    assert!(!columns(&fds).iter().any(|column| column.contains("password") || column.contains("key")));
    assert_eq!(
        row(&table(Show::Pins, &s), 0),
        "c7 s42 shop alice temp_object CREATE TEMP TABLE t () 2026-11-20 09:59:00 UTC 7"
    );
    assert_eq!(row(&table(Show::Prepared, &s), 0), "pgweir_5 2 23,25 SELECT $1, $2");
    assert_eq!(
        row(&table(Show::Queries, &s), 0),
        "c7 s42 shop alice psql active 2026-11-20 09:59:58 UTC 1500000 SELECT pg_sleep(?) 1234 7"
    );
    let mut idle = s;
    idle.clients[0].report = Some(crate::metrics::report::Report::default());
    assert_eq!(table(Show::Queries, &idle).rows.len() + table(Show::Pins, &idle).rows.len(), 0);
}

#[test]
fn help_names_every_command_that_is_answered() {
    let Answer::Notice(notice) = show(Show::Help, &Snapshot::default()) else { panic!("no notice") };
    assert_eq!(notice.message, "Console usage");
    for show in Show::ALL {
        let named = notice.detail.split(['|', ' ', '\n', '\t']).any(|word| word == show.name());
        assert!(named, "{show:?} in {}", notice.detail);
    }
    for command in ["RELOAD", "EXPLAIN ROUTE", "SUSPEND", "KILL_CLIENT", "SET key", "WAIT_CLOSE", "DISABLE", "ENABLE"] {
        assert!(notice.detail.contains(command), "{command} in {}", notice.detail);
    }
}
