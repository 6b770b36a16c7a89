//! Ordinary statements take a short way (`client::relay::shortcut`). Nobody notices: whatever their server says, and however it comes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{FakeServer, Step};
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{self, Message, backend, frontend, show};

const SOON: Duration = Duration::from_secs(15);
/// Long enough that two parts of an answer are read apart.
const APART: Duration = Duration::from_millis(15);

fn before(fake: &FakeServer) -> Weir {
    let primary = format!("primary = \"postgres://127.0.0.1:{}/d\"", fake.port());
    Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 1")).start()
}

/// Every answer to the one text or the other comes as the script of its number says; what is asked beside it (what code there is) is
/// answered by nothing.
fn answering(expects: u8, parts: Vec<Vec<Vec<u8>>>) -> FakeServer {
    FakeServer::serve(move |_| {
        let mut steps = Step::login();
        for parts in &parts {
            steps.push(Step::ExpectUntil(expects));
            for part in parts {
                steps.push(Step::Send(part.clone()));
                steps.push(Step::Sleep(APART));
            }
        }
        steps.push(Step::ExpectClose);
        steps
    })
}

/// An answer cut in two at each of its bytes.
fn cut(answer: &[u8]) -> Vec<Vec<Vec<u8>>> {
    (1..answer.len()).map(|at| [&answer[..at], &answer[at..]].map(<[u8]>::to_vec).to_vec()).collect()
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|message| wire::frame(message.tag, &message.body)).collect()
}

#[test]
fn an_answer_comes_through_wherever_it_is_cut() {
    let answer = backend::one_value("v", "1");
    let fake = answering(b'Q', cut(&answer));
    let weir = before(&fake);
    let mut client = weir.client("app");
    for at in 1..answer.len() {
        // It calls nothing and names no table, so that nothing is asked about it.
        client.query("SELECT 1");
        assert_eq!(bytes(&client.read_until_ready()), answer, "cut at {at}");
    }
    drop(client);
    drop(weir);
    assert_eq!(fake.deviations(), Vec::<String>::new());
}

#[test]
fn what_nobody_expects_comes_through_too() {
    let one = backend::one_value("v", "1");
    let (row, rest) = one.split_at(one.len() - 6);
    let notice = wire::frame(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhm\0\0");
    let error = wire::frame(b'E', b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0");
    let setting = backend::parameter_status("TimeZone", "Europe/Berlin");
    let ready = backend::ready(b'I');
    let answers: Vec<Vec<u8>> = vec![
        one.clone(),
        [&notice[..], &one].concat(),
        [row, &notice, rest].concat(),
        [&error[..], &ready].concat(),
        one.clone(),
        // The client is told, and so it wants what it was told.
        [row, &setting, rest].concat(),
        one.clone(),
    ];
    let fake = answering(b'Q', answers.iter().map(|answer| vec![answer.clone()]).collect());
    let weir = before(&fake);
    let mut client = weir.client("app");
    for answer in &answers {
        client.query("SELECT 1");
        assert_eq!(&bytes(&client.read_until_ready()), answer);
    }
    drop(client);
    drop(weir);
    assert_eq!(fake.deviations(), Vec::<String>::new());
}

#[test]
fn a_server_that_goes_in_the_middle_of_an_answer_is_told_of() {
    let one = backend::one_value("v", "1");
    for at in [0, 3, one.len() - 6, one.len() - 1] {
        let part = one[..at].to_vec();
        let fake = FakeServer::serve(move |_| {
            let part = part.clone();
            let first = vec![Step::Expect(b'Q'), Step::Send(backend::one_value("v", "1"))];
            [Step::login(), first, vec![Step::Expect(b'Q'), Step::Send(part), Step::Sleep(APART), Step::Close]].concat()
        });
        let weir = before(&fake);
        let mut client = weir.client("app");
        // The first of a client on a connection has its settings compared, and goes the long way.
        assert_eq!(client.value("SELECT 1"), "1");
        client.query("SELECT 1");
        let told = show(&client.read_to_end());
        assert!(told.ends_with("E(FATAL 08006)"), "{at}: {told}");
        eventually("the connection is forgotten", SOON, || weir.admin_table("SHOW SERVERS").is_empty().then_some(()));
    }
}

/// A server that is told to end between its answer and the next question says so behind the answer: that is not the client's.
#[test]
fn a_farewell_behind_the_answer_is_the_pools() {
    let farewell =
        wire::frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0");
    let last = [&backend::one_value("v", "1")[..], &farewell].concat();
    let fake = FakeServer::serve(move |_| {
        let answer = |bytes: Vec<u8>| vec![Step::Expect(b'Q'), Step::Send(bytes)];
        [Step::login(), answer(backend::one_value("v", "1")), answer(last.clone()), vec![Step::Close]].concat()
    });
    let weir = before(&fake);
    for _ in 0..5 {
        let mut client = weir.client("app");
        for _ in 0..2 {
            assert_eq!(client.value("SELECT 1"), "1");
        }
        eventually("the connection is forgotten", SOON, || weir.admin_table("SHOW SERVERS").is_empty().then_some(()));
        assert_eq!(client.value("SELECT 1"), "1", "the client goes on, with another");
        assert_eq!(client.value("SELECT 1"), "1");
        eventually("the connection is forgotten", SOON, || weir.admin_table("SHOW SERVERS").is_empty().then_some(()));
    }
}

/// Everything that SHOW STATS counts, but for times; and the plans.
fn counted(weir: &Weir) -> BTreeMap<String, String> {
    let table = weir.admin_table("SHOW STATS_TOTALS");
    let app = table.into_iter().find(|row| row["database"] == "app").unwrap();
    let stats = app.into_iter().filter(|(name, _)| name.ends_with("_count") || name.ends_with("received"));
    stats.chain(plans(weir)).collect()
}

/// How many plans of each kind there were, as the metrics say.
fn plans(weir: &Weir) -> BTreeMap<String, String> {
    let metrics = weir.http_get("/metrics").1;
    let samples = metrics.lines().filter(|line| line.starts_with("pgweir_plans_total{"));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What only reads.
const READS: &[&str] = &[
    "SELECT v FROM short WHERE k = 1",
    "SELECT v FROM short WHERE k = 1 ORDER BY v",
    "SELECT 1 / (k - 1) FROM short WHERE k = 1",
    "SELECT repeat('x', 200000) FROM short WHERE k = 1",
    "SELECT v FROM short WHERE v = E'\\x74wo' AND k = 1",
    "SELECT v FROM no_such_table WHERE k = 1",
];

/// The same statements, each by three ways, on the short way and, with a comment before them that has them routed, on the long one.
fn work(client: &mut RawClient, prefix: &str) -> Vec<String> {
    let texts = [
        "SELECT v FROM short WHERE k = 1",
        "INSERT INTO short VALUES (2, 'two')",
        "UPDATE short SET v = 'zwei' WHERE k = 2",
        "SELECT v FROM short ORDER BY k",
        "SELECT 1 / (k - 1) FROM short WHERE k = 1",
        "SELECT repeat('x', 200000) FROM short WHERE k < 3",
        "SELECT v FROM short WHERE v = E'\\x74wo'",
        "DELETE FROM short WHERE k = 2",
        "SELECT v FROM no_such_table",
    ];
    work_of(client, prefix, &texts)
}

fn work_of(client: &mut RawClient, prefix: &str, texts: &[&str]) -> Vec<String> {
    let mut heard = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let text = format!("{prefix}{text}");
        heard.push(client.run(&text));
        client.parse("", &text, &[]);
        client.bind("", "", &[]);
        client.describe_portal("");
        client.execute("", 0);
        client.sync();
        heard.push(show(&client.read_until_ready()));
        // Bound alone; by a name; and by a name once more.
        let name = format!("s{at}");
        client.parse(&name, &text, &[]);
        client.sync();
        heard.push(show(&client.read_until_ready()));
        for statement in [&*name, &name, ""] {
            client.bind("", statement, &[]);
            client.execute("", 0);
            client.sync();
            heard.push(show(&client.read_until_ready()));
        }
    }
    heard
}

#[test]
fn both_ways_say_and_count_the_same() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE short (k int, v text)");
    cluster.sql("INSERT INTO short VALUES (1, 'one')");
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    // A hint is one thing that is out of the ordinary; it changes nothing here.
    compare(&weir, "/* pgweir: primary */ ", &work);
}

/// Compares both ways, of which `hint` makes the long one.
fn compare(weir: &Weir, hint: &str, work: &dyn Fn(&mut RawClient, &str) -> Vec<String>) {
    let nothing = " ".repeat(hint.len());
    // So that the code is known, and the statements are prepared.
    // The second time, for it may be learned during the first.
    for _ in 0..2 {
        work(&mut weir.client("app"), &nothing);
        work(&mut weir.client("app"), hint);
    }
    // A server that waits to learn what code there is is counted when it is given back.
    let left = || {
        let free = weir.admin_table("SHOW POOLS").iter().all(|pool| pool["sv_active"] == "0");
        (free && weir.admin_table("SHOW CLIENTS").len() <= 2).then_some(())
    };
    let of = |prefix: &str| {
        eventually("all have left", SOON, left);
        let before = counted(weir);
        let mut client = weir.client("app");
        let heard = work(&mut client, prefix);
        drop(client);
        eventually("it has left", SOON, left);
        let after = counted(weir);
        let number = |text: &String| text.parse::<i64>().unwrap();
        let grown: BTreeMap<_, _> =
            after.iter().map(|(name, now)| (name.clone(), number(now) - number(&before[name]))).collect();
        (heard, grown)
    };
    let (short, counted) = of(&nothing);
    let (long, counted_long) = of(hint);
    assert_eq!(short, long);
    assert_eq!(counted, counted_long);
}

/// A primary with a replica that has replayed all.
fn pair(sql: &str) -> (Cluster, Cluster) {
    let primary = Cluster::start();
    let replica = primary.replica();
    primary.sql(sql);
    primary.wait_replayed(&replica);
    (primary, replica)
}

fn before_pair(primary: &Cluster, replica: &Cluster, general: &str) -> Weir {
    let general = format!("probe_interval = \"100ms\"\n{general}");
    let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let (first, second) = (url(primary), url(replica));
    let toml = format!("[databases.app]\nuser = \"postgres\"\nprimary = {first}\nreplicas = [{second}]");
    let weir = Weir::builder().database(&toml).general(&general).start();
    let port = replica.port().to_string();
    eventually("the replica is probed", SOON, || {
        let rows = weir.admin_table("SHOW REPLICAS");
        rows.iter().any(|row| row["port"] == port && !row["lag_bytes"].is_empty()).then_some(())
    });
    weir
}

#[test]
fn reads_on_replicas_say_and_count_the_same() {
    let (primary, replica) = pair("CREATE TABLE short (k int, v text); INSERT INTO short VALUES (1, 'one')");
    let weir = before_pair(&primary, &replica, "");
    compare(&weir, "/* pgweir: replica */ ", &|client, prefix| work_of(client, prefix, READS));
    let served = |cluster: &Cluster| {
        let port = cluster.port().to_string();
        let rows = weir.admin_table("SHOW REPLICAS");
        rows.iter().find(|row| row["port"] == port).map(|row| row["reads"].clone()).unwrap()
    };
    assert_eq!(served(&primary), "0");
    // Six works: each text by the simple and the extended protocol, and three times bound alone. What was only prepared may count as well.
    assert!(served(&replica).parse::<usize>().unwrap() >= 6 * READS.len() * 5, "{}", served(&replica));
}

#[test]
fn what_a_shard_is_asked_says_and_counts_the_same() {
    let shards = [Cluster::start(), Cluster::start()];
    shards.iter().for_each(|shard| drop(shard.sql("CREATE TABLE short (k int NOT NULL, v text)")));
    let of = |at: usize, slots: &str| {
        let url = format!("postgres://127.0.0.1:{}/postgres", shards[at].port());
        format!("[[databases.app.shards]]\nname = \"s{at}\"\nslots = [[{slots}]]\nprimary = \"{url}\"\n")
    };
    let listed = "[databases.app.tables]\nshort = { key = \"k\", type = \"integer\" }";
    let toml = format!(
        "[databases.app]\nuser = \"postgres\"\npool_size = 1\n{}{}{listed}",
        of(0, "0, 8191"),
        of(1, "8192, 16383")
    );
    let weir = Weir::builder().database(&toml).start();
    // 0 and 2 are the first shard's, -1 is the second's.
    for key in ["0", "2", "-1"] {
        let writes = [
            format!("INSERT INTO short VALUES ({key}, 'two')"),
            format!("UPDATE short SET v = 'zwei' WHERE k = {key}"),
            format!("SELECT v FROM short WHERE k = {key}"),
            format!("UPDATE short SET v = (1 / (k - {key}))::text WHERE k = {key}"),
            format!("DELETE FROM short WHERE k = {key}"),
        ];
        let reads =
            READS.iter().map(|text| text.replace("k = 1", &format!("k = {key}"))).filter(|t| !t.contains("no_such"));
        let texts: Vec<String> = writes.into_iter().chain(reads).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let hint = format!("/* pgweir: sharding_key={key} */ ");
        compare(&weir, &hint, &|client, prefix| work_of(client, prefix, &texts));
    }
    let plans = plans(&weir);
    assert!(plans.iter().any(|(name, value)| name.contains("\"single\"") && value != "0"), "{plans:?}");
}

/// The server of a read that was sent on the short way, and of one that waits for it there, goes: another answers.
#[test]
fn a_replica_that_goes_is_left_for_another() {
    let (primary, replica) = pair("CREATE TABLE short (v text); INSERT INTO short VALUES ('one')");
    let weir = before_pair(&primary, &replica, "default_pool_size = 1");
    let (mut sleeper, mut waiter) = (weir.client("app"), weir.client("app"));
    for client in [&mut sleeper, &mut waiter] {
        for _ in 0..3 {
            assert_eq!(client.value("SELECT v FROM short"), "one");
        }
    }
    let row = |column: &str| {
        let port = replica.port().to_string();
        let rows = weir.admin_table("SHOW REPLICAS");
        rows.iter().find(|row| row["port"] == port).unwrap()[column].clone()
    };
    for ends in ["pg_terminate_backend(pid)", "kill"] {
        eventually("the replica is up", SOON, || (row("state") == "up").then_some(()));
        sleeper.query("SELECT pg_sleep(1), v FROM short");
        let runs = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(1)%'";
        eventually("it runs", SOON, || (replica.value(runs) == "1").then_some(()));
        waiter.query("SELECT v FROM short");
        if ends == "kill" {
            replica.kill9();
        } else {
            replica
                .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(1)%'");
        }
        assert_eq!(show(&sleeper.read_until_ready()), "T(pg_sleep:2278,v:25) D(|one) C(SELECT 1) Z(I)", "{ends}");
        assert_eq!(show(&waiter.read_until_ready()), "T(v:25) D(one) C(SELECT 1) Z(I)", "{ends}");
    }
}

#[test]
fn whoever_sends_ahead_or_leaves_meanwhile_is_noticed() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE short (k int)");
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    // What comes first on a connection has its settings compared, and waits until it is known what code there is.
    let free = || weir.admin_table("SHOW POOLS").iter().all(|pool| pool["sv_active"] == "0");
    for _ in 0..2 {
        assert_eq!(client.run("SELECT pg_sleep(0)"), "T(pg_sleep:2278) D() C(SELECT 1) Z(I)");
        eventually("the database's code is known", SOON, || free().then_some(()));
    }
    // The second comes while the first is under way, and the third with it.
    client.query("SELECT pg_sleep(0.3)");
    std::thread::sleep(Duration::from_millis(100));
    let two = [frontend::query("INSERT INTO short VALUES (1)"), frontend::query("SELECT count(*) FROM short")].concat();
    client.send_bytes(&two);
    assert_eq!(show(&client.read_until_ready()), "T(pg_sleep:2278) D() C(SELECT 1) Z(I)");
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    let counted = client.read_until_ready();
    assert_eq!(counted.iter().find_map(Message::row).unwrap(), [Some("1".to_owned())]);

    client.query("SELECT pg_sleep(600)");
    let sleeps = || {
        cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)'")
    };
    eventually("it runs", SOON, || (sleeps() == "1").then_some(()));
    drop(client);
    eventually("its server is given up", SOON, || {
        let left = |table: &str| weir.admin_table(table).iter().filter(|row| row["database"] == "app").count();
        (left("SHOW SERVERS") == 0 && left("SHOW CLIENTS") == 0).then_some(())
    });
}

/// What can happen to a client that waits for the only server, which another has.
fn wait_and_see(weir: &Weir, prefix: &str, begin: &str) -> Vec<String> {
    let row = |column: &str| {
        let pools = weir.admin_table("SHOW POOLS");
        pools.iter().find(|pool| pool["database"] == "app").map_or(String::new(), |pool| pool[column].clone())
    };
    let text = |value: &str| format!("{prefix}SELECT v FROM short WHERE v = '{value}'");
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    let waits = |holder: &mut RawClient, waiter: &mut RawClient, value: &str| {
        // So that its settings are those of the server, and its texts known there.
        for _ in 0..2 {
            assert_eq!(waiter.run(&text(value)), "T(v:25) C(SELECT 0) Z(I)");
        }
        assert_eq!(holder.run(begin), "C(BEGIN) Z(T)");
        // That shows where.
        assert_eq!(holder.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(T)");
        waiter.query(&text(value));
        eventually("it waits", SOON, || (row("cl_waiting") == "1").then_some(()));
    };
    let mut told = Vec::new();

    waits(&mut holder, &mut waiter, "a");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    told.push(show(&waiter.read_until_ready()));

    waits(&mut holder, &mut waiter, "b");
    waiter.cancel();
    told.push(show(&waiter.read_until_ready()));
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");

    waits(&mut holder, &mut waiter, "c");
    waiter.query("SELECT v FROM short");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    told.push(show(&waiter.read_until_ready()));
    told.push(show(&waiter.read_until_ready()));

    // The server that it gets has other settings than it has.
    waits(&mut holder, &mut waiter, "d");
    assert_eq!(holder.run("SET work_mem = '5MB'"), "C(SET) Z(T)");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    told.push(show(&waiter.read_until_ready()));
    assert_eq!(holder.run("RESET work_mem"), "C(RESET) Z(I)");

    // It is told after a while, and given up in the end.
    waits(&mut holder, &mut waiter, "e");
    let messages = waiter.read_until_ready();
    told.push(show(&messages));
    told.extend(messages.iter().filter_map(Message::error).map(|error| error.message));
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");

    waits(&mut holder, &mut waiter, "f");
    drop(waiter);
    eventually("it waits no more", SOON, || (row("cl_waiting") == "0").then_some(()));
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");

    let mut waiter = weir.client("app");
    waits(&mut holder, &mut waiter, "g");
    weir.admin("KILL app");
    told.push(show(&waiter.read_to_end()));
    weir.admin("RESUME app");
    told
}

#[test]
fn who_waits_is_served_and_told_as_on_the_long_way() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE short (v text)");
    let general = "query_wait_notify = \"700ms\"\nquery_wait_timeout = \"1500ms\"";
    let weir = Weir::builder().cluster("app", &cluster, &[]).general(general).database("pool_size = 1").start();
    let hint = "/* pgweir: primary */ ";
    let short = wait_and_see(&weir, &" ".repeat(hint.len()), "BEGIN");
    let told = format!("{short:?}");
    assert!(told.contains("E(57014)") && told.contains("E(53300)") && told.contains("N(NOTICE 00000)"), "{told}");
    assert!(told.contains("within 1.5 s (query_wait_timeout)"), "{told}");
    assert_eq!(short, wait_and_see(&weir, hint, "BEGIN"));
}

#[test]
fn who_waits_for_a_replica_is_served_and_told_as_on_the_long_way() {
    let (primary, replica) = pair("CREATE TABLE short (v text)");
    let general = "query_wait_notify = \"700ms\"\nquery_wait_timeout = \"1500ms\"\ndefault_pool_size = 1";
    let weir = before_pair(&primary, &replica, general);
    let hint = "/* pgweir: replica */ ";
    let short = wait_and_see(&weir, &" ".repeat(hint.len()), "BEGIN READ ONLY");
    let told = format!("{short:?}");
    assert!(told.contains("E(57014)") && told.contains("E(53300)") && told.contains("N(NOTICE 00000)"), "{told}");
    assert_eq!(short, wait_and_see(&weir, hint, "BEGIN READ ONLY"));
}

/// All get their own answers, and the wait is counted.
#[test]
fn many_wait_for_one() {
    const CLIENTS: usize = 12;
    const EACH: usize = 150;
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).database("pool_size = 1").start();
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let weir = &weir;
            scope.spawn(move || {
                let mut client = weir.client("app");
                for turn in 0..EACH {
                    let value = format!("{n} {turn}");
                    match turn % 3 {
                        0 => assert_eq!(client.value(&format!("SELECT '{value}'")), value),
                        1 => {
                            client.parse("", "SELECT $1::text", &[]);
                            client.bind("", "", &[Some(&value)]);
                            client.execute("", 0);
                            client.sync();
                            let answer = client.read_until_ready();
                            assert_eq!(answer.iter().find_map(Message::row).unwrap(), [Some(value)]);
                        }
                        _ => assert!(client.rows(&format!("SELECT 1 / 0 -- {value}")).is_err()),
                    }
                }
            });
        }
    });
    let table = weir.admin_table("SHOW STATS_TOTALS");
    let app = table.into_iter().find(|row| row["database"] == "app").unwrap();
    let number = |name: &str| app[name].parse::<u64>().unwrap();
    assert_eq!(number("xact_count"), (CLIENTS * EACH) as u64);
    assert_eq!(number("query_count"), (CLIENTS * EACH) as u64);
    assert!(number("wait_time") > number("query_time"), "most of the time eleven wait: {app:?}");
    // Nobody is left in the queue, or holds the server.
    let pools = weir.admin_table("SHOW POOLS");
    let pool = pools.iter().find(|pool| pool["database"] == "app").unwrap();
    assert_eq!([&*pool["cl_waiting"], &*pool["sv_active"], &*pool["sv_idle"]], ["0", "0", "1"]);
}
