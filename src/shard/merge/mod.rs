//! Makes one result of the rows of several shards, as one PostgreSQL would have given it, or says before it begins that it cannot.
//!
//! The planner writes a [`Spec`]; when the shards have said what columns they send (RowDescription), [`Merge::new`] checks that
//! their types can be compared and combined here as PostgreSQL does. Then:
//!
//! 1. [`Merge::push`] for each DataRow of a shard while [`Merge::wants`] more of it, [`Merge::end`] at its CommandComplete;
//! 2. [`Merge::pop`] until it has none, and so on;
//! 3. when [`Merge::is_done`], shards that still send may be cancelled.
//!
//! Memory is bounded: rows that are sorted wait in a window for each shard, rows in no order are passed on, and groups or the rows
//! that DISTINCT remembers are counted against [`Spec::memory_limit`].
//!
//! `spec` is the vocabulary; `aggregate` says what to ask the shards for, `combine` makes the result of it; `value`, `numeric` (on
//! `integer`) and `datetime` read what the shards send; `ordered` merges sorted rows, `groups` brings groups together, `distinct`
//! leaves equal rows out; `row` takes DataRows apart, `refusal` has the words.

pub mod aggregate;
mod combine;
mod datetime;
mod distinct;
mod groups;
mod integer;
pub mod numeric;
mod ordered;
mod refusal;
mod row;
mod spec;
mod value;

pub use spec::{Collation, Column, Distinct, Format, Output, Shape, SortKey, Source, Spec, TextRules};

use std::collections::VecDeque;

use crate::error::Result;
use combine::Combiner;
use groups::{GroupLayout, Groups};
use ordered::{Key, Ordered, Row};
use value::Reader;

/// Why a merge fails whose shards sort in another way than was known: the collation of a column is another by now, say.
pub const DISORDERED: &str = "disordered";

/// Bytes of a shard's rows that wait before no more are wanted of it.
const WINDOW: usize = 64 << 10;

/// Whether values of a type that are equal have equal bytes, so that they can be grouped, or told apart by DISTINCT, by these:
/// their btree operator class is *equalimage*, or all values of the column have the same scale. Texts need a collation that is
/// deterministic besides ([`Collation`]).
///
/// See <https://www.postgresql.org/docs/current/btree.html#BTREE-SUPPORT-FUNCS>.
#[must_use]
pub fn groups_by_bytes(type_oid: u32, type_modifier: i32) -> bool {
    match type_oid {
        // bool, bytea, "char", name, int8, int2, int4, text, oid, varchar, date, time, timestamp, timestamptz, timetz, uuid.
        16 | 17 | 18 | 19 | 20 | 21 | 23 | 25 | 26 | 1043 | 1082 | 1083 | 1114 | 1184 | 1266 | 2950 => true,
        // char(n): all are filled up to the same length. numeric(p, s): 1.0 and 1.00 cannot both be in it.
        1042 | 1700 => type_modifier >= 4,
        _ => false,
    }
}

/// A merge under way.
#[derive(Debug)]
pub struct Merge {
    spec: Spec,
    columns: Vec<Column>,
    /// How the columns that are sort keys are read.
    readers: Vec<Option<Reader>>,
    input: Input,
    filter: distinct::Filter,
    skipped: u64,
    shown: u64,
    taken: u64,
    fields: row::Fields,
}

/// Rows on their way.
#[derive(Debug)]
enum Input {
    /// In any order: they wait for the client only.
    Plain(Queue),
    /// Sorted by each shard.
    Sorted(Ordered),
    /// Groups that may grow; then, when all shards have ended, rows.
    Groups(Groups, Queue),
}

/// Rows that can be shown.
#[derive(Debug)]
struct Queue {
    rows: VecDeque<Row>,
    bytes: usize,
    ended: Vec<bool>,
}

impl Queue {
    fn new(shards: usize) -> Self {
        Self { rows: VecDeque::new(), bytes: 0, ended: vec![false; shards] }
    }

    fn all_ended(&self) -> bool {
        self.ended.iter().all(|ended| *ended)
    }

    fn push(&mut self, row: Row) {
        self.bytes += row.size();
        self.rows.push_back(row);
    }

    fn pop(&mut self) -> Option<Row> {
        let row = self.rows.pop_front()?;
        self.bytes = self.bytes.saturating_sub(row.size());
        Some(row)
    }
}

impl Merge {
    /// Begins to merge the rows of `shards` shards, whose columns are `columns`.
    ///
    /// # Errors
    /// 0A000 with a hint when a type cannot be compared or combined here exactly as PostgreSQL does.
    pub fn new(spec: Spec, columns: Vec<Column>, text: TextRules, shards: usize) -> Result<Self> {
        let reader = |by: &SortKey| match by.source {
            Source::Column(place) => {
                let column = columns.get(place).ok_or_else(|| refusal::fault("a sort key without its column"))?;
                Reader::comparing(column, text, "sorting").map(Some)
            }
            Source::Aggregate(_) => Ok(None),
        };
        let readers = spec.sort.iter().map(reader).collect::<Result<Vec<_>>>()?;
        let input = match &spec.shape {
            Shape::Rows if spec.sort.is_empty() => Input::Plain(Queue::new(shards)),
            Shape::Rows => Input::Sorted(Ordered::new(spec.sort.clone(), shards)),
            Shape::Groups { keys, aggregates } => {
                groups::check_keys(keys, &columns)?;
                let combiner = |aggregate| Combiner::new(aggregate, &columns, text);
                let combiners = aggregates.iter().map(combiner).collect::<Result<_>>()?;
                Input::Groups(Groups::new(keys.clone(), combiners, spec.memory_limit, text), Queue::new(shards))
            }
        };
        let filter = distinct::Filter::new(spec.distinct, spec.memory_limit);
        let merge =
            Self { spec, columns, readers, input, filter, skipped: 0, shown: 0, taken: 0, fields: row::Fields::new() };
        merge.check(text)?;
        Ok(merge)
    }

    /// Checks what the client sees.
    fn check(&self, text: TextRules) -> Result<()> {
        for output in &self.spec.output {
            let (as_it_came, mut column) = match (output.source, &self.spec.shape) {
                (Source::Column(place), shape) => {
                    let column = self.columns.get(place).ok_or_else(|| refusal::fault("no such column"))?;
                    if matches!(shape, Shape::Groups { keys, .. } if !keys.contains(&place)) {
                        return Err(refusal::fault("a column of groups that is not one of their keys"));
                    }
                    (true, *column)
                }
                (Source::Aggregate(_), Shape::Rows) => return Err(refusal::fault("an aggregate of rows")),
                (Source::Aggregate(number), Shape::Groups { aggregates, .. }) => {
                    let aggregate = aggregates.get(number).ok_or_else(|| refusal::fault("no such aggregate"))?;
                    let first = aggregate.parts.first().and_then(|place| self.columns.get(*place));
                    let column = *first.ok_or_else(|| refusal::fault("an aggregate without its column"))?;
                    let as_it_came = matches!(aggregate.combine, aggregate::Combine::Min | aggregate::Combine::Max);
                    let type_oid = self.type_of(output.source);
                    if !as_it_came
                        && matches!(type_oid, 700 | 701)
                        && output.format == Format::Text
                        && !text.exact_floats
                    {
                        return Err(refusal::text_setting(type_oid, "extra_float_digits"));
                    }
                    (as_it_came, Column { type_oid, type_modifier: -1, ..column })
                }
            };
            if as_it_came && column.format != output.format {
                return Err(refusal::fault("a column came in another format than the client's"));
            }
            if self.spec.distinct == Distinct::Rows {
                column.format = output.format;
                distinct::check(&column, "DISTINCT of")?;
            }
        }
        for by in &self.spec.sort {
            let known = match (by.source, &self.spec.shape) {
                (Source::Column(place), Shape::Groups { keys, .. }) => keys.contains(&place),
                (Source::Column(_), Shape::Rows) => true,
                (Source::Aggregate(number), Shape::Groups { aggregates, .. }) => number < aggregates.len(),
                (Source::Aggregate(_), Shape::Rows) => false,
            };
            if !known {
                return Err(refusal::fault("a sort key that is not there"));
            }
        }
        match self.spec.distinct {
            Distinct::FirstBy(keys) if keys > self.spec.sort.len() => {
                Err(refusal::fault("DISTINCT ON without its order"))
            }
            _ => Ok(()),
        }
    }

    /// Takes the body of a DataRow of a shard.
    ///
    /// # Errors
    /// Of the server when the row is not as it was announced, 54000 when groups need too much memory, 22003 when a sum overflows.
    /// The merge is of no more use then.
    pub fn push(&mut self, shard: usize, body: &[u8]) -> Result<()> {
        row::fields(body, self.columns.len(), &mut self.fields)?;
        match &mut self.input {
            Input::Groups(groups, queue) => {
                open(queue, shard)?;
                groups.push(body, &self.fields)
            }
            Input::Plain(queue) => {
                open(queue, shard)?;
                queue.push(Row { key: Key::new(), body: project(&self.spec.output, body, &self.fields) });
                Ok(())
            }
            Input::Sorted(ordered) => {
                let value = |(by, reader): (&SortKey, &Option<Reader>)| match (by.source, reader) {
                    (Source::Column(place), Some(reader)) => {
                        row::field(body, &self.fields, place).map(|bytes| reader.read(bytes)).transpose()
                    }
                    _ => Err(refusal::fault("a sort key without its reader")),
                };
                let key = self.spec.sort.iter().zip(&self.readers).map(value).collect::<Result<_>>()?;
                ordered.push(shard, Row { key, body: project(&self.spec.output, body, &self.fields) })
            }
        }
    }

    /// A shard has no more rows.
    ///
    /// # Errors
    /// As of [`Merge::push`], and 22003 when the result of an aggregate overflows.
    pub fn end(&mut self, shard: usize) -> Result<()> {
        match &mut self.input {
            Input::Plain(queue) => {
                open(queue, shard)?;
                queue.ended[shard] = true;
            }
            Input::Sorted(ordered) => ordered.end(shard),
            Input::Groups(groups, queue) => {
                open(queue, shard)?;
                queue.ended[shard] = true;
                if queue.all_ended() {
                    let layout =
                        GroupLayout { output: &self.spec.output, sort: &self.spec.sort, readers: &self.readers };
                    groups.finish(&layout)?.into_iter().for_each(|row| queue.push(row));
                }
            }
        }
        Ok(())
    }

    /// Whether more rows of a shard should be read now. What was read already may be pushed in any case.
    #[must_use]
    pub fn wants(&self, shard: usize) -> bool {
        let open = |queue: &Queue| queue.ended.get(shard).is_some_and(|ended| !ended);
        !self.is_done()
            && match &self.input {
                Input::Plain(queue) => open(queue) && queue.bytes < WINDOW,
                Input::Sorted(ordered) => ordered.waiting(shard).is_some_and(|bytes| bytes < WINDOW),
                Input::Groups(_, queue) => open(queue),
            }
    }

    /// The body of the next DataRow for the client; none when more of the shards is needed first, or when all is
    /// [done](Merge::is_done).
    ///
    /// # Errors
    /// 54000 when DISTINCT has to remember too many rows.
    pub fn pop(&mut self) -> Result<Option<Vec<u8>>> {
        while self.spec.limit.is_none_or(|limit| self.shown < limit) {
            let row = match &mut self.input {
                Input::Plain(queue) | Input::Groups(_, queue) => queue.pop(),
                Input::Sorted(ordered) => ordered.pop(),
            };
            let Some(row) = row else { break };
            self.taken = self.taken.wrapping_add(1);
            if !self.filter.admits(&row)? {
                continue;
            }
            if self.skipped < self.spec.offset {
                self.skipped += 1;
                continue;
            }
            self.shown += 1;
            return Ok(Some(row.body));
        }
        Ok(None)
    }

    /// Whether no row will come any more, whatever is pushed: LIMIT is met, or all shards have ended and all has been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.spec.limit.is_some_and(|limit| self.shown >= limit)
            || match &self.input {
                Input::Plain(queue) | Input::Groups(_, queue) => queue.rows.is_empty() && queue.all_ended(),
                Input::Sorted(ordered) => ordered.is_empty(),
            }
    }

    /// Grows with every row that [`Merge::pop`] takes, shown or not: shards of which nothing was [wanted](Merge::wants) may be read again.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How many rows [`Merge::pop`] has given: the number of the command tag `SELECT n`.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shown
    }

    /// The type (its OID) of each column that the client sees, for RowDescription.
    #[must_use]
    pub fn output_types(&self) -> Vec<u32> {
        self.spec.output.iter().map(|output| self.type_of(output.source)).collect()
    }

    fn type_of(&self, source: Source) -> u32 {
        match (source, &self.input) {
            (Source::Column(place), _) => self.columns.get(place).map_or(0, |column| column.type_oid),
            (Source::Aggregate(number), Input::Groups(groups, _)) => groups.type_of(number).unwrap_or(0),
            (Source::Aggregate(_), _) => 0,
        }
    }
}

/// The shard is one that has not ended.
fn open(queue: &Queue, shard: usize) -> Result<()> {
    if queue.ended.get(shard).is_some_and(|ended| !ended) { Ok(()) } else { Err(refusal::fault("a row of no shard")) }
}

/// What the client sees of a row.
fn project(output: &[Output], body: &[u8], fields: &row::Fields) -> Vec<u8> {
    let place = |(at, output): (usize, &Output)| output.source == Source::Column(at);
    if output.len() == fields.len() && output.iter().enumerate().all(place) {
        return body.to_vec();
    }
    let mut out = row::begin(output.len());
    for output in output {
        if let Source::Column(column) = output.source {
            row::append(&mut out, row::field(body, fields, column));
        }
    }
    out
}

#[cfg(test)]
mod tests;
