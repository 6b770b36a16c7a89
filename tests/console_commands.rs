//! The console's commands that end, close and keep out, as PgBouncer's operators know them.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;

const WAIT: Duration = Duration::from_secs(10);

const SOON: Duration = Duration::from_secs(15);

fn start() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).cluster("other", &cluster, &[]).start();
    (cluster, weir)
}

fn console(weir: &Weir) -> RawClient {
    weir.console().expect("the console")
}

#[test]
fn one_client_is_ended_in_the_middle_of_a_transaction() {
    let (cluster, weir) = start();
    cluster.sql("CREATE TABLE t (a int)");
    let (mut victim, mut other) = (weir.client("app"), weir.client("app"));
    assert_eq!(other.value("SELECT 1"), "1");
    assert_eq!(victim.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(victim.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(T)");
    let clients = weir.admin_table("SHOW CLIENTS");
    let id = &clients.iter().find(|c| c["state"] == "active").expect("the one in a transaction")["id"];
    let mut console = console(&weir);
    assert_eq!(console.run(&format!("KILL_CLIENT {id}")), "C(KILL_CLIENT) Z(I)");
    assert_eq!(show(&victim.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(other.value("SELECT count(*) FROM t"), "0", "it was rolled back, and others go on");
    eventually("it is gone", Duration::from_secs(10), || {
        (console.run(&format!("KILL_CLIENT {id}")) == "E(42704) Z(I)").then_some(())
    });
}

#[test]
fn a_database_is_killed_and_waits_for_resume() {
    let (_cluster, weir) = start();
    let (mut idle, mut busy, mut bystander) = (weir.client("app"), weir.client("app"), weir.client("other"));
    assert_eq!(idle.value("SELECT 1"), "1");
    assert_eq!(bystander.value("SELECT 1"), "1");
    busy.query("SELECT pg_sleep(60)");
    busy.expect_silence(Duration::from_millis(200));
    let mut console = console(&weir);
    assert_eq!(console.run("KILL nowhere"), "E(3D000) Z(I)");
    assert_eq!(console.run("KILL app"), "C(KILL) Z(I)");
    assert_eq!(show(&idle.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(bystander.value("SELECT 2"), "2", "another database lives");
    let servers = weir.admin_table("SHOW SERVERS");
    assert!(servers.iter().all(|s| s["database"] != "app"), "{servers:?}");
    let mut late = weir.client("app");
    late.query("SELECT 3");
    late.expect_silence(Duration::from_millis(300));
    assert_eq!(console.run("RESUME app"), "C(RESUME) Z(I)");
    assert_eq!(show(&late.read_until_ready()), "T(?column?:23) D(3) C(SELECT 1) Z(I)");
}

#[test]
fn everything_is_killed() {
    let (_cluster, weir) = start();
    let (mut one, mut two) = (weir.client("app"), weir.client("other"));
    assert_eq!((one.value("SELECT 1"), two.value("SELECT 1")), ("1".to_owned(), "1".to_owned()));
    let mut console = console(&weir);
    assert_eq!(console.run("PAUSE app"), "C(PAUSE) Z(I)");
    assert_eq!(console.run("KILL"), "C(KILL) Z(I)", "a pause does not save anyone");
    assert_eq!(
        (show(&one.read_to_end()), show(&two.read_to_end())),
        ("E(FATAL 57P01)".to_owned(), "E(FATAL 57P01)".to_owned())
    );
    assert_eq!(console.run("RESUME"), "E(55000) Z(I)", "each is paused by itself");
    for database in ["app", "other"] {
        assert_eq!(console.run(&format!("RESUME {database}")), "C(RESUME) Z(I)");
        assert_eq!(weir.client(database).value("SELECT 1"), "1");
    }
}

#[test]
fn a_disabled_database_lets_nobody_in() {
    let (_cluster, weir) = start();
    let mut inside = weir.client("app");
    let mut console = console(&weir);
    assert_eq!(console.run("ENABLE app"), "C(ENABLE) Z(I)", "it is");
    assert_eq!(console.run("DISABLE app"), "C(DISABLE) Z(I)");
    assert_eq!(console.run("DISABLE app"), "C(DISABLE) Z(I)", "twice is once");
    assert_eq!(console.run("DISABLE nowhere"), "E(3D000) Z(I)");
    let error = weir.login("postgres", "app").connect().expect_err("refused");
    assert_eq!(error.code(), "57P03", "{error:?}");
    assert_eq!(inside.value("SELECT 1"), "1", "who is in stays");
    assert_eq!(weir.client("other").value("SELECT 1"), "1");
    let disabled = |name: &str| {
        let rows = weir.admin_table("SHOW DATABASES");
        rows.iter().find(|d| d["name"] == name).map(|d| d["disabled"].clone())
    };
    assert_eq!((disabled("app").as_deref(), disabled("other").as_deref()), (Some("1"), Some("0")));
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    assert_eq!(disabled("app").as_deref(), Some("1"), "a reload is no ENABLE");
    assert_eq!(console.run("ENABLE app"), "C(ENABLE) Z(I)");
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn reconnect_replaces_every_connection_as_it_is_given_back() {
    let (_cluster, weir) = start();
    let (mut idle, mut held) = (weir.client("app"), weir.client("app"));
    assert_eq!(held.run("BEGIN"), "C(BEGIN) Z(T)");
    let pid = held.value(common::SERVER_PID);
    let rested = idle.value(common::SERVER_PID);
    let mut console = console(&weir);
    assert_eq!(console.run("WAIT_CLOSE app"), "C(WAIT_CLOSE) Z(I)", "nothing is to be closed");
    assert_eq!(console.run("RECONNECT app"), "C(RECONNECT) Z(I)");
    let now = idle.value(common::SERVER_PID);
    assert_ne!(now, rested, "the idle one was closed at once");
    assert_eq!(held.value(common::SERVER_PID), pid, "a transaction keeps its own");
    let needed: Vec<_> = weir
        .admin_table("SHOW SERVERS")
        .into_iter()
        .filter(|s| s["close_needed"] == "1")
        .map(|s| s["remote_pid"].clone())
        .collect();
    assert_eq!(needed, std::slice::from_ref(&pid));
    console.query("WAIT_CLOSE");
    console.expect_silence(Duration::from_millis(200));
    assert_eq!(held.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&console.read_until_ready()), "C(WAIT_CLOSE) Z(I)");
    eventually("the old one is closed", WAIT, || {
        weir.admin_table("SHOW SERVERS").iter().all(|s| s["remote_pid"] != pid).then_some(())
    });
}

#[test]
fn the_extended_protocol_is_answered() {
    let (_cluster, weir) = start();
    let mut console = console(&weir);
    let columns = |answer: &str| answer.split(' ').filter(|m| m.starts_with("D(")).count();
    // As most drivers do it: all at once, with the unnamed statement.
    console.parse("", "SHOW DATABASES", &[]);
    console.bind("", "", &[]);
    console.describe_portal("");
    console.execute("", 0);
    console.sync();
    let answer = show(&console.read_until_ready());
    assert!(answer.starts_with("1 2 T(name:25") && answer.ends_with("C(SHOW) Z(I)"), "{answer}");
    assert_eq!(columns(&answer), weir.admin("SHOW DATABASES").len());
    // In steps, with a name, and a row at a time.
    console.parse("s", "show databases", &[]);
    console.describe_statement("s");
    console.sync();
    let answer = show(&console.read_until_ready());
    assert!(answer.starts_with("1 t") && answer.contains("T(name:25"), "{answer}");
    console.bind("p", "s", &[]);
    console.execute("p", 1);
    console.execute("p", 0);
    console.sync();
    let answer = show(&console.read_until_ready());
    assert!(answer.starts_with("2 D(") && answer.contains(" s ") && answer.ends_with("C(SHOW) Z(I)"), "{answer}");
    // A command that does something does it once, at Execute.
    console.parse("", "PAUSE app", &[]);
    console.describe_statement("");
    console.bind("", "", &[]);
    console.describe_portal("");
    console.sync();
    let answer = show(&console.read_until_ready());
    assert!(answer.ends_with("2 n Z(I)"), "{answer}");
    assert_eq!(console.run("RESUME app"), "E(55000) Z(I)", "nothing was paused");
    // Errors skip to Sync, as PostgreSQL does.
    for (sql, code) in [("SHOW POOL", "42601"), ("DISABLE nowhere", "3D000")] {
        console.parse("", sql, &[]);
        console.bind("", "", &[]);
        console.describe_portal("");
        console.execute("", 0);
        console.parse("never", "SHOW POOLS", &[]);
        console.sync();
        let answer = show(&console.read_until_ready());
        assert_eq!(answer, format!("1 2 n E({code}) Z(I)"), "{sql}");
    }
    console.bind("", "never", &[]);
    console.sync();
    assert_eq!(show(&console.read_until_ready()), "E(26000) Z(I)");
    console.bind("", "s", &[Some("1")]);
    console.sync();
    assert_eq!(show(&console.read_until_ready()), "E(08P01) Z(I)");
    console.parse("s", "SHOW POOLS", &[]);
    console.sync();
    assert_eq!(show(&console.read_until_ready()), "E(42P05) Z(I)");
    console.close_statement("s");
    console.parse("s", "SHOW VERSION", &[]);
    console.execute("gone", 0);
    console.sync();
    assert_eq!(show(&console.read_until_ready()), "3 1 E(34000) Z(I)");
}

#[test]
fn pauses_of_one_and_of_all_are_told_apart() {
    let (_cluster, weir) = start();
    let mut console = console(&weir);
    let mut held = weir.client("app");
    assert_eq!(console.run("PAUSE app"), "C(PAUSE) Z(I)");
    assert_eq!(console.run("PAUSE app"), "C(PAUSE) Z(I)", "twice is once");
    assert_eq!(console.run("RESUME"), "E(55000) Z(I)", "not everything is paused");
    assert_eq!(console.run("PAUSE"), "C(PAUSE) Z(I)");
    assert_eq!(console.run("PAUSE other"), "E(55000) Z(I)", "everything is");
    assert_eq!(console.run("RESUME other"), "E(55000) Z(I)", "it was not paused by itself");
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(weir.client("other").value("SELECT 1"), "1");
    held.query("SELECT 2");
    held.expect_silence(Duration::from_millis(200));
    assert_eq!(console.run("RESUME app"), "C(RESUME) Z(I)");
    assert_eq!(show(&held.read_until_ready()), "T(?column?:23) D(2) C(SELECT 1) Z(I)");
    for command in ["PAUSE", "KILL", "DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE"] {
        assert_eq!(console.run(&format!("{command} pgbouncer")), "E(0A000) Z(I)", "{command}: the console itself");
    }
}

#[test]
fn a_command_that_waits_is_cancelled() {
    let (_cluster, weir) = start();
    let mut holder = weir.client("app");
    assert_eq!(holder.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(holder.value("SELECT 1"), "1");
    let mut console = console(&weir);
    for command in ["PAUSE", "PAUSE app"] {
        console.query(command);
        console.expect_silence(Duration::from_millis(100));
        console.cancel();
        assert_eq!(show(&console.read_until_ready()), "E(57014) Z(I)", "{command}");
        assert_eq!(weir.client("app").value("SELECT 2"), "2", "{command} is taken back");
    }
    // Only what it began itself: the first PAUSE stands.
    console.query("PAUSE app");
    console.expect_silence(Duration::from_millis(100));
    let mut second = self::console(&weir);
    second.query("PAUSE app");
    second.expect_silence(Duration::from_millis(100));
    second.cancel();
    assert_eq!(show(&second.read_until_ready()), "E(57014) Z(I)");
    console.expect_silence(Duration::from_millis(100));
    let databases = weir.admin_table("SHOW DATABASES");
    assert_eq!(databases.iter().find(|row| row["name"] == "app").expect("it is listed")["paused"], "1");
    console.cancel();
    assert_eq!(show(&console.read_until_ready()), "E(57014) Z(I)");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    // By the extended protocol, and with more behind it.
    console.parse("", "PAUSE", &[]);
    console.bind("", "", &[]);
    console.execute("", 0);
    console.sync();
    assert_eq!(show(&console.read_until(b'2')), "1 2");
    console.expect_silence(Duration::from_millis(100));
    console.cancel();
    assert_eq!(show(&console.read_until_ready()), "E(57014) Z(I)");
    assert_eq!(console.run("RECONNECT"), "C(RECONNECT) Z(I)");
    console.query("WAIT_CLOSE");
    console.expect_silence(Duration::from_millis(100));
    console.cancel();
    assert_eq!(show(&console.read_until_ready()), "E(57014) Z(I)");
    // One that does not wait is not hit by it later.
    console.cancel();
    assert_eq!(console.run("SHOW VERSION").split(' ').next(), Some("T(version:25)"));
}

#[test]
fn resume_reaches_a_database_that_a_reload_has_removed() {
    let (_cluster, weir) = start();
    let mut holder = weir.client("app");
    assert_eq!(holder.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(holder.value("SELECT 1"), "1");
    let mut console = console(&weir);
    console.query("PAUSE app");
    console.expect_silence(Duration::from_millis(100));
    let path = weir.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[databases.app]", "[databases.another]")).unwrap();
    let mut other = self::console(&weir);
    assert_eq!(other.run("RELOAD"), "C(RELOAD) Z(I)");
    assert_eq!(other.run("RESUME app"), "C(RESUME) Z(I)");
    assert_eq!(show(&console.read_until_ready()), "E(55000) Z(I)", "RESUME came first");
    assert_eq!(holder.value("SELECT 2"), "2");
    assert_eq!(other.run("RESUME nowhere"), "E(3D000) Z(I)");
}

#[test]
fn those_at_the_console_are_clients_that_can_be_ended() {
    let (_cluster, weir) = start();
    let mut admin = console(&weir);
    let mut other =
        weir.login("admin", "pgbouncer").param("application_name", "the other").connect().expect("a console");
    let clients = weir.admin_table("SHOW CLIENTS");
    let shown = clients.iter().find(|c| c["application_name"] == "the other").expect("it is listed");
    let wanted = [("type", "C"), ("user", "admin"), ("database", "pgbouncer"), ("state", "idle"), ("link", "")];
    for (column, value) in wanted {
        assert_eq!(shown[column], value, "{column}");
    }
    assert_eq!(admin.run(&format!("KILL_CLIENT {}", shown["id"])), "C(KILL_CLIENT) Z(I)");
    assert_eq!(show(&other.read_to_end()), "E(FATAL 57P01)");
}

#[test]
fn a_database_of_the_wildcard_is_made_by_a_command() {
    let cluster = Cluster::start();
    cluster.sql("CREATE DATABASE later");
    let section = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let weir = Weir::builder().database(&section).start();
    let mut console = console(&weir);
    // As in PgBouncer: these two look for what is there, the others make it.
    let made = || weir.admin_table("SHOW DATABASES").iter().any(|d| d["name"] == "later");
    assert_eq!(console.run("RESUME later"), "E(3D000) Z(I)");
    console.query("ENABLE later");
    let error = console.read_until_ready().iter().find_map(|m| m.error()).unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("3D000", "no such database: later"));
    assert!(error.fields[&'H'].contains("it is not disabled"), "{error:?}");
    assert!(!made());
    // These have nothing to do where nobody is, and say so.
    for command in ["RECONNECT", "WAIT_CLOSE"] {
        console.query(&format!("{command} later"));
        let told = console.read_until_ready();
        assert!(told[0].tag == b'N' && show(&told).ends_with(&format!(" C({command}) Z(I)")), "{}", show(&told));
    }
    assert!(!made());
    console.query("DISABLE later");
    let told = console.read_until_ready();
    assert!(told[0].tag == b'N' && show(&told).ends_with(" C(DISABLE) Z(I)"), "{}", show(&told));
    assert!(made());
    assert_eq!(weir.login("postgres", "later").connect().unwrap_err().code(), "57P03");
    assert_eq!(console.run("ENABLE later"), "C(ENABLE) Z(I)");
    assert_eq!(console.run("PAUSE later"), "C(PAUSE) Z(I)");
    let paused = weir.admin_table("SHOW DATABASES").into_iter().find(|d| d["name"] == "later").expect("it is made");
    assert_eq!(paused["paused"], "1");
    assert_eq!(console.run("RESUME later"), "C(RESUME) Z(I)");
    let mut client = weir.client("later");
    assert_eq!(client.value("SELECT current_database()"), "later");
}

#[test]
fn a_shutdown_that_waits_is_overruled() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    let mut console = console(&weir);
    assert_eq!(console.run("SHUTDOWN WAIT_FOR_CLIENTS"), "C(SHUTDOWN) Z(I)");
    assert_eq!(client.value("SELECT 2"), "2", "it is waited for");
    assert_eq!(console.run("RELOAD"), "E(F0000) Z(I)");
    assert_eq!(console.run("RESUME"), "E(57P01) Z(I)");
    console.query("SHUTDOWN");
    assert_eq!(show(&client.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(WAIT).code(), Some(0));
}

#[test]
fn psycopg_reads_the_console_with_its_defaults() {
    let (_cluster, weir) = start();
    let script = "import psycopg\n\
        with psycopg.connect(user='admin', autocommit=True) as c:\n    \
            print([d.name for d in c.execute('SHOW VERSION').description], len(c.execute('SHOW DATABASES').fetchall()))\n";
    let output = common::tools::python(weir.port(), "pgbouncer", script);
    assert_eq!(output.stdout.trim(), "['version'] 3", "{output:?}");
}

#[test]
fn settings_are_changed_until_the_next_reload() {
    let (_cluster, weir) = start();
    let mut console = console(&weir);
    let setting = |name: &str| {
        let rows = weir.admin_table("SHOW CONFIG");
        rows.iter().find(|row| row["key"] == name).map(|row| row["value"].clone())
    };
    assert_ne!(setting("max_client_conn").as_deref(), Some("2"));
    assert_eq!(console.run("SET max_client_conn = 2"), "C(SET) Z(I)");
    assert_eq!(console.run("SET default_pool_size = '1'"), "C(SET) Z(I)");
    assert_eq!(setting("max_client_conn").as_deref(), Some("2"), "a later SET keeps an earlier one");
    // What follows from a setting follows.
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    assert_eq!(holder.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(holder.value("SELECT 1"), "1");
    waiter.query("SELECT 2");
    waiter.expect_silence(Duration::from_millis(300));
    // The console is not counted.
    let error = weir.login("postgres", "app").connect().expect_err("a client too many");
    assert_eq!(error.code(), "53300");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&waiter.read_until_ready()), "T(?column?:23) D(2) C(SELECT 1) Z(I)");
    // Mistakes change nothing.
    for (command, code) in [
        ("SET max_client_con = 5", "22023"),
        ("SET max_client_conn = many", "22023"),
        ("SET listen_port = 5", "22023"),
        ("SET min_pool_size = 50", "22023"),
    ] {
        assert_eq!(console.run(command), format!("E({code}) Z(I)"), "{command}");
    }
    assert_eq!((setting("max_client_conn").as_deref(), setting("min_pool_size").as_deref()), (Some("2"), Some("0")));
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    assert_ne!(setting("max_client_conn").as_deref(), Some("2"), "the file's word again");
}

#[test]
fn the_level_of_the_log_changes_at_once() {
    let cluster = Cluster::start();
    let mut weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut console = console(&weir);
    let debug = |weir: &Weir| weir.log_text().lines().filter(|line| line.contains(" DEBUG ")).count();
    let row = |name: &str| {
        let rows = weir.admin_table("SHOW CONFIG");
        let row = rows.iter().find(|row| row["key"] == name).unwrap();
        (row["value"].clone(), row["changeable"].clone())
    };
    assert_eq!(row("verbose"), ("0".to_owned(), "yes".to_owned()));
    // What only debug tells of: somebody who does not speak HTTP.
    let stranger = |weir: &Weir| {
        let mut stream = TcpStream::connect(("127.0.0.1", weir.http_port())).unwrap();
        stream.write_all(b"\x01\r\n\r\n").unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    };
    stranger(&weir);
    assert_eq!(debug(&weir), 0);
    assert_eq!(console.run("SET verbose = 1"), "C(SET) Z(I)");
    assert_eq!((row("verbose").0, row("log_level").0), ("1".to_owned(), "debug".to_owned()));
    stranger(&weir);
    eventually("it tells more", SOON, || (debug(&weir) > 0).then_some(()));
    assert_eq!(console.run("SET log_level = 'warn'"), "C(SET) Z(I)");
    let before = weir.log_text().matches("client connected").count();
    weir.client("app").value("SELECT 1");
    assert_eq!(weir.log_text().matches("client connected").count(), before, "it tells less");
    assert_eq!(console.run("SET verbose = many"), "E(22023) Z(I)");
    // And a reload.
    weir.reconfigure(|builder| builder.general("log_level = \"debug\""));
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    let before = debug(&weir);
    stranger(&weir);
    eventually("it tells more again", SOON, || (debug(&weir) > before).then_some(()));
}

#[test]
fn resume_says_what_is_paused_and_enable_what_is_not_there() {
    let cluster = Cluster::start();
    let more = format!("[databases.b]\nprimary = \"{}\"", cluster.url("postgres"));
    let weir = Weir::builder().cluster("app", &cluster, &[]).database(&more).start();
    let mut console = console(&weir);
    let mut told = |command: &str| {
        console.query(command);
        let error = console.read_until_ready().iter().find_map(|m| m.error()).unwrap();
        (error.code.clone(), error.message.clone(), error.fields.get(&'H').cloned().unwrap_or_default())
    };
    assert_eq!(told("ENABLE nothing").0, "3D000");
    assert_eq!(told("ENABLE nothing").1, "no such database: nothing");
    weir.admin("PAUSE app");
    assert!(told("RESUME").2.contains("RESUME app ends"), "one is named");
    weir.admin("PAUSE b");
    let (_, _, hint) = told("RESUME");
    assert!(hint.starts_with("2 databases are paused each by itself"), "{hint}");
}

#[test]
fn settings_without_meaning_are_taken_with_a_notice() {
    let ini = "[databases]\napp = host=127.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
               unix_socket_dir = DIR\nauth_type = trust\nauth_file = DIR/userlist.txt\nadmin_users = admin\n";
    let weir = Weir::builder().ini(ini).start();
    let mut console = console(&weir);
    console.query("SET pkt_buf = 8192");
    let told = console.read_until_ready();
    assert!(told[0].tag == b'N' && show(&told).ends_with(" C(SET) Z(I)"), "{}", show(&told));
    assert_eq!(console.run("SET server_lifetime = 0"), "C(SET) Z(I)");
    let shown = weir.admin_table("SHOW CONFIG").into_iter().find(|row| row["key"] == "server_lifetime").unwrap();
    assert_eq!(shown["value"], "0");
}
