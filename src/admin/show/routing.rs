//! SHOW REPLICAS and SHOW SHARDS: ours, beside PgBouncer's.

use std::time::Duration;

use super::{Cell, Field, INT4, INT8, NUMERIC, TEXT, Table, int, long, table_of, text};
use crate::config::Role;
use crate::metrics::counters::Counts;
use crate::metrics::snapshot::{ReplicaSnapshot, ShardSnapshot, Snapshot};

pub(super) fn replicas(s: &Snapshot) -> Table {
    let fields: [Field<ReplicaSnapshot>; 19] = [
        ("database", TEXT, |r| text(&r.database)),
        ("shard", TEXT, |r| text(&r.shard)),
        ("host", TEXT, |r| text(&r.host)),
        ("port", INT4, |r| int(r.port)),
        ("role", TEXT, |r| text(r.role.as_str())),
        ("weight", NUMERIC, |r| text(r.weight.to_string())),
        ("effective_weight", NUMERIC, |r| r.effective_weight.and_then(|w| text(format!("{w:.3}")))),
        ("latency_us", INT8, |r| r.latency.and_then(micros)),
        ("lag_bytes", INT8, |r| r.lag_bytes.and_then(long)),
        ("lag_us", INT8, |r| r.lag.and_then(micros)),
        ("in_flight", INT4, |r| int(r.in_flight)),
        ("breaker", TEXT, |r| text(r.breaker.as_str())),
        ("reads", INT8, |r| long(r.reads)),
        ("writes", INT8, |r| long(r.writes)),
        ("last_error", TEXT, |r| r.last_error.clone()),
        ("last_error_age_us", INT8, |r| r.last_error_age.and_then(micros)),
        ("state", TEXT, |r| text(r.state)),
        ("timeline", INT4, |r| r.timeline.and_then(int)),
        ("patroni", TEXT, |r| r.patroni.and_then(text)),
    ];
    table_of(&fields, &s.replicas)
}

/// A shard and what went through its pools.
struct Shard<'a> {
    shard: &'a ShardSnapshot,
    traffic: Counts,
    servers: Vec<&'a ReplicaSnapshot>,
}

impl Shard<'_> {
    /// How its primary stands; `no_primary` while no server is one.
    fn state(&self) -> &'static str {
        let primary = self.servers.iter().find(|server| server.role == Role::Primary);
        primary.map_or("no_primary", |primary| primary.state)
    }

    /// Each server with its role and how it stands.
    fn roles(&self) -> String {
        let server = |s: &&ReplicaSnapshot| format!("{}:{} {} {}", s.host, s.port, s.role.as_str(), s.state);
        self.servers.iter().map(server).collect::<Vec<_>>().join(",")
    }

    fn sum(&self, count: fn(&ReplicaSnapshot) -> u64) -> u64 {
        self.servers.iter().map(|server| count(server)).sum()
    }
}

pub(super) fn shards(s: &Snapshot) -> Table {
    let fields: [Field<Shard<'_>>; 15] = [
        ("database", TEXT, |r| text(&r.shard.database)),
        ("shard", TEXT, |r| text(&r.shard.name)),
        ("slots", TEXT, |r| text(ranges(r.shard))),
        ("slot_count", INT4, |r| int(r.shard.slots.iter().map(|range| range.len() as u64).sum::<u64>())),
        ("is_default", INT4, |r| int(r.shard.is_default)),
        ("servers", TEXT, |r| text(r.shard.servers.join(","))),
        ("xact_count", INT8, |r| long(r.traffic.xact_count)),
        ("query_count", INT8, |r| long(r.traffic.query_count)),
        ("bytes_received", INT8, |r| long(r.traffic.received)),
        ("bytes_sent", INT8, |r| long(r.traffic.sent)),
        ("check", TEXT, |r| r.shard.check.as_ref().map(ToString::to_string)),
        ("state", TEXT, |r| text(r.state())),
        ("roles", TEXT, |r| text(r.roles())),
        ("reads", INT8, |r| long(r.sum(|server| server.reads))),
        ("writes", INT8, |r| long(r.sum(|server| server.writes))),
    ];
    let rows: Vec<_> = s
        .shards
        .iter()
        .map(|shard| {
            let pools = s.pools.iter().filter(|p| p.database == shard.database && p.shard == shard.name);
            let servers = s.replicas.iter().filter(|r| r.database == shard.database && r.shard == shard.name);
            Shard { shard, traffic: pools.map(|p| p.totals).sum(), servers: servers.collect() }
        })
        .collect();
    table_of(&fields, &rows)
}

/// `0-99,200,300-16383`, as the configuration writes them.
fn ranges(shard: &ShardSnapshot) -> String {
    let ranges = shard.slots.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

fn micros(duration: Duration) -> Cell {
    long(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
