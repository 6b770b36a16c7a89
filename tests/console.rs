//! The console as PgBouncer's users know it: psql and drivers on the databases `pgweir` and `pgbouncer`, what SHOW shows and that
//! it is true, PAUSE and RESUME, RELOAD, SHUTDOWN, and who may do what.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::raw::{Address, RawClient};
use common::tools;
use common::weir::{ADMIN, CONSOLE, Weir};
use common::wire::{Message, ServerError, show};
use common::{eventually, guard};

const SOON: Duration = Duration::from_secs(10);

fn over(cluster: &Cluster) -> common::weir::Builder {
    Weir::builder().cluster("app", cluster, &[])
}

/// Columns with their types, `name:oid`.
fn columns(client: &mut RawClient, command: &str) -> String {
    client.query(command);
    let messages = client.read_until_ready();
    let head = messages.first().unwrap_or_else(|| panic!("{command}: no answer"));
    assert_eq!(head.tag, b'T', "{command}: {}", show(&messages));
    let end = show(&messages[messages.len() - 2..]);
    assert_eq!(end, "C(SHOW) Z(I)", "{command}");
    let width = head.columns().unwrap().len();
    for row in messages.iter().filter_map(Message::row) {
        assert_eq!(row.len(), width, "{command}: {row:?}");
    }
    head.to_string()
}

fn error(client: &mut RawClient, command: &str) -> ServerError {
    client.query(command);
    let messages = client.read_until_ready();
    assert!(show(&messages).ends_with("Z(I)"), "{command}: {}", show(&messages));
    let error = messages.iter().find_map(Message::error).filter(|e| e.severity == "ERROR");
    error.unwrap_or_else(|| panic!("{command}: {}", show(&messages)))
}

fn by<'a>(rows: &'a [BTreeMap<String, String>], column: &str, value: &str) -> &'a BTreeMap<String, String> {
    rows.iter().find(|row| row[column] == value).unwrap_or_else(|| panic!("no row with {column} {value}: {rows:?}"))
}

fn number(row: &BTreeMap<String, String>, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

// Columns.

#[test]
fn columns_are_those_of_pgbouncer() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let _client = weir.client("app");
    for database in [CONSOLE, "pgbouncer"] {
        let mut console = weir.login(ADMIN, database).connect().unwrap();
        let typed = |names: &str, oid: u32| {
            names.split_whitespace().map(|name| format!("{name}:{oid}")).collect::<Vec<_>>().join(",")
        };
        let columns = &mut |command: &str| columns(&mut console, command);
        assert_eq!(
            columns("SHOW POOLS"),
            format!(
                "T({},{},{})",
                typed("database user", 25),
                typed(
                    "cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
                     sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
                    23
                ),
                typed("pool_mode load_balance_hosts", 25)
            )
        );
        let sockets = "type:25,user:25,database:25,replication:25,state:25,addr:25,port:23,local_addr:25,local_port:23,\
             connect_time:25,request_time:25,wait:23,wait_us:23,close_needed:23,ptr:25,link:25,remote_pid:23,tls:25,\
             application_name:25,prepared_statements:23,id:23";
        assert_eq!(columns("SHOW CLIENTS"), format!("T({sockets})"));
        assert_eq!(columns("SHOW SERVERS"), format!("T({sockets})"));
        let buffers = typed("recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail", 23);
        assert_eq!(columns("SHOW SOCKETS"), format!("T({sockets},{buffers})"));
        assert_eq!(
            columns("SHOW DATABASES"),
            "T(name:25,host:25,port:23,database:25,force_user:25,pool_size:23,min_pool_size:23,reserve_pool_size:23,\
             server_lifetime:23,pool_mode:25,load_balance_hosts:25,max_connections:23,current_connections:23,\
             max_client_connections:23,current_client_connections:23,paused:23,disabled:23)"
        );
        let plain = "server_assignment_count xact_count query_count";
        let rest = "xact_time query_time wait_time client_parse_count server_parse_count bind_count";
        let prefixed = |prefix: &str, names: &str| {
            typed(&names.split_whitespace().map(|n| format!("{prefix}{n} ")).collect::<String>(), 1700)
        };
        assert_eq!(
            columns("SHOW STATS"),
            format!(
                "T(database:25,{},{})",
                prefixed("total_", &format!("{plain} received sent {rest}")),
                prefixed("avg_", &format!("{plain} recv sent {rest}"))
            )
        );
        assert_eq!(
            columns("SHOW STATS_TOTALS"),
            format!("T(database:25,{})", prefixed("", &format!("{plain} bytes_received bytes_sent {rest}")))
        );
        assert_eq!(columns("SHOW LISTS"), "T(list:25,items:23)");
        assert_eq!(columns("SHOW CONFIG"), "T(key:25,value:25,default:25,changeable:25)");
        assert_eq!(columns("SHOW VERSION"), "T(version:25)");
        assert_eq!(columns("SHOW STATE"), "T(key:25,value:25)");
        assert_eq!(
            columns("SHOW USERS"),
            "T(name:25,pool_size:25,reserve_pool_size:25,pool_mode:25,max_user_connections:23,current_connections:23,\
             max_user_client_connections:23,current_client_connections:23)"
        );
        assert_eq!(columns("SHOW TOTALS"), "T(name:25,value:1700)");
        assert!(columns("SHOW REPLICAS").starts_with("T(database:25,shard:25,host:25,port:23,role:25,weight:1700"));
        assert!(columns("SHOW SHARDS").starts_with("T(database:25,shard:25,slots:25,slot_count:23"));
        assert_eq!(columns("select version"), "T(version:25)", "SELECT x is SHOW x, in any case");

        console.query("SHOW HELP;");
        let help = console.read_until_ready();
        assert!(show(&help).ends_with("C(SHOW) Z(I)") && help[0].tag == b'N', "{}", show(&help));
        let text = help[0].error().unwrap().fields[&'D'].clone();
        for word in ["POOLS", "REPLICAS", "RELOAD", "PAUSE", "RESUME", "SHUTDOWN", "EXPLAIN ROUTE"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        assert_eq!(console.run(""), "I Z(I)");
        assert!(console.run("SET application_name = 'x'").starts_with("C(SET)"));
        console.terminate();
        assert_eq!(show(&console.read_to_end()), "");
    }
}

#[test]
fn psql_speaks_to_the_console() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    for database in [CONSOLE, "pgbouncer"] {
        let run = |sql: &str| {
            let mut command: Command = tools::psql_command(weir.port(), database, &["-Atc", sql]);
            tools::Running::start(command.env("PGUSER", ADMIN)).wait(tools::TIMEOUT)
        };
        assert_eq!(run("SHOW VERSION").ok(), format!("pgweir {}\n", env!("CARGO_PKG_VERSION")));
        let databases = run("SHOW DATABASES").ok();
        assert!(databases.contains(&format!("app|127.0.0.1|{}|postgres|", cluster.port())), "{databases}");
        let lists = run("SHOW LISTS").ok();
        assert!(lists.contains("databases|2\n"), "{lists}");
        assert!(run("SHOW HELP").stderr.contains("NOTICE"));
        let wrong = run("SHOW POOL");
        assert!(!wrong.status.success() && wrong.stderr.contains("SHOW POOLS"), "{}", wrong.stderr);
    }
}

/// A small whole number as `numeric_send` writes it.
struct Numeric(u16);

impl<'a> tokio_postgres::types::FromSql<'a> for Numeric {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let [0, 1, 0, 0, 0, 0, 0, 0, high, low] = raw else { return Err(format!("{raw:?}").into()) };
        Ok(Self(u16::from_be_bytes([*high, *low])))
    }

    fn accepts(of: &tokio_postgres::types::Type) -> bool {
        *of == tokio_postgres::types::Type::NUMERIC
    }
}

#[tokio::test]
async fn a_driver_speaks_to_the_console() {
    use tokio_postgres::SimpleQueryMessage;
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let target = format!("host=127.0.0.1 port={} user={ADMIN} dbname={CONSOLE}", weir.port());
    let (client, connection) = tokio_postgres::connect(&target, tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let messages = client.simple_query("SHOW LISTS").await.unwrap();
    let rows: Vec<_> = messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => Some((row.get("list")?.to_owned(), row.get("items")?.to_owned())),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = rows.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        names.join(" "),
        "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers \
         dns_names dns_zones dns_queries dns_pending"
    );
    // By the extended protocol it asks for all in binary.
    let databases = client.query("SHOW DATABASES", &[]).await.unwrap();
    let app = databases.iter().find(|row| row.get::<_, &str>("name") == "app").unwrap();
    assert_eq!((app.get::<_, i32>("pool_size"), app.get::<_, i32>("port")), (20, i32::from(cluster.port())));
    assert_eq!(app.get::<_, Option<&str>>("force_user"), None);
    let rows = client.query("SHOW STATS_TOTALS", &[]).await.unwrap();
    let console = rows.iter().find(|row| row.get::<_, &str>("database") == "pgbouncer").unwrap();
    let commands: Numeric = console.get("query_count");
    // The answer and the description of this one and the one before, and SHOW LISTS.
    assert!((2..=10).contains(&commands.0), "{}", commands.0);
    assert!(client.simple_query("SHOW STATE").await.is_ok());
    drop(client);
    driver.await.unwrap().unwrap();
}

// Live values.

#[test]
fn what_is_shown_is_what_happens() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let pool = || {
        let pools = weir.admin_table("SHOW POOLS");
        by(&pools, "database", "app").clone()
    };
    let mut client = weir.login("postgres", "app").param("application_name", "shown").connect().unwrap();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    client.value("SELECT 1");
    let row = pool();
    assert_eq!((&*row["user"], &*row["pool_mode"]), ("postgres", "transaction"));
    let states = |row: &BTreeMap<String, String>| {
        ["cl_active", "cl_waiting", "sv_active", "sv_idle"].map(|column| number(row, column))
    };
    assert_eq!(states(&row), [1, 0, 1, 0]);
    let clients = weir.admin_table("SHOW CLIENTS");
    let shown = by(&clients, "application_name", "shown").clone();
    let wanted = [("type", "C"), ("user", "postgres"), ("database", "app"), ("state", "active"), ("addr", "127.0.0.1")];
    for (column, value) in wanted {
        assert_eq!(shown[column], value, "{column}: {shown:?}");
    }
    assert_eq!(shown["local_port"], weir.port().to_string());
    let servers = weir.admin_table("SHOW SERVERS");
    let server = by(&servers, "state", "active").clone();
    assert_eq!((&server["link"], &server["ptr"]), (&shown["ptr"], &shown["link"]));
    assert_eq!((&*server["type"], &*server["port"]), ("S", &*cluster.port().to_string()));
    let pid = client.value(common::SERVER_PID);
    assert_eq!(server["remote_pid"], pid, "the process on the server");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    eventually("the server is back", SOON, || (states(&pool()) == [1, 0, 0, 1]).then_some(()));

    // Who waits.
    let small = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    let mut first = small.client("app");
    first.run("BEGIN; SELECT 1");
    let mut second = small.client("app");
    second.query("SELECT 2");
    let waiting = |weir: &Weir| {
        let pools = weir.admin_table("SHOW POOLS");
        let row = by(&pools, "database", "app");
        (states(row), number(row, "maxwait") * 1_000_000 + number(row, "maxwait_us"))
    };
    let waited = eventually("the second waits", SOON, || {
        let (states, waited) = waiting(&small);
        (states == [1, 1, 1, 0]).then_some(waited)
    });
    eventually("it waits longer", SOON, || (waiting(&small).1 > waited).then_some(()));
    assert_eq!(by(&small.admin_table("SHOW CLIENTS"), "state", "waiting")["database"], "app");
    first.run("COMMIT");
    assert_eq!(show(&second.read_until_ready()), "T(?column?:23) D(2) C(SELECT 1) Z(I)");
}

#[test]
fn counters_grow_by_what_was_run() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut client = weir.client("app");
    client.value("SELECT 1");
    let stats = || {
        let rows = weir.admin_table("SHOW STATS");
        let row = by(&rows, "database", "app");
        ["total_xact_count", "total_query_count", "total_bind_count", "total_client_parse_count"]
            .map(|column| number(row, column))
    };
    let bytes = || {
        let rows = weir.admin_table("SHOW STATS_TOTALS");
        let row = by(&rows, "database", "app");
        [number(row, "bytes_received"), number(row, "bytes_sent")]
    };
    let settled = |wanted: [u64; 2], before: [u64; 4]| {
        eventually(&format!("{wanted:?} after {before:?}"), SOON, || {
            let now = stats();
            ([now[0] - before[0], now[1] - before[1]] == wanted).then_some(now)
        })
    };
    // A statement is counted when its server is given back, which may be after its answer.
    let before = settled([1, 1], [0; 4]);
    let sizes = bytes();
    for _ in 0..10 {
        client.value("SELECT 2");
    }
    let now = settled([10, 10], before);
    let text = "SELECT 2";
    let after = bytes();
    assert_eq!(after[0] - sizes[0], 10 * (5 + text.len() as u64 + 1), "bytes received");
    assert!(after[1] - sizes[1] > 10 * 20, "bytes sent: {sizes:?} {after:?}");

    // A transaction of three statements.
    client.run("BEGIN");
    client.run("SELECT 1");
    client.run("COMMIT");
    let now = settled([1, 3], now);
    // Prepared once, run five times.
    client.parse("s", "SELECT $1::int4", &[]);
    client.sync();
    client.read_until_ready();
    let parsed = eventually("a Parse of the client", SOON, || Some(stats()).filter(|s| s[3] - now[3] == 1));
    for _ in 0..5 {
        client.bind("", "s", &[Some("1")]);
        client.execute("", 0);
        client.sync();
        client.read_until_ready();
    }
    let after = eventually("five binds", SOON, || Some(stats()).filter(|now| now[2] - parsed[2] == 5));
    assert!(after[1] - parsed[1] >= 5, "{parsed:?} {after:?}");
    let totals = weir.admin_table("SHOW TOTALS");
    assert!(number(by(&totals, "name", "total_query_count"), "value") >= 18, "{totals:?}");
    let replicas = weir.admin_table("SHOW REPLICAS");
    assert_eq!((&*replicas[0]["role"], &*replicas[0]["breaker"]), ("primary", "closed"));
    eventually("this client and the console that asks", SOON, || {
        let lists = weir.admin_table("SHOW LISTS");
        (number(by(&lists, "list", "used_clients"), "items") == 2).then_some(())
    });
    let config = weir.admin_table("SHOW CONFIG");
    assert_eq!(by(&config, "key", "listen_port")["value"], weir.port().to_string());
    let keys: Vec<&String> = config.iter().map(|row| &row["key"]).collect();
    assert!(keys.is_sorted());
    assert_eq!(by(&config, "key", "max_client_conn")["default"], "1000", "our file has our own defaults");
    for key in ["max_client_conn", "default_pool_size"] {
        number(by(&config, "key", key), "value");
    }
}

// EXPLAIN ROUTE.

#[test]
fn explain_route_says_where_and_why() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{p}/postgres\"\nreplicas = [\"postgres://127.0.0.1:{r}/postgres\"]\n\
             probe_user = \"postgres\"\nprobe_interval = \"50ms\"\n\
             [databases.big]\nprobe_user = \"postgres\"\n\
             [[databases.big.shards]]\nname = \"s0\"\nslots = [[0, 8191]]\nprimary = \"postgres://127.0.0.1:{p}/postgres\"\n\
             [[databases.big.shards]]\nname = \"s1\"\nslots = [[8192, 16383]]\nprimary = \"postgres://127.0.0.1:{r}/postgres\"\n\
             [databases.big.tables]\nt = {{ key = \"k\", type = \"bigint\" }}\n",
            p = primary.port(),
            r = replica.port()
        ))
        .start();
    let explain = |database: &str, sql: &str| -> BTreeMap<String, String> {
        let sql = sql.replace('\'', "''");
        let rows = weir.admin(&format!("EXPLAIN ROUTE FOR {database} '{sql}'"));
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
    };
    eventually("reads go to the replica", SOON, || {
        (explain("app", "SELECT 1 FROM t")["role"] == "replica").then_some(())
    });
    let read = explain("app", "SELECT v FROM t WHERE v = 'x'");
    assert_eq!((&*read["class"], &*read["server"]), ("read", &*format!("127.0.0.1:{}", replica.port())), "{read:?}");
    let write = explain("app", "UPDATE t SET v = 'x'");
    assert_eq!((&*write["class"], &*write["role"]), ("write", "primary"), "{write:?}");
    assert_eq!(write["server"], format!("127.0.0.1:{}", primary.port()));
    let locked = explain("app", "SELECT v FROM t FOR UPDATE");
    assert_eq!((&*locked["class"], &*locked["role"]), ("write", "primary"), "{locked:?}");
    let hinted = explain("app", "/* pgweir: primary */ SELECT 1");
    assert_eq!((&*hinted["hint"], &*hinted["role"]), ("primary", "primary"), "{hinted:?}");
    // 0 hashes to slot 6576, 2 to slot 8570: see the vectors of the hash.
    for (key, shard) in [("0", "s0"), ("2", "s1")] {
        let sharded = explain("big", &format!("SELECT v FROM t WHERE k = {key}"));
        assert_eq!(sharded["shard"], shard, "{sharded:?}");
    }
    let refused = explain("big", "UPDATE t SET v = 'x'");
    assert_eq!(refused["plan"], "refused");
    assert!(refused["error"].starts_with("0A000") && refused.contains_key("hint"), "{refused:?}");
    // Whose an index is the catalog tells, which is not asked here.
    assert!(explain("big", "DROP INDEX t_v")["note"].contains("catalog decides"));
    assert!(!explain("big", "DROP TRIGGER g ON t").contains_key("note"));
    assert!(!explain("big", "CREATE TABLE mine (a int)").contains_key("note"));
    // What is told of a session's state is what becomes of it.
    let mut client = weir.client("app");
    for (sql, effect, pins) in [
        ("LISTEN news", "listens, by a connection that sessions share", ""),
        ("SET work_mem = '5MB'", "sets work_mem", ""),
        ("PREPARE p AS SELECT 1", "keeps its server: sql_prepare", "sql_prepare"),
    ] {
        assert_eq!(explain("app", sql)["effects"], effect);
        assert!(!client.run(sql).contains("E("), "{sql}");
        let kept: Vec<String> = weir.admin_table("SHOW PINS").iter().map(|pin| pin["reason"].clone()).collect();
        assert_eq!(kept.join(" "), pins, "{sql}");
    }
    drop(client);
    let mut console = weir.console().unwrap();
    assert_eq!(error(&mut console, "EXPLAIN ROUTE 'SELECT 1'").code, "42601", "two databases: one must be named");
    let unknown = error(&mut console, "EXPLAIN ROUTE FOR appp 'SELECT 1'");
    assert_eq!(unknown.code, "3D000");
    assert!(unknown.fields[&'H'].contains("\"app\""), "{unknown:?}");
}

// PAUSE and RESUME.

#[test]
fn pause_waits_and_resume_lets_go() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut holder = weir.client("app");
    holder.run("BEGIN");
    holder.value("SELECT 1");
    let mut console = weir.console().unwrap();
    console.query("PAUSE");
    // It waits for the transaction, which may go on.
    console.expect_silence(Duration::from_millis(150));
    assert_eq!(holder.value("SELECT 2"), "2");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&console.read_until_ready()), "C(PAUSE) Z(I)");
    assert_eq!(by(&weir.admin_table("SHOW DATABASES"), "name", "app")["paused"], "1");
    assert_eq!(by(&weir.admin_table("SHOW STATE"), "key", "paused")["value"], "yes");
    eventually("the servers are gone", SOON, || {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'pgweir %' AND client_port > 0";
        (cluster.value(sessions) == "0").then_some(())
    });
    // Statements queue, without an error; a new client does, too.
    holder.query("SELECT 3");
    holder.expect_silence(Duration::from_millis(150));
    let port = weir.port();
    let late = std::thread::spawn(move || RawClient::connect(port, "postgres", "app").value("SELECT 4"));
    assert_eq!(error(&mut console, "PAUSE").code, "55000");
    // The server may be restarted now, and nobody sees it.
    cluster.restart();
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(show(&holder.read_until_ready()), "T(?column?:23) D(3) C(SELECT 1) Z(I)");
    assert_eq!(late.join().unwrap(), "4");
    assert_eq!(error(&mut console, "RESUME").code, "55000");

    // One database only.
    assert_eq!(console.run("PAUSE app"), "C(PAUSE) Z(I)");
    holder.query("SELECT 5");
    holder.expect_silence(Duration::from_millis(100));
    assert_eq!(console.run("RESUME app"), "C(RESUME) Z(I)");
    assert_eq!(show(&holder.read_until_ready()), "T(?column?:23) D(5) C(SELECT 1) Z(I)");
    assert_eq!(error(&mut console, "PAUSE nothing").code, "3D000");
}

// RELOAD.

#[test]
fn reload_takes_over_what_is_new() {
    let cluster = Cluster::start();
    cluster.sql("CREATE DATABASE second");
    cluster.sql("CREATE ROLE carol LOGIN");
    let mut weir = over(&cluster).start();
    let mut client = weir.client("app");
    client.run("BEGIN");
    client.value("SELECT 1");
    assert_eq!(weir.login("postgres", "second").connect().unwrap_err().code(), "3D000");
    assert_eq!(weir.login("carol", "app").connect().unwrap_err().code(), "28000");
    let port = cluster.port();
    weir.reconfigure(|builder| {
        builder
            .general("default_pool_size = 7")
            .users("\"carol\" \"\"")
            .database(&format!("[databases.second]\nprimary = \"postgres://127.0.0.1:{port}/second\""))
    });
    assert_eq!(weir.console().unwrap().run("RELOAD"), "C(RELOAD) Z(I)");
    assert_eq!(client.value("SELECT 2"), "2", "the transaction goes on");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.value("SELECT current_database()"), "postgres");
    assert_eq!(weir.client("second").value("SELECT current_database()"), "second");
    assert_eq!(weir.login("carol", "app").connect().unwrap().value("SELECT current_user"), "carol");
    assert_eq!(by(&weir.admin_table("SHOW DATABASES"), "name", "app")["pool_size"], "7");
    assert_eq!(by(&weir.admin_table("SHOW CONFIG"), "key", "default_pool_size")["value"], "7");
    by(&weir.admin_table("SHOW USERS"), "name", "carol");
}

#[test]
fn reload_with_mistakes_keeps_the_old_configuration() {
    let cluster = Cluster::start();
    let mut weir = over(&cluster).start();
    let mut client = weir.client("app");
    weir.reconfigure(|builder| {
        builder
            .general("default_pool_sise = 7\nserver_idle_timeout = \"soon\"")
            .database("[databases.half]\npool_size = 1")
    });
    let failed = error(&mut weir.console().unwrap(), "RELOAD");
    assert_eq!(failed.code, "F0000");
    let detail = &failed.fields[&'D'];
    for word in ["default_pool_sise", "default_pool_size", "server_idle_timeout", "half", "pgweir.toml:"] {
        assert!(detail.contains(word), "{word} is not in {detail}");
    }
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    assert_eq!(by(&weir.admin_table("SHOW CONFIG"), "key", "default_pool_size")["value"], "20");
    weir.wait_log("default_pool_sise");
}

// SHUTDOWN.

#[test]
fn shutdown_ends_the_process() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut client = weir.client("app");
    client.value("SELECT 1");
    let mut console = weir.console().unwrap();
    console.query("SHUTDOWN");
    let last = client.read_to_end();
    assert_eq!(show(&last), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    drop(console);

    weir.restart();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    busy.value("SELECT 1");
    let mut idle = weir.client("app");
    weir.console().unwrap().query("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(show(&idle.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(busy.value("SELECT 2"), "2");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

// Rights.

/// CVE class: a console command without a check of its own. CVE class: a SHOW or a log that tells a secret.
/// What SHOW takes.
const EVERYTHING: &[&str] = &[
    "POOLS",
    "CLIENTS",
    "SERVERS",
    "SOCKETS",
    "DATABASES",
    "STATS",
    "LISTS",
    "CONFIG",
    "VERSION",
    "USERS",
    "HELP",
    "REPLICAS",
    "SHARDS",
    "TOTALS",
    "STATE",
    "MEM",
    "FDS",
    "PINS",
    "PREPARED",
    "QUERIES",
];

/// All that the messages say, as text.
fn show_texts(messages: &[Message]) -> String {
    messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect()
}

#[test]
fn who_may_do_what() {
    let cluster = Cluster::start();
    let weir = over(&cluster)
        .general("stats_users = [\"watcher\"]\nauth_type = \"plain\"")
        .users(&format!(
            "\"{ADMIN}\" \"hunter-admin\"\n\"watcher\" \"hunter-watcher\"\n\"postgres\" \"hunter-postgres\"\n\
             \"hashed\" \"md50123456789abcdef0123456789abcdef\""
        ))
        .database(
            "[users.extra]\npassword = \"hunter-extra\"\n[databases.other]\nprimary = \"postgres://u:hunter-url@127.0.0.1:1/x\"\n\
             probe_user = \"p\"\nprobe_password = \"hunter-probe\"",
        )
        .start();
    let login = |user: &str, password: &str| weir.login(user, CONSOLE).password(password).connect();
    assert_eq!(login(ADMIN, "wrong").unwrap_err().code(), "28P01");
    assert_eq!(login("postgres", "hunter-postgres").unwrap_err().code(), "42501");
    assert_eq!(weir.login("postgres", "pgbouncer").password("hunter-postgres").connect().unwrap_err().code(), "42501");
    let mut watcher = login("watcher", "hunter-watcher").unwrap();
    for command in ["SHOW POOLS", "SHOW STATS", "SHOW CONFIG", "SHOW CLIENTS", "SHOW USERS"] {
        columns(&mut watcher, command);
    }
    let forbidden = [
        "RELOAD",
        "PAUSE",
        "PAUSE app",
        "RESUME",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "KILL app",
        "KILL_CLIENT 1",
    ];
    for command in forbidden.iter().chain(&[
        "DISABLE app",
        "ENABLE app",
        "RECONNECT",
        "SUSPEND",
        "SET log_level = 'x'",
        "SHOW FDS",
        "SHOW PINS",
        "SHOW PREPARED",
        "SHOW QUERIES",
    ]) {
        assert_eq!(error(&mut watcher, command).code, "42501", "{command}");
    }
    // The texts of statements are for admins, wherever they would be shown.
    let mut client = weir.login("postgres", "app").password("hunter-postgres").connect().unwrap();
    client.parse("card", "SELECT 'pin-4929', pg_advisory_lock(1)", &[]);
    client.bind("", "card", &[]);
    client.execute("", 0);
    client.sync();
    client.read_until_ready();
    let shown = |visitor: &mut RawClient, what: &str| {
        visitor.query(&format!("SHOW {what}"));
        show_texts(&visitor.read_until_ready()).contains("pin-4929")
    };
    let mut boss = login(ADMIN, "hunter-admin").unwrap();
    assert!(shown(&mut boss, "PINS") && shown(&mut boss, "PREPARED"));
    for what in EVERYTHING {
        assert!(!shown(&mut watcher, what), "SHOW {what}");
    }
    assert_eq!(by(&weir_rows(&mut watcher, "SHOW STATE"), "key", "active")["value"], "yes");

    // No secret in anything that is shown, to anyone.
    let mut admin = login(ADMIN, "hunter-admin").unwrap();
    for what in EVERYTHING {
        admin.query(&format!("SHOW {what}"));
        let messages = admin.read_until_ready();
        for message in &messages {
            let text = String::from_utf8_lossy(&message.body);
            assert!(!text.contains("hunter") && !text.contains("0123456789abcdef"), "SHOW {what}: {text}");
        }
    }
    assert!(!weir.log_text().contains("hunter"), "{}", weir.log_text());
}

fn weir_rows(client: &mut RawClient, command: &str) -> Vec<BTreeMap<String, String>> {
    client.query(command);
    let messages = client.read_until_ready();
    let columns = messages.iter().find_map(Message::columns).unwrap();
    let rows = messages.iter().filter_map(Message::row);
    rows.map(|row| columns.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default)).collect()).collect()
}

#[test]
fn unknown_commands_are_told_the_nearest() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut console = weir.console().unwrap();
    for (command, nearest) in
        [("SHOW POOL", "SHOW POOLS"), ("RELAOD", "RELOAD"), ("SHOW CLEINTS", "SHOW CLIENTS"), ("PAUS app", "PAUSE")]
    {
        let error = error(&mut console, command);
        assert_eq!(error.code, "42601", "{command}");
        assert!(error.fields[&'H'].contains(nearest), "{command}: {error:?}");
    }
    assert_eq!(error(&mut console, "SELECT 1; SHOW POOLS").code, "42601");
    assert_eq!(error(&mut console, "DROP TABLE x").code, "42601");
    // The console lives on, also after messages that it does not take.
    console.function_call(1, &[]);
    console.sync();
    assert_eq!(show(&console.read_until_ready()), "E(08P01) Z(I)");
    assert_eq!(console.value("SHOW VERSION"), format!("pgweir {}", env!("CARGO_PKG_VERSION")));
    assert!(guard::alive(weir.pid()));
    // Garbage costs its own connection only.
    let mut vandal = weir.console().unwrap();
    vandal.send_bytes(&[b'Q', 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    vandal.read_to_end();
    assert!(RawClient::open(Address::Tcp(weir.port())).is_ok());
    assert_eq!(weir.admin("SHOW VERSION").len(), 1);
}

#[test]
fn a_reload_proves_nobody() {
    let cluster = Cluster::start();
    // Under any, servers must be logged in to as somebody known.
    let url =
        format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\nuser = \"postgres\"", cluster.port());
    let with = |auth_type: &str| Weir::builder().general(&format!("auth_type = {auth_type:?}")).database(&url);
    let mut weir = with("any").start();
    let mut claims = weir.console().unwrap();
    assert_eq!(error(&mut claims, "RELOAD").code, "42501");
    weir.reconfigure(|_| with("trust"));
    weir.hup();
    // Whom a rule lets in as admin is one; who only said so is nobody.
    eventually("the reload", SOON, || {
        let mut console = weir.console().ok()?;
        (console.run("RELOAD") == "C(RELOAD) Z(I)").then_some(())
    });
    for command in ["SHUTDOWN", "RELOAD", "SHOW VERSION"] {
        let error = error(&mut claims, command);
        assert_eq!(error.code, "42501", "{command}: {error}");
    }
}
