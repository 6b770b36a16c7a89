//! Names of servers: their addresses are used in turn, looked up again, and left when a name moves; name servers that are slow, silent
//! or dead stop nothing that is known.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::certs::{self, Authority};
use common::cluster::Cluster;
use common::eventually;
use common::names::NameServer;
use common::raw::{LoginError, RawClient};
use common::weir::{Builder, Weir};
use common::wire::{Message, ServerError, show};

const SOON: Duration = Duration::from_secs(20);
/// The server's address, as it sees it.
const WHERE: &str = "SELECT host(inet_server_addr())";

/// pgweir with the database `app` at this host, which it asks `names` for.
fn at(host: &str, cluster: &Cluster, names: &NameServer, dir: &tempfile::TempDir) -> Builder {
    let resolv_conf = names.resolv_conf(dir.path(), "search example.test\noptions timeout:1 attempts:1");
    Weir::builder().general(&format!("resolv_conf = {resolv_conf:?}\nserver_login_retry = 0")).database(&format!(
        "[databases.app]\nprimary = \"postgres://{host}:{}/postgres\"\npool_size = 4",
        cluster.port()
    ))
}

fn sleeping(cluster: &Cluster) -> usize {
    cluster.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'").len()
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A login that must be refused by us.
fn refused(weir: &Weir) -> ServerError {
    match weir.login("postgres", "app").connect() {
        Err(LoginError::Server(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The row of SHOW DNS_HOSTS: how long it is known, and its addresses.
fn host_row(weir: &Weir, name: &str) -> (i64, String) {
    let rows = weir.admin("SHOW DNS_HOSTS");
    let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {rows:?}"));
    (row[1].parse().unwrap(), row[2].clone())
}

fn list(weir: &Weir, name: &str) -> u64 {
    let rows = weir.admin("SHOW LISTS");
    rows.iter().find(|row| row[0] == name).unwrap()[1].parse().unwrap()
}

/// Look-ups that ended like this.
fn lookups(weir: &Weir, result: &str) -> usize {
    metric(weir, &format!("pgweir_dns_lookups_total{{result=\"{result}\"}}"))
}

fn metric(weir: &Weir, line: &str) -> usize {
    let (_, text) = weir.http_get("/metrics");
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{line}:\n{text}"))
}

/// Sets the flag when dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until a query of a client without a transaction is answered at `address`; no query may fail meanwhile.
fn moves(client: &mut RawClient, address: &str) {
    eventually(&format!("{address} answers"), SOON, || (client.value(WHERE) == address).then_some(()));
}

#[test]
fn addresses_of_a_name_are_used_in_turn_and_cancel_requests_go_to_the_right_one() {
    let (names, dir) = (NameServer::start(), dir());
    let one = Cluster::start();
    let two = one.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1", "127.0.0.2"]);
    let weir = at("db.example.test", &one, &names, &dir).start();
    let mut clients: Vec<RawClient> = (0..4).map(|_| weir.client("app")).collect();
    let mut places = Vec::new();
    for client in &mut clients {
        client.run("BEGIN");
        places.push(client.value(WHERE));
    }
    // The connection that reads the catalog takes its turn as well, whenever that comes.
    let at = |address: &str| places.iter().filter(|place| *place == address).count();
    assert!(at("127.0.0.1") >= 1 && at("127.0.0.2") >= 1, "{places:?}");
    // Each request must reach the address of its own connection; the second of two would go to the other one if that took turns.
    for client in &mut clients {
        for _ in 0..2 {
            client.query("SELECT pg_sleep(600)");
            eventually("it sleeps", SOON, || (sleeping(&one) + sleeping(&two) > 0).then_some(()));
            client.cancel();
            let told: Vec<Message> = client.read_until_ready().into_iter().filter(|m| m.tag != b'T').collect();
            assert_eq!(show(&told), "E(57014) Z(E)");
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            client.run("BEGIN");
        }
    }
    // What is known is shown, and grows old.
    let (ttl, addresses) = host_row(&weir, "db.example.test");
    assert!((0..=15).contains(&ttl), "{ttl}");
    assert_eq!(addresses, "127.0.0.1:0,127.0.0.2:0");
    eventually("it grows old", SOON, || (host_row(&weir, "db.example.test").0 < ttl).then_some(()));
    assert_eq!(weir.admin("SHOW DNS_ZONES"), [["example.test", "0", "1"]]);
    assert_eq!((list(&weir, "dns_names"), list(&weir, "dns_zones"), list(&weir, "dns_pending")), (1, 1, 0));
    assert!(lookups(&weir, "found") >= 1);
}

#[test]
fn a_name_that_moves_takes_its_connections_along() {
    let (names, dir) = (NameServer::start(), dir());
    let old = Cluster::start();
    let new = old.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1"]);
    let builder = at("db.example.test", &old, &names, &dir).general("dns_max_ttl = 1");
    let weir = builder.database("probe_user = \"postgres\"").start();
    let probes = |cluster: &Cluster| {
        cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgweir probe'")
    };
    let (mut busy, mut idle) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    assert_eq!(busy.value(WHERE), "127.0.0.1");
    assert_eq!(idle.value(WHERE), "127.0.0.1");
    eventually("it is probed", SOON, || (probes(&old) == "1").then_some(()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when a step fails: nobody would end the crowd.
        let end = Done(&done);
        let crowd = scope.spawn(|| {
            let mut client = weir.client("app");
            while !done.load(Ordering::Relaxed) {
                client.value(WHERE);
            }
        });
        names.set("db.example.test", &["127.0.0.2"]);
        moves(&mut idle, "127.0.0.2");
        // A transaction ends where it began; its connection is told to go, and goes.
        assert_eq!(busy.value(WHERE), "127.0.0.1");
        let servers = weir.admin_table("SHOW SERVERS");
        let needed: Vec<_> = servers.iter().filter(|s| s["close_needed"] == "1").map(|s| s["addr"].as_str()).collect();
        assert_eq!(needed, ["127.0.0.1"], "{servers:?}");
        assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(busy.value(WHERE), "127.0.0.2");
        drop(end);
        crowd.join().unwrap();
    });
    eventually("the prober has moved, too", SOON, || (probes(&old) == "0" && probes(&new) == "1").then_some(()));
    let left =
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'";
    eventually("nothing is left behind", SOON, || (old.value(left) == "0").then_some(()));
    assert_eq!(host_row(&weir, "db.example.test").1, "127.0.0.2:0");
    assert_eq!(metric(&weir, "pgweir_dns_addresses_gone_total"), 1);
    weir.wait_log("the name has other addresses");
}

/// Nothing is sent any more where it leads, so that it would listen in vain.
#[test]
fn the_connection_that_listens_leaves_with_the_name() {
    let (names, dir) = (NameServer::start(), dir());
    let old = Cluster::start();
    let new = old.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1"]);
    let weir = at("db.example.test", &old, &names, &dir).general("dns_max_ttl = 1").start();
    let mut listens = weir.client("app");
    assert_eq!(listens.run("LISTEN news"), "C(LISTEN) Z(I)");
    names.set("db.example.test", &["127.0.0.2"]);
    let farewell = listens.read_to_end();
    assert_eq!(show(&farewell), "E(FATAL 08006)");
    assert!(farewell[0].error().unwrap().message.contains("leads elsewhere now"), "{farewell:?}");
    let mut again = weir.client("app");
    assert_eq!(again.run("LISTEN news"), "C(LISTEN) Z(I)");
    new.sql("NOTIFY news, 'from there'");
    assert_eq!(again.read_message().to_string(), "A(news,from there)");
}

#[test]
fn a_login_on_its_way_to_an_address_that_is_gone_serves_nobody() {
    let (names, dir) = (NameServer::start(), dir());
    let old = Cluster::start();
    let new = old.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1"]);
    let builder = at("db.example.test", &old, &names, &dir);
    let weir = builder.general("dns_max_ttl = 1\nserver_connect_timeout = 60").start();
    let mut client = weir.client("app");
    assert_eq!(client.value(WHERE), "127.0.0.1");
    weir.admin("RECONNECT");
    // Connections are still accepted, by the kernel.
    old.freeze();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.value(WHERE));
        let login = || weir.admin_table("SHOW POOLS").iter().any(|pool| pool["sv_login"] == "1");
        eventually("a login is under way", SOON, || login().then_some(()));
        names.set("db.example.test", &["127.0.0.2"]);
        eventually("the name has moved", SOON, || {
            (host_row(&weir, "db.example.test").1 == "127.0.0.2:0").then_some(())
        });
        old.thaw();
        assert_eq!(waiting.join().unwrap(), "127.0.0.2");
    });
    drop(new);
}

#[test]
fn an_address_that_stays_keeps_its_connections() {
    let (names, dir) = (NameServer::start(), dir());
    let one = Cluster::start();
    let two = one.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1"]);
    let weir = at("db.example.test", &one, &names, &dir).general("dns_max_ttl = 1").start();
    let mut client = weir.client("app");
    let backend = client.value(common::SERVER_PID);
    names.set("db.example.test", &["127.0.0.2", "127.0.0.1"]);
    eventually("both are known", SOON, || (host_row(&weir, "db.example.test").1.contains(',')).then_some(()));
    assert_eq!(client.value(common::SERVER_PID), backend);
    // No such name is no other address.
    names.set("db.example.test", &[]);
    eventually("it is known", SOON, || (host_row(&weir, "db.example.test").1.is_empty()).then_some(()));
    assert_eq!(client.value(common::SERVER_PID), backend);
    drop(two);
}

#[test]
fn an_address_that_cannot_be_reached_is_passed_over() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    names.set("db.example.test", &["127.0.0.3", "127.0.0.1", "127.0.0.4"]);
    let weir = at("db.example.test", &cluster, &names, &dir).start();
    for _ in 0..3 {
        assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
        weir.admin("RECONNECT");
    }
    names.set("db.example.test", &["127.0.0.3", "127.0.0.4"]);
    cluster.stop();
    weir.admin("SET dns_max_ttl = 0");
    let error = eventually("nobody is there", SOON, || {
        let error = weir.client("app").rows("SELECT 1").err()?;
        (!error.message.contains("127.0.0.1:")).then_some(error)
    });
    assert_eq!(error.code, "08006");
    for told in ["db.example.test:", "127.0.0.3: Connection refused", "127.0.0.4: Connection refused"] {
        assert!(error.message.contains(told), "{error:?}");
    }
}

#[test]
fn a_name_of_a_shard_with_replicas_leads_to_one_address() {
    let (names, dir) = (NameServer::start(), dir());
    let one = Cluster::start();
    let two = one.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1", "127.0.0.2"]);
    let builder =
        at("db.example.test", &one, &names, &dir).database("replicas = [\"postgres://127.0.0.1:1/postgres\"]");
    let weir = builder.database("probe_user = \"postgres\"").start();
    let probes = |cluster: &Cluster| {
        cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgweir probe'")
    };
    // Each with a connection of its own.
    let all = |place: &str| {
        let mut clients: Vec<RawClient> = (0..4).map(|_| weir.client("app")).collect();
        for client in &mut clients {
            client.run("BEGIN");
            assert_eq!(client.value(WHERE), place);
        }
    };
    all("127.0.0.1");
    eventually("it is probed", SOON, || (probes(&one) == "1").then_some(()));
    one.stop();
    eventually("the other address", SOON, || weir.client("app").rows(WHERE).ok());
    eventually("the prober has moved, too", SOON, || (probes(&two) == "1").then_some(()));
    all("127.0.0.2");
    one.restart();
    weir.admin("RECONNECT");
    all("127.0.0.2");
    assert_eq!(probes(&one), "0");
}

#[test]
fn an_address_that_leads_elsewhere_than_it_says_serves() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    // To itself, the kernel says of it.
    names.set("db.example.test", &["0.0.0.0"]);
    let weir = at("db.example.test", &cluster, &names, &dir).start();
    assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
    let pid = |weir: &Weir| weir.client("app").value(common::SERVER_PID);
    // Until the catalog is read a connection is kept longer.
    eventually("it is lent again", SOON, || (pid(&weir) == pid(&weir)).then_some(()));
}

#[test]
fn that_there_is_no_such_name_is_said_and_remembered() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    let mut weir = at("nowhere.example.test.", &cluster, &names, &dir).general("dns_nxdomain_ttl = 3600").start();
    let error = refused(&weir);
    assert_eq!(error.code, "08001", "{error:?}");
    assert!(error.message.contains("nowhere.example.test.:") && error.message.contains("NXDOMAIN"), "{error:?}");
    assert_eq!(lookups(&weir, "no_name"), 1);
    names.set("nowhere.example.test", &["127.0.0.1"]);
    for _ in 0..3 {
        assert!(refused(&weir).message.contains("NXDOMAIN"));
    }
    assert_eq!(lookups(&weir, "no_name"), 1, "remembered");
    assert_eq!(host_row(&weir, "nowhere.example.test.").1, "");
    assert!(host_row(&weir, "nowhere.example.test.").0 > 3000);
    // A reload with a shorter time counts for what is remembered, too.
    weir.reconfigure(|b| b.general("dns_nxdomain_ttl = 0"));
    let text = std::fs::read_to_string(weir.config_path()).unwrap();
    std::fs::write(weir.config_path(), text.replace("dns_nxdomain_ttl = 3600\n", "")).unwrap();
    weir.admin("RELOAD");
    assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
}

#[test]
fn what_is_known_outlives_its_name_server() {
    for silent in [true, false] {
        let (names, dir) = (NameServer::start(), dir());
        let cluster = Cluster::start();
        names.set("db.example.test", &["127.0.0.1"]);
        let other =
            format!("[databases.other]\nprimary = \"postgres://other.example.test:{}/postgres\"", cluster.port());
        let weir = at("db.example.test", &cluster, &names, &dir)
            .general("dns_max_ttl = 1\ndns_nxdomain_ttl = 1\nserver_connect_timeout = 20")
            .database(&other)
            .start();
        assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
        let mut settled = weir.client("app");
        names.set_mute(silent);
        names.set_failing(!silent);
        weir.wait_log("look-up failed");
        assert_eq!(host_row(&weir, "db.example.test").1, "127.0.0.1:0");
        for _ in 0..3 {
            // New connections, too.
            weir.admin("RECONNECT");
            assert_eq!(settled.value(WHERE), "127.0.0.1");
        }
        // What is not known cannot be found out, and who is to blame is said.
        let error = match weir.login("postgres", "other").connect() {
            Err(LoginError::Server(error)) => error,
            refused => panic!("{refused:?}"),
        };
        assert_eq!(error.code, "08001", "{error:?}");
        let why = if silent { "no answer from the name server (127.0.0.1:" } else { "answered: Server Failure" };
        assert!(error.message.contains("other.example.test:") && error.message.contains(why), "{error:?}");
        // It comes back.
        names.set("other.example.test", &["127.0.0.1"]);
        names.set_mute(false);
        names.set_failing(false);
        eventually("it is found", SOON, || weir.login("postgres", "other").connect().ok());
    }
}

#[test]
fn a_login_waits_no_longer_for_a_name_than_for_a_server() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    names.set_mute(true);
    let weir = at("db.example.test", &cluster, &names, &dir).general("server_connect_timeout = \"700ms\"").start();
    let before = pgweir::clock::now();
    let error = refused(&weir);
    let waited = pgweir::clock::now() - before;
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(error.code, "08001");
    assert!(error.message.contains("the name of the host could not be resolved within 0.7 s"), "{error:?}");
}

#[test]
fn a_name_server_that_never_answers_for_ipv6_is_not_waited_for() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    names.set("db.example.test", &["127.0.0.1"]);
    names.ignore_ipv6();
    let builder = at("db.example.test", &cluster, &names, &dir).general("server_connect_timeout = 10\ndns_max_ttl = 1");
    names.resolv_conf(dir.path(), "options timeout:15");
    let weir = builder.start();
    let mut client = weir.client("app");
    let backend = client.value(common::SERVER_PID);
    eventually("it is looked up again", SOON, || (lookups(&weir, "found") > 2).then_some(()));
    assert_eq!(client.value(common::SERVER_PID), backend);
    assert_eq!((lookups(&weir, "trouble"), metric(&weir, "pgweir_dns_addresses_gone_total")), (0, 0));
}

#[test]
fn all_who_want_a_name_make_one_look_up_and_others_do_not_wait() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    names.set("db.example.test", &["127.0.0.1"]);
    names.set_mute(true);
    let direct = format!("[databases.direct]\nprimary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = at("db.example.test", &cluster, &names, &dir)
        .general("workers = 1\ndns_max_ttl = 3600")
        .database(&direct)
        .start();
    // Asked again and again before it is given up.
    names.resolv_conf(dir.path(), "options timeout:2 attempts:5");
    let mut direct = weir.client("direct");
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| weir.client("app").value("SELECT 1"))).collect();
        eventually("it is asked", SOON, || (names.asked("db.example.test") > 0).then_some(()));
        assert_eq!((list(&weir, "dns_queries"), host_row(&weir, "db.example.test").1.as_str()), (1, ""));
        // The one worker is not held up.
        assert_eq!(direct.value("SELECT 2"), "2");
        names.set_mute(false);
        for one in all {
            assert_eq!(one.join().unwrap(), "1");
        }
    });
    assert_eq!(lookups(&weir, "found"), 1);
    assert_eq!(list(&weir, "dns_queries"), 0);
}

#[test]
fn search_list_hosts_file_and_addresses() {
    let (names, dir) = (NameServer::start(), dir());
    let cluster = Cluster::start();
    names.set("db.example.test", &["127.0.0.1"]);
    let weir = at("db", &cluster, &names, &dir).start();
    assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
    assert_eq!(host_row(&weir, "db").1, "127.0.0.1:0");
    assert_eq!(list(&weir, "dns_zones"), 0, "what has no dot has no zone");
    // A name that stands for another has its addresses.
    names.set_alias("alias.example.test", "db.example.test");
    let weir = at("alias.example.test", &cluster, &names, &dir).start();
    assert_eq!(weir.client("app").value(WHERE), "127.0.0.1");
    assert_eq!(host_row(&weir, "alias.example.test").1, "127.0.0.1:0");
    // Nobody is asked for these.
    names.set_mute(true);
    for host in ["localhost", "127.0.0.1"] {
        let weir = at(host, &cluster, &names, &dir).start();
        assert_eq!(weir.client("app").value(WHERE), "127.0.0.1", "{host}");
        assert_eq!(list(&weir, "dns_names"), u64::from(host != "127.0.0.1"));
        assert_eq!(names.asked(host), 0);
    }
}

#[test]
fn a_new_serial_number_of_the_zone_is_noticed() {
    zone_is_watched("db.example.test");
}

#[test]
fn the_zone_of_a_name_further_down_is_found() {
    zone_is_watched("db.eu.example.test");
}

fn zone_is_watched(host: &str) {
    let (names, dir) = (NameServer::start(), dir());
    let old = Cluster::start();
    let new = old.beside("127.0.0.2");
    names.set(host, &["127.0.0.1"]);
    names.set_serial("example.test", 2_026_010_100);
    let weir = at(host, &old, &names, &dir).general("dns_max_ttl = \"1h\"").start();
    let mut client = weir.client("app");
    assert_eq!(client.value(WHERE), "127.0.0.1");
    weir.admin("SET dns_zone_check_period = 0.2");
    let serial = |weir: &Weir| weir.admin("SHOW DNS_ZONES")[0][1].clone();
    eventually("the serial number", SOON, || (serial(&weir) == "2026010100").then_some(()));
    // The first one made the name be looked up once more; now nothing moves.
    eventually("it is looked up again", SOON, || (lookups(&weir, "found") == 2).then_some(()));
    names.set(host, &["127.0.0.2"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((lookups(&weir, "found"), client.value(WHERE).as_str()), (2, "127.0.0.1"));
    names.set_serial("example.test", 2_026_010_101);
    moves(&mut client, "127.0.0.2");
    assert_eq!(serial(&weir), "2026010101");
    drop(new);
}

#[test]
fn a_reload_brings_another_resolv_conf() {
    let (names, dir) = (NameServer::start(), dir());
    let old = Cluster::start();
    let new = old.beside("127.0.0.2");
    names.set("db.example.test", &["127.0.0.1"]);
    let weir = at("db.example.test", &old, &names, &dir).start();
    let mut client = weir.client("app");
    assert_eq!(client.value(WHERE), "127.0.0.1");
    let others = NameServer::start();
    others.set("db.example.test", &["127.0.0.2"]);
    let path = others.resolv_conf(dir.path(), "");
    weir.admin(&format!("SET resolv_conf = '{}'", path.display()));
    moves(&mut client, "127.0.0.2");
    // Its content may change as well.
    std::fs::copy(names.resolv_conf(dir.path(), ""), &path).unwrap();
    weir.admin("SET dns_max_ttl = 1");
    moves(&mut client, "127.0.0.1");
    // Mistakes are told, and nothing changes.
    std::fs::write(dir.path().join("wrong"), "search a\nnameserver ns.example\n").unwrap();
    let wrong = format!("SET resolv_conf = '{}'", dir.path().join("wrong").display());
    let error = weir.console().unwrap().rows(&wrong).unwrap_err();
    assert!(error.to_string().contains("wrong:2: \"ns.example\" is no address of a name server"), "{error}");
    let error = weir.console().unwrap().rows("SET resolv_conf = '/nowhere'").unwrap_err();
    assert!(error.to_string().contains("resolv_conf /nowhere: cannot read the file"), "{error}");
    drop(new);
}

#[test]
fn a_certificate_is_for_the_name_and_not_for_the_address() {
    let (names, dir) = (NameServer::start(), dir());
    let authority = Authority::new("the servers' house");
    let mut cluster = Cluster::start();
    cluster.enable_tls(&authority.issue("server", &["db.example.test"]), None);
    let ca = certs::write(dir.path(), "ca.crt", authority.cert());
    names.set("db.example.test", &["127.0.0.1"]);
    names.set("other.example.test", &["127.0.0.1"]);
    let tls = format!("server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = {ca:?}");
    let weir = at("db.example.test", &cluster, &names, &dir).general(&tls).start();
    let mut client = weir.client("app");
    assert_eq!(client.value(WHERE), "127.0.0.1");
    // Also that of a cancel request, which goes to the address.
    client.query("SELECT pg_sleep(600)");
    eventually("it sleeps", SOON, || (sleeping(&cluster) > 0).then_some(()));
    client.cancel();
    assert!(show(&client.read_until_ready()).contains("E(57014)"));
    let weir = at("other.example.test", &cluster, &names, &dir).general(&tls).start();
    assert!(refused(&weir).message.contains("is for another host"));
}
