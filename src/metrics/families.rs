//! A snapshot as Prometheus text.
//!
//! Every family is built from the snapshot when it is asked for, so there is no registry that could disagree with the
//! console. Names follow <https://prometheus.io/docs/practices/naming/>: base units (seconds, bytes), counters end in
//! `_total`. Labels are bounded by the configuration and by the users that have pools: never a client's text.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::counters::{BOUNDS_US, Counts, HistogramSnapshot};
use super::snapshot::{BreakerState, PoolSnapshot, ReplicaSnapshot, ShardSnapshot, Snapshot, State};
use crate::shard::check::{Check, Effect};

/// The `Content-Type` of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot in Prometheus's text format.
///
/// # Errors
/// When the encoder refuses a family; a fault of ours.
pub fn text(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&families(snapshot))
}

/// The snapshot's metric families; those without a sample are left out.
#[must_use]
pub fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut families = all(snapshot);
    families.retain(|f| !f.get_metric().is_empty());
    families
}

/// Every family, also those without a sample (which the encoder refuses).
fn all(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut out = Families::default();
    process(snapshot, &mut out);
    pools(&snapshot.pools, &mut out);
    clients(snapshot, &mut out);
    traffic(snapshot, &mut out);
    databases(snapshot, &mut out);
    servers(&snapshot.replicas, &mut out);
    shards(&snapshot.shards, &mut out);
    events(snapshot, &mut out);
    out.0
}

/// The families so far. `add` opens one; samples go into the one opened last.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

/// Label names with their values.
type Labels<'a> = &'a [(&'static str, &'a str)];

impl Families {
    fn gauge(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.add(name, help, MetricType::GAUGE)
    }

    fn counter(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.add(name, help, MetricType::COUNTER)
    }

    fn histogram(&mut self, name: &str, help: &str) -> Samples<'_> {
        self.add(name, help, MetricType::HISTOGRAM)
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType) -> Samples<'_> {
        let mut family = MetricFamily::default();
        family.set_name(format!("pgweir_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.0.push(family);
        Samples { family: self.0.last_mut(), kind }
    }
}

/// The samples of one family.
struct Samples<'a> {
    family: Option<&'a mut MetricFamily>,
    kind: MetricType,
}

impl Samples<'_> {
    /// A sample of a gauge or a counter.
    fn value(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::default();
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.push(labels, metric);
    }

    /// A sample of a gauge or a counter, from a count.
    fn count(&mut self, labels: Labels<'_>, count: u64) {
        self.value(labels, float(count));
    }

    /// A sample of a histogram of durations, in seconds.
    fn durations(&mut self, labels: Labels<'_>, durations: &HistogramSnapshot) {
        let mut cumulative = 0_u64;
        let buckets = BOUNDS_US.iter().zip(durations.buckets).map(|(bound, count)| {
            cumulative = cumulative.wrapping_add(count);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds_of_us(*bound));
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(durations.count());
        histogram.set_sample_sum(seconds_of_us(durations.sum_us));
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.push(labels, metric);
    }

    fn push(&mut self, labels: Labels<'_>, mut metric: Metric) {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        metric.set_label(pairs.collect());
        if let Some(family) = self.family.as_mut() {
            family.mut_metric().push(metric);
        }
    }
}

/// Prometheus knows only floats: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 loses its last digits, which no graph shows")]
fn float(count: u64) -> f64 {
    count as f64
}

fn seconds_of_us(us: u64) -> f64 {
    float(us) / 1e6
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// The process as a whole.
fn process(s: &Snapshot, out: &mut Families) {
    out.gauge("build_info", "Always 1; the labels say what runs.").value(&[("version", &s.version)], 1.0);
    out.gauge("uptime_seconds", "Time since the start.").value(&[], seconds(s.uptime));
    let ready = f64::from(u8::from(s.readiness.is_ready()));
    out.gauge("ready", "Whether /health/ready says yes.").value(&[], ready);
    let mut state = out.gauge("state", "1 for what the process is doing, 0 for the others.");
    for each in [State::Active, State::Paused, State::Suspended, State::Draining] {
        state.value(&[("state", each.as_str())], f64::from(u8::from(each == s.state)));
    }
    let mut paused = out.gauge("database_paused", "Whether the database is paused.");
    for db in &s.databases {
        paused.value(&[("database", &db.name)], f64::from(u8::from(db.paused)));
    }
    let mut size = out.gauge("database_pool_size", "Server connections per user and server at most.");
    for db in &s.databases {
        size.value(&[("database", &db.name)], f64::from(db.pool_size));
    }
    if let Some(limit) = s.settings.iter().find(|s| s.key == "max_client_conn").and_then(|s| s.value.parse().ok()) {
        out.gauge("max_client_connections", "Clients at most (max_client_conn).").value(&[], limit);
    }
}

/// The pools' connections and queues.
fn pools(pools: &[PoolSnapshot], out: &mut Families) {
    let mut servers = out.gauge("pool_server_connections", "Server connections of a pool by state.");
    for pool in pools {
        for (state, n) in pool.servers.named() {
            servers.value(&with(pool, ("state", state)), f64::from(n));
        }
    }
    let mut clients =
        out.gauge("pool_client_connections", "Clients in a pool by state; clients that ask for nothing are in none.");
    for pool in pools {
        for (state, n) in pool.clients.named() {
            clients.value(&with(pool, ("state", state)), f64::from(n));
        }
    }
    let mut wait = out.gauge("pool_max_wait_seconds", "How long the first client in the pool's queue has waited.");
    for pool in pools {
        wait.value(&labels(pool), seconds(pool.max_wait));
    }
    let mut resets = out.counter(
        "pool_resets_total",
        "Times a server connection was cleaned of what its client left, before the next one got it.",
    );
    for pool in pools {
        resets.count(&labels(pool), pool.resets);
    }
    let mut prepared = out.gauge("pool_prepared_statements", "Prepared statements on the pool's servers.");
    for pool in pools {
        prepared.count(&labels(pool), pool.prepared_statements);
    }
}

fn labels(pool: &PoolSnapshot) -> [(&'static str, &str); 5] {
    [
        ("database", &pool.database),
        ("user", &pool.user),
        ("shard", &pool.shard),
        ("server", &pool.server),
        ("role", pool.role.as_str()),
    ]
}

fn with<'a>(pool: &'a PoolSnapshot, more: (&'static str, &'a str)) -> [(&'static str, &'a str); 6] {
    let [database, user, shard, server, role] = labels(pool);
    [database, user, shard, server, role, more]
}

/// The clients, also those in no pool.
fn clients(s: &Snapshot, out: &mut Families) {
    let mut logged_in = out.gauge("clients", "Clients that are logged in, whatever they do.");
    for login in &s.logins {
        logged_in.value(&[("database", &login.database), ("user", &login.user)], f64::from(login.clients));
    }
    out.gauge("clients_logging_in", "Clients that are connected but not logged in yet.")
        .value(&[], f64::from(s.clients_logging_in));
}

/// A figure of the totals.
type Figure = fn(&Counts) -> u64;

/// What one server of one database did for all users.
#[derive(Default)]
struct Traffic {
    totals: Counts,
    query_time: HistogramSnapshot,
    wait_time: HistogramSnapshot,
}

/// What went through, by server, summed over the users.
fn traffic(s: &Snapshot, out: &mut Families) {
    let mut by_server: BTreeMap<[(&'static str, &str); 4], Traffic> = BTreeMap::new();
    for pool in &s.pools {
        let [database, _, shard, server, role] = labels(pool);
        let sum = by_server.entry([database, shard, server, role]).or_default();
        sum.totals += pool.totals;
        sum.query_time += pool.query_time;
        sum.wait_time += pool.wait_time;
    }
    let families: [(&str, &str, Figure); 5] = [
        ("queries_total", "Queries answered by a server.", |c| c.query_count),
        ("transactions_total", "Transactions run on a server.", |c| c.xact_count),
        ("server_assignments_total", "Times a server connection was given to a client.", |c| c.server_assignment_count),
        ("received_bytes_total", "Bytes received from clients for a server.", |c| c.received),
        ("sent_bytes_total", "Bytes sent to clients from a server.", |c| c.sent),
    ];
    for (name, help, figure) in families {
        let mut family = out.counter(name, help);
        for (labels, traffic) in &by_server {
            family.count(labels, figure(&traffic.totals));
        }
    }
    let mut query =
        out.histogram("query_duration_seconds", "Time of queries, from request to the last byte of the answer.");
    for (labels, traffic) in &by_server {
        query.durations(labels, &traffic.query_time);
    }
    let mut wait = out.histogram("wait_duration_seconds", "Time that clients waited for a server connection.");
    for (labels, traffic) in &by_server {
        wait.durations(labels, &traffic.wait_time);
    }
}

/// What a database did over all servers, as the console's STATS have it.
fn databases(s: &Snapshot, out: &mut Families) {
    let times: [(&str, &str, Figure); 2] = [
        ("database_transaction_seconds_total", "Time in transactions, idle within them included.", |c| c.xact_time),
        ("database_query_seconds_total", "Time in queries.", |c| c.query_time),
    ];
    for (name, help, figure) in times {
        let mut family = out.counter(name, help);
        for stats in &s.stats {
            family.value(&[("database", &stats.database)], seconds_of_us(figure(&stats.totals)));
        }
    }
    let counts: [(&str, &str, Figure); 3] = [
        ("database_client_parses_total", "Named prepared statements created by clients.", |c| c.client_parse_count),
        ("database_server_parses_total", "Prepared statements created on servers.", |c| c.server_parse_count),
        ("database_binds_total", "Binds of prepared statements.", |c| c.bind_count),
    ];
    for (name, help, figure) in counts {
        let mut family = out.counter(name, help);
        for stats in &s.stats {
            family.count(&[("database", &stats.database)], figure(&stats.totals));
        }
    }
}

/// The servers' health.
fn servers(servers: &[ReplicaSnapshot], out: &mut Families) {
    type Value = fn(&ReplicaSnapshot) -> Option<f64>;
    let gauges: [(&str, &str, Value); 7] = [
        ("server_weight", "Configured share of the reads.", |s| Some(s.weight)),
        ("server_effective_weight", "Share of the reads after health.", |s| s.effective_weight),
        ("server_latency_seconds", "Smoothed response time.", |s| s.latency.map(seconds)),
        ("server_in_flight", "Queries under way.", |s| Some(f64::from(s.in_flight))),
        ("server_replay_lag_bytes", "WAL that the replica has not replayed.", |s| s.lag_bytes.map(float)),
        ("server_replay_lag_seconds", "How far the replica's replay is behind.", |s| s.lag.map(seconds)),
        ("server_timeline", "The timeline that the server last reported.", |s| s.timeline.map(f64::from)),
    ];
    for (name, help, value) in gauges {
        let mut family = out.gauge(name, help);
        for server in servers {
            if let Some(value) = value(server) {
                family.value(&server_labels(server, &address(server)), value);
            }
        }
    }
    let mut state =
        out.gauge("server_state", "1 for how the server stands: up, lagging, down, fenced, standby or unknown.");
    for server in servers {
        let address = address(server);
        let [database, shard, name, role] = server_labels(server, &address);
        state.value(&[database, shard, name, role, ("state", server.state)], 1.0);
    }
    let mut breaker = out.gauge("server_breaker", "1 for the state of the server's circuit breaker, 0 for the others.");
    for server in servers {
        let address = address(server);
        for state in BreakerState::ALL {
            let [database, shard, name, role] = server_labels(server, &address);
            let on = f64::from(u8::from(state == server.breaker));
            breaker.value(&[database, shard, name, role, ("state", state.as_str())], on);
        }
    }
    let mut routed = out.counter("routed_total", "Reads and writes sent to a server.");
    for server in servers {
        let address = address(server);
        let [database, shard, name, role] = server_labels(server, &address);
        routed.count(&[database, shard, name, role, ("access", "read")], server.reads);
        routed.count(&[database, shard, name, role, ("access", "write")], server.writes);
    }
}

/// Whether the shards of sharded databases are as configured.
fn shards(shards: &[ShardSnapshot], out: &mut Families) {
    type Value = fn(&Check) -> u64;
    let gauges: [(&str, &str, Value); 3] = [
        ("shard_check_pending", "1 until the shard's primary has been checked.", |c| {
            u64::from(matches!(c, Check::Pending(_)))
        }),
        ("shard_check_failures", "Findings for which statements are refused.", |c| count(c, false)),
        ("shard_check_warnings", "Findings that are only told of.", |c| count(c, true)),
    ];
    for (name, help, value) in gauges {
        let mut family = out.gauge(name, help);
        for shard in shards {
            if let Some(check) = &shard.check {
                family.value(&[("database", &shard.database), ("shard", &shard.name)], float(value(check)));
            }
        }
    }
}

/// The findings that are mere warnings, or those that are more.
fn count(check: &Check, warnings: bool) -> u64 {
    let Check::Done(findings) = check else { return 0 };
    findings.iter().filter(|finding| (finding.effect == Effect::Warning) == warnings).count() as u64
}

fn address(server: &ReplicaSnapshot) -> String {
    format!("{}:{}", server.host, server.port)
}

fn server_labels<'a>(server: &'a ReplicaSnapshot, address: &'a str) -> [(&'static str, &'a str); 4] {
    [("database", &server.database), ("shard", &server.shard), ("server", address), ("role", server.role.as_str())]
}

/// What happened since the start.
fn events(s: &Snapshot, out: &mut Families) {
    let mut refused = out.counter("refused_statements_total", "Statements that pgweir refused, by reason.");
    for (reason, n) in &s.refused {
        refused.count(&[("reason", reason)], *n);
    }
    let mut retried = out.counter(
        "retries_total",
        "Statements that were tried again, unseen by the client, on another server or for what this one had, by reason.",
    );
    for (reason, n) in &s.retried {
        retried.count(&[("reason", reason)], *n);
    }
    let mut plans = out.counter(
        "plans_total",
        "Plans of statements on sharded databases, by kind: for one shard, any shard, several shards, or refused.",
    );
    for (database, kind, n) in &s.plans {
        plans.count(&[("database", database), ("kind", kind)], *n);
    }
    let mut recovered = out.counter(
        "recovered_transactions_total",
        "Prepared transactions of several shards that were left behind and are ended, by outcome.",
    );
    for (outcome, n) in &s.recovered {
        recovered.count(&[("outcome", outcome)], *n);
    }
    let mut routes = out.counter("routes_total", "Choices of a server, by reason.");
    for (database, reason, n) in &s.routes {
        routes.count(&[("database", database), ("reason", reason)], *n);
    }
    let mut pins = out.counter("pins_total", "Sessions that had to keep their server, by reason.");
    for (reason, total, _) in &s.pins {
        pins.count(&[("reason", reason)], *total);
    }
    let mut pinned = out.gauge("pinned_sessions", "Sessions that keep their server now, by reason.");
    for (reason, _, now) in &s.pins {
        pinned.count(&[("reason", reason)], *now);
    }
    out.gauge("listening_clients", "Clients that LISTEN without a server of their own.").count(&[], s.listening.0);
    out.gauge(
        "listened_channels",
        "Channels that are listened to for them, on one connection for each user of a database.",
    )
    .count(&[], s.listening.1);
    out.gauge("prepared_statements", "Shared prepared statements now known.").count(&[], s.prepared_statements);
    out.counter("cancel_requests_total", "Cancel requests of clients.").count(&[], s.cancel_requests);
    let mut failed = out.counter("failed_logins_total", "Logins that failed, by the class of the reason.");
    for (reason, n) in &s.failed_logins {
        failed.count(&[("reason", reason)], *n);
    }
    let mut away =
        out.counter("refused_clients_total", "Logins refused because too many clients were there, by the limit.");
    for (limit, n) in &s.turned_away {
        away.count(&[("limit", limit)], *n);
    }
    let mut timeouts =
        out.counter("timeouts_total", "Clients closed or statements ended because time was up, by the limit.");
    for (limit, n) in &s.timeouts {
        timeouts.count(&[("limit", limit)], *n);
    }
    let mut passed = out.counter(
        "peer_cancel_requests_total",
        "Cancel requests with keys that peers gave out, by what became of them.",
    );
    for (outcome, n) in &s.peer_cancel_requests {
        passed.count(&[("outcome", outcome)], *n);
    }
    let mut under_way =
        out.gauge("peer_cancel_requests", "Cancel requests on their way to a peer, by how far they are.");
    for (peer, requests) in s.peers.iter().filter_map(|peer| Some((peer.id.to_string(), peer.requests?))) {
        for (state, n) in requests.named() {
            under_way.value(&[("peer_id", &peer), ("state", state)], f64::from(n));
        }
    }
    let mut reloads = out.counter("config_reloads_total", "Configuration reloads, by result.");
    reloads.count(&[("result", "success")], s.reloads.succeeded);
    reloads.count(&[("result", "failure")], s.reloads.failed);
    let mut lookups = out.counter("dns_lookups_total", "Look-ups of servers' names, by how they ended.");
    for (result, n) in s.dns.lookups.iter().filter(|(result, _)| !result.is_empty()) {
        lookups.count(&[("result", result)], *n);
    }
    out.counter("dns_addresses_gone_total", "Addresses that the name of a server no longer had.")
        .count(&[], s.dns.gone);
    out.gauge("config_loaded_timestamp_seconds", "When the configuration in force was loaded.")
        .value(&[], seconds(s.reloads.loaded_at));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::example;

    /// One sample line.
    #[derive(Debug, Clone, PartialEq)]
    struct Sample {
        name: String,
        labels: BTreeMap<String, String>,
        value: f64,
    }

    /// Reads the exposition format, and fails on whatever Prometheus would refuse: a sample without TYPE, a family in
    /// two places, a label value with a bare quote, a sample that comes twice.
    fn parse(text: &str) -> Vec<Sample> {
        let mut samples: Vec<Sample> = Vec::new();
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut current = String::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.contains(' '), "help without a text: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "family twice: {name}");
                current = name.to_owned();
            } else {
                let sample = parse_sample(line);
                let suffixes: &[&str] =
                    if types[&current] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.iter().any(|s| sample.name == format!("{current}{s}")), "{line} within {current}");
                let twice = samples.iter().any(|s| s.name == sample.name && s.labels == sample.labels);
                assert!(!twice, "sample twice: {line}");
                samples.push(sample);
            }
        }
        samples
    }

    fn parse_sample(line: &str) -> Sample {
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, tail) = rest.split_once("=\"").unwrap();
                let mut value = String::new();
                let mut chars = tail.char_indices();
                let close = loop {
                    match chars.next().unwrap() {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match chars.next().unwrap().1 {
                            'n' => '\n',
                            c @ ('"' | '\\') => c,
                            c => panic!("escape {c} in {line}"),
                        }),
                        (_, c) => value.push(c),
                    }
                };
                assert!(labels.insert(label.to_owned(), value).is_none(), "label twice: {line}");
                rest = &tail[close + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            rest = &rest[1..];
        }
        Sample { name: name.to_owned(), labels, value: rest.trim().parse().unwrap() }
    }

    fn find(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = samples
            .iter()
            .filter(|s| s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v)))
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].value
    }

    #[test]
    fn the_text_is_valid_and_says_what_the_snapshot_says() {
        let samples = parse(&text(&example::snapshot()).unwrap());
        let sum_of_users = [("database", "shop"), ("server", "p1:5432"), ("role", "primary")];
        assert_eq!(find(&samples, "pgweir_queries_total", &sum_of_users), 60.0, "alice's and bob's together");
        assert_eq!(find(&samples, "pgweir_sent_bytes_total", &sum_of_users), 4000.0);
        let alice = [("user", "alice"), ("server", "p1:5432"), ("state", "being_canceled")];
        assert_eq!(find(&samples, "pgweir_pool_server_connections", &alice), 3.0);
        let alice = [("user", "alice"), ("server", "p1:5432"), ("state", "waiting")];
        assert_eq!(find(&samples, "pgweir_pool_client_connections", &alice), 2.0);
        assert_eq!(find(&samples, "pgweir_pool_max_wait_seconds", &alice[..2]), 2.500_001);
        assert_eq!(find(&samples, "pgweir_clients", &[("database", "shop"), ("user", "bob")]), 3.0);
        assert_eq!(find(&samples, "pgweir_server_replay_lag_bytes", &[]), 8192.0, "only where it is known");
        assert_eq!(find(&samples, "pgweir_server_replay_lag_seconds", &[]), 0.25);
        assert_eq!(find(&samples, "pgweir_server_latency_seconds", &[]), 0.0015);
        assert_eq!(find(&samples, "pgweir_server_breaker", &[("server", "r1:5432"), ("state", "half_open")]), 1.0);
        assert_eq!(find(&samples, "pgweir_server_breaker", &[("server", "r1:5432"), ("state", "open")]), 0.0);
        assert_eq!(find(&samples, "pgweir_routed_total", &[("server", "r1:5432"), ("access", "read")]), 9.0);
        assert_eq!(find(&samples, "pgweir_retries_total", &[("reason", "elsewhere")]), 2.0);
        assert_eq!(find(&samples, "pgweir_recovered_transactions_total", &[("outcome", "commit")]), 1.0);
        let own_writes = [("database", "shop"), ("reason", "own_writes_not_replayed")];
        assert_eq!(find(&samples, "pgweir_routes_total", &own_writes), 6.0);
        let scatters = [("database", "shop"), ("kind", "scatter")];
        assert_eq!(find(&samples, "pgweir_plans_total", &scatters), 5.0);
        assert_eq!(find(&samples, "pgweir_server_state", &[("server", "r1:5432"), ("state", "up")]), 1.0);
        assert_eq!(find(&samples, "pgweir_refused_statements_total", &[("reason", "cross_shard")]), 3.0);
        assert_eq!(find(&samples, "pgweir_config_reloads_total", &[("result", "failure")]), 1.0);
        assert_eq!(find(&samples, "pgweir_listening_clients", &[]), 9.0);
        assert_eq!(find(&samples, "pgweir_listened_channels", &[]), 4.0);
        assert_eq!(find(&samples, "pgweir_cancel_requests_total", &[]), 5.0);
        assert_eq!(find(&samples, "pgweir_failed_logins_total", &[("reason", "password")]), 2.0);
        assert_eq!(find(&samples, "pgweir_refused_clients_total", &[("limit", "max_client_conn")]), 1.0);
        assert_eq!(find(&samples, "pgweir_timeouts_total", &[("limit", "query_timeout")]), 8.0);
        assert_eq!(find(&samples, "pgweir_peer_cancel_requests_total", &[("outcome", "passed_on")]), 7.0);
        assert_eq!(find(&samples, "pgweir_peer_cancel_requests", &[("peer_id", "2"), ("state", "sent")]), 3.0);
        assert_eq!(find(&samples, "pgweir_dns_lookups_total", &[("result", "no_name")]), 2.0);
        assert_eq!(find(&samples, "pgweir_dns_addresses_gone_total", &[]), 3.0);
        assert_eq!(find(&samples, "pgweir_build_info", &[("version", "0.1.0")]), 1.0);
        assert_eq!(find(&samples, "pgweir_max_client_connections", &[]), 50.0);
        assert_eq!(find(&samples, "pgweir_database_query_seconds_total", &[("database", "shop")]), 0.000_106);
        assert_eq!(find(&samples, "pgweir_database_binds_total", &[("database", "logs")]), 210.0);
    }

    #[test]
    fn histograms_are_cumulative_and_end_in_infinity() {
        let samples = parse(&text(&example::snapshot()).unwrap());
        let buckets: Vec<_> = samples
            .iter()
            .filter(|s| s.name == "pgweir_query_duration_seconds_bucket")
            .filter(|s| s.labels["server"] == "p1:5432")
            .collect();
        assert_eq!(buckets.len(), BOUNDS_US.len() + 1);
        assert!(buckets.windows(2).all(|w| w[0].value <= w[1].value));
        assert_eq!((buckets[0].labels["le"].as_str(), buckets[0].value), ("0.0001", 2.0));
        assert_eq!((buckets[2].labels["le"].as_str(), buckets[2].value), ("0.0005", 4.0));
        assert_eq!((buckets[17].labels["le"].as_str(), buckets[17].value), ("60", 4.0));
        assert_eq!((buckets[18].labels["le"].as_str(), buckets[18].value), ("+Inf", 6.0));
        let p1 = [("server", "p1:5432")];
        assert_eq!(find(&samples, "pgweir_query_duration_seconds_count", &p1), 6.0);
        assert_eq!(find(&samples, "pgweir_query_duration_seconds_sum", &p1), 140.0007);
    }

    #[test]
    fn names_follow_the_conventions() {
        for family in families(&example::snapshot()) {
            let name = family.name();
            assert!(name.starts_with("pgweir_"), "{name}");
            assert_eq!(name.ends_with("_total"), family.get_field_type() == MetricType::COUNTER, "{name}");
            assert!(family.help().ends_with('.'), "{name}: {}", family.help());
        }
    }

    #[test]
    fn every_family_has_a_sample_in_the_example() {
        let empty: Vec<_> = all(&example::snapshot()).into_iter().filter(|f| f.get_metric().is_empty()).collect();
        assert!(empty.is_empty(), "{empty:?}");
    }

    #[test]
    fn an_empty_process_and_hostile_names_still_parse() {
        parse(&text(&Snapshot::default()).unwrap());
        let mut s = example::snapshot();
        s.pools[0].user = "a\"b\\c\nd{}=,".to_owned();
        let samples = parse(&text(&s).unwrap());
        assert!(samples.iter().any(|x| x.labels.get("user") == Some(&s.pools[0].user)));
    }
}
