//! What scrapers and load balancers see: /metrics parses, is complete and moves with the traffic; /health tells the truth.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::weir::Weir;
use common::wire::show;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);

/// A primary and a replica, probed often.
fn start(primary: &Cluster, replica: &Cluster) -> Weir {
    Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\n\
             replicas = [{{ url = \"postgres://127.0.0.1:{}/postgres\", weight = 2.0 }}]\n\
             probe_user = \"postgres\"\nprobe_interval = \"50ms\"\nprobe_timeout = \"500ms\"\nbreaker_failures = 2\nbreaker_cooldown = \"500ms\"",
            primary.port(),
            replica.port()
        ))
        .start()
}

/// One line of /metrics.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads Prometheus's text format, strictly.
fn metrics(weir: &Weir) -> Vec<Sample> {
    let (status, text) = weir.http_get("/metrics");
    assert_eq!(status, 200);
    let mut kinds = BTreeMap::new();
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind).is_none(), "family twice: {line}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
        // No label of these tests has a comma or a quote in it.
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.strip_suffix('"').unwrap_or_else(|| panic!("{line}")).to_owned())
        });
        let labels: BTreeMap<_, _> = labels.collect();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        assert!(kinds.contains_key(name) || kinds.get(base) == Some(&"histogram"), "sample before its type: {line}");
        assert!(!samples.iter().any(|s| s.name == name && s.labels == labels), "sample twice: {line}");
        samples.push(Sample {
            name: name.to_owned(),
            labels,
            value: value.parse().unwrap_or_else(|_| panic!("{line}")),
        });
    }
    samples
}

/// The one sample with this name and these labels.
fn sample(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |s: &&Sample| s.name == name && labels.iter().all(|(l, v)| s.labels.get(*l).is_some_and(|x| x == v));
    let found: Vec<&Sample> = samples.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].value
}

#[test]
fn metrics_are_complete_and_move_with_the_traffic() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (id int4)");
    let replica = primary.replica();
    let weir = start(&primary, &replica);
    let (p, r) = (format!("127.0.0.1:{}", primary.port()), format!("127.0.0.1:{}", replica.port()));
    let probed = || {
        let samples = metrics(&weir);
        let known = |s: &Sample| s.name == "pgweir_server_replay_lag_bytes" && s.labels["server"] == r;
        samples.iter().any(known).then_some(samples)
    };
    let samples = eventually("the replica is probed", SOON, probed);
    assert_eq!(sample(&samples, "pgweir_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(sample(&samples, "pgweir_ready", &[]), 1.0);
    assert_eq!(sample(&samples, "pgweir_server_weight", &[("server", &r)]), 2.0);
    assert!(sample(&samples, "pgweir_server_effective_weight", &[("server", &r)]) > 0.0);
    assert!(sample(&samples, "pgweir_server_replay_lag_bytes", &[("server", &r)]) >= 0.0);
    for server in [&p, &r] {
        assert_eq!(sample(&samples, "pgweir_server_breaker", &[("server", server), ("state", "closed")]), 1.0);
        assert_eq!(sample(&samples, "pgweir_server_breaker", &[("server", server), ("state", "open")]), 0.0);
    }

    let mut client = weir.client("app");
    for id in 0..5 {
        assert_eq!(client.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
    }
    let queries = |samples: &[Sample], server: &str| -> f64 {
        let of = samples.iter().filter(|s| s.name == "pgweir_queries_total" && s.labels["server"] == server);
        of.map(|s| s.value).sum()
    };
    let before =
        eventually("five inserts are counted", SOON, || Some(metrics(&weir)).filter(|m| queries(m, &p) >= 5.0));
    // The next reads wait for the session's own writes, which take no time here.
    primary.wait_replayed(&replica);
    let reads = |samples: &[Sample]| sample(samples, "pgweir_routed_total", &[("server", &r), ("access", "read")]);
    let grown = eventually("reads reach the replica", SOON, || {
        client.value("SELECT count(*) FROM t");
        Some(metrics(&weir)).filter(|m| reads(m) >= 3.0)
    });
    // A query is counted when its answer is through, which the client may see first.
    eventually("reads are counted as queries", SOON, || {
        Some(metrics(&weir)).filter(|m| queries(m, &r) >= reads(&grown))
    });
    let after = metrics(&weir);
    let writes = |samples: &[Sample]| sample(samples, "pgweir_routed_total", &[("server", &p), ("access", "write")]);
    assert!(writes(&before) >= 5.0);
    for (name, labels) in [
        ("pgweir_transactions_total", [("server", &*p)]),
        ("pgweir_received_bytes_total", [("server", &p)]),
        ("pgweir_sent_bytes_total", [("server", &p)]),
    ] {
        assert!(sample(&after, name, &labels) >= 5.0, "{name}");
    }
    for histogram in ["pgweir_query_duration_seconds", "pgweir_wait_duration_seconds"] {
        let count = sample(&after, &format!("{histogram}_count"), &[("server", &p)]);
        let infinite = sample(&after, &format!("{histogram}_bucket"), &[("server", &p), ("le", "+Inf")]);
        assert!(count >= 5.0 && count == infinite, "{histogram}: {count} {infinite}");
        // Who finds a free connection has not waited at all.
        let sum = sample(&after, &format!("{histogram}_sum"), &[("server", &p)]);
        assert!(sum > 0.0 || histogram == "pgweir_wait_duration_seconds" && sum >= 0.0, "{histogram}: {sum}");
        let mut buckets: Vec<(f64, f64)> = after
            .iter()
            .filter(|s| s.name == format!("{histogram}_bucket") && s.labels["server"] == p)
            .map(|s| (s.labels["le"].parse().unwrap(), s.value))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 5 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{buckets:?}");
    }

    // Clients and servers by state.
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (9)");
    let during = metrics(&weir);
    let of = [("database", "app"), ("user", "postgres"), ("server", &*p), ("state", "active")];
    assert_eq!(sample(&during, "pgweir_pool_server_connections", &of), 1.0);
    assert_eq!(sample(&during, "pgweir_pool_client_connections", &of), 1.0);
    assert_eq!(sample(&during, "pgweir_clients", &[("database", "app"), ("user", "postgres")]), 1.0);
    client.run("COMMIT");
    let free = eventually("the server is back", SOON, || {
        Some(metrics(&weir)).filter(|m| sample(m, "pgweir_pool_server_connections", &of) == 0.0)
    });
    let of = [("database", "app"), ("user", "postgres"), ("server", &*p), ("state", "idle")];
    assert_eq!(sample(&free, "pgweir_pool_server_connections", &of), 1.0);

    // Events.
    assert_eq!(weir.console().unwrap().run("RELOAD"), "C(RELOAD) Z(I)");
    assert_eq!(sample(&metrics(&weir), "pgweir_config_reloads_total", &[("result", "success")]), 1.0);
}

#[test]
fn ready_says_no_while_the_primary_is_dead() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = start(&primary, &replica);
    eventually("ready", SOON, || (weir.http_get("/health/ready").0 == 200).then_some(()));
    assert_eq!(weir.http_get("/health/live"), (200, "ok\n".to_owned()));
    assert_eq!(weir.http_get("/health"), (200, "ok\n".to_owned()));

    let detailed = || serde_json::from_str::<Value>(&weir.http_get("/health/detailed").1).unwrap();
    let healthy = eventually("lag is known", SOON, || {
        let page = detailed();
        page["databases"][0]["servers"][1]["lag_bytes"].is_u64().then_some(page)
    });
    assert_eq!((&healthy["ready"], &healthy["state"]), (&Value::from(true), &Value::from("active")));
    let database = &healthy["databases"][0];
    assert_eq!(database["name"], "app");
    let servers = database["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    assert_eq!((&servers[0]["role"], &servers[0]["port"]), (&Value::from("primary"), &Value::from(primary.port())));
    assert_eq!((&servers[1]["role"], &servers[1]["port"]), (&Value::from("replica"), &Value::from(replica.port())));
    assert_eq!(servers[1]["breaker"], "closed");

    primary.kill9();
    let (status, text) =
        eventually("not ready", SOON, || Some(weir.http_get("/health/ready")).filter(|(status, _)| *status != 200));
    assert_eq!(status, 503);
    assert!(text.contains("database \"app\" has no reachable primary"), "{text}");
    let sick = detailed();
    assert_eq!(sick["ready"], false);
    assert!(!sick["reasons"].as_array().unwrap().is_empty());
    assert!(sick["databases"][0]["servers"][0]["last_error"].is_string(), "{sick}");
    assert_eq!(weir.http_get("/health/live").0, 200, "the process itself lives");
    assert_eq!(sample(&metrics(&weir), "pgweir_ready", &[]), 0.0);

    primary.restart();
    eventually("ready again", SOON, || (weir.http_get("/health/ready").0 == 200).then_some(()));
}

#[test]
fn one_database_that_is_away_leaves_the_others_ready() {
    let cluster = Cluster::start();
    let away = "[databases.away]\nprimary = \"postgres://127.0.0.1:1/postgres\"";
    let weir = Weir::builder().cluster("app", &cluster, &[]).database(away).start();
    weir.login("postgres", "away").connect().map(drop).unwrap_err();
    let (status, text) = weir.http_get("/health/ready");
    assert_eq!(
        (status, text.as_str()),
        (200, "ready\ndatabase \"away\" has no reachable primary on shard \"default\"\n")
    );
    assert_eq!(sample(&metrics(&weir), "pgweir_ready", &[]), 1.0);
    // Every page says the same of the server.
    assert_eq!(sample(&metrics(&weir), "pgweir_server_state", &[("database", "away"), ("state", "down")]), 1.0);
    let page = serde_json::from_str::<Value>(&weir.http_get("/health/detailed").1).unwrap();
    assert_eq!(page["ready"], true);
    assert_eq!(page["reasons"].as_array().unwrap().len(), 1);
    let databases = page["databases"].as_array().unwrap();
    let states: Vec<_> = databases.iter().map(|db| (db["name"].as_str(), db["servers"][0]["state"].as_str())).collect();
    assert_eq!(states, [(Some("app"), Some("up")), (Some("away"), Some("down"))]);
    let shown = weir.admin_table("SHOW REPLICAS").into_iter().find(|row| row["database"] == "away").unwrap();
    assert_eq!(shown["state"], "down");
}

#[test]
fn ready_says_no_while_draining() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    client.run("BEGIN");
    client.value("SELECT 1");
    assert_eq!(weir.http_get("/health/ready").0, 200);
    weir.term();
    let (status, text) =
        eventually("not ready", SOON, || Some(weir.http_get("/health/ready")).filter(|(status, _)| *status != 200));
    assert_eq!(status, 503);
    assert!(text.contains("draining"), "{text}");
    assert_eq!(weir.http_get("/health/live").0, 200);
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&client.read_to_end()), "E(FATAL 57P01)");
    assert!(weir.wait_exit(SOON).success());
}

#[test]
fn ready_says_no_while_paused() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    assert_eq!(weir.console().unwrap().run("PAUSE"), "C(PAUSE) Z(I)");
    assert_eq!(weir.http_get("/health/ready").0, 503);
    assert_eq!(weir.console().unwrap().run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(weir.http_get("/health/ready").0, 200);
}

#[test]
fn what_is_no_request_is_refused() {
    let weir = Weir::builder().start();
    let raw = |request: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", weir.http_port())).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is fine: what was refused is not read.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(weir.http_get("/nothing").0, 404);
    assert_eq!(
        raw(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(raw(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(raw(b"\x00\x00\x00\x08\x04\xd2\x16\x2f\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    // Half a request holds nobody up.
    let mut half = TcpStream::connect(("127.0.0.1", weir.http_port())).unwrap();
    half.write_all(b"GET /metr").unwrap();
    assert_eq!(weir.http_get("/health/live").0, 200);
}
