//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS.

use super::{CONSOLE, Cell, Column, NUMERIC, TEXT, Table, long, table, text};
use crate::metrics::counters::Counts;
use crate::metrics::snapshot::{Snapshot, StatsSnapshot};

/// The figures of [`Counts::in_order`] as STATS calls the totals.
const TOTAL: [&str; 11] = [
    "total_server_assignment_count",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_client_parse_count",
    "total_server_parse_count",
    "total_bind_count",
];

/// As STATS calls the averages.
const AVERAGE: [&str; 11] = [
    "avg_server_assignment_count",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
];

/// As STATS_TOTALS calls them; the first eight also in STATS_AVERAGES.
const PLAIN: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
];

/// As TOTALS calls them, after `total_` or `avg_`.
const OVERALL: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

pub(super) fn stats(s: &Snapshot) -> Table {
    by_database(s, TOTAL.iter().chain(&AVERAGE), |db| [cells(&db.totals), cells(&db.averages)].concat())
}

pub(super) fn totals_by_database(s: &Snapshot) -> Table {
    by_database(s, PLAIN.iter(), |db| cells(&db.totals).to_vec())
}

pub(super) fn averages_by_database(s: &Snapshot) -> Table {
    // PgBouncer's own inconsistency: only the last three are called avg_.
    let (first, last) = (PLAIN.iter().take(8), AVERAGE.iter().skip(8));
    by_database(s, first.chain(last), |db| cells(&db.averages).to_vec())
}

pub(super) fn totals(s: &Snapshot) -> Table {
    let total: Counts = s.stats.iter().map(|db| db.totals).chain([s.console.totals]).sum();
    let rows = |prefix: &'static str, figures: Counts| {
        OVERALL
            .iter()
            .zip(figures.in_order())
            .map(move |(name, figure)| vec![text(format!("{prefix}{name}")), long(figure)])
    };
    let rows = rows("total_", total).chain(rows("avg_", s.overall_averages)).collect();
    table(&[("name", TEXT), ("value", NUMERIC)], rows)
}

fn by_database<'a>(
    s: &Snapshot,
    figures: impl Iterator<Item = &'a &'static str>,
    cells: impl Fn(&StatsSnapshot) -> Vec<Cell>,
) -> Table {
    let mut columns = vec![Column { name: "database", type_oid: TEXT }];
    columns.extend(figures.map(|name| Column { name, type_oid: NUMERIC }));
    let console = console(s);
    let mut all: Vec<_> = s.stats.iter().chain([&console]).collect();
    all.sort_by_key(|db| &db.database);
    let rows = all.into_iter().map(|db| [vec![text(&db.database)], cells(db)].concat()).collect();
    Table { columns, rows }
}

/// The console, whose commands PgBouncer counts as queries.
fn console(s: &Snapshot) -> StatsSnapshot {
    StatsSnapshot { database: CONSOLE.to_owned(), totals: s.console.totals, averages: s.console.averages }
}

fn cells(figures: &Counts) -> [Cell; 11] {
    figures.in_order().map(long)
}
