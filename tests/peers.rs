//! Several pgweir processes behind one address: each carries out the cancel requests of the others' clients, and the processes can be
//! restarted one after the other.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use common::certs::Authority;
use common::cluster::Cluster;
use common::raw::{self, Address, Login, LoginError, RawClient};
use common::tools::{self, Running};
use common::weir::{ADMIN, Builder, CONSOLE, Weir};
use common::wire::{Message, PROTOCOL_3_2, frontend, show};
use common::{eventually, guard};

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster, peer_id: usize) -> Builder {
    Weir::builder().general(&format!("peer_id = {peer_id}")).cluster("app", cluster, &[])
}

/// `[peers]` entries for these ports.
fn peers(entries: &[(usize, u16)]) -> String {
    let entry = |(id, port): &(usize, u16)| format!("[peers.{id}]\nhost = \"127.0.0.1\"\nport = {port}\n");
    entries.iter().map(entry).collect()
}

/// Gives a process its peers by a reload.
fn acquaint(weir: &mut Weir, entries: &[(usize, u16)]) {
    weir.reconfigure(|b| b.database(&peers(entries)));
    weir.admin("RELOAD");
}

/// Processes with the numbers from 1 on that know each other, and themselves, by TCP.
fn fleet<const N: usize>(cluster: &Cluster, general: &str) -> [Weir; N] {
    let mut fleet = std::array::from_fn(|i| over(cluster, i + 1).general(general).start());
    let ports: Vec<_> = fleet.iter().enumerate().map(|(i, weir): (usize, &Weir)| (i + 1, weir.port())).collect();
    fleet.iter_mut().for_each(|weir| acquaint(weir, &ports));
    fleet
}

/// The number of the process that a key is of, by PgBouncer's rule.
fn giver(client: &RawClient) -> u32 {
    let [_, low, high, _] = client.pid.to_be_bytes();
    u32::from(low) | u32::from(high) << 8
}

/// A statement that takes ten minutes, told from others by `mark`; returns when it runs.
fn sleep(client: &mut RawClient, cluster: &Cluster, mark: &str) {
    client.query(&format!("SELECT pg_sleep(600) -- {mark}"));
    eventually("the query runs", SOON, || (asleep(cluster).iter().any(|m| m == mark)).then_some(()));
}

/// The marks of the statements that sleep now.
fn asleep(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.sql(
        "SELECT split_part(query, '-- ', 2) FROM pg_stat_activity \
         WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active' ORDER BY 1",
    );
    rows.into_iter().flatten().collect()
}

fn cancelled(client: &mut RawClient) {
    let told: Vec<Message> = client.read_until_ready().into_iter().filter(|m| m.tag != b'T').collect();
    assert_eq!(show(&told), "E(57014) Z(I)");
}

/// Cancels what a client does by way of another process than its own.
fn cancel_by(weir: &Weir, client: &RawClient) {
    raw::cancel(&Address::Tcp(weir.port()), client.pid, &client.key);
}

/// How many requests for others ended with this outcome.
fn outcome(weir: &Weir, outcome: &str) -> u64 {
    let (_, metrics) = weir.http_get("/metrics");
    let name = format!("pgweir_peer_cancel_requests_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse().unwrap())
}

fn pools(weir: &Weir) -> Vec<String> {
    weir.admin("SHOW PEER_POOLS").iter().map(|row| row.join(" ")).collect()
}

// The right statement, and no other.

#[test]
fn the_wrong_process_cancels_exactly_the_right_statement() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "");
    let (mut target, mut beside, mut over_there) = (one.client("app"), one.client("app"), two.client("app"));
    assert_eq!((giver(&target), giver(&beside), giver(&over_there)), (1, 1, 2));
    sleep(&mut beside, &cluster, "beside");
    sleep(&mut over_there, &cluster, "over there");
    for _ in 0..3 {
        sleep(&mut target, &cluster, "target");
        cancel_by(&two, &target);
        cancelled(&mut target);
        assert_eq!(asleep(&cluster), ["beside", "over there"]);
    }
    // The other way round, and at home.
    cancel_by(&one, &over_there);
    cancelled(&mut over_there);
    assert_eq!(asleep(&cluster), ["beside"]);
    cancel_by(&one, &beside);
    cancelled(&mut beside);
    assert_eq!((outcome(&two, "passed_on"), outcome(&one, "passed_on")), (3, 1));
}

#[test]
fn long_keys_cross_too() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "");
    let mut client = one.login("postgres", "app").protocol(PROTOCOL_3_2).connect().unwrap();
    assert_eq!((client.key.len(), giver(&client)), (32, 1));
    sleep(&mut client, &cluster, "long");
    for cut in [4, 31] {
        raw::cancel(&Address::Tcp(two.port()), client.pid, &client.key[..cut]);
    }
    client.expect_silence(Duration::from_millis(200));
    cancel_by(&two, &client);
    cancelled(&mut client);
    cancel_by(&two, &client);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn keys_have_pgbouncers_form() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 0x1234).start();
    let clients: Vec<_> = (0..20).map(|_| weir.client("app")).collect();
    for client in &clients {
        let [first, low, high, _] = client.pid.to_be_bytes();
        assert_eq!((first & 0x80, low, high, client.key.len(), client.key[3] & 3), (0, 0x34, 0x12, 4, 3));
    }
    // A request that has come over peers has fewer hops left: it is the same key.
    let mut client = weir.client("app");
    for hops in 0..=3 {
        sleep(&mut client, &cluster, "hops");
        let mut key = client.key.clone();
        key[3] = key[3] & !3 | hops;
        raw::cancel(&Address::Tcp(weir.port()), client.pid, &key);
        cancelled(&mut client);
    }
    let alone = Weir::builder().cluster("app", &cluster, &[]).start();
    let keys: Vec<_> = (0..20).map(|_| alone.client("app")).collect();
    assert!(keys.iter().any(|client| giver(client) != giver(&keys[0])), "without peer_id nothing of it");
    assert!(keys.iter().any(|client| client.key[3] & 3 != 3));
}

#[test]
fn wrong_keys_are_ignored_over_there() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "");
    let (mut client, other) = (one.client("app"), one.client("app"));
    sleep(&mut client, &cluster, "kept");
    let address = Address::Tcp(two.port());
    for bit in 2..32 {
        let mut wrong = client.key.clone();
        wrong[3 - bit / 8] ^= 1 << (bit % 8);
        raw::cancel(&address, client.pid, &wrong);
    }
    raw::cancel(&address, client.pid, &other.key);
    raw::cancel(&address, other.pid, &client.key);
    raw::cancel(&address, client.pid ^ 1, &client.key);
    // The right one of another, who does nothing.
    raw::cancel(&address, other.pid, &other.key);
    client.expect_silence(Duration::from_millis(300));
    assert_eq!(asleep(&cluster), ["kept"]);
    cancel_by(&two, &client);
    cancelled(&mut client);
}

#[test]
fn a_cancel_that_comes_too_late_hits_nothing() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "default_pool_size = 1");
    let (mut client, mut next) = (one.client("app"), one.client("app"));
    for n in 0..30 {
        client.query("SELECT pg_sleep(0.002)");
        // Returns when all is over, whether it came in time or not.
        cancel_by(&two, &client);
        client.read_until_ready();
        let sql = format!("SELECT {n}, pg_sleep(0.005)");
        assert_eq!(client.value(&sql), n.to_string(), "its own next statement");
        assert_eq!(next.value(&sql), n.to_string(), "the next client's on the same server");
    }
}

#[test]
fn storm_through_peers_hits_nobody_else() {
    // As the storm of tests/cancel.rs, through the wrong process.
    const CANCELS: usize = 300;
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "default_pool_size = 2");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let mut target = one.client("app");
        let (pid, key, address) = (target.pid, target.key.clone(), Address::Tcp(two.port()));
        let bystanders: Vec<_> = [&one, &one, &two]
            .map(|weir| {
                scope.spawn(move || {
                    let mut client = weir.client("app");
                    let mut turns = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        let answer = client.run(&format!("SELECT {turns}, pg_sleep(0.001)"));
                        let right = format!("T(?column?:23,pg_sleep:2278) D({turns}|) C(SELECT 1) Z(I)");
                        if answer != right {
                            return Err(answer);
                        }
                        turns += 1;
                    }
                    Ok(turns)
                })
            })
            .into();
        let hit = scope.spawn(move || {
            let mut hit = 0_u32;
            while !done.load(Ordering::Relaxed) {
                target.query("SELECT pg_sleep(0.001)");
                match show(&target.read_until_ready()).as_str() {
                    "T(pg_sleep:2278) D() C(SELECT 1) Z(I)" => {}
                    "T(pg_sleep:2278) E(57014) Z(I)" | "E(57014) Z(I)" => hit += 1,
                    other => return Err(other.to_owned()),
                }
            }
            Ok(hit)
        });
        let storms: Vec<_> = (0..2)
            .map(|_| {
                let (address, key) = (address.clone(), key.clone());
                scope.spawn(move || (0..CANCELS / 2).for_each(|_| raw::cancel(&address, pid, &key)))
            })
            .collect();
        let storms: Vec<_> = storms.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(storms.iter().all(Result::is_ok));
        let hit = hit.join().unwrap();
        assert!(hit.as_ref().is_ok_and(|hit| *hit > 0), "{hit:?}");
        for bystander in bystanders {
            let turns = bystander.join().unwrap();
            assert!(turns.as_ref().is_ok_and(|turns| *turns > 0), "{turns:?}");
        }
    });
    assert_eq!(outcome(&two, "passed_on"), CANCELS as u64);
}

// The way.

#[test]
fn a_request_takes_three_hops_at_most() {
    let cluster = Cluster::start();
    let [mut one, mut two, three] = fleet(&cluster, "");
    // One knows three by two alone, and takes two to be nine, who is nobody; two takes one to be that.
    let (first, second, third) = (one.port(), two.port(), three.port());
    let replace = |weir: &mut Weir, id: usize, entries: &[(usize, u16)]| {
        weir.reconfigure(|_| over(&cluster, id).database(&peers(entries)));
        weir.admin("RELOAD");
    };
    replace(&mut one, 1, &[(2, second), (3, second), (9, second)]);
    replace(&mut two, 2, &[(1, first), (3, third), (9, first)]);
    let mut client = three.client("app");
    sleep(&mut client, &cluster, "far away");
    cancel_by(&one, &client);
    cancelled(&mut client);
    assert_eq!((outcome(&one, "passed_on"), outcome(&two, "passed_on")), (1, 1));
    // Round in circles: one, two, one, two, and no further.
    raw::cancel(&Address::Tcp(first), 9 << 16, &[0, 0, 0, 3]);
    assert_eq!((outcome(&one, "passed_on"), outcome(&two, "passed_on")), (3, 2));
    assert_eq!((outcome(&one, "too_many_hops"), outcome(&two, "too_many_hops")), (0, 1));
    two.wait_log("it has been passed on three times");
    // What has no hop left goes nowhere, though it came from a client.
    let mut key = client.key.clone();
    key[3] &= !3;
    sleep(&mut client, &cluster, "far away");
    raw::cancel(&Address::Tcp(second), client.pid, &key);
    assert_eq!(outcome(&two, "too_many_hops"), 2);
    client.expect_silence(Duration::from_millis(200));
}

#[test]
fn unknown_peers_are_nobody() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "");
    let mut client = one.client("app");
    sleep(&mut client, &cluster, "kept");
    for id in [0_u32, 3, 16_383, 0xffff] {
        let pid = client.pid & 0x7f00_00ff | (id & 0xff) << 16 | (id & 0xff00);
        raw::cancel(&Address::Tcp(one.port()), pid, &client.key);
    }
    assert_eq!(outcome(&one, "unknown_peer"), 4);
    one.wait_log("its key is of a peer that is not in [peers] peer_id=16383");
    client.expect_silence(Duration::from_millis(200));
    cancel_by(&two, &client);
    cancelled(&mut client);
}

#[test]
fn a_peer_that_is_down_costs_a_line_in_the_log() {
    let cluster = Cluster::start();
    let [one, two] = fleet(&cluster, "");
    let client = two.client("app");
    two.kill9();
    cancel_by(&one, &client);
    one.wait_log("a cancel request could not be passed on");
    assert_eq!((outcome(&one, "unreachable"), outcome(&one, "passed_on")), (1, 0));
    assert_eq!(pools(&one), ["2 0 0 0 0"]);
    // It comes back, and is found.
    two.restart();
    let mut client = two.client("app");
    sleep(&mut client, &cluster, "back");
    cancel_by(&one, &client);
    cancelled(&mut client);
}

/// A peer that says nothing by itself.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Self(TcpListener::bind(("127.0.0.1", 0)).unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// The next connection, with the question for TLS that it begins with.
    fn accept(&self) -> TcpStream {
        let mut stream = self.0.accept().unwrap().0;
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut question = [0; 8];
        stream.read_exact(&mut question).unwrap();
        assert_eq!(question, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
        stream
    }
}

/// A process whose peer two is nobody's friend.
fn with_silent(cluster: &Cluster, general: &str, pool_size: u32) -> (Silent, Weir) {
    let silent = Silent::new();
    let entry = format!("{}pool_size = {pool_size}\n", peers(&[(2, silent.port())]));
    let weir = over(cluster, 1).general(general).database(&entry).start();
    (silent, weir)
}

#[test]
fn requests_queue_for_their_places() {
    let cluster = Cluster::start();
    let (silent, weir) = with_silent(&cluster, "", 1);
    let address = Address::Tcp(weir.port());
    std::thread::scope(|scope| {
        let cancel = |secret: u8| {
            let address = address.clone();
            scope.spawn(move || raw::cancel(&address, 0x0102_0004, &[5, 6, 7, secret]))
        };
        let pool = |row: &str| eventually(row, SOON, || (pools(&weir) == [row]).then_some(()));
        let first = cancel(0xff);
        pool("2 0 1 0 1");
        let second = cancel(0x83);
        pool("2 0 2 0 1");
        let mut server = silent.accept();
        server.write_all(b"N").unwrap();
        let mut request = [0; 16];
        server.read_exact(&mut request).unwrap();
        // The peer's bytes are as they were, with a hop less.
        let mut expected = frontend::cancel(0x0102_0004, &[5, 6, 7, 0xfe]);
        assert_eq!(request[..], expected);
        pool("2 1 1 1 0");
        let (_, metrics) = weir.http_get("/metrics");
        for line in ["\"sent\"} 1", "\"waiting\"} 1", "\"connecting\"} 0"] {
            let line = format!("pgweir_peer_cancel_requests{{peer_id=\"2\",state={line}");
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
        // A reload that leaves the peer as it is leaves its requests too.
        weir.admin("RELOAD");
        pool("2 1 1 1 0");
        // Who asked waits as long as the peer is not done.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!first.is_finished() && !second.is_finished());
        drop(server);
        first.join().unwrap();
        let mut server = silent.accept();
        pool("2 0 1 0 1");
        server.write_all(b"N").unwrap();
        server.read_exact(&mut request).unwrap();
        expected[15] = 0x82;
        assert_eq!(request[..], expected);
        drop(server);
        second.join().unwrap();
        pool("2 0 0 0 0");
    });
    assert_eq!(outcome(&weir, "passed_on"), 2);
}

#[test]
fn a_process_ends_after_the_requests_that_it_passes_on() {
    let cluster = Cluster::start();
    let (silent, weir) = with_silent(&cluster, "", 1);
    let address = Address::Tcp(weir.port());
    std::thread::scope(|scope| {
        let asks = scope.spawn(move || raw::cancel(&address, 0x0002_0001, &[0, 0, 0, 3]));
        let mut server = silent.accept();
        weir.term();
        weir.wait_log("shutting down");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(weir.http_get("/health/live").0, 200, "it has no client, and a request that is not done");
        server.write_all(b"N").unwrap();
        let mut request = [0; 16];
        server.read_exact(&mut request).unwrap();
        drop(server);
        asks.join().unwrap();
    });
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn requests_are_given_up_in_time() {
    let cluster = Cluster::start();
    // Longer than a login may take: it is no login.
    let general = "cancel_wait_timeout = \"700ms\"\nclient_login_timeout = \"300ms\"";
    let (silent, weir) = with_silent(&cluster, general, 1);
    let address = Address::Tcp(weir.port());
    std::thread::scope(|scope| {
        // One hangs at the peer, the other in the queue; the deadline is for the whole of it.
        for secret in [3, 7] {
            let address = address.clone();
            scope.spawn(move || raw::cancel(&address, 0x0002_0001, &[0, 0, 0, secret]));
        }
        let _held = silent.accept();
        eventually("both are given up", SOON, || (outcome(&weir, "timed_out") == 2).then_some(()));
    });
    weir.wait_log("not done within 0.7 s (cancel_wait_timeout)");
    assert!(!weir.log_text().contains("client_login_timeout"), "{}", weir.log_text());
    assert_eq!(pools(&weir), ["2 0 0 0 0"]);
}

// TLS and unix sockets.

#[test]
fn peers_speak_tls_as_servers_do() {
    let cluster = Cluster::start();
    let authority = Authority::new("the house");
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue("localhost", &["localhost", "127.0.0.1"]).write(dir.path(), "weir");
    let ca = common::certs::write(dir.path(), "ca.crt", authority.cert());
    // The cluster itself has no TLS, so that its cancel requests go over its unix socket.
    let section =
        format!("[databases.app]\nhost = {:?}\nport = {}\ndbname = \"postgres\"", cluster.socket_dir(), cluster.port());
    let general = format!(
        "client_tls_sslmode = \"allow\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}\n\
         server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = {ca:?}"
    );
    let builder = |id: usize| Weir::builder().general(&format!("peer_id = {id}")).database(&section);
    let two = builder(2).general(&general).start();
    let one = builder(1).general(&general).database(&peers(&[(2, two.port())])).start();
    let mut client = two.client("app");
    sleep(&mut client, &cluster, "encrypted");
    cancel_by(&one, &client);
    cancelled(&mut client);
    assert_eq!(outcome(&one, "passed_on"), 1);
    // One that cannot is not told anything.
    let plain = builder(3).start();
    let strict = builder(4).general(&general).database(&peers(&[(3, plain.port())])).start();
    let mut client = plain.client("app");
    sleep(&mut client, &cluster, "plain");
    cancel_by(&strict, &client);
    strict.wait_log("the server does not support TLS, but server_tls_sslmode requires it");
    assert_eq!(outcome(&strict, "unreachable"), 1);
    client.expect_silence(Duration::from_millis(200));
}

/// Two processes on one port, which know each other by the sockets in their directories.
fn pair(cluster: &Cluster, general: &str) -> ([Weir; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = |id: usize| dir.path().join(id.to_string());
    for id in [1, 2] {
        std::fs::create_dir(socket(id)).unwrap();
    }
    let builder = |id: usize, port: Option<u16>| {
        let entry = |id: usize| {
            let port = port.map_or(String::new(), |port| format!("port = {port}\n"));
            format!("[peers.{id}]\nhost = {:?}\n{port}", socket(id))
        };
        let own = format!("so_reuseport = true\nunix_socket_dir = {:?}\n{general}", socket(id));
        over(cluster, id).general(&own).database(&[entry(1), entry(2)].concat())
    };
    let mut one = builder(1, None).start();
    let port = one.port();
    one.reconfigure(|_| builder(1, Some(port)));
    one.hup();
    one.wait_log("peers changed: 1, 2");
    let two = builder(2, Some(port)).beside(&one).start();
    ([one, two], dir)
}

/// The socket of one of the pair.
fn socket(dir: &Path, id: usize, weir: &Weir) -> Address {
    Address::Unix(dir.join(format!("{id}/.s.PGSQL.{}", weir.port())))
}

/// Clients of the shared port, until there are `n` of each of the pair.
fn clients_of_both(weir: &Weir, n: usize) -> [Vec<RawClient>; 2] {
    let mut clients = [Vec::new(), Vec::new()];
    for _ in 0..200 {
        let client = weir.client("app");
        let place = giver(&client) as usize - 1;
        clients[place].push(client);
        if clients.iter().all(|some| some.len() >= n) {
            return clients;
        }
    }
    panic!("the kernel spreads no connections: {:?}", clients.map(|some| some.len()))
}

#[test]
fn on_a_shared_port_every_cancel_finds_its_statement() {
    let cluster = Cluster::start();
    let ([one, two], dir) = pair(&cluster, "");
    let [mut first, mut second] = clients_of_both(&one, 3);
    let mut all: Vec<_> = first.iter_mut().take(3).chain(second.iter_mut().take(3)).collect();
    for round in 0..5 {
        for (i, client) in all.iter_mut().enumerate() {
            sleep(client, &cluster, &format!("{round} {i}"));
        }
        for (i, client) in all.iter_mut().enumerate() {
            client.cancel();
            cancelled(client);
            assert_eq!(asleep(&cluster).len(), 5 - i, "one a time");
        }
    }
    // Half of the requests came to the wrong process: all but impossible that none did.
    assert!(outcome(&one, "passed_on") + outcome(&two, "passed_on") > 0);
    // Each by the socket of the other.
    for (id, clients) in [(2, &mut first), (1, &mut second)] {
        sleep(&mut clients[0], &cluster, "by socket");
        raw::cancel(&socket(dir.path(), id, &one), clients[0].pid, &clients[0].key);
        cancelled(&mut clients[0]);
    }
}

#[test]
fn psql_is_interrupted_whichever_process_its_request_meets() {
    let cluster = Cluster::start();
    let ([one, two], _dir) = pair(&cluster, "");
    let met = |weir: &Weir| outcome(weir, "passed_on");
    // Until each has met a request of the other's clients, which one in four does.
    let mut rounds = 0;
    while rounds < 3 || (rounds < 30 && (met(&one) == 0 || met(&two) == 0)) {
        let mark = format!("psql {rounds}");
        let sql = format!("SELECT pg_sleep(600) -- {mark}");
        let psql = Running::start(&mut tools::psql_command(one.port(), "app", &["-Atc", &sql]));
        eventually("the query runs", SOON, || (asleep(&cluster) == [mark.as_str()]).then_some(()));
        guard::send(psql.id(), Signal::SIGINT);
        let output = psql.wait(SOON);
        assert_eq!(output.stderr, "Cancel request sent\nERROR:  canceling statement due to user request\n");
        rounds += 1;
    }
    assert!(met(&one) > 0 && met(&two) > 0, "{rounds} requests, and none came to the wrong process");
}

#[test]
fn a_process_that_drains_takes_cancel_requests_by_its_socket() {
    let cluster = Cluster::start();
    let ([one, two], dir) = pair(&cluster, "");
    let [mut first, _second] = clients_of_both(&one, 1);
    let last = &mut first[0];
    last.run("BEGIN");
    last.query("SELECT pg_sleep(600) -- last");
    eventually("it runs", SOON, || (asleep(&cluster) == ["last"]).then_some(()));
    one.term();
    one.wait_log("shutting down");
    // No client gets in that way; the shared port is the other's alone.
    let refused = Login::new(socket(dir.path(), 1, &one), "postgres", "app").connect().unwrap_err();
    assert_eq!(refused.code(), "57P03");
    for _ in 0..10 {
        assert_eq!(giver(&two.client("app")), 2);
    }
    last.cancel();
    assert_eq!(show(&last.read_until(b'Z')), "T(pg_sleep:2278) E(57014) Z(E)");
    last.run("ROLLBACK");
    one.wait_exit(SOON);
    assert_eq!(outcome(&two, "passed_on"), 1);
    assert!(!PathBuf::from(dir.path()).join(format!("1/.s.PGSQL.{}", one.port())).exists(), "its socket is gone");
}

// A rolling restart.

/// Inserts numbers, each once, over connections that last as long as the process they lead to.
struct Writer {
    number: u32,
    sessions: u32,
    givers: [u32; 2],
}

impl Writer {
    /// Goes on until told to stop. A statement that met the end of its process was not run, and is said again elsewhere.
    ///
    /// # Errors
    /// What a statement failed with.
    fn run(port: u16, base: u32, done: &AtomicBool, written: &AtomicU32) -> Result<Self, String> {
        let mut writer = Self { number: base, sessions: 0, givers: [0; 2] };
        while !done.load(Ordering::Relaxed) {
            let client = Login::new(Address::Tcp(port), "postgres", "app").connect();
            let mut client = match client {
                Ok(client) => client,
                Err(LoginError::Server(error)) if ["57P03", "57P01"].contains(&error.code.as_str()) => continue,
                Err(LoginError::Server(error)) => return Err(format!("login: {error}")),
                // The process was about to close its listener.
                Err(LoginError::Io(_) | LoginError::Unexpected(_)) => continue,
            };
            writer.sessions += 1;
            writer.givers[giver(&client) as usize - 1] += 1;
            while !done.load(Ordering::Relaxed) && writer.write(&mut client)? {
                written.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(writer)
    }

    /// Inserts the next number, every other in a block of three round trips. False: the process said goodbye before that began.
    fn write(&mut self, client: &mut RawClient) -> Result<bool, String> {
        let number = self.number;
        let insert = format!("INSERT INTO numbers VALUES ({number})");
        let statements = match number % 2 {
            0 => vec![(insert.as_str(), "C(INSERT 0 1) Z(I)")],
            _ => vec![("BEGIN", "C(BEGIN) Z(T)"), (&insert, "C(INSERT 0 1) Z(T)"), ("COMMIT", "C(COMMIT) Z(I)")],
        };
        for (i, (sql, expected)) in statements.into_iter().enumerate() {
            let sent = client.try_send_bytes(&frontend::query(sql));
            match answer(client)? {
                Some(answer) if answer == expected => {}
                None if i == 0 => return Ok(false),
                other => return Err(format!("{number}: {sql}: {other:?} ({sent:?})")),
            }
        }
        self.number += 1;
        Ok(true)
    }
}

/// The answer to a query; none if the process said goodbye instead.
fn answer(client: &mut RawClient) -> Result<Option<String>, String> {
    let mut messages = Vec::new();
    loop {
        match client.try_read_message() {
            Ok(Some(message)) => messages.push(message),
            Ok(None) | Err(_) => {
                let told = show(&messages);
                return if ["", "E(FATAL 57P01)"].contains(&told.as_str()) { Ok(None) } else { Err(told) };
            }
        }
        if messages.last().is_some_and(|message| message.tag == b'Z') {
            return Ok(Some(show(&messages)));
        }
    }
}

#[test]
fn both_are_restarted_under_load_and_no_statement_fails() {
    const WRITERS: u32 = 6;
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE numbers (n int PRIMARY KEY)");
    let ([one, two], _dir) = pair(&cluster, "");
    let (done, written) = (AtomicBool::new(false), AtomicU32::new(0));
    let writers = std::thread::scope(|scope| {
        let (done, written, port) = (&done, &written, one.port());
        let writers: Vec<_> =
            (0..WRITERS).map(|i| scope.spawn(move || Writer::run(port, i * 1_000_000, done, written))).collect();
        let progress = || {
            let before = written.load(Ordering::Relaxed);
            eventually("they write on", SOON, || {
                let stopped = writers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                (stopped || written.load(Ordering::Relaxed) > before + 10 * WRITERS).then_some(())
            });
        };
        for weir in [&one, &two, &one, &two] {
            progress();
            weir.term();
            weir.wait_exit(SOON);
            progress();
            weir.restart();
        }
        progress();
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    let mut givers = [0; 2];
    for (i, writer) in (0..).zip(&writers) {
        let writer = writer.as_ref().unwrap_or_else(|why| panic!("writer {i}: {why}"));
        let base = i * 1_000_000;
        let sql = format!("SELECT count(*), max(n) FROM numbers WHERE n >= {base} AND n < {}", base + 1_000_000);
        let expected = [(writer.number - base).to_string(), (writer.number - 1).to_string()];
        assert_eq!(cluster.sql(&sql)[0], expected, "each number once, and none that was not told of");
        assert!(writer.sessions >= 3, "everyone had to move: {} sessions", writer.sessions);
        givers = [givers[0] + writer.givers[0], givers[1] + writer.givers[1]];
    }
    assert!(givers.iter().all(|n| *n > 0), "both had their share: {givers:?}");
}

// Configuration and views.

fn table(weir: &Weir, command: &str) -> (String, Vec<String>) {
    let mut console = weir.login(ADMIN, CONSOLE).connect().unwrap();
    console.query(command);
    let messages = console.read_until_ready();
    let rows = messages.iter().filter_map(Message::row);
    let rows = rows.map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join(" "));
    (messages[0].to_string(), rows.collect())
}

#[test]
fn the_console_shows_peers() {
    let cluster = Cluster::start();
    let section = "[peers.1]\nhost = \"/run/p1\"\n[peers.2]\nhost = \"p2.example.com\"\nport = 7000\npool_size = 3\n";
    let mut weir = over(&cluster, 1).general("default_pool_size = 5").database(section).start();
    assert_eq!(
        table(&weir, "SHOW PEERS"),
        (
            "T(peer_id:23,host:25,port:23,pool_size:23)".to_owned(),
            vec!["1 /run/p1 6432 5".to_owned(), "2 p2.example.com 7000 3".to_owned()]
        )
    );
    let columns = "T(peer_id:23,cl_active_cancel_req:23,cl_waiting_cancel_req:23,sv_active_cancel:23,sv_login:23)";
    assert_eq!(table(&weir, "SHOW PEER_POOLS"), (columns.to_owned(), vec!["2 0 0 0 0".to_owned()]));
    let lists = |weir: &Weir| {
        let lists: BTreeMap<_, _> =
            weir.admin("SHOW LISTS").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        (lists["peers"].clone(), lists["peer_pools"].clone())
    };
    assert_eq!(lists(&weir), ("2".to_owned(), "1".to_owned()));
    let config = weir.admin_table("SHOW CONFIG");
    let row = config.iter().find(|row| row["key"] == "peer_id").unwrap();
    assert_eq!((row["value"].as_str(), row["default"].as_str(), row["changeable"].as_str()), ("1", "0", "no"));
    // A reload takes over peers, and no other number of ours.
    weir.reconfigure(|_| over(&cluster, 2).database("[peers.2]\nhost = \"h\"\n[peers.3]\nhost = \"h\"\n"));
    weir.admin("RELOAD");
    weir.wait_log("peers changed: 1, 2, 3");
    weir.wait_log("needs a restart: peer_id = \"2\" (was \"1\")");
    assert_eq!(table(&weir, "SHOW PEERS").1, ["2 h 6432 20", "3 h 6432 20"]);
    assert_eq!(pools(&weir), ["2 0 0 0 0", "3 0 0 0 0"]);
    assert_eq!(weir.console().unwrap().rows("SET peer_id = 3").unwrap_err().code, "22023");
    // Without a number it has no peers, whatever is listed.
    weir.kill9();
    weir.reconfigure(|_| over(&cluster, 0).database("[peers.2]\nhost = \"h\"\n"));
    weir.restart();
    weir.wait_log("[peers] has no effect without peer_id");
    assert_eq!((table(&weir, "SHOW PEERS").1, pools(&weir)), (vec!["2 h 6432 20".to_owned()], Vec::new()));
    assert_eq!(lists(&weir), ("1".to_owned(), "0".to_owned()));
}

#[test]
fn an_unchanged_pgbouncer_ini_has_peers() {
    let cluster = Cluster::start();
    let ini = |id: usize, other: u16| {
        let database = format!("[databases]\napp = host=127.0.0.1 port={} dbname=postgres\n", cluster.port());
        let peers = format!(
            "[peers]\n1 = host=127.0.0.1 port={other}\n2 = host=127.0.0.9,127.0.0.1 port={other} pool_size=7\n"
        );
        let general = "listen_addr = 127.0.0.1\nlisten_port = PORT\nunix_socket_dir = DIR\nauth_type = trust\n\
                       auth_file = DIR/userlist.txt\nadmin_users = admin\npool_mode = transaction";
        format!("{database}{peers}[pgbouncer]\n{general}\npeer_id = {id}\n")
    };
    let two = Weir::builder().ini(&ini(2, 1)).start();
    let one = Weir::builder().ini(&ini(1, two.port())).start();
    // Nobody listens at the first of the two hosts.
    assert_eq!(one.admin("SHOW PEERS")[1].join(" "), format!("2 127.0.0.9,127.0.0.1 {} 7", two.port()));
    let mut client = two.client("app");
    sleep(&mut client, &cluster, "ini");
    cancel_by(&one, &client);
    cancelled(&mut client);
}
