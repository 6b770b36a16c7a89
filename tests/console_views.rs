//! What the console's views say moves with the traffic: buffers, descriptors, memory, pins, prepared statements, statements under way,
//! cancel requests, and the console itself among the databases.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::Cluster;
use common::weir::{ADMIN, CONSOLE, Weir};
use common::wire::{Message, show};
use common::{eventually, guard};

const SOON: Duration = Duration::from_secs(15);

type Row = BTreeMap<String, String>;

fn start() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    (cluster, weir)
}

fn of_app(weir: &Weir, command: &str) -> Vec<Row> {
    let rows = weir.admin_table(command);
    rows.into_iter().filter(|row| row.get("database").is_some_and(|name| name == "app")).collect()
}

fn by<'a>(rows: &'a [Row], column: &str, value: &str) -> &'a Row {
    rows.iter().find(|row| row[column] == value).unwrap_or_else(|| panic!("no row with {column} {value}: {rows:?}"))
}

fn number(row: &Row, column: &str) -> i64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

#[test]
fn buffers_are_seen_while_bytes_wait_in_them() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    let rest = |row: &Row| ["cl_active", "sv_idle"].contains(&row["state"].as_str());
    let sockets =
        eventually("all rest", SOON, || Some(of_app(&weir, "SHOW SOCKETS")).filter(|rows| rows.iter().all(rest)));
    for row in sockets {
        for column in ["recv_pos", "pkt_pos", "pkt_remain", "send_pos", "send_remain", "pkt_avail", "send_avail"] {
            assert_eq!(row[column], "0", "{column}: {row:?}");
        }
    }
    assert_eq!(of_app(&weir, "SHOW ACTIVE_SOCKETS"), [], "nothing is under way");
    // Half a message.
    client.send_bytes(&[b'Q', 0, 0, 0, 13, b'S']);
    let half = eventually("half a message is here", SOON, || of_app(&weir, "SHOW ACTIVE_SOCKETS").pop());
    assert_eq!((half["type"].as_str(), number(&half, "recv_pos"), number(&half, "pkt_avail")), ("C", 6, 6), "{half:?}");
    client.send_bytes(b"ELECT 1\0");
    assert_eq!(show(&client.read_until_ready()), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
    eventually("it is whole", SOON, || of_app(&weir, "SHOW ACTIVE_SOCKETS").is_empty().then_some(()));
    // An answer that nobody reads.
    client.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    let server = eventually("its answer waits", SOON, || {
        let rows = of_app(&weir, "SHOW ACTIVE_SOCKETS");
        rows.into_iter().find(|row| row["type"] == "S" && number(row, "send_avail") > 100_000)
    });
    assert_eq!(server["state"], "sv_active");
    let memory = weir.admin_table("SHOW MEM");
    assert!(number(by(&memory, "name", "iobuf_cache"), "memtotal") > 100_000, "{memory:?}");
    let rows = client.read_until_ready();
    assert_eq!(rows.iter().filter(|message| message.tag == b'D').count(), 100_000);
    eventually("it is gone", SOON, || of_app(&weir, "SHOW ACTIVE_SOCKETS").is_empty().then_some(()));
    let memory = weir.admin_table("SHOW MEM");
    assert!(number(by(&memory, "name", "iobuf_cache"), "memtotal") < 100_000, "the memory went back: {memory:?}");
}

#[test]
fn a_piece_of_a_message_is_told() {
    let (cluster, weir) = start();
    cluster.sql("CREATE TABLE t (a text)");
    let mut client = weir.client("app");
    client.query("COPY t FROM STDIN");
    client.read_until(b'G');
    // A message of 1000 bytes, of which 5 + 100 have come.
    let mut piece = vec![b'd', 0, 0, 3, 236];
    piece.extend([b'x'; 100]);
    client.send_bytes(&piece);
    eventually("the rest is awaited", SOON, || {
        let rows = of_app(&weir, "SHOW ACTIVE_SOCKETS");
        (number(rows.iter().find(|row| row["type"] == "C")?, "pkt_remain") == 900).then_some(())
    });
    client.send_bytes(&[b'y'; 900]);
    client.copy_done();
    assert_eq!(show(&client.read_until_ready()), "C(COPY 1) Z(I)");
}

#[test]
fn descriptors_are_those_of_the_process() {
    let (cluster, weir) = start();
    let mut client = weir.login("postgres", "app").param("TimeZone", "Asia/Tokyo").connect().unwrap();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let pid = client.value(common::SERVER_PID);
    let fds = weir.admin_table("SHOW FDS");
    let columns: Vec<_> = fds[0].keys().map(String::as_str).collect();
    assert!(!columns.iter().any(|name| name.contains("password") || name.contains("key")), "{columns:?}");
    for row in &fds {
        let link = std::fs::read_link(format!("/proc/{}/fd/{}", weir.pid(), row["fd"])).unwrap();
        assert!(link.to_string_lossy().starts_with("socket:"), "{row:?} is {link:?}");
    }
    let pooler = by(&fds, "task", "pooler");
    assert_eq!((pooler["addr"].as_str(), number(pooler, "port")), ("127.0.0.1", i64::from(weir.port())));
    let ours = by(&fds, "task", "client");
    let server = fds.iter().find(|row| row["task"] == "server" && row["cancel"] == pid).expect("the server");
    assert_eq!((&ours["link"], &server["link"]), (&server["fd"], &ours["fd"]), "they point at each other");
    assert_eq!((ours["user"].as_str(), ours["database"].as_str()), ("postgres", "app"));
    assert_eq!((ours["timezone"].as_str(), server["timezone"].as_str()), ("Asia/Tokyo", "Asia/Tokyo"));
    assert_eq!((server["client_encoding"].as_str(), server["std_strings"].as_str()), ("UTF8", "on"));
    assert_eq!(number(server, "port"), i64::from(cluster.port()));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    let unlinked = |row: &Row| row["task"] == "server" && row["cancel"] == pid && row["link"] == "0";
    eventually("it rests", SOON, || weir.admin_table("SHOW FDS").iter().any(unlinked).then_some(()));
}

#[test]
fn memory_counts_what_is_there() {
    let (_cluster, weir) = start();
    let used = |name: &str| number(by(&weir.admin_table("SHOW MEM"), "name", name), "used");
    assert_eq!((used("client_cache"), used("server_cache"), used("prepared_statement_cache")), (0, 0, 0));
    let mut clients: Vec<_> = (0..5).map(|_| weir.client("app")).collect();
    for client in &mut clients {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    }
    assert_eq!((used("client_cache"), used("pool_cache")), (5, 1));
    assert!(used("server_cache") >= 5);
    clients[0].parse("s", "SELECT $1::int4 + 1", &[]);
    clients[0].sync();
    clients[0].read_until_ready();
    assert_eq!(used("prepared_statement_cache"), 1);
    let texts = used("parsed_text_cache");
    // A text is kept when it comes again.
    for client in &mut clients {
        for _ in 0..2 {
            assert_eq!(client.value("SELECT 'kept from now on'"), "kept from now on");
        }
    }
    assert!(used("parsed_text_cache") > texts);
    for row in weir.admin_table("SHOW MEM") {
        assert!(number(&row, "memtotal") >= 0 && row["free"] == "0", "{row:?}");
        assert_eq!(number(&row, "used") > 0, number(&row, "memtotal") > 0 && number(&row, "used") > 0, "{row:?}");
    }
    drop(clients);
    eventually("they have gone", SOON, || (used("client_cache") == 0).then_some(()));
}

#[test]
fn pins_name_their_statement() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    assert_eq!(of_app(&weir, "SHOW PINS"), []);
    assert!(client.run("CREATE TEMP TABLE mine (a int)").starts_with("C(CREATE TABLE)"));
    let pins = of_app(&weir, "SHOW PINS");
    let [pin] = pins.as_slice() else { panic!("{pins:?}") };
    assert_eq!((pin["reason"].as_str(), pin["user"].as_str()), ("temp_object", "postgres"));
    assert!(pin["statement"].contains("CREATE"), "{pin:?}");
    assert!(pin["since"].ends_with(" UTC"), "{pin:?}");
    let clients = weir.admin_table("SHOW CLIENTS");
    let shown = by(&clients, "id", &pin["id"]);
    assert_eq!((&pin["client"], &pin["server"]), (&shown["ptr"], &shown["link"]));
    // A second reason; of a statement with a name the text is known.
    client.parse("lock", "SELECT pg_advisory_lock(815)", &[]);
    client.bind("", "lock", &[]);
    client.execute("", 0);
    client.sync();
    client.read_until_ready();
    let pins = of_app(&weir, "SHOW PINS");
    assert_eq!(by(&pins, "reason", "advisory_lock")["statement"], "SELECT pg_advisory_lock(815)");
    assert_eq!(pins.len(), 2);
    assert_eq!(client.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    eventually("it is free again", SOON, || of_app(&weir, "SHOW PINS").is_empty().then_some(()));
}

#[test]
fn prepared_statements_are_listed_and_counted_where_they_are() {
    let (_cluster, weir) = start();
    let (mut one, mut two) = (weir.client("app"), weir.client("app"));
    assert_eq!(weir.admin("SHOW PREPARED").len(), 0);
    let run = |client: &mut common::raw::RawClient, name: &str, sql: &str| {
        client.parse(name, sql, &[23]);
        client.bind("", name, &[Some("1")]);
        client.execute("", 0);
        client.sync();
        assert!(show(&client.read_until_ready()).ends_with("Z(I)"));
    };
    run(&mut one, "a", "SELECT $1 + 1");
    run(&mut one, "b", "SELECT $1 + 2");
    let before = weir.admin_table("SHOW PREPARED");
    run(&mut two, "other", "SELECT $1 + 1");
    let prepared = weir.admin_table("SHOW PREPARED");
    assert_eq!(prepared.len(), 2, "{prepared:?}");
    let shared = by(&prepared, "text", "SELECT $1 + 1");
    assert!(
        number(shared, "uses") > number(by(&before, "text", "SELECT $1 + 1"), "uses"),
        "two clients and their servers"
    );
    assert!(shared["name"].starts_with("pgweir_") && shared["types"] == "23", "{shared:?}");
    let mut counts: Vec<_> =
        of_app(&weir, "SHOW CLIENTS").iter().map(|row| number(row, "prepared_statements")).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
    let on_servers = || of_app(&weir, "SHOW SERVERS").iter().map(|row| number(row, "prepared_statements")).sum::<i64>();
    assert!(on_servers() >= 2);
    let (_, metrics) = weir.http_get("/metrics");
    let metric = metrics.lines().find(|line| line.starts_with("pgweir_pool_prepared_statements{")).expect("a metric");
    assert!(metric.ends_with(&format!(" {}", on_servers())), "{metric}");
    // Names are counted while the client keeps its server, also those that no server was asked about; and what goes is not counted any more.
    assert_eq!(one.run("BEGIN"), "C(BEGIN) Z(T)");
    one.parse("c", "SELECT 3", &[]);
    one.sync();
    one.read_until_ready();
    let active = || of_app(&weir, "SHOW SERVERS").into_iter().find(|row| row["state"] == "active");
    assert!(number(&active().expect("its server"), "prepared_statements") >= 1);
    assert_eq!(one.run("DEALLOCATE ALL"), "C(DEALLOCATE ALL) Z(T)");
    assert_eq!(number(&active().expect("its server"), "prepared_statements"), 0);
    assert_eq!(one.run("COMMIT"), "C(COMMIT) Z(I)");
    eventually("its names are gone", SOON, || {
        of_app(&weir, "SHOW CLIENTS").iter().any(|row| row["prepared_statements"] == "0").then_some(())
    });
}

#[test]
fn statements_under_way_are_shown_with_what_is_known_of_them() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).general("default_pool_size = 2").start();
    let queries = || of_app(&weir, "SHOW QUERIES");
    let mut open = weir.login("postgres", "app").param("application_name", "lingers").connect().unwrap();
    assert_eq!(queries(), []);
    assert_eq!(open.run("BEGIN"), "C(BEGIN) Z(T)");
    let mut busy = weir.client("app");
    busy.parse("s", "SELECT pg_sleep($1), 'secret'", &[701]);
    busy.bind("", "s", &[Some("60")]);
    busy.execute("", 0);
    busy.sync();
    let mut waiter = weir.client("app");
    waiter.query("SELECT 'it waits'");
    let settled = |rows: &Vec<Row>| ["active", "waiting"].iter().all(|state| rows.iter().any(|r| r["state"] == *state));
    let rows = eventually("one runs and one waits", SOON, || Some(queries()).filter(settled));
    assert_eq!(rows.len(), 3, "{rows:?}");
    let idle = by(&rows, "state", "idle in transaction");
    assert_eq!((idle["application_name"].as_str(), idle["query"].as_str()), ("lingers", ""));
    let active = by(&rows, "state", "active");
    assert_eq!(active["query"], "SELECT pg_sleep($1), 'secret'", "no values of parameters");
    assert!(!active["server"].is_empty() && active["since"].ends_with(" UTC"));
    let waits = by(&rows, "state", "waiting");
    assert_eq!((waits["query"].as_str(), waits["server"].as_str()), ("SELECT 'it waits'", ""));
    assert_eq!(waits["pid"], waiter.pid.to_string(), "what the client knows itself by");
    let later = queries();
    assert!(number(by(&later, "state", "active"), "duration_us") > number(active, "duration_us"));
    // A text that has come before is known, without the values written into it.
    assert_eq!(open.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(waiter.read_until_ready().len(), 4);
    for _ in 0..2 {
        waiter.value("SELECT pg_sleep(0), 'mine'");
    }
    waiter.query("SELECT pg_sleep(61), 'mine'");
    eventually("it runs", SOON, || queries().iter().any(|r| r["query"] == "SELECT pg_sleep($1), $2").then_some(()));
    busy.cancel();
    waiter.cancel();
    assert!(show(&waiter.read_until_ready()).contains("E(57014)"));
    assert!(show(&busy.read_until_ready()).contains("E(57014)"));
    eventually("nothing is under way", SOON, || queries().is_empty().then_some(()));
}

#[test]
fn cancel_requests_are_shown_while_they_are_under_way() {
    let (cluster, weir) = start();
    let mut client = weir.client("app");
    client.query("SELECT pg_sleep(3)");
    eventually("it runs", SOON, || {
        (cluster.value("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3)'") == "1").then_some(())
    });
    // The kernel takes connections in the postmaster's name, but nobody answers them.
    guard::freeze(cluster.pid());
    std::thread::scope(|scope| {
        scope.spawn(|| client.cancel());
        let shown = eventually("the request is under way", SOON, || {
            of_app(&weir, "SHOW CLIENTS").into_iter().find(|row| row["state"] == "active_cancel_req")
        });
        assert_eq!((shown["type"].as_str(), shown["user"].as_str()), ("C", "(nouser)"));
        let pools = weir.admin_table("SHOW POOLS");
        let pool = by(&pools, "database", "app");
        let columns = ["cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_active"];
        assert_eq!(
            columns.map(|column| number(pool, column)),
            [1, 0, 1, 1],
            "the statement has its server until it ends"
        );
        guard::thaw_tree(cluster.pid());
    });
    assert!(show(&client.read_until_ready()).contains("E(57014)"));
    eventually("nothing is left of it", SOON, || {
        let pools = weir.admin_table("SHOW POOLS");
        let pool = by(&pools, "database", "app");
        ["cl_active_cancel_req", "sv_active_cancel", "sv_being_canceled"].iter().all(|c| pool[*c] == "0").then_some(())
    });
    assert!(of_app(&weir, "SHOW CLIENTS").iter().all(|row| !row["state"].ends_with("_cancel_req")));
}

#[test]
fn the_console_is_a_database_of_its_own() {
    let (_cluster, weir) = start();
    let databases = weir.admin_table("SHOW DATABASES");
    let console = by(&databases, "name", "pgbouncer");
    assert_eq!((number(console, "port"), console["pool_mode"].as_str()), (i64::from(weir.port()), "statement"));
    let _second = weir.console().unwrap();
    let pools = weir.admin_table("SHOW POOLS");
    let pool = by(&pools, "database", "pgbouncer");
    assert!(number(pool, "cl_active") >= 2 && pool["pool_mode"] == "statement", "{pool:?}");
    let commands = || number(by(&weir.admin_table("SHOW STATS"), "database", "pgbouncer"), "total_query_count");
    let before = commands();
    for _ in 0..5 {
        weir.admin("SHOW VERSION");
    }
    assert_eq!(commands() - before, 6, "five, and the one that counts");
    let lists = weir.admin_table("SHOW LISTS");
    assert_eq!(
        (number(by(&lists, "list", "databases"), "items"), number(by(&lists, "list", "pools"), "items")),
        (2, 1)
    );
    assert!(by(&weir.admin_table("SHOW USERS"), "name", "pgbouncer").contains_key("pool_mode"));
    // What it counts is not a database's traffic.
    let (_, metrics) = weir.http_get("/metrics");
    assert!(!metrics.contains("database=\"pgbouncer\""), "{metrics}");
}

#[test]
fn servers_and_clients_are_described_as_they_are() {
    let cluster = Cluster::start();
    let section = format!(
        "[databases.several]\nhost = \"127.0.0.1,localhost\"\nport = {p}\ndbname = \"postgres\"\nload_balance_hosts = \"disable\"",
        p = cluster.port()
    );
    let weir = Weir::builder()
        .cluster("app", &cluster, &[])
        .database(&section)
        .general("unix_socket_dir = \".\"\nmax_user_connections = 50\ndefault_pool_size = 1")
        .database("[users.postgres]\npool_size = 3\nmax_user_client_connections = 9")
        .start();
    let mut client = weir.login("postgres", "app").param("application_name", "named").connect().unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    // With the settings of the client that had it last.
    let rests = |row: &Row| row["application_name"] == "named" && row["state"] == "idle" && row["link"].is_empty();
    eventually("the server rests", SOON, || of_app(&weir, "SHOW SERVERS").iter().any(rests).then_some(()));
    let mut several = weir.client("several");
    assert_eq!(several.value("SELECT 1"), "1");
    for (table, name) in [("SHOW POOLS", "database"), ("SHOW DATABASES", "name")] {
        let rows = weir.admin_table(table);
        assert_eq!(by(&rows, name, "several")["load_balance_hosts"], "disable", "{table}");
        assert_eq!(by(&rows, name, "app")["load_balance_hosts"], "", "{table}");
    }
    let users = weir.admin_table("SHOW USERS");
    let user = by(&users, "name", "postgres");
    let columns = ["pool_size", "max_user_connections", "max_user_client_connections", "current_client_connections"];
    assert_eq!(columns.map(|column| number(user, column)), [3, 50, 9, 2], "{user:?}");
    assert_eq!(by(&users, "name", ADMIN)["pool_size"], "");
    // The process at the other end of a unix socket is known: it is this one.
    let socket = weir.dir().join(format!(".s.PGSQL.{}", weir.port()));
    let address = common::raw::Address::Unix(socket);
    let _local = common::raw::Login::new(address, "postgres", "app").connect().unwrap();
    let clients = of_app(&weir, "SHOW CLIENTS");
    assert_eq!(by(&clients, "addr", "unix")["remote_pid"], std::process::id().to_string());
}

#[test]
fn what_changes_in_a_long_session_is_seen_at_once() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).general("pool_mode = \"session\"").start();
    let mut client = weir.client("app");
    let shown = || of_app(&weir, "SHOW CLIENTS").pop().expect("the client");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.run("SET application_name = 'another'"), "C(SET) S(application_name=another) Z(I)");
    client.parse("s", "SELECT 2", &[]);
    client.sync();
    client.read_until_ready();
    assert_eq!((shown()["application_name"].as_str(), number(&shown(), "prepared_statements")), ("another", 1));
    client.close_statement("s");
    client.sync();
    client.read_until_ready();
    assert_eq!(number(&shown(), "prepared_statements"), 0);
    assert_eq!((shown()["state"].as_str(), shown()["close_needed"].as_str()), ("active", "0"), "it has its server");
    // It is to go when its transaction is over.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("SHUTDOWN WAIT_FOR_SERVERS"), "C(SHUTDOWN) Z(I)");
    eventually("it is told", SOON, || {
        let rows = console.rows("SHOW CLIENTS").unwrap();
        // close_needed is the fourteenth column.
        rows.iter().any(|row| row[2] == "app" && row[13] == "1").then_some(())
    });
    client.query("COMMIT");
    assert_eq!(show(&client.read_to_end()), "C(COMMIT) Z(I) E(FATAL 57P01)");
}

#[test]
fn a_connection_that_is_being_made_is_listed() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let (mut one, mut two) = (weir.client("app"), weir.client("app"));
    assert_eq!(one.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(one.value("SELECT 1"), "1");
    // The kernel takes the connection, and nobody answers the login.
    guard::freeze(cluster.pid());
    two.query("SELECT 2");
    let new = eventually("a login is under way", SOON, || {
        of_app(&weir, "SHOW SERVERS").into_iter().find(|row| row["state"] == "new")
    });
    assert_eq!((new["addr"].as_str(), number(&new, "port")), ("127.0.0.1", i64::from(cluster.port())));
    assert_eq!((new["remote_pid"].as_str(), new["link"].as_str()), ("0", ""));
    assert_eq!(number(by(&weir.admin_table("SHOW POOLS"), "database", "app"), "sv_login"), 1);
    guard::thaw_tree(cluster.pid());
    assert_eq!(show(&two.read_until_ready()), "T(?column?:23) D(2) C(SELECT 1) Z(I)");
    assert!(of_app(&weir, "SHOW SERVERS").iter().all(|row| row["state"] != "new"));
}

/// The exporter of the Prometheus community: the statements it sends, and what it makes of the answers.
#[test]
fn the_exporter_of_the_prometheus_community_finds_all_it_maps() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    // Label columns, then columns whose values become numbers.
    let maps = [
        (
            "SHOW databases;",
            "name host port database force_user pool_mode",
            "pool_size max_connections current_connections paused disabled",
        ),
        (
            "SHOW stats_totals;",
            "database",
            "query_count query_time bytes_received bytes_sent wait_time xact_count xact_time client_parse_count \
             server_parse_count bind_count",
        ),
        (
            "SHOW pools;",
            "database user",
            "cl_active cl_active_cancel_req cl_waiting cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled \
             sv_idle sv_used sv_tested sv_login maxwait",
        ),
    ];
    let lists = "databases users pools free_clients used_clients login_clients free_servers used_servers dns_names dns_zones \
                 dns_queries";
    for extended in [false, true] {
        let mut console = weir.login(ADMIN, CONSOLE).connect().unwrap();
        let mut ask = |sql: &str| -> (Vec<String>, Vec<Vec<Option<String>>>) {
            if extended {
                console.parse("", sql, &[]);
                console.describe_statement("");
                console.sync();
                let described = console.read_until_ready();
                console.bind("", "", &[]);
                console.execute("", 0);
                console.sync();
                let answer = console.read_until_ready();
                let columns =
                    described.iter().find_map(Message::columns).unwrap_or_else(|| panic!("{sql}: no columns"));
                (columns, answer.iter().filter_map(Message::row).collect())
            } else {
                console.query(sql);
                let answer = console.read_until_ready();
                let columns = answer.iter().find_map(Message::columns).unwrap_or_else(|| panic!("{sql}: no columns"));
                (columns, answer.iter().filter_map(Message::row).collect())
            }
        };
        // It pings by this, without a semicolon.
        assert!(!ask("SHOW STATS").1.is_empty());
        assert_eq!(ask("SHOW VERSION;").1.len(), 1);
        for (sql, labels, values) in maps {
            let (columns, rows) = ask(sql);
            let at = |name: &str| columns.iter().position(|c| c == name).unwrap_or_else(|| panic!("{sql}: no {name}"));
            let key: Vec<usize> = labels.split_whitespace().map(at).collect();
            let mut seen = std::collections::BTreeSet::new();
            assert!(!rows.is_empty(), "{sql}");
            for row in &rows {
                // The same labels twice would be the same metric twice, which it cannot export.
                assert!(seen.insert(key.iter().map(|at| row[*at].clone()).collect::<Vec<_>>()), "{sql}: {row:?}");
                for name in values.split_whitespace() {
                    let value = row[at(name)].as_deref().unwrap_or("NaN");
                    assert!(value.parse::<f64>().is_ok(), "{sql}: {name} is {value}");
                }
            }
        }
        let (columns, rows) = ask("SHOW LISTS;");
        assert_eq!(columns.len(), 2);
        for name in lists.split_whitespace() {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name}"));
            assert!(row[1].as_deref().unwrap().parse::<f64>().is_ok(), "{row:?}");
        }
        let (columns, rows) = ask("SHOW CONFIG;");
        assert!(matches!(columns.len(), 3 | 4), "{columns:?}");
        // It scans the first and the last column into strings, which take no NULL.
        assert!(rows.iter().all(|row| row[0].is_some() && row[columns.len() - 1].is_some()));
        for name in ["max_client_conn", "max_user_connections"] {
            let row = rows.iter().find(|row| row[0].as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name}"));
            assert!(row[1].as_deref().unwrap().parse::<f64>().is_ok(), "{row:?}");
        }
    }
}
