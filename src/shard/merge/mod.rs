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
//! `spec` is the vocabulary, `aggregate` says what to ask for and combines it, `row` takes DataRows apart, `refusal` has the words.

pub mod aggregate;
#[allow(dead_code, reason = "the types that need them come next")]
mod refusal;
mod row;
mod spec;

pub use spec::{Collation, Column, Distinct, Format, Output, Shape, SortKey, Source, Spec, TextRules};

use std::collections::VecDeque;

use crate::error::Result;

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
        // bool, bytea, "char", name, int8, int2, int4, text, oid, varchar, date, time, timestamp, timestamptz, uuid. Not bpchar:
        // char(n) has a length of its own, but a cast may take it away. Not timetz: equal means the same zone too, but bytes do not tell.
        16 | 17 | 18 | 19 | 20 | 21 | 23 | 25 | 26 | 1043 | 1082 | 1083 | 1114 | 1184 | 2950 => true,
        // numeric(p, s): 1.0 and 1.00 cannot both be in it.
        1700 => type_modifier >= 4,
        _ => false,
    }
}

/// A merge under way.
#[derive(Debug)]
pub struct Merge {
    spec: Spec,
    columns: Vec<Column>,
    streams: Vec<Stream>,
    ready: VecDeque<Vec<u8>>,
    ready_bytes: usize,
    shown: u64,
    skipped: u64,
    fields: row::Fields,
}

/// What a shard sends.
#[derive(Debug, Default)]
struct Stream {
    ended: bool,
}

impl Merge {
    /// Begins to merge the rows of `shards` shards, whose columns are `columns`.
    ///
    /// # Errors
    /// 0A000 with a hint when a type cannot be compared or combined here exactly as PostgreSQL does.
    pub fn new(spec: Spec, columns: Vec<Column>, text: TextRules, shards: usize) -> Result<Self> {
        let _ = text;
        if spec.shape != Shape::Rows || !spec.sort.is_empty() || spec.distinct != Distinct::All {
            return Err(refusal::refuse(
                "groups, ORDER BY and DISTINCT over several shards are not supported yet",
                "Name one shard.",
            ));
        }
        let streams = (0..shards).map(|_| Stream::default()).collect();
        Ok(Self {
            spec,
            columns,
            streams,
            ready: VecDeque::new(),
            ready_bytes: 0,
            shown: 0,
            skipped: 0,
            fields: row::Fields::new(),
        })
    }

    /// Takes the body of a DataRow of a shard.
    ///
    /// # Errors
    /// Of the server when the row is not as it was announced, 54000 when groups need too much memory, 22003 when a sum overflows. The merge
    /// is of no more use then.
    pub fn push(&mut self, shard: usize, body: &[u8]) -> Result<()> {
        if self.streams.get(shard).is_none_or(|stream| stream.ended) {
            return Err(refusal::fault("a row came of a shard that has none"));
        }
        row::fields(body, self.columns.len(), &mut self.fields)?;
        if self.skipped < self.spec.offset {
            self.skipped += 1;
            return Ok(());
        }
        let mut out = row::begin(self.spec.output.len());
        for output in &self.spec.output {
            if let Source::Column(column) = output.source {
                row::append(&mut out, row::field(body, &self.fields, column));
            }
        }
        self.ready_bytes += out.len();
        self.ready.push_back(out);
        Ok(())
    }

    /// A shard has no more rows.
    ///
    /// # Errors
    /// As of [`Merge::push`].
    pub fn end(&mut self, shard: usize) -> Result<()> {
        self.streams.get_mut(shard).ok_or_else(|| refusal::fault("an unknown shard ended"))?.ended = true;
        Ok(())
    }

    /// Whether more rows of a shard should be read now. What was read already may be pushed in any case.
    #[must_use]
    pub fn wants(&self, shard: usize) -> bool {
        self.ready_bytes < WINDOW && !self.is_done() && self.streams.get(shard).is_some_and(|stream| !stream.ended)
    }

    /// The body of the next DataRow for the client; none when more of the shards is needed first, or when all is [done](Merge::is_done).
    ///
    /// # Errors
    /// 22003 when a result overflows its type.
    pub fn pop(&mut self) -> Result<Option<Vec<u8>>> {
        if self.spec.limit.is_some_and(|limit| self.shown >= limit) {
            return Ok(None);
        }
        let Some(body) = self.ready.pop_front() else { return Ok(None) };
        self.ready_bytes = self.ready_bytes.saturating_sub(body.len());
        self.shown += 1;
        Ok(Some(body))
    }

    /// Whether no row will come any more, whatever is pushed: LIMIT is met, or all shards have ended and all has been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.spec.limit.is_some_and(|limit| self.shown >= limit)
            || self.ready.is_empty() && self.streams.iter().all(|stream| stream.ended)
    }

    /// How many rows [`Merge::pop`] has given: the number of the command tag `SELECT n`.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shown
    }

    /// The type (its OID) of each column that the client sees, for RowDescription.
    #[must_use]
    pub fn output_types(&self) -> Vec<u32> {
        let of = |output: &Output| match output.source {
            Source::Column(column) => self.columns.get(column).map_or(0, |column| column.type_oid),
            Source::Aggregate(_) => 0,
        };
        self.spec.output.iter().map(of).collect()
    }
}
