//! SHOW: tables drawn from a snapshot, with PgBouncer's columns, order and types, and ours beside them.
//!
//! See <https://www.pgbouncer.org/usage.html#show-commands>.

mod connections;
mod dns;
mod internals;
mod peers;
mod pools;
mod process;
mod routing;
mod stats;
mod tables;
#[cfg(test)]
mod tests;

use super::parse::{Parameter, Show};
use crate::metrics::snapshot::{Detail, Snapshot};

/// `text`.
pub const TEXT: u32 = 25;
/// `int4`.
pub const INT4: u32 = 23;
/// `int8`.
pub const INT8: u32 = 20;
/// `numeric`.
pub const NUMERIC: u32 = 1700;

/// The console among the databases, and its user, as the tools for PgBouncer know them.
const CONSOLE: &str = "pgbouncer";

/// A column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type: [`TEXT`], [`INT4`], [`INT8`] or [`NUMERIC`].
    pub type_oid: u32,
}

impl Column {
    /// The type's size as RowDescription says it: bytes, or -1 when it varies.
    #[must_use]
    pub fn type_len(&self) -> i16 {
        match self.type_oid {
            INT4 => 4,
            INT8 => 8,
            _ => -1,
        }
    }
}

/// Rows in text format; every row has a cell per column, none stands for NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What the cells are.
    pub columns: Vec<Column>,
    /// The cells.
    pub rows: Vec<Vec<Option<String>>>,
}

/// What a NoticeResponse says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The first line.
    pub message: &'static str,
    /// The rest.
    pub detail: String,
}

/// What a SHOW answers with, before its CommandComplete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// RowDescription and DataRows.
    Table(Table),
    /// A NoticeResponse and no rows.
    Notice(Notice),
}

/// How much of a snapshot a SHOW needs.
#[must_use]
pub fn detail(show: Show) -> Detail {
    match show {
        Show::Clients
        | Show::Servers
        | Show::Sockets
        | Show::ActiveSockets
        | Show::Fds
        | Show::Mem
        | Show::Pins
        | Show::Queries => Detail::Full,
        Show::Prepared => Detail::Statements,
        _ => Detail::Summary,
    }
}

/// From whom a SHOW needs reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// From nobody.
    Nothing,
    /// From the clients that have a server or wait for one.
    FromTheBusy,
    /// From every client.
    FromAll,
}

/// From whom a SHOW needs reports.
#[must_use]
pub fn wanted(show: Show) -> Wanted {
    match show {
        Show::Pins | Show::Queries => Wanted::FromTheBusy,
        Show::Sockets | Show::ActiveSockets | Show::Fds | Show::Mem => Wanted::FromAll,
        _ => Wanted::Nothing,
    }
}

/// Answers a SHOW from a snapshot (with the [`detail`] that it needs).
#[must_use]
pub fn show(show: Show, s: &Snapshot) -> Answer {
    let table = match show {
        Show::Help => return Answer::Notice(process::help()),
        Show::Config => process::config(s),
        Show::Lists => process::lists(s),
        Show::Version => process::version(s),
        Show::State => process::state(s),
        Show::Databases => pools::databases(s),
        Show::Pools => pools::pools(s),
        Show::Users => pools::users(s),
        Show::Clients => connections::clients(s),
        Show::Servers => connections::servers(s),
        Show::Sockets => connections::sockets(s, false),
        Show::ActiveSockets => connections::sockets(s, true),
        Show::Stats => stats::stats(s),
        Show::StatsTotals => stats::totals_by_database(s),
        Show::StatsAverages => stats::averages_by_database(s),
        Show::Totals => stats::totals(s),
        Show::DnsHosts => dns::hosts(s),
        Show::DnsZones => dns::zones(s),
        Show::Replicas => routing::replicas(s),
        Show::Shards => routing::shards(s),
        Show::Tables => tables::tables(s),
        Show::Peers => peers::peers(s),
        Show::PeerPools => peers::pools(s),
        Show::Pins => internals::pins(s),
        Show::Prepared => internals::prepared(s),
        Show::Queries => internals::queries(s),
        Show::Mem => internals::mem(s),
        Show::Fds => internals::fds(s),
    };
    Answer::Table(table)
}

/// Answers the SHOW of a setting of PostgreSQL's.
#[must_use]
pub fn parameter(parameter: Parameter) -> Table {
    table(&[(parameter.name, TEXT)], vec![vec![text(parameter.value)]])
}

/// A column and how its cell is made from an item: the two cannot get out of step.
type Field<T> = (&'static str, u32, fn(&T) -> Cell);

/// A cell: none stands for NULL.
type Cell = Option<String>;

/// A table with a row per item.
fn table_of<'a, T: 'a>(fields: &[Field<T>], items: impl IntoIterator<Item = &'a T>) -> Table {
    Table {
        columns: fields.iter().map(|(name, type_oid, _)| Column { name, type_oid: *type_oid }).collect(),
        rows: items.into_iter().map(|item| fields.iter().map(|(_, _, cell)| cell(item)).collect()).collect(),
    }
}

/// A table from columns and rows.
fn table(columns: &[(&'static str, u32)], rows: Vec<Vec<Cell>>) -> Table {
    let columns = columns.iter().map(|(name, type_oid)| Column { name, type_oid: *type_oid }).collect();
    Table { columns, rows }
}

/// A `text` cell.
fn text(value: impl Into<String>) -> Cell {
    Some(value.into())
}

/// An `int4` cell. What does not fit is shown as the largest int4: a driver must be able to read every cell.
#[expect(clippy::unnecessary_wraps, reason = "a cell is an option")]
fn int(value: impl Into<u64>) -> Cell {
    Some(i32::try_from(value.into()).unwrap_or(i32::MAX).to_string())
}

/// An `int8` or `numeric` cell; what does not fit an int8 is shown as the largest.
#[expect(clippy::unnecessary_wraps, reason = "a cell is an option")]
fn long(value: u64) -> Cell {
    Some(i64::try_from(value).unwrap_or(i64::MAX).to_string())
}
